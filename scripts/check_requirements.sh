#!/usr/bin/env bash
# Resolve requirements.txt for x86-64 Linux and each Python that pyproject.toml allows: scripts/check_requirements.sh
# Only the registry counts: no installed package, cache, wheel folder or setting of this machine, and nothing is installed.
# Without network the check is left out, and says so; with CI set, that is an error.
set -euo pipefail
cd "$(dirname -- "$0")/.."
for setting in "${!UV_@}"; do
  [ "$setting" = UV_DEFAULT_INDEX ] || unset "$setting"  # a mirror of the registry may stay
done
read -r first end < <(sed -n 's/^requires-python = ">=3\.\([0-9]*\),<3\.\([0-9]*\)"$/\1 \2/p' pyproject.toml) \
  || { echo 'pyproject.toml: requires-python must read ">=3.A,<3.B"' >&2; exit 1; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for ((minor = first; minor < end; minor++)); do
  .venv/bin/uv pip compile requirements.txt --quiet --no-config --cache-dir "$folder" --no-python-downloads \
    --python-version "3.$minor" --python-platform x86_64-manylinux_2_28 >/dev/null 2>"$folder/reason" && continue
  if [ -z "${CI:-}" ] && grep -q "error sending request" "$folder/reason"; then
    echo "requirements.txt is not checked: the package registry cannot be reached" >&2
    exit 0
  fi
  echo "requirements.txt does not resolve for Python 3.$minor:" >&2
  cat "$folder/reason" >&2
  exit 1
done
echo "requirements.txt resolves for Python 3.$first to 3.$((end - 1))"
