"""Files, locks, downloads, worker processes and errors for every package. Imports no other subpackage."""
