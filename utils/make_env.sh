#!/usr/bin/env bash
# Makes or renews .venv in the current folder; does nothing where it is up to date. Run by path.sh.
#
# .venv/installed, written last, holds what the environment was made from. Without it, the install was interrupted.
set -euo pipefail

. utils/lock.sh

mark=.venv/installed
lock=.venv/installing
log=.venv/install.log

say() { printf 'path.sh: %s\n' "$*" >&2; }

fail() {
    say "$@"
    exit 1
}

inputs() {
    readlink -f .venv/bin/python
    cat constraints.txt pyproject.toml
}

# A copied or moved environment does not work: its programs name the folder in which it was made.
in_place() {
    local home='' python=''
    if [[ -f ${mark} ]]; then { read -r home && read -r python; } <"${mark}" || return 1; fi
    [[ -x .venv/bin/python && ${home} -ef . && ${python} == "$(readlink -f .venv/bin/python)" ]]
}

up_to_date() { in_place && [[ $(tail -n +2 "${mark}") == "$(inputs)" ]]; }

# In the background, so that an interrupt is handled at once. A pip that outlives this script keeps the lock.
logged() {
    echo "+ $*" >>"${log}"
    "$@" >>"${log}" 2>&1 &
    wait "$!"
}

# Sets python to one that can make the environment.
choose_python() {
    local candidate version seen=''
    for candidate in python3 python3.12 python3.11 python3.10; do
        version=$("${candidate}" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        seen+=" ${candidate} is ${version}"
        if [[ ${version} =~ ^3\.1[0-2]$ ]]; then
            if "${candidate}" -c 'import ensurepip, venv' 2>/dev/null; then
                python=${candidate}
                return
            fi
            seen+=" without venv (Debian, Ubuntu: apt install python${version}-venv)"
        fi
        seen+=';'
    done
    fail "needs Python 3.10 to 3.12 with its venv module;${seen:- no python3 on PATH;}" \
        "install one, or name the python3 of an existing environment: SERMTL_PYTHON=/path/to/bin/python3"
}

show_log_and_fail() {
    tail -n 15 "${log}" >&2
    fail "$1 (the whole log: ${PWD}/${log}); after fixing that, the same command continues from here"
}

if up_to_date; then exit 0; fi
if [[ -d .venv && ! -e ${mark} && ! -e ${log} ]]; then
    fail ".venv is there, but was not made by path.sh: move it away, or use it as it is with" \
        "SERMTL_PYTHON=${PWD}/.venv/bin/python3"
fi
mkdir -p .venv
if [[ ! -w .venv ]]; then fail "cannot write in ${PWD}/.venv"; fi
take_lock "${lock}" say "waiting for the install of .venv by another process"
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
trap 'say "interrupted; the next use installs again"; exit 130' INT TERM HUP
if up_to_date; then exit 0; fi

before=''
if in_place; then
    before=$(cat "${mark}")
    rm "${mark}"
    say "pyproject.toml or constraints.txt changed: renewing .venv (log: ${log})"
    echo "== renewed $(date)" >>"${log}"
else
    choose_python
    echo "== made $(date)" >"${log}"
    find .venv -mindepth 1 -maxdepth 1 ! -path "${lock}" ! -path "${log}" -exec rm -rf {} +
    say "making .venv with $("${python}" -V): takes some minutes and 2 GB or more, once (log: ${log})"
    logged "${python}" -m venv .venv || show_log_and_fail "${python} -m venv failed"
fi
# Compiling all modules takes a third of the time; those in use are compiled when they are first imported.
if ! logged .venv/bin/python -m pip --disable-pip-version-check --no-input install --no-compile -c constraints.txt \
    -e '.[test]'; then
    # pip that gives up leaves a working environment as it was.
    if [[ -n ${before} ]]; then printf '%s\n' "${before}" >"${mark}"; fi
    show_log_and_fail "pip could not install what the recipe needs"
fi
{ pwd && inputs; } >"${mark}.new"
mv "${mark}.new" "${mark}"
say "installed in ${SECONDS} s"
