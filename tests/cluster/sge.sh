#!/usr/bin/env bash
# A real Grid Engine of one node, private to BASE: tests/cluster/sge.sh start|stop BASE
# `start` installs Debian's packages where they are missing (as root) and prints the exports that clients need.
# Exit status 77: it cannot be had here.
set -euo pipefail

action=$1
base=$2
lib=/usr/lib/gridengine
resources=/usr/share/gridengine/util/resources

unavailable() {
    echo "no Grid Engine here: $*" >&2
    exit 77
}

install_packages() {
    if [[ -x ${lib}/sge_qmaster && -x ${lib}/sge_execd && -x /usr/bin/qsub ]]; then return; fi
    if ((EUID != 0)); then unavailable 'its packages are missing and only root can install them'; fi
    if ! command -v apt-get >/dev/null; then unavailable 'its packages are missing and there is no apt-get'; fi
    apt-get -o Acquire::Retries=0 -o Acquire::http::Timeout=15 update -qq >&2 || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        gridengine-master gridengine-exec gridengine-client >/dev/null 2>&1 \
        || unavailable 'apt-get could not install its packages'
}

free_ports() {
    python3 -c 'import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(s.getsockname()[1] for s in sockets))'
}

exports() {
    local master node
    read -r master node <"${base}/ports"
    export SGE_ROOT=${base}/root SGE_CELL=default SGE_QMASTER_PORT=${master} SGE_EXECD_PORT=${node}
}

make_root() {
    local common=${base}/root/default/common part
    mkdir -p "${common}" "${base}"/{spool,qmaster/job_scripts,execd,run}
    chmod 755 "${base}"
    for part in bin lib util utilbin; do
        ln -s "$(readlink -f "/var/lib/gridengine/${part}")" "${base}/root/${part}"
    done
    echo "${host}" >"${common}/act_qmaster"
    # All names of the loopback address are this host.
    echo "${host} localhost $(awk -v h="${host}" '$1 == "127.0.0.1" {
        for (i = 2; i <= NF; i++) if ($i != h && $i != "localhost") printf "%s ", $i }' /etc/hosts)" >"${common}/host_aliases"
    cat >"${common}/bootstrap" <<CONF
admin_user              none
default_domain          none
ignore_fqdn             true
spooling_method         berkeleydb
spooling_lib            libspoolb
spooling_params         ${base}/spool
binary_path             /usr/sbin
qmaster_spool_dir       ${base}/qmaster
security_mode           none
listener_threads        2
worker_threads          2
scheduler_threads       1
CONF
    # Root may submit; the node reports, and accounts are written, at once; tasks do without this user's profile.
    sed -e "s#^execd_spool_dir .*#execd_spool_dir ${base}/execd#" \
        -e 's/^min_uid .*/min_uid 0/' -e 's/^min_gid .*/min_gid 0/' \
        -e 's/^login_shells .*/login_shells none/' \
        -e 's/^load_report_time .*/load_report_time 00:00:01/' \
        -e 's/flush_time=00:00:15/flush_time=00:00:01/' -e 's#^mailer .*#mailer /bin/true#' \
        /usr/share/gridengine/default-configuration >"${base}/configuration"
    "${lib}/spoolinit" berkeleydb libspoolb "${base}/spool" init
    "${lib}/spooldefaults" configuration "${base}/configuration"
    "${lib}/spooldefaults" complexes "${resources}/centry"
    "${lib}/spooldefaults" usersets "${resources}/usersets"
    "${lib}/spooldefaults" managers root
}

