#!/usr/bin/env bash
# The paper's experiments, whole: every setting, seed and fold in one queue of jobs, then one report that compares them.
#
#   local/reproduce_paper.sh --corpus emodb --corpus_dir EMODB --seeds "0 1 2"
#   local/reproduce_paper.sh --corpus iemocap --corpus_dir IEMOCAP_full_release --cmd_backend slurm --ngpu 1
#   local/reproduce_paper.sh --corpus iemocap --dry_run true       what would run, what is finished, hours
#
# Other options are run.sh's. The same command goes on after a kill: finished folds are kept, begun ones resumed.
# Two things differ from run.sh's defaults, because the report needs them: a tenth of each training list is held out
# (dev_ratio), for the probe wants unseen utterances of training speakers; and the test fold is scored after each epoch,
# for the paper's figures 2 and 3 (monitor_test; it selects nothing).
# shellcheck disable=SC2034 # options are read by name
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The grid
corpus=mini                                                     # mini, iemocap, emodb, manifest or kaldi
protocols=                                                      # of folds (default: speaker; of iemocap and mini also paper)
seeds="0 1 2"                                                   # a training each
folds=all                                                       # "01F 02M" or all
settings="beta0 reverse0.1 reverse1 forward0.1 forward1 alpha0" # gradient and beta; alpha0 is beta 0 without the CTC loss
alpha=0.1                                                       # weight of the CTC loss in all settings but alpha0
dev_ratio=0.1                                                   # share of each training list that is held out; 0 is the paper's setting and leaves the probe out
train_args=                                                     # training settings to override, "--set epochs=2"
# Running it
stage=1       # 3 leaves data and dump as they are
dry_run=false # print the plan, what is finished, and the estimated hours
every=60      # seconds between lines of progress
num_threads=1 # CPU threads of a training
expdir=exp    # experiments
python=       # absolute path of an environment's python3 to use as it is

. utils/log.sh
own=() passed=()
while (($#)); do
    name=${1#--} name=${name//-/_}
    case ${name} in
        beta | grl | seed | protocol | tag | stop_stage | skip_stages)
            die 2 "$1 is not for local/reproduce_paper.sh: it goes through all of them; ./run.sh takes it"
            ;;
        corpus | protocols | seeds | folds | settings | alpha | dev_ratio | train_args | stage | dry_run | every | \
            num_threads | expdir | python | help | h | -h) own+=("${@:1:2}") ;;
        *) passed+=("${@:1:2}") ;; # run.sh checks them
    esac
    shift $(($# > 1 ? 2 : 1))
done
set -- ${own[@]+"${own[@]}"}
. utils/parse_options.sh
. utils/stages.sh
whole_numbers stage every num_threads
if [[ -n ${python} ]]; then export SERMTL_PYTHON=${python}; fi
. ./path.sh

if [[ -z ${protocols} ]]; then
    protocols=speaker
    if [[ ${corpus} == iemocap || ${corpus} == mini ]]; then protocols="speaker paper"; fi
fi
common=(--corpus "${corpus}" --folds "${folds}" --dev_ratio "${dev_ratio}" --num_threads "${num_threads}"
    --expdir "${expdir}" ${passed[@]+"${passed[@]}"})
grid=${expdir}/grid/${corpus} logs=${expdir}/grid/${corpus}/log.$$

# What run.sh would do in stages 3 to 6, setting by setting, as its dry run tells it.
list_commands() {
    local protocol seed setting grl beta weight
    for protocol in ${protocols}; do
        for seed in ${seeds}; do
            for setting in ${settings}; do
                grl=reverse beta=0 weight=${alpha}
                case ${setting} in
                    beta0) ;;
                    alpha0) weight=0 ;;
                    reverse*) beta=${setting#reverse} ;;
                    forward*) grl=forward beta=${setting#forward} ;;
                    *) die 2 "--settings: '${setting}' is none of beta0, alpha0, reverse0.1, forward1, ..." ;;
                esac
                ./run.sh "${common[@]}" --stage 3 --dry_run true --protocol "${protocol}" --seed "${seed}" \
                    --alpha "${weight}" --beta "${beta}" --grl "${grl}" --train_args "--set monitor_test=true ${train_args}"
            done
        done
    done
}

plan() {
    list_commands | python3 local/grid.py plan --grid "${grid}" --logs "${logs}" --dry_run "${dry_run}"
}

if ${dry_run}; then
    plan
    exit
fi
own "${grid}"
if ((stage < 3)); then
    for protocol in ${protocols}; do
        supervise ./run.sh "${common[@]}" --stage "${stage}" --stop_stage 2 --protocol "${protocol}" \
            --train_args "${train_args}"
    done
fi
log "Planning"
rm -rf "${grid}"/log.*
supervise plan
{ read -r runner && read -r folds_left && read -r experiments; } <"${grid}/array"

status=0
if ((folds_left)); then
    python3 local/grid.py watch --grid "${grid}" --every "${every}" &
    watcher=$!
    submit "${runner} JOB=1:${folds_left}" "${logs}/JOB.log" \
        python3 local/grid.py train --grid "${grid}" --job JOB || status=1
    kill "${watcher}" || true
    wait "${watcher}" || true
fi
log "Scoring"
submit "run.pl JOB=1:${experiments}" "${logs}/score.JOB.log" \
    python3 local/grid.py score --grid "${grid}" --job JOB || status=1
log "Report"
supervise python3 local/grid.py report --grid "${grid}" || status=1
python3 local/grid.py end --grid "${grid}" || status=1
if ((status)); then die 1 "not all is there: the same command goes on where it can"; fi
finish
