#!/usr/bin/env bash
# The paper's experiments: ./run.sh with every protocol, seed and setting, then one report that compares them.
#
#   local/reproduce_paper.sh --corpus emodb --corpus_dir EMODB --seeds "0 1 2"
#   local/reproduce_paper.sh --corpus iemocap --corpus_dir IEMOCAP_full_release --cmd_backend slurm --parallel 4
#   local/reproduce_paper.sh --corpus iemocap --dry_run true       the commands, and which of them are finished
#
# Other options are those of run.sh. After a kill or a failure the same command continues; finished folds are kept.
# The report needs what run.sh does not do by default: a tenth of each training list becomes dev, for the speaker probe.
# shellcheck disable=SC2086,SC2206 # names and options without blanks are kept as lists of words
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

corpus=mini                                                     # mini, iemocap, emodb, ... as for run.sh
protocols=                                                      # fold protocols (default: speaker; for iemocap and mini "speaker paper")
seeds="0 1 2"                                                   # seeds of all random draws
settings="beta0 reverse0.1 reverse1 forward0.1 forward1 alpha0" # gradient and beta; alpha0 is beta 0 without CTC loss; or none, erase, ...
grl_config=                                                     # training settings of gradient and beta (default: as of the others)
alpha=0.1                                                       # weight of the CTC loss in all settings but alpha0
alpha0_learning_rate=                                           # of alpha0 (default: 1e-5 for iemocap, else as the others)
figures=false                                                   # score the test fold after each epoch, for figures 2 and 3
folds=all                                                       # "01F 02M" or all
dev_ratio=0.1                                                   # share of each training list that becomes dev; 0 in the paper
train_args=                                                     # training settings to override, "--set epochs=2"
stage=1                                                         # first stage: 1, 2, or 3 if data and dump exist
dry_run=false                                                   # print the commands, and which of them are finished
parallel=1                                                      # experiments at the same time, for a cluster or many cores
expdir=exp                                                      # experiments; logs are in its folder reproduce/<corpus>

other_options=() # run.sh's
set -f           # no word of an option is a pattern of file names
. utils/log.sh
. utils/parse_options.sh
if (($#)); then die 2 "takes no positional arguments, but got '$1'; see --help"; fi
if [[ ! ${stage} =~ ^[123]$ ]]; then die 2 "--stage takes 1, 2 or 3, not '${stage}'"; fi
if [[ ! ${parallel} =~ ^[1-9][0-9]*$ ]]; then die 2 "--parallel takes a number from 1, not '${parallel}'"; fi
if [[ -z ${protocols} && ${corpus} =~ ^(iemocap|mini)$ ]]; then protocols="speaker paper"; fi
if [[ ${corpus} == iemocap ]]; then alpha0_learning_rate=${alpha0_learning_rate:-1e-5}; fi # Cai et al.: 5e-5 diverges
if ${figures}; then train_args="--set monitor_test=true ${train_args}"; fi                 # it selects no model
common=(--corpus "${corpus}" --folds "${folds}" --dev_ratio "${dev_ratio}" --expdir "${expdir}"
    --train_args "${train_args}" ${other_options[@]+"${other_options[@]}"})

experiments=() # protocol_setting_seed, then the options
for protocol in ${protocols:=speaker}; do
    for seed in ${seeds}; do
        for setting in ${settings}; do
            case ${setting} in
                beta0) chosen="--alpha ${alpha} --beta 0 --grl reverse" ;;
                alpha0) chosen="--alpha 0 --beta 0 --grl reverse${alpha0_learning_rate:+ --learning_rate ${alpha0_learning_rate}}" ;;
                reverse[0-9]* | forward[0-9]*) chosen="--alpha ${alpha} --beta ${setting#???????} --grl ${setting:0:7}" ;;
                none | erase) chosen="--alpha ${alpha} --spk_norm ${setting}" ;;
                standardise:* | erase+standardise:*)
                    chosen="--alpha ${alpha} --spk_norm ${setting%%:*} --enrol ${setting#*:}"
                    ;;
                *) die 2 "--settings: '${setting}' is none of beta0, alpha0, reverse0.1, forward1, none, erase, standardise:all, ..." ;;
            esac
            if [[ ${chosen} != *--spk_norm* && -n ${grl_config} ]]; then chosen+=" --train_config ${grl_config}"; fi
            name=${protocol}_${setting}_seed${seed}
            experiments+=("${name//\//_} --protocol ${protocol} --seed ${seed} ${chosen}")
        done
    done
done
if ((${#experiments[@]} == 0)); then die 2 "nothing to train: --seeds or --settings is empty"; fi

# recipe WORD...: run.sh, in the background so that a signal is handled at once; --dry_run true prints it.
recipe() {
    if ${dry_run}; then
        echo "./run.sh$(printf ' %q' "${common[@]}" "$@")"
    else
        ./run.sh "${common[@]}" "$@" &
        wait "$!"
    fi
}

# is_finished WORD...: whether an experiment has its scores in the directory that run.sh's dry run prints.
is_finished() {
    local shown exp fold
    shown=$(./run.sh "${common[@]}" "$@" --stage 5 --stop_stage 5 --dry_run true) || exit 2
    shown=${shown##*.score folds --exp } shown=${shown%%$'\n'*} exp=${shown%% --data *}
    exp=${expdir}/${exp##*/}
    for fold in ${shown##* --folds }; do [[ -f ${exp}/${fold}/score_test/scores.json ]] || return 1; done
    [[ -f ${exp}/scores.json ]]
}

for signal in 1 2 15; do # HUP INT TERM; each run.sh ends its own jobs
    # shellcheck disable=SC2064 # each trap has its own status
    trap "log interrupted >&2; jobs -rp | xargs -r kill || true; wait; exit $((128 + signal))" "${signal}"
done

declare -A running=() # process -> experiment
good=0 failures=() scored=${experiments[0]#* } logs=${expdir}/reproduce/${corpus}

# collect: waits until an experiment ends, and notes how.
collect() {
    local process name how
    wait -n || true
    for process in "${!running[@]}"; do
        if jobs -rp | grep -x "${process}" >/dev/null; then continue; fi
        name=${running[${process}]%% *} how=finished
        if wait "${process}"; then
            good=$((good + 1)) scored=${running[${process}]#* }
        else
            how=failed failures+=("${logs}/${name}.log")
        fi
        unset "running[${process}]"
        log "${name} ${how}: ${good} done, ${#failures[@]} failed, $((${#experiments[@]} - good - ${#failures[@]})) left"
    done
}

for protocol in ${protocols}; do
    if ((stage < 3)); then recipe --protocol "${protocol}" --stage "${stage}" --stop_stage 2; fi
done
for experiment in "${experiments[@]}"; do
    name=${experiment%% *} options=(${experiment#* } --stage 3 --stop_stage 5)
    if ${dry_run}; then
        if is_finished ${experiment#* }; then echo "# finished:"; else echo "# to do:"; fi
        recipe "${options[@]}"
        continue
    fi
    if ((${#running[@]} == parallel)); then collect; fi
    mkdir -p "${logs}"
    log "${name} begins, log: ${logs}/${name}.log"
    ./run.sh "${common[@]}" "${options[@]}" >>"${logs}/${name}.log" 2>&1 &
    running[$!]=${experiment}
done
while ((${#running[@]})); do collect; done

if ${dry_run} || ((good)); then
    recipe ${scored} --stage 6 --stop_stage 6 || failures+=("the report")
fi
if ((${#failures[@]})); then
    die 1 "failed:"$'\n'"$(printf '  %s\n' "${failures[@]}")"$'\n'"The same command tries them again."
fi
