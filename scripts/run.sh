#!/usr/bin/env bash
# Train, score and record one cell of a table: scripts/run.sh EXPERIMENT NORM [overrides]
# For example: scripts/run.sh iwslt14 pn seed=2 precision=bf16
set -euo pipefail
PATH="$(CDPATH="" cd -- "$(dirname -- "$0")/.." && pwd)/.venv/bin:$PATH"  # no cd, so that relative paths stay valid
if [ $# -lt 2 ]; then
  sed -n '2,3s/^# //p' "$0" >&2
  exit 2
fi
experiment=$1 norm=$2
shift 2
exec normplugins run "$experiment" norm="$norm" "$@"
