# shellcheck shell=bash disable=SC2034,SC2154
# Sourced by run.sh: what its stages have in common. Uses run.sh's options stage, stop_stage, skip_stages and dry_run,
# and its array `arguments`, the command line.

. utils/lock.sh

_stage= # the last one that began here
_stage_times=()
_runner=

# check_options: stops where run.sh's options cannot be worked with; sets stop_stage's default.
check_options() {
    local name word
    for word in ${arguments[@]+"${arguments[@]}"}; do
        if [[ ${word} =~ (^|[^A-Za-z0-9_])JOB([^A-Za-z0-9_]|$) ]]; then
            die 2 "'${word}': JOB stands for the number of a job in the commands of jobs; use another name"
        fi
    done
    if [[ ! ${skip_stages} =~ ^[0-9[:space:]]*$ ]]; then
        die 2 "--skip_stages takes numbers, as '2 4', not '${skip_stages}'"
    fi
    for name in stage stop_stage nj ngpu jobs_per_gpu num_nodes num_threads nbpe; do
        if [[ ! ${!name} =~ ^-?[0-9]*$ ]]; then die 2 "--${name} takes a whole number, not '${!name}'"; fi
    done
    stop_stage=${stop_stage:-$((stage > 6 ? stage : 6))}
    if ((stage > stop_stage)); then die 2 "nothing to do: --stage ${stage} is after --stop_stage ${stop_stage}"; fi
}

# set_job_options: cores; defaults of nj, dump_nj, ngpu and num_threads; fold_ngpu, the GPUs of training and decoding;
# dump_cmd, fold_cmd and infer_cmd, the commands of conf/cmd.sh with their options, for stage 2, training and decoding.
set_job_options() {
    local gpus shared=
    cores=$(env -u OMP_NUM_THREADS nproc) dump_nj=${nj}
    if [[ ${cmd_backend} == local ]]; then
        nj=${nj:-${cores}}
        gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ') || true
        if [[ -v CUDA_VISIBLE_DEVICES ]]; then
            gpus=$(tr ',' '\n' <<<"${CUDA_VISIBLE_DEVICES}" | grep -cvxE -e '|-1|NoDevFiles') || true
        fi
        ngpu=${ngpu:-$((gpus > 0))}
        # Each job on a GPU loads the upstream first: no more of them than run at once.
        if ((ngpu)) && [[ ${feats_type} == stored ]]; then dump_nj=${dump_nj:-$(((gpus > 1 ? gpus : 1) * jobs_per_gpu))}; fi
    else
        # The head node's cores and GPUs say nothing about the cluster's.
        nj=${nj:-8} ngpu=${ngpu:-1} num_threads=${num_threads:-$((ngpu > 1 ? ngpu : 1))}
    fi
    dump_nj=${dump_nj:-${nj}}
    dump_cmd=${train_cmd} fold_cmd=${train_cmd} infer_cmd=${decode_cmd} fold_ngpu=${ngpu}
    if ((ngpu && jobs_per_gpu > 1)); then shared=" --jobs_per_gpu ${jobs_per_gpu}"; fi
    if [[ -n ${shared} && ${cmd_backend} != local ]]; then die 2 "${shared# }: only with --cmd_backend local"; fi
    if ((ngpu)) && [[ ${feats_type} == stored ]]; then dump_cmd="${cuda_cmd} --gpu 1${shared}"; fi
    # Heads on pooled vectors are so small that a GPU would only wait.
    if ${short_folds}; then fold_ngpu=0; fi
    if ((fold_ngpu)); then
        fold_cmd="${cuda_cmd} --gpu ${ngpu}${shared}" infer_cmd="${cuda_cmd} --gpu 1${shared}"
    fi
    if ((num_nodes > 1)); then
        if [[ ${cmd_backend} != slurm ]]; then die 2 "--num_nodes ${num_nodes}: only with --cmd_backend slurm"; fi
        fold_cmd+=" --num_nodes ${num_nodes}"
    fi
}

# read_values NAME...: sets these variables from lines name=value on stdin. Values are stored, never evaluated.
read_values() {
    local _line
    while IFS= read -r _line; do
        if [[ " $* " == *" ${_line%%=*} "* ]]; then printf -v "${_line%%=*}" '%s' "${_line#*=}"; fi
    done
}

