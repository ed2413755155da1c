#!/usr/bin/env bash
# Prepare the corpus multi30k; further arguments are settings, e.g. corpus.subword_size=8000
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
exec normplugins prepare multi30k "$@"
