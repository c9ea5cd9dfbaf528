# shellcheck shell=bash
# Sourced. A lock is the kernel's on an open file (flock), which ends with the process that has it, however that ends.
# The file stays; its words, "HOST PID SINCE", are for messages alone.

_lock_fds=()

# take_lock FILE COMMAND WORD...: where another process has it, runs the command once with "(host H, process P, since T)"
# behind its own words, which may end the script, then waits.
take_lock() {
    local said fd status host pid since waits=false
    if ! command -v flock >/dev/null; then
        echo "cannot make the lock $1: there is no program flock; install the package util-linux" >&2
        return 1
    fi
    if ! said=$({ : >>"$1"; } 2>&1); then
        echo "cannot make the lock $1: ${said##*: }" >&2
        return 1
    fi
    exec {fd}<>"$1" # for writing too: over NFS, only such a file can be locked
    while status=0 && { flock -n "${fd}" || status=$?; } && ((status == 1)); do
        if ! ${waits}; then
            read -r host pid since <"$1" || true
            "${@:2}" "(host ${host}, process ${pid}, since ${since})"
        fi
        waits=true
        sleep 0.5
    done
    _lock_fds+=("${fd}")
    if ((status)); then
        echo "$1: no locks on this file system; nothing keeps another process out" >&2
        return
    fi
    # HOSTNAME may be that of the host that submitted this job.
    printf '%s %d %(%Y-%m-%dT%H:%M:%S)T\n' "$(uname -n)" $$ -1 2>/dev/null >"$1" || true
}

# without_locks WORD...: becomes a command that does not keep this script's locks when it outlives the script.
without_locks() {
    local fd
    for fd in ${_lock_fds[@]+"${_lock_fds[@]}"}; do exec {fd}>&-; done
    exec "$@"
}
