#!/usr/bin/env bash
# Prepare the corpus wikitext103; further arguments are settings, e.g. data_dir=DIR
set -euo pipefail
PATH="$(CDPATH="" cd -- "$(dirname -- "$0")/.." && pwd)/.venv/bin:$PATH"  # no cd: relative paths are the caller's
exec normplugins prepare wikitext103 "$@"
