#!/usr/bin/env bash
# Prepare the corpus wmt14; further arguments are settings, e.g. corpus.subword_size=8000
set -euo pipefail
PATH="$(CDPATH="" cd -- "$(dirname -- "$0")/.." && pwd)/.venv/bin:$PATH"  # no cd: relative paths are the caller's
exec normplugins prepare wmt14 "$@"
