#!/usr/bin/env bash
# Every cell of a table as a Slurm job: scripts/slurm/table.sh EXPERIMENT OVERRIDES
# For example: scripts/slurm/table.sh iwslt14 norm=ln,pn seed=1,2,3 hydra.launcher.partition=gpu
# Again, after some have failed: the complete ones are shown, the others submitted and go on. See docs/slurm.md.
set -euo pipefail
PATH="$(CDPATH="" cd -- "$(dirname -- "$0")/../.." && pwd)/.venv/bin:$PATH"  # no cd: relative paths are the caller's
if [ $# -lt 1 ]; then
  sed -n '2,4s/^# //p' "$0" >&2
  exit 2
fi
experiment=$1
shift
exec normplugins run "$experiment" -m hardware=slurm "$@"
