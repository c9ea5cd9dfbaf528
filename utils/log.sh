# shellcheck shell=bash
# Sourced. log MESSAGE... on stdout; die STATUS MESSAGE... on stderr, then exit.

log() {
    _log_line "$@"
}

die() {
    local status=$1
    shift
    _log_line "$@" >&2
    exit "${status}"
}

# The caller's caller is who speaks: frame 2 of the call stack.
_log_line() {
    local file=${BASH_SOURCE[2]:-${0}}
    printf '%(%Y-%m-%dT%H:%M:%S)T (%s:%s:%s) %s\n' -1 "${file##*/}" "${BASH_LINENO[1]}" "${FUNCNAME[2]:-main}" "$*"
}
