#!/usr/bin/env bash
# Check that requirements.txt can be installed on each supported Python and pins everything that pyproject.toml needs:
#     scripts/check_requirements.sh            # fails with the reason or the difference
#     scripts/check_requirements.sh --write    # rewrites requirements.txt; versions that still fit are kept
# Only the package registry is used: packages, caches, wheel folders and settings of this machine are ignored, and
# nothing is installed. Without a network the check is skipped with a message; if CI is set, that is an error.
set -euo pipefail
cd "$(dirname -- "$0")/.."
for setting in "${!UV_@}"; do
  case $setting in UV_DEFAULT_INDEX | UV_HTTP_RETRIES) ;; *) unset "$setting" ;; esac  # a mirror of the registry is allowed
done
read -r first end < <(sed -nE 's/^requires-python = ">=3\.([0-9]+),<3\.([0-9]+)"$/\1 \2/p' pyproject.toml) \
  || { echo 'pyproject.toml: requires-python must read ">=3.A,<3.B"' >&2; exit 1; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

resolve() {  # resolve DESCRIPTION ARGUMENTS: uv pip compile; on failure print the reason and end the script
  local description=$1
  shift
  .venv/bin/uv pip compile "$@" --quiet --no-annotate --no-header --no-python-downloads --cache-dir "$folder/cache" \
    >/dev/null 2>"$folder/reason" && return
  if [ -z "${CI:-}" ] && grep -q "error sending request" "$folder/reason"; then
    echo "requirements.txt is not checked: the package registry cannot be reached" >&2
    exit 0
  fi
  echo "$description:" >&2
  cat "$folder/reason" >&2
  exit 1
}

# uv prefers the versions that its output file already names, so the result differs only where it has to.
[ -x .venv/bin/uv ] || { echo "uv is missing: run \`make setup\` first" >&2; exit 1; }
touch -a requirements.txt  # only creates it if it is missing: with a newer file, make would run the setup again
grep -E '^[[:alnum:]]' requirements.txt >"$folder/output" || true  # no comments, and no markers of a merge conflict
resolve "the dependencies in pyproject.toml do not resolve" pyproject.toml --all-extras --universal \
  --python-version "3.$first" --output-file "$folder/output"
{
  echo "# Exact versions of everything that pyproject.toml needs. Written by \`make requirements\`; do not edit by hand."
  echo "# fairseq==0.12.2 is installed after these with --no-deps, because it pins old versions that it does not need."
  # torch pins its CUDA libraries itself. If they were named here, they would be installed with a CPU build of torch too.
  sed -E '/^(nvidia|cuda)-/d' "$folder/output"
} >"$folder/requirements.txt"
if [ "${1:-}" = --write ]; then
  cp "$folder/requirements.txt" requirements.txt
  exit
fi
if ! diff -u requirements.txt "$folder/requirements.txt" >&2; then
  echo "requirements.txt does not fit pyproject.toml: run \`make requirements\` and commit the result" >&2
  exit 1
fi
for ((minor = first; minor < end; minor++)); do
  resolve "requirements.txt does not resolve for Python 3.$minor" requirements.txt --python-version "3.$minor" \
    --python-platform x86_64-manylinux_2_28
done
echo "requirements.txt resolves for Python 3.$first to 3.$((end - 1))"
