"""From the records of runs to tables and figures. Reads nothing else."""
