#!/usr/bin/env bash
# Start a whole Slurm on this machine: tests/slurm/setup.sh FOLDER, then export SLURM_CONF=FOLDER/slurm.conf
# munged, slurmctld and slurmd with configuration, state and logs in FOLDER; a second call starts only what is not up.
# For root, with slurm-wlm and munge installed (Debian: apt install slurm-wlm munge). Stop it with stop.sh FOLDER.
set -euo pipefail
[ $# -eq 1 ] || { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd) host=$(hostname -s)
export SLURM_CONF="$folder/slurm.conf"
mkdir -p "$folder"/{state,spool,log}

alive() { [ -s "$folder/$1.pid" ] && kill -0 "$(cat "$folder/$1.pid")" 2>/dev/null; }
wait_for() {  # wait_for WHAT COMMAND...: the command, until it succeeds or half a minute is over
  local what=$1 deadline=$((SECONDS + 30))
  shift
  until "$@" >"$folder/log/wait" 2>&1; do
    [ $SECONDS -lt $deadline ] || { echo "$what does not answer:" "$(tail -qn 3 "$folder"/log/*)" >&2; exit 1; }
    sleep 0.2
  done
}
free_ports() { python3 -c 'import socket; s = [socket.socket() for _ in range(2)]; [x.bind(("", 0)) for x in s]; print(*(x.getsockname()[1] for x in s))'; }

if [ ! -e "$SLURM_CONF" ]; then
  (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
  read -r controller_port node_port < <(free_ports)
  # cred_expire is also how long a requeued job waits before it starts again: seconds, in place of two minutes.
  cat >"$SLURM_CONF.new" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller_port
SlurmdPort=$node_port
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5,socket=$folder/munge.socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld
SlurmdLogFile=$folder/log/slurmd
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=5
SchedulerParameters=sched_interval=2,bf_interval=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=test Nodes=$host Default=YES MaxTime=INFINITE State=UP
END
  mv "$SLURM_CONF.new" "$SLURM_CONF"
fi
# --force: the folder may be closed to other users.
alive munged || munged --force --socket="$folder/munge.socket" --key-file="$folder/munge.key" --pid-file="$folder/munged.pid" \
  --seed-file="$folder/munge.seed" --log-file="$folder/log/munged"
wait_for munged munge --socket="$folder/munge.socket" --no-input
alive slurmctld || slurmctld
wait_for slurmctld sh -c 'scontrol ping | grep -q "is UP"'
alive slurmd || slurmd
wait_for slurmd sh -c 'sinfo --noheader --format=%T | grep -qE "^(idle|mixed|allocated)$"'
