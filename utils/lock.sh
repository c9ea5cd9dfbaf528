# shellcheck shell=bash
# Sourced. A lock is a folder with a file `owner`: "HOST PID SINCE BEAT START". The beat shows that the owner lives;
# comparing it, not file times, needs no agreement between the clocks of hosts that share the folder. START is the time
# at which the kernel started the process, for its number may be another's after a reboot.

_locks=()
_beating=()

# take_lock PATH PATIENCE BUSY: makes the folder PATH, and takes over that of a dead owner. While a living one has it,
# calls BUSY with the owner's words, which may end the script, again and again. An owner on another host is dead when
# its beat has stood still for PATIENCE seconds.
take_lock() {
    local said owner last='' since=${SECONDS} host pid start
    # HOSTNAME may be that of the host that submitted this job.
    { read -r _lock_host </proc/sys/kernel/hostname; } 2>/dev/null || _lock_host=${HOSTNAME}
    printf -v _lock_since '%(%Y-%m-%dT%H:%M:%S)T' -1
    _lock_start=$(_start_of $$)
    until said=$(LC_ALL=C mkdir "$1" 2>&1); do
        if [[ ! -d $1 && ${said} != *exists ]]; then
            echo "cannot make the lock $1: ${said##*: }" >&2
            return 1
        fi
        owner=$(cat "$1/owner" 2>/dev/null || true)
        read -r host pid _ _ start <<<"${owner}"
        if [[ ${host} == "${_lock_host}" && ${pid} == [1-9]* ]]; then
            if [[ -e /proc/${pid} && ${start:-$(_start_of "${pid}")} == "$(_start_of "${pid}")" ]]; then
                "$3" "${owner}"
            else
                _break_lock "$1" "${owner}"
                continue
            fi
        elif [[ ${owner} != "${last}" ]]; then
            if [[ -n ${last} ]]; then "$3" "${owner}"; fi
            last=${owner} since=${SECONDS}
        elif ((SECONDS - since > $2)); then
            _break_lock "$1" "${owner}"
            continue
        fi
        sleep 0.5
    done
    _locks+=("$1")
    _sign "$1" 0 2>/dev/null || true
    _beat "$1" 3>&2 >/dev/null 2>&1 &
    _beating+=("$!")
}

# release_locks: removes this process's locks; what another one has taken over meanwhile is not this one's.
release_locks() {
    local lock pid
    for pid in ${_beating[@]+"${_beating[@]}"}; do
        # In a trap, bash waits for ever for a process that has ended before.
        if kill "${pid}" 2>/dev/null; then wait "${pid}" 2>/dev/null || true; fi
    done
    for lock in ${_locks[@]+"${_locks[@]}"}; do
        if _is_mine "${lock}"; then rm -rf "${lock}"; fi
    done
    _locks=() _beating=()
}

# Start time of a process; nothing of one that has ended, though its parent has not asked for its status yet.
_start_of() {
    local stat
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 0
    read -ra stat <<<"${stat##*) }"
    [[ ${stat[0]} != [ZX] ]] || return 0
    printf '%s\n' "${stat[19]}"
}

# Whether a lock is this process's.
_is_mine() {
    [[ $(cat "$1/owner" 2>/dev/null) == "${_lock_host} $$ "* ]]
}

# _sign LOCK BEAT
_sign() {
    echo "${_lock_host} $$ ${_lock_since} $2 ${_lock_start}" >"$1/owner.new"
    mv "$1/owner.new" "$1/owner"
}

_beat() {
    local beat=1
    while sleep 2 && kill -0 $$; do
        if ! _is_mine "$1"; then
            echo "the lock $1 was taken over by another process ($(cat "$1/owner")): stopping" >&3
            kill -TERM $$
            return
        fi
        _sign "$1" "$((beat++))"
    done
}

# Of two that wait, one moves the dead lock; what the other then moves is alive, and is put back.
_break_lock() {
    local dead=$1.$$
    mv "$1" "${dead}" 2>/dev/null || return 0
    if [[ $(cat "${dead}/owner" 2>/dev/null || true) != "$2" ]]; then
        mv "${dead}" "$1"
        return
    fi
    echo "the lock $1 was left by a process that is gone (${2:-without a name}); taken over" >&2
    rm -rf "${dead}"
}
