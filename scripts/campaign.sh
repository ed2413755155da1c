#!/usr/bin/env bash
# Run the campaign's plans in the background: scripts/campaign.sh [start|collect|show|pause|resume|stop] [PLAN ...]
# start (the default) clones the release tag beside this checkout, sets the clone up once, and runs the plans there at
# nice 19 unless they are running already, one run on each core. It skips runs whose records this checkout has, which it
# copies to the clone first. Every action copies finished records to this checkout.
# The paths of PLANs are relative to the clone; the default is multi30k in the order of scripts/campaign_order.yaml, ptb
# and batch_size. CAMPAIGN_TAG, CAMPAIGN_DIR and CAMPAIGN_JOBS set the tag, the clone and the number of runs at a time.
set -euo pipefail
clone=${CAMPAIGN_DIR:-}
case $clone in "" | /*) ;; *) clone=$PWD/$clone ;; esac
cd "$(dirname -- "$0")/.."
tag=${CAMPAIGN_TAG:-v0.2.0}
clone=${clone:-$(dirname -- "$PWD")/normplugins-campaign-$tag}
commit=$(git rev-parse --verify --quiet "$tag^{commit}") || {  # a checkout without tags
  case $tag in
    v0.2.0) commit=27b379122f059b07a6697e862c4bf8e1f1cbcda4 ;;
    v0.3.0) commit=3f4473e156ce3894a28c553633d57e5cba31972d ;;
    v0.4.0) commit=21e0c5d5ec9db2c63910116da682a45a8ebb1887 ;;
    *) echo "this checkout has no tag $tag: git fetch --tags" >&2; exit 1 ;;
  esac
}
log=$clone/campaign.log
pid_file=$clone/campaign.pid

running() { # the stored session id may belong to other processes by now, or to one that has ended (a zombie, state Z)
  # -ww: whole lines, also with COLUMNS set. grep reads all of them, because ps fails if its reader ends early
  [ -f "$pid_file" ] && ps -ww -o stat=,args= -s "$(cat "$pid_file")" |
    grep -E '^[^Z].*(normplugins campaign|campaign.sh run)' >/dev/null
}

signal() { # send a signal to the process group of the campaign and of everything that it started
  running || { echo "no campaign is running in $clone" >&2; exit 1; }
  kill "-$1" -- "-$(cat "$pid_file")"
}

stop() {
  signal TERM
  kill -CONT -- "-$(cat "$pid_file")" 2>/dev/null || true  # a paused campaign handles no other signal
  while running; do sleep 0.1; done
}

copy_records() { # copy_records FROM TO: copy each file atomically, and translations before their record
  local from=$1/runs path target
  [ -d "$from" ] || return 0
  while IFS= read -r path; do
    target=$2/runs/${path#"$from"/}
    cmp -s "$path" "$target" && continue
    [ ! -e "$target" ] || { echo "$target is published and differs from $path: not replaced" >&2; continue; }
    mkdir -p "$(dirname -- "$target")"
    cp -p "$path" "$target.copy"
    mv "$target.copy" "$target"
  done < <(find "$from" -name 'seed*.tsv.gz'; find "$from" -name 'seed*.json')
}

make_clone() {
  if [ ! -e "$clone/.venv/.ready" ]; then
    [ -d "$clone/.git" ] || git clone --quiet --no-checkout . "$clone"
    git -C "$clone" checkout --quiet --detach "$commit"
    make -C "$clone" setup
  fi
  if [ "$(git -C "$clone" rev-parse HEAD)" != "$commit" ] ||
    [ -n "$(git -C "$clone" status --porcelain --untracked-files=no -- . ':(exclude)results')" ]; then
    echo "$clone is not at $tag, or its files were changed: the campaign's records must come from one commit" >&2
    exit 1
  fi
}

start() {
  make_clone
  if running; then
    echo "the campaign is running in $clone"
    return
  fi
  copy_records results "$clone/results"
  # Waiting threads must not spin, because they would take time from other processes.
  OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0 setsid nohup nice -n 19 \
    bash scripts/campaign.sh run "${plans[@]}" >>"$log" 2>&1 </dev/null &
  echo $! >"$pid_file"
  echo "the campaign runs in $clone; its log is $log (or, with several runs at a time, jobs/*/campaign.log there)"
}

# One campaign in the clone, or several, each in a folder of its own that shares the clone's corpora and runs: v0.2.0 and
# v0.3.0 allow one campaign in a folder. Later versions allow several, so these folders go when the two tags are done.
run() {
  local job folder experiment cores=(0) jobs pin
  cd "$clone"
  # Linux gives each session an equal share of the processor, so that a nice value alone counts within the session.
  [ ! -w /proc/self/autogroup ] || echo 19 >/proc/self/autogroup || true
  if command -v taskset >/dev/null; then
    read -ra cores < <(python3 -c 'import os; print(*sorted(os.sched_getaffinity(0)))')
  fi
  jobs=${CAMPAIGN_JOBS:-${#cores[@]}}
  [ "$jobs" -gt 1 ] || exec .venv/bin/normplugins campaign "${plans[@]}"
  mkdir -p data results
  for ((job = 0; job < jobs; job++)); do
    folder=$clone/jobs/$job
    mkdir -p "$folder/runs"
    ln -sfn "$clone"/{configs,data,results} "$folder"
    for experiment in configs/[!_]*.yaml; do
      experiment=$(basename "$experiment" .yaml)
      mkdir -p "runs/$experiment"
      ln -sfn "$clone/runs/$experiment" "$folder/runs"
    done
    # A campaign skips a run that another one is working on. It has one core, and therefore one thread.
    pin=()
    ! command -v taskset >/dev/null || pin=(taskset -c "${cores[job % ${#cores[@]}]}")
    (cd "$folder" && exec ${pin[@]+"${pin[@]}"} "$clone/.venv/bin/normplugins" campaign "${plans[@]}") \
      >>"$folder/campaign.log" 2>&1 &
  done
  wait
}

action=${1:-start}
[ $# -eq 0 ] || shift
plans=("$@")
[ ${#plans[@]} -gt 0 ] || plans=("$PWD/scripts/campaign_order.yaml" configs/campaign/{ptb,batch_size}.yaml)
case $action in
  start) start ;;
  run) run ;;
  collect) ;;
  show) (cd "$clone" && .venv/bin/normplugins campaign --show "${plans[@]}") ;;
  pause) signal STOP ;;
  resume) signal CONT ;;
  stop) stop ;;
  *) sed -n '2,7s/^# //p' "$0" >&2; exit 2 ;;
esac
copy_records "$clone/results" results
