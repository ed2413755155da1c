#!/usr/bin/env bash
# Prepare your own corpus: prepare_custom.sh corpus.train=PREFIX corpus.valid=PREFIX corpus.test=PREFIX ...
set -euo pipefail
PATH="$(cd "$(dirname "$0")/.." && pwd)/.venv/bin:$PATH"  # no cd: the paths are the caller's
exec normplugins prepare custom "$@"
