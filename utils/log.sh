# shellcheck shell=bash
# Sourced. log MESSAGE... on stdout; die STATUS MESSAGE... on stderr, then exit.

log() { _log_line "$@"; }

die() {
    local status=$1
    shift
    _log_line "$@" >&2
    exit "${status}"
}

# The line names the caller's caller: frame 2 of the call stack.
_log_line() {
    local file=${BASH_SOURCE[2]:-${0}}
    printf '%(%Y-%m-%dT%H:%M:%S)T (%s:%s:%s) %s\n' -1 "${file##*/}" "${BASH_LINENO[1]}" "${FUNCNAME[2]:-main}" "$*"
}

# job_word VALUE: the word that makes run.pl, queue.pl and slurm.pl pass exactly VALUE to a job's command.
# They quote words with blanks, and leave others to the job's shell.
job_word() {
    if [[ -z $1 || $1 == *[[:space:]]* ]]; then printf '%s' "$1"; else printf '%q' "$1"; fi
}