# select_folds "NAME..." FILE: the array fold_names: all names in FILE, or those of them that are asked for.
select_folds() {
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

# skipped N: whether --skip_stages names stage N.
skipped() { [[ " ${skip_stages} " == *[[:space:]]"$1"[[:space:]]* ]]; }

# require_file FILE N: stops where FILE is missing, before anything starts; stage N makes it.
require_file() {
    if [[ ! -e $1 ]] && ! ${dry_run}; then die 2 "$1 is missing; stage $2 makes it:$(rerun_from "$2")"; fi
}

# require_current N OPTION...: where stage N-1 did not run just now, stops unless all that the stages before N made was
# made from what is there now. The options of sermtl.bin.stamp name the places.
require_current() {
    local status=0
    if [[ ${_stage} == "$(($1 - 1))" ]] || ${dry_run}; then return; fi
    python3 -m sermtl.bin.stamp require --stage "$@" || status=$?
    if ((status > 100)); then die 2 "run stage $((status - 100)) again:$(rerun_from "$((status - 100))")"; fi
    if ((status)); then exit "${status}"; fi
}

# start_stage N TITLE
start_stage() {
    _note_time
    _stage=$1 _started=${SECONDS}
    log "Stage $1: $2"
}

_note_time() {
    if [[ -n ${_stage} ]]; then _stage_times+=("stage ${_stage} $((SECONDS - _started)) s"); fi
}

# run WORD...: a command here and now; --dry_run true prints it.
run() {
    if ${dry_run}; then
        printf '  %s\n' "$(printf '%q ' "$@")"
    else
        (without_locks "$@") || _fail $?
    fi
}

# submit "COMMAND OPTION..." LOG WORD...: a command as jobs, by run.pl, queue.pl or slurm.pl, which end their jobs, or
# take them back from the queue, when a signal comes. In the background, so that it comes there at once.
submit() {
    local words word job status=0 logs=$2 jobs=${1##*JOB=1:}
    read -ra words <<<"$1"
    words+=("${logs}")
    log "log: ${logs}"
    for word in "${@:3}"; do words+=("$(job_word "${word}")"); done
    if ${dry_run}; then
        run "${words[@]}"
        return
    fi
    SERMTL_CALLER=$$ without_locks "${words[@]}" &
    _runner=$!
    wait "${_runner}" || status=$?
    _runner=
    if ((status)); then _fail "${status}"; fi
    for ((job = 1; job <= jobs; job++)); do
        sed -n 's/^.*\(nothing changed: \)/\1/p' "${logs/JOB/${job}}"
        grep -m 10 '^warning: ' "${logs/JOB/${job}}" || true # the log has all of them
    done
}

# lock_dirs DIRECTORY...: keeps other run.sh out of them until this one ends; stops where one works there.
lock_dirs() {
    local directory
    for directory in "$@"; do
        lock_dir "${directory}" die 2 "wait, or use another --tag or --expdir: another run.sh works on ${directory}"
    done
}

# lock_dir DIRECTORY COMMAND WORD...: runs the command where another run.sh works there, then waits for it; also removes
# what killed programs have left there.
lock_dir() {
    if ${dry_run}; then return; fi
    mkdir -p "$1"
    take_lock "$1/.lock" "${@:2}" || exit 2
    python3 -m sermtl.bin.stamp clean "$1"
}

# finish: the last lines, seconds of each stage and success.
finish() {
    local line
    _note_time
    for line in ${_stage_times[@]+"${_stage_times[@]}"}; do log "${line}"; done
    log "Successfully finished. [elapsed=${SECONDS}s]"
    exit 0
}

# rerun_from N: the command line again, beginning at stage N.
rerun_from() {
    local i
    printf ' ./run.sh'
    for ((i = 0; i < ${#arguments[@]}; i += 2)); do
        if [[ ${arguments[i]} != --stage ]]; then printf ' %q' "${arguments[@]:i:2}"; fi
    done
    printf ' --stage %s' "$1"
}

# _fail STATUS: the end of this script where a command failed.
_fail() {
    local how='did not finish.'
    if (($1 == 137)); then how='was killed (signal 9), probably for a lack of memory.'; fi
    if (($1 == 75)); then how='was stopped by SIGTERM and has saved; the same command continues.'; fi
    if [[ -n ${_stage} ]]; then log "Stage ${_stage} ${how} To go on from there:$(rerun_from "${_stage}")" >&2; fi
    exit "$1"
}

_stop_at_signal() {
    trap '' INT TERM HUP
    log "interrupted by SIG$1" >&2
    if [[ -n ${_runner} ]]; then
        kill -TERM "${_runner}" 2>/dev/null || true
        wait "${_runner}" || true
    fi
    _fail $((128 + $(kill -l "$1")))
}

trap '_stop_at_signal INT' INT
trap '_stop_at_signal TERM' TERM
trap '_stop_at_signal HUP' HUP
