# shellcheck shell=bash
# The environment of run.sh and of every job: sourced with the recipe root as working directory.
#
# SERMTL_PYTHON=/path/to/bin/python3 uses that Python's environment as it is; else .venv is made on first use.
# A site's own lines (modules, proxies, caches) go in local/path.sh, which is not in git.

_sermtl_path() {
    local bin
    if [[ ! ${BASH_SOURCE[0]} -ef path.sh ]]; then
        echo "path.sh: source it from its own folder: cd '${BASH_SOURCE[0]%/*}' && . ./path.sh" >&2
        return 1
    fi
    if [[ -n ${SERMTL_PYTHON:-} ]]; then
        bin=${SERMTL_PYTHON%/*}
        if [[ ${SERMTL_PYTHON} != /* || ! -x ${SERMTL_PYTHON} ]]; then
            echo "path.sh: SERMTL_PYTHON=${SERMTL_PYTHON} is no absolute path of a program" >&2
            return 1
        fi
        # Programs are started as python3, so the name must lead there.
        if [[ ! ${bin}/python3 -ef ${SERMTL_PYTHON} ]]; then
            echo "path.sh: SERMTL_PYTHON=${SERMTL_PYTHON}: ${bin}/python3 is not the same program;" \
                "give the python3 of a virtual environment" >&2
            return 1
        fi
        if [[ :${PYTHONPATH:-}: != *:${PWD}:* ]]; then
            export PYTHONPATH=${PWD}${PYTHONPATH:+:${PYTHONPATH}}
        fi
    else
        utils/make_env.sh || return 1
        bin=${PWD}/.venv/bin
    fi
    if [[ ${PATH} != "${PWD}/utils:${bin}":* ]]; then
        export PATH=${PWD}/utils:${bin}:${PATH}
    fi
    unset PYTHONHOME
    export LC_ALL=C PYTHONUTF8=1 PYTHONUNBUFFERED=1
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    # Threads that spin while they wait make a training ten times slower where other jobs share its cores.
    export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
}

if ! _sermtl_path; then
    unset -f _sermtl_path
    return 1
fi
unset -f _sermtl_path

if [[ -f local/path.sh ]]; then
    # shellcheck source=/dev/null
    . local/path.sh || {
        echo "path.sh: local/path.sh ended with status $?; its last line must succeed" >&2
        return 1
    }
fi
