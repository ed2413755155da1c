#!/usr/bin/env bash
# Pack what a GPU machine without a network needs to run this project: scripts/gpu_pack.sh [FOLDER, default gpu_pack]
# The folder gets the wheels that the machine's Python lacks, the benchmarks and tests, and the prepared corpora.
# PYTHON is a Python of the machine's version (3.12). NORMPLUGINS_MIRROR is the folder of downloads, as for `prepare`.
set -euo pipefail
cd "$(dirname -- "$0")/.."
pack=$(realpath -m -- "${1:-gpu_pack}")
python=${PYTHON:-python3.12}
prepare=$PWD/.venv/bin/normplugins
[ -x "$prepare" ] || { echo "$prepare is missing: run make setup first" >&2; exit 1; }
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' ||
  { echo "$python is not Python 3.12: set PYTHON to the GPU machine's version" >&2; exit 1; }
rm -rf "$pack"
mkdir -p "$pack/wheels" "$pack/source" "$pack/build"

echo "wheels: this project and what it imports (PyTorch, Triton, NumPy and sacreBLEU are on the machine)"
needed=$(sed -nE "s/^((antlr4-python3-runtime|bitarray|hydra-core|joblib|omegaconf|sacremoses|subword-nmt)==[^ ;]*).*/\1/p" requirements.txt)
filelock=$(sed -nE "s/^(filelock==[^ ;]*).*python_full_version >= .*/\1/p" requirements.txt | tail -1)
wheel() { "$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$pack/wheels" "$@"; }
# shellcheck disable=SC2086  # one argument per package
wheel $needed $filelock fairseq==0.12.2
git archive HEAD normplugins configs setup.py pyproject.toml README.md LICENSE MANIFEST.in CHANGELOG.md CITATION.cff \
  requirements.txt | tar -x -C "$pack/build"
commit=$(git rev-parse HEAD)
# The commit is part of the version, so that the records of an installed wheel name it.
sed -i -E "s/^(__version__ = \"[^\"]+)\"/\1+g${commit:0:12}\"/" "$pack/build/normplugins/__init__.py"
wheel "$pack/build"
rm -rf "$pack/build"
git archive HEAD benchmarks tests pyproject.toml | tar -x -C "$pack/source"

echo "corpora: PTB, and the given pairs of IWSLT14"
"$prepare" prepare ptb "data_dir=$pack/data"
"$prepare" prepare iwslt14 corpus.verify=false "data_dir=$pack/data"
tar -czf "$pack/data.tar.gz" -C "$pack" data
rm -rf "$pack/data"
lengths=${NORMPLUGINS_MIRROR:-}/iwslt14/train_lengths.npz
if [ -f "$lengths" ]; then cp "$lengths" "$pack/"; else echo "no $lengths: the pack has no published lengths"; fi
size=$(du -sm "$pack" | cut -f1)
[ "$size" -le 60 ] || { echo "$pack has $size MB; at most 60 MB are allowed" >&2; exit 1; }
echo "packed in $pack: $size MB"
