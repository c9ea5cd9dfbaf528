#!/usr/bin/env bash
# A real Slurm of one node (and of two on the same host, in the partition pair), private to BASE: tests/cluster/slurm.sh start|stop BASE
# `start` installs Debian's packages where they are missing (as root) and prints the exports that clients need.
# Exit status 77: it cannot be had here.
set -euo pipefail

action=$1
base=$2
daemons=("slurmd.$(hostname -s)" slurmd.second slurmctld munged)

unavailable() {
    echo "no Slurm here: $*" >&2
    exit 77
}

have_all() {
    local program
    for program in "$@"; do command -v "${program}" >/dev/null || return 1; done
}

install_packages() {
    if have_all slurmctld slurmd sbatch munged; then return; fi
    if ((EUID != 0)); then unavailable 'its packages are missing and only root can install them'; fi
    if ! have_all apt-get; then unavailable 'its packages are missing and there is no apt-get'; fi
    apt-get -o Acquire::Retries=0 -o Acquire::http::Timeout=15 update -qq >&2 || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        slurmctld slurmd slurm-client munge >/dev/null 2>&1 || unavailable 'apt-get could not install its packages'
}

free_ports() {
    python3 -c 'import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(s.getsockname()[1] for s in sockets))'
}

# munged wants its files in folders that nobody else can write.
start_munge() {
    install -d -m 700 "${base}/munge"
    install -d -m 755 "${base}/socket"
    dd if=/dev/urandom of="${base}/munge/key" bs=1024 count=1 status=none
    chmod 400 "${base}/munge/key"
    munged --force --key-file="${base}/munge/key" --socket="${base}/socket/munge" --pid-file="${base}/run/munged.pid" \
        --log-file="${base}/munge/log" --seed-file="${base}/munge/seed" 2>"${base}/log/munged"
}

write_conf() {
    local controller node second host cores memory
    read -r controller node second < <(free_ports)
    host=$(hostname -s)
    cores=$(nproc)
    memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
    cat >"${base}/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=${host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=${base}/socket/munge
CredType=cred/munge
SlurmctldPort=${controller}
StateSaveLocation=${base}/state
SlurmdSpoolDir=${base}/spool/%n
SlurmctldPidFile=${base}/run/slurmctld.pid
SlurmdPidFile=${base}/run/slurmd.%n.pid
SlurmctldLogFile=${base}/log/slurmctld
SlurmdLogFile=${base}/log/slurmd.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,default_queue_depth=1000
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MaxArraySize=10001
MinJobAge=120
KillWait=2
NodeName=DEFAULT CPUs=${cores} CoresPerSocket=${cores} RealMemory=${memory} State=UNKNOWN
NodeName=${host} NodeHostname=${host} NodeAddr=127.0.0.1 Port=${node}
NodeName=second NodeHostname=${host} NodeAddr=127.0.0.1 Port=${second}
PartitionName=main Nodes=${host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:16
PartitionName=pair Nodes=${host},second MaxTime=INFINITE State=UP OverSubscribe=FORCE:16
PartitionName=short Nodes=${host} MaxTime=1 State=UP
CONF
}

wait_until_up() {
    local state=''
    for _ in {1..150}; do
        # One line, of one state, once both nodes are up.
        state=$(timeout 5 sinfo -h -p pair -o %T 2>/dev/null || true)
        case ${state} in
            idle) return ;;
            *down* | *drain*) scontrol update nodename="$(hostname -s),second" state=resume 2>/dev/null || true ;;
        esac
        sleep 0.1
    done
    tail -n 5 "${base}"/log/* >&2
    unavailable "it did not come up (state '${state}')"
}

running() {
    # A daemon that ended may stay as a zombie, which still answers kill -0.
    [[ -r /proc/$1/stat && $(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) != [ZX]* ]]
}

stop() {
    local daemon pid
    for daemon in "${daemons[@]}"; do
        pid=$(cat "${base}/run/${daemon}.pid" 2>/dev/null) || continue
        kill "${pid}" 2>/dev/null || continue
        for _ in {1..50}; do
            running "${pid}" || break
            sleep 0.1
        done
        if running "${pid}"; then kill -9 "${pid}" 2>/dev/null || true; fi
    done
    rm -rf "${base}"
}

export SLURM_CONF=${base}/slurm.conf
case ${action} in
    start)
        install_packages
        if ((EUID != 0)); then unavailable 'its daemons are started by root'; fi
        mkdir -p "${base}"/{state,spool,log,run}
        write_conf
        start_munge
        slurmctld -c
        slurmd -N "$(hostname -s)"
        slurmd -N second
        wait_until_up
        echo "export SLURM_CONF=${SLURM_CONF}"
        ;;
    stop) stop ;;
    *)
        echo "usage: slurm.sh start|stop BASE" >&2
        exit 2
        ;;
esac
