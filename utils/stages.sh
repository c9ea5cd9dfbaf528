# shellcheck shell=bash disable=SC2154
# Sourced by run.sh: what its stages have in common. Uses run.sh's options stage, stop_stage, skip_stages and dry_run,
# and its arrays `arguments`, the command line, and `made_from`, which tells where all stages' outputs are.

. utils/lock.sh

stage_times=()
current_stage=
_done_stage=
_runner=

# whole_numbers NAME...: stops where one of these options is set to something else.
whole_numbers() {
    local name
    for name in "$@"; do
        if [[ ! ${!name} =~ ^-?[0-9]*$ ]]; then die 2 "--${name} takes a whole number, not '${!name}'"; fi
    done
}

# no_job_words WORD...: stops where one holds the word that runners replace by the number of a job.
no_job_words() {
    local word
    for word in "$@"; do
        if [[ ${word} =~ (^|[^A-Za-z0-9_])JOB([^A-Za-z0-9_]|$) ]]; then
            die 2 "'${word}': JOB stands for the number of a job in the commands of jobs; use another name"
        fi
    done
}

# begins N TITLE: whether stage N is to run; if so, says that it begins. Where the stage before it does not run, looks
# whether what there is was made from what there is now.
begins() {
    local status=0
    if ((stage > $1 || stop_stage < $1)) || [[ " ${skip_stages} " == *[[:space:]]"$1"[[:space:]]* ]]; then return 1; fi
    if (($1 > 1)) && [[ ${_done_stage} != "$(($1 - 1))" ]] && ! ${dry_run}; then
        python3 -m sermtl.bin.stamp require --stage "$1" "${made_from[@]}" || status=$?
        if ((status > 100)); then die 2 "stage $((status - 100)) makes it anew:$(rerun_from "$((status - 100))")"; fi
        if ((status)); then exit "${status}"; fi
    fi
    current_stage=$1 stage_started=${SECONDS}
    log "Stage $1: $2"
}

ends() {
    stage_times+=("stage ${current_stage} $((SECONDS - stage_started)) s")
    _done_stage=${current_stage} current_stage=
}

# run WORD...: a command here and now; --dry_run true prints it.
run() {
    if ${dry_run}; then
        printf '  %s\n' "$(printf '%q ' "$@")"
    else
        (without_locks "$@")
    fi
}

# submit "COMMAND OPTION..." LOG WORD...: a command as jobs, by run.pl, queue.pl or slurm.pl, which take their
# jobs back when a signal comes.
submit() {
    local words word job logs=$2 jobs=${1##*JOB=1:}
    read -ra words <<<"$1"
    log "log: ${logs}"
    words+=("${logs}")
    shift 2
    for word in "$@"; do words+=("$(job_word "${word}")"); done
    if ${dry_run}; then
        run "${words[@]}"
        return
    fi
    supervise "${words[@]}" || return
    for ((job = 1; job <= jobs; job++)); do sed -n 's/^.*\(nothing changed: \)/\1/p' "${logs/JOB/${job}}"; done
}

# supervise WORD...: a command in the background, so that a signal to this script reaches it at once.
supervise() {
    local status=0
    SERMTL_CALLER=$$ without_locks "$@" &
    _runner=$!
    wait "${_runner}" || status=$?
    _runner=
    return "${status}"
}

_interrupted() {
    trap '' INT TERM HUP
    log "interrupted by SIG$1" >&2
    if [[ -n ${_runner} ]]; then
        kill -TERM "${_runner}" 2>/dev/null || true
        wait "${_runner}" || true
    fi
    exit $((128 + $(kill -l "$1")))
}

# needs FILE N: stops where FILE is missing, before anything starts; stage N makes it.
needs() {
    if [[ ! -e $1 ]] && ! ${dry_run}; then die 2 "$1 is missing; stage $2 makes it:$(rerun_from "$2")"; fi
}

# The command line again, beginning at stage $1.
rerun_from() {
    local i
    printf ' ./run.sh'
    for ((i = 0; i < ${#arguments[@]}; i += 2)); do
        if [[ ${arguments[i]} != --stage ]]; then printf ' %q' "${arguments[@]:i:2}"; fi
    done
    printf ' --stage %s' "$1"
}

# choose_folds "NAME..." FILE: the names of FILE, or those of them that are asked for, in the array fold_names.
choose_folds() {
    local known name
    read -rd '' -a fold_names <<<"$1" || true # over all lines
    if [[ ! -f $2 ]]; then return; fi         # only in a dry run
    mapfile -t known <"$2"
    if [[ $1 == all ]]; then fold_names=("${known[@]}"); fi
    for name in "${fold_names[@]}"; do
        if [[ " ${known[*]} " != *" ${name} "* ]]; then
            die 2 "--folds: there is no fold '${name}' in $2; known: ${known[*]}"
        fi
    done
}

# The last lines: seconds of each stage, and success.
finish() {
    local line
    for line in ${stage_times[@]+"${stage_times[@]}"}; do log "${line}"; done
    log "Successfully finished. [elapsed=${SECONDS}s]"
    exit 0
}

# own DIRECTORY...: keeps other run.sh out of them until this one ends.
own() {
    local directory
    if ${dry_run}; then return; fi
    for directory in "$@"; do
        mkdir -p "${directory}"
        take_lock "${directory}/.lock" _owned_by_other || exit 2
        python3 -m sermtl.bin.stamp clean "${directory}"
    done
}

# await DIRECTORY: keeps other run.sh out of it, waiting for one that works there.
await() {
    if ${dry_run}; then return; fi
    mkdir -p "$1"
    take_lock "$1/.lock" _waiting_for_other || exit 2
    python3 -m sermtl.bin.stamp clean "$1"
}

_waiting_for_other() {
    if [[ -z ${_waited:-} ]]; then log "waiting for another run.sh: $1"; fi
    _waited=true
}

_owned_by_other() {
    local host pid since _
    read -r host pid since _ <<<"$1"
    die 2 "another run.sh works on ${directory} (host ${host}, process ${pid}, since ${since});" \
        "wait for it, or use another --tag or --expdir"
}

_report_failure() {
    local status=$? how='did not finish.'
    if ((status == 75)); then how='was told to stop, and has saved: the same command goes on.'; fi
    if ((status)) && [[ -n ${current_stage} ]]; then
        log "Stage ${current_stage} ${how} To go on from there:$(rerun_from "${current_stage}")" >&2
    fi
}
trap _report_failure EXIT
for _signal in INT TERM HUP; do
    # shellcheck disable=SC2064 # each trap names its own signal
    trap "_interrupted ${_signal}" "${_signal}"
done
