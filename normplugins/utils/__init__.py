"""What every package needs: files, locks, downloads, worker processes and errors. Imports nothing of this project."""
