#!/usr/bin/env bash
# The test command: sets the environment up where it is not, then lint, types and all tests.
# Words go to pytest: tests/run.sh -m "not slow" is the quick part.
#
# Real speech is looked for in SERMTL_TEST_DATA, pretrained encoders in SERMTL_TEST_MODELS; tests that need them are
# skipped without.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
. ./path.sh

failed=()
check() {
    printf '+ %s\n' "${*:1:9}${10:+ ...}"
    if [[ -n ${SERMTL_PYTHON:-} && $1 != pytest ]] && ! command -v "$1" >/dev/null; then
        echo "skipped: the environment of SERMTL_PYTHON has no $1"
    else
        "$@" || failed+=("$1")
    fi
}

# Shell files by name or by first line, for some have no extension; without git, all that are not made.
shell_files() {
    local file first
    while IFS= read -r file; do
        [[ -f ${file} ]] || continue
        if [[ ${file} != *.sh ]]; then
            IFS= read -r first <"${file}" 2>/dev/null || continue
            [[ ${first} =~ ^#!.*[/\ ](ba)?sh$ ]] || continue
        fi
        printf '%s\n' "${file}"
    done < <(git ls-files 2>/dev/null || find . -path './.?*' -prune -o -type f -print)
}
mapfile -t scripts < <(shell_files)

check ruff check .
check ruff format --check .
check mypy
check shellcheck -x "${scripts[@]}"
check shfmt -d -i 4 -ci -bn "${scripts[@]}"
# A file of tests on each core at a time, where pytest-xdist is installed.
at_once=()
if python3 -c 'import xdist' 2>/dev/null; then at_once=(-n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder); fi
check pytest ${at_once[@]+"${at_once[@]}"} "$@"

if ((${#failed[@]})); then
    echo "tests/run.sh: failed: ${failed[*]}" >&2
    exit 1
fi
