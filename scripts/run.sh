#!/usr/bin/env bash
# Train, score and record one cell of a table: scripts/run.sh EXPERIMENT NORM [overrides]
# For example: scripts/run.sh iwslt14 pn seed=2 hardware=gpu1
set -euo pipefail
if [ $# -lt 2 ]; then
  sed -n '2,3s/^# //p' "$0" >&2
  exit 2
fi
experiment=$1 norm=$2
shift 2
cd "$(dirname "$0")/.."
if [ -d .venv/bin ]; then export PATH="$PWD/.venv/bin:$PATH"; fi
exec normplugins run "$experiment" norm="$norm" "$@"
