#!/usr/bin/env bash
# Run many cells in pieces of so many minutes: scripts/campaign.sh MINUTES EXPERIMENT OVERRIDES
# For example: scripts/campaign.sh 8 ptb norm=ln,bn,pnv,pn,pn_alg2 model.causal=true,false seed=1,2,3
# Ends with status 0 when every cell is recorded, with 75 when the time is up: the same command then goes on.
set -euo pipefail
PATH="$(CDPATH="" cd -- "$(dirname -- "$0")/.." && pwd)/.venv/bin:$PATH"  # no cd: relative paths are the caller's
if [ $# -lt 2 ]; then
  sed -n '2,4s/^# //p' "$0" >&2
  exit 2
fi
minutes=$1 experiment=$2
shift 2
# A checkpoint each minute: no more than that is lost when the time is up.
status=0
timeout --signal=INT --kill-after=60 "${minutes}m" \
  normplugins run "$experiment" -m train.checkpoint_minutes=1 "$@" || status=$?
if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
  echo "$minutes minutes are up: the same command goes on from here" >&2
  exit 75
fi
exit "$status"
