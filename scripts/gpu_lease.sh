#!/usr/bin/env bash
# Run pieces of the GPU lease: scripts/gpu_lease.sh PIECE ... with pieces 1 to 6 of docs/gpu_lease.md.
# It needs the folder gpu_pack/ that scripts/gpu_pack.sh made, and works in gpu_work/. The same call resumes a piece and
# skips what is done. A call ends within LEASE_MINUTES (9), with status 75 if something is left to do; small files with
# all results are then in $OUT (default gpu_results/). LEASE_REHEARSAL=1 runs tiny sizes on a CPU.
set -euo pipefail
cd "$(dirname -- "$0")/.."
[[ $* =~ ^[1-6](\ [1-6])*$ ]] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }
pack=$PWD/gpu_pack
plans=$PWD/configs/campaign
out=$(realpath -m -- "${OUT:-gpu_results}")
python=$(command -v "${PYTHON:-python3}")
end=$((${LEASE_MINUTES:-9} * 60))
status=0
mkdir -p gpu_work/done gpu_work/logs gpu_work/results gpu_work/runs
cd gpu_work # not the checkout, whose normplugins/ would be imported in place of the installed wheel
export ours=$PWD/env/bin/python

prepare() {
  [ -e .ready ] && return
  rm -rf env
  "$python" -m venv --without-pip --system-site-packages env
  # The machine's Python may itself be in a virtual environment, whose packages the new one does not see.
  site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  echo "import site; site.addsitedir('$site')" >"$("$ours" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/machine.pth"
  find "$pack/wheels" -name '*.whl' -exec \
    "$python" -m pip --python "$ours" install --quiet --no-index --no-deps --ignore-installed {} +
  cp -r "$pack/source/." .
  for archive in data records; do # records.tar.gz comes from an earlier lease, if it was put into the pack
    [ ! -f "$pack/$archive.tar.gz" ] || tar -xzf "$pack/$archive.tar.gz"
  done
  [ ! -f "$pack/train_lengths.npz" ] || cp "$pack/train_lengths.npz" .
  "$ours" -c 'import benchmarks.decode, hypothesis, pytest, sacremoses, xdist' # ends here if a package is missing
  touch .ready
}

once() { # once NAME COMMAND...: run a command unless it has succeeded before, for at most the time that this call has left
  local name=$1 code=0
  shift
  if [ -e "done/$name" ]; then echo "$name: done"; return; fi
  if [ $((end - SECONDS)) -lt 90 ]; then code=75; else
    echo "== $name: $*"
    timeout --signal=INT --kill-after=20 $((end - SECONDS - 20)) "$@" 2>&1 </dev/null | tee -a "logs/$name.log" || code=$?
  fi
  case $code in
    0) touch "done/$name" ;;
    75 | 124 | 137) echo "$name: the time is up, and the same call continues"; [ $status -ne 0 ] || status=75 ;;
    *) echo "$name: failed with status $code"; status=1 ;;
  esac
}

at_once() { # at_once JOBS NAME MINUTES: start JOBS campaigns that share the plan's runs; succeeds if one of them finds all runs done
  local job pids=() code=75
  trap 'kill "${pids[@]}" 2>/dev/null; wait; exit 75' INT TERM # background jobs ignore SIGINT; SIGTERM saves the update
  for ((job = 0; job < $1; job++)); do
    "$ours" -m normplugins campaign "$2.yaml" --minutes "$3" ${LEASE_REHEARSAL:+--force} >>"logs/$2.$job.log" 2>&1 &
    pids+=($!)
  done
  for job in "${!pids[@]}"; do
    wait "${pids[job]}" && code=0 || { [ $? -eq 75 ] || [ $code -eq 0 ] || code=1; }
  done
  tail -qn 20 "logs/$2".*.log
  return $code
}

campaign() { # campaign EXPERIMENT [KEY=VALUE...]: train the cells of its plan, as many at a time as piece 3 found to be enough
  local jobs more=""
  jobs=$("$ours" -c 'import json, sys; print(json.load(open("results/side_by_side.json"))[sys.argv[1]]["jobs"])' "$1" 2>/dev/null) || jobs=4
  [ $# -lt 2 ] || more=$(printf '%s, ' "${@:2}")
  sed "s/^overrides: \[/&$more/" "$plans/lease_$1.yaml" >"$1.yaml"
  once "$1" bash -c 'at_once "$@"' _ "$jobs" "$1" "$(awk "BEGIN { print ($end - $SECONDS - 45) / 60 }")"
}

collect() {
  "$python" -VV >logs/machine.log
  nvidia-smi >>logs/machine.log 2>&1 || true
  { find results done logs -type f && find runs -name '*.log'; } | tar -czf records.tar.gz --files-from=-
  mkdir -p "$out"
  cp records.tar.gz results/*.csv results/*.json "$out" 2>/dev/null || true
}

export -f at_once
prepare
trap collect EXIT
norms=$("$ours" -c 'from normplugins.norms import all_settings; print(",".join(["ln", *all_settings()["kernels"].defaults]))')
lengths=()
[ ! -f train_lengths.npz ] || lengths=(--lengths train_lengths.npz)
# What a rehearsal adds to the commands below
updates=50 precision=float32,bf16 demo=() translation=() language_model=() short=() scoring=() tests=() quick=() repeats=() counts=()
if [ -n "${LEASE_REHEARSAL:-}" ]; then
  translation=(hardware=cpu)
  for side in encoder decoder; do
    translation+=("model.${side}_layers=1" "model.${side}_embed_dim=16" "model.${side}_ffn_embed_dim=16" "model.${side}_attention_heads=2")
  done
  language_model=(hardware=cpu corpus.verify=false dataset.batch_size=60 model.layers=1 model.embed_dim=16 model.ffn_embed_dim=16)
  norms=ln,pn updates=2 precision=float32 demo=(corpus.train_size=300 corpus.valid_size=20 corpus.test_size=20 corpus.subword_size=60)
  short=(optimization.max_update=2 common.log_interval=1) scoring=(evaluate.beam=1 evaluate.max_length_b=2) tests=(--collect-only -q)
  quick=(--quick --norms pn --repeats 1) repeats=(--repeats 1) counts=(--counts 1,2 --seconds 1)
fi
bench() { once "$1" "$ours" -m "benchmarks.$2" "${@:3}" --results results; }
check() { once "$1" "$ours" -m pytest -p no:cacheprovider "${@:2}" "${tests[@]}"; }

for piece in "$@"; do
  case $piece in
    1)
      once train "$ours" -m normplugins run -m demo "norm=$norms" tracking=none "optimization.max_update=$updates" \
        evaluate.translate=false "${demo[@]}" "${translation[@]}"
      check gpu_tests -m gpu tests/norms
      check triton_tests -n 8 tests/norms/backends/triton
      ;;
    2)
      bench norms norm --quick "${quick[@]}"
      bench norms_with_kernels norm --norms "$norms" "${quick[@]}"
      ;;
    3)
      bench processes_ptb side_by_side --experiment ptb "${counts[@]}" norm=pn "${language_model[@]}"
      bench processes_iwslt14 side_by_side --experiment iwslt14 "${counts[@]}" norm=pn "${translation[@]}"
      bench step step --norms ln,pn "${lengths[@]}" "${repeats[@]}" "precision=$precision" "${translation[@]}"
      ;;
    4) campaign ptb "${short[@]}" "${language_model[@]}" ;;
    5) campaign iwslt14 "${short[@]}" "${scoring[@]}" "${translation[@]}" ;;
    6) bench decode decode "${lengths[@]}" "${repeats[@]}" "${translation[@]}" ;;
  esac
done
exit $status
