#!/usr/bin/env bash
# Prepare your own corpus: prepare_custom.sh corpus.train=PREFIX corpus.valid=PREFIX corpus.test=PREFIX ...
set -euo pipefail
PATH="$(CDPATH="" cd -- "$(dirname -- "$0")/.." && pwd)/.venv/bin:$PATH"  # no cd: relative paths are the caller's
exec normplugins prepare custom "$@"
