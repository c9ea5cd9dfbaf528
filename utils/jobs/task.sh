# shellcheck shell=bash disable=SC2154
# The body of a cluster task's script; queue.pl and slurm.pl write the variables that it reads above it:
# job_root job_log job_mark job_name job_task job_command job_threads job_gpu job_shown.
# It starts few processes, because each task runs it.

job_log=${job_log//"${job_name}"/${job_task}}
job_command=${job_command//"${job_name}"/${job_task}}
job_status=1

# Sets job_now in the form of date(1).
job_date() {
    local LC_ALL=C
    printf -v job_now '%(%a %b %e %H:%M:%S %Z %Y)T' -1
}

# At the task's end, whatever its cause: the log's last lines, then the mark for the head node, with its newline.
job_finish() {
    trap - EXIT
    job_date
    printf '# Accounting: time=%d threads=%d\n# Finished at %s with status %d\n' \
        "${SECONDS}" "${job_threads}" "${job_now}" "${job_status}" >>"${job_log}"
    echo "${job_status}" >"${job_mark}.${job_task}"
    # To Grid Engine, 99 means "reschedule" and 100 "error state".
    exit $((job_status != 0))
}

# Comment lines on the environment; versions are read from files, because starting Python takes longer.
job_about() {
    local python prefix found version torch=none
    if ((job_gpu > 0)) && command -v nvidia-smi >/dev/null; then
        nvidia-smi -L 2>&1 | sed 's/^/# /'
    else
        echo '# GPU: none'
    fi
    python=$(type -P python3) || return 0
    prefix=${python%/bin/*}
    version=$(sed -n 's/^version[_a-z]* *= */Python /p' "${prefix}/pyvenv.cfg" 2>/dev/null)
    for found in "${prefix}"/lib/python3*/site-packages/torch-*.dist-info; do
        if [[ -d ${found} ]]; then torch=${found##*/torch-} torch=${torch%.dist-info}; fi
    done
    echo "# ${version:-$(python3 -V 2>&1)}, torch ${torch}"
}

# Folders just made on the head node may appear on this host late.
job_enter() {
    local _
    for _ in {1..30}; do
        if cd "${job_root}" 2>/dev/null && : 2>/dev/null >"${job_log}" && [[ -d ${job_mark%/*} ]]; then return; fi
        sleep 1
    done
    echo "${HOSTNAME}: cannot reach ${job_root}, the folder of ${job_log}, or ${job_mark%/*}" >&2
    exit 1
}

export HOME=${HOME:-~}
job_enter
trap job_finish EXIT
trap 'job_status=143; exit' TERM
trap 'job_status=130; exit' INT
job_date
{
    printf '# Running on %s\n# Started at %s\n' "${HOSTNAME}" "${job_now}"
    for job_now in "${job_shown[@]}"; do printf '# %s=%s\n' "${job_now}" "${!job_now}"; done
    printf '# %s\n' "${job_command//$'\n'/$'\n# '}"
} >>"${job_log}"
if ((job_gpu == 0)); then export CUDA_VISIBLE_DEVICES=; fi
# In a subshell, so that path.sh cannot change the variables above.
(
    trap - EXIT TERM INT
    if [[ -f path.sh ]]; then
        if ! . ./path.sh; then
            echo "path.sh failed on ${HOSTNAME}" >&2
            exit 1
        fi
        job_about
    fi
    exec bash -o pipefail -c "${job_command}"
) >>"${job_log}" 2>&1 </dev/null
job_status=$?