until_true() {
    for _ in {1..150}; do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    tail -n 5 "${base}"/qmaster/messages "${base}"/execd/*/messages >&2 || true
    unavailable "it did not come up ($*)"
}

make_queue() {
    qconf -ah "${host}" || true
    qconf -as "${host}" || true
    # The scheduler reacts to each submission and end instead of every 15 s.
    qconf -ssconf | sed -e 's/^schedule_interval .*/schedule_interval 0:0:1/' \
        -e 's/^flush_\(submit\|finish\)_sec .*/flush_\1_sec 1/' >"${base}/scheduler"
    qconf -Msconf "${base}/scheduler"
    qconf -sc | sed '/^#/d' >"${base}/complexes"
    echo 'gpu gpu INT <= YES YES 0 0' >>"${base}/complexes"
    qconf -Mc "${base}/complexes"
    printf '%s\n' 'pe_name smp' 'slots 999' 'user_lists NONE' 'xuser_lists NONE' 'start_proc_args NONE' \
        'stop_proc_args NONE' "allocation_rule \$pe_slots" 'control_slaves FALSE' 'job_is_first_task TRUE' \
        'urgency_slots min' 'accounting_summary FALSE' 'qsort_args NONE' >"${base}/pe"
    qconf -Ap "${base}/pe"
    printf 'group_name @allhosts\nhostlist %s\n' "${host}" >"${base}/hosts"
    qconf -Ahgrp "${base}/hosts"
    write_queue >"${base}/queue"
    qconf -Aq "${base}/queue"
}

write_queue() {
    local limit
    cat <<CONF
qname                 all.q
hostlist              @allhosts
seq_no                0
load_thresholds       NONE
suspend_thresholds    NONE
nsuspend              1
suspend_interval      00:05:00
priority              0
min_cpu_interval      00:05:00
processors            UNDEFINED
qtype                 BATCH INTERACTIVE
ckpt_list             NONE
pe_list               smp
rerun                 FALSE
slots                 32
tmpdir                /tmp
shell                 /bin/bash
prolog                NONE
epilog                NONE
shell_start_mode      posix_compliant
starter_method        NONE
suspend_method        NONE
resume_method         NONE
terminate_method      NONE
notify                00:00:60
owner_list            NONE
user_lists            NONE
xuser_lists           NONE
subordinate_list      NONE
complex_values        NONE
projects              NONE
xprojects             NONE
calendar              NONE
initial_state         default
CONF
    for limit in rt cpu fsize data stack core rss vmem; do
        echo "s_${limit} INFINITY"
        echo "h_${limit} INFINITY"
    done
}

running() {
    # A daemon that ended may stay as a zombie, which still answers kill -0.
    [[ -r /proc/$1/stat && $(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) != [ZX]* ]]
}

start() {
    install_packages
    if ((EUID != 0)); then unavailable 'its daemons are started by root'; fi
    host=$(hostname -s)
    mkdir -p "${base}"
    free_ports >"${base}/ports"
    exports
    {
        make_root
        /usr/sbin/sge_qmaster
        until_true qconf -sh
        SGE_EXECD_PIDFILE=${base}/run/execd.pid /usr/sbin/sge_execd
        until_true eval 'qconf -sel | grep -q .'
        make_queue
        # A queue instance without letters in its last column takes jobs.
        until_true eval 'qstat -f | grep "^all.q" | grep -qvE -- "-NA-|[a-zA-Z] *$"'
    } >"${base}/start.log" 2>&1 || {
        tail -n 5 "${base}/start.log" >&2
        unavailable 'it did not come up'
    }
    local name
    for name in SGE_ROOT SGE_CELL SGE_QMASTER_PORT SGE_EXECD_PORT; do echo "export ${name}=${!name}"; done
}

stop() {
    local file pid
    if [[ -f ${base}/ports ]]; then
        exports
        timeout 10 qdel -u '*' >/dev/null 2>&1 || true
        timeout 5 qconf -kej >/dev/null 2>&1 || true
        timeout 5 qconf -km >/dev/null 2>&1 || true
    fi
    for file in "${base}/run/execd.pid" "${base}/qmaster/qmaster.pid"; do
        pid=$(cat "${file}" 2>/dev/null) || continue
        for _ in {1..60}; do
            running "${pid}" || break
            sleep 0.1
        done
        if running "${pid}"; then kill -9 "${pid}" 2>/dev/null || true; fi
    done
    rm -rf "${base}"
}

case ${action} in
    start) start ;;
    stop) stop ;;
    *)
        echo "usage: sge.sh start|stop BASE" >&2
        exit 2
        ;;
esac
