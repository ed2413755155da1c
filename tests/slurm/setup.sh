#!/usr/bin/env bash
# Start a whole Slurm on this machine: tests/slurm/setup.sh FOLDER, then export SLURM_CONF=FOLDER/slurm.conf
# It starts munged, slurmctld and two slurmd, which stand for two nodes. All their files are in FOLDER. A second call
# starts only the daemons that do not run.
# For root, with slurm-wlm and munge installed (Debian: apt install slurm-wlm munge). Stop it with stop.sh FOLDER.
set -euo pipefail
[ $# -eq 1 ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd) host=$(hostname -s)
export SLURM_CONF="$folder/slurm.conf"
mkdir -p "$folder"/{state,spool.n1,spool.n2,log}

alive() { [ -s "$folder/$1.pid" ] && kill -0 "$(cat "$folder/$1.pid")" 2>/dev/null; }
wait_for() {  # wait_for NAME COMMAND...: repeat the command until it succeeds, for at most half a minute
  local what=$1 deadline=$((SECONDS + 30))
  shift
  until "$@" >"$folder/log/wait" 2>&1; do
    [ $SECONDS -lt $deadline ] || { echo "$what does not answer:" "$(tail -qn 3 "$folder"/log/*)" >&2; exit 1; }
    sleep 0.2
  done
}
free_ports() {
  python3 -c 'if True:
    import socket
    sockets = [socket.create_server(("", 0)) for _ in range(3)]
    print(*(one.getsockname()[1] for one in sockets))'
}

if [ ! -e "$SLURM_CONF" ]; then
  (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
  read -r controller_port port1 port2 < <(free_ports)
  # cred_expire is also the time before a requeued job starts again, by default two minutes.
  cat >"$SLURM_CONF.new" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller_port
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5,socket=$folder/munge.socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool.%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldLogFile=$folder/log/slurmctld
SlurmdLogFile=$folder/log/slurmd.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=5
SchedulerParameters=sched_interval=2,bf_interval=2
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$port1 CPUs=$(nproc) State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$port2 CPUs=$(nproc) State=UNKNOWN
PartitionName=test Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
END
  mv "$SLURM_CONF.new" "$SLURM_CONF"
fi
# --force: the folder may be closed to other users.
alive munged || munged --force --socket="$folder/munge.socket" --key-file="$folder/munge.key" \
  --pid-file="$folder/munged.pid" --seed-file="$folder/munge.seed" --log-file="$folder/log/munged"
wait_for munged munge --socket="$folder/munge.socket" --no-input
alive slurmctld || slurmctld
wait_for slurmctld sh -c 'scontrol ping | grep -q "is UP"'
for node in n1 n2; do
  alive "slurmd.$node" || slurmd -N "$node"
  wait_for "slurmd of $node" sh -c "sinfo --noheader --nodes=$node --format=%T | grep -qE '^(idle|mixed|allocated)$'"
done
