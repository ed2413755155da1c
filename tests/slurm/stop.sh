#!/usr/bin/env bash
# Stop what setup.sh started and end its jobs: tests/slurm/stop.sh FOLDER
set -euo pipefail
[ $# -eq 1 ] || { sed -n '2s/^# //p' "$0" >&2; exit 2; }
folder=$(cd "$1" && pwd)
export SLURM_CONF="$folder/slurm.conf"
gone() { ! kill -0 "$1" 2>/dev/null; }

deadline=$((SECONDS + 30))
if [ -s "$folder/slurmctld.pid" ] && scancel --partition=test; then
  while [ -n "$(squeue --noheader)" ] && [ $SECONDS -lt $deadline ]; do sleep 0.2; done
fi
for daemon in slurmd.n1 slurmd.n2 slurmctld munged; do
  pid=$(cat "$folder/$daemon.pid" 2>/dev/null) || continue
  kill "$pid" 2>/dev/null || continue
  deadline=$((SECONDS + 30))
  until gone "$pid"; do
    [ $SECONDS -lt $deadline ] || { kill -KILL "$pid"; break; }
    sleep 0.2
  done
done
