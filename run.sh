#!/usr/bin/env bash
# Speech emotion recognition by multi-task learning with speaker normalisation: from a corpus to scored folds.
#
#   ./run.sh                                                      the synthetic corpus mini, in minutes on two cores
#   ./run.sh --stage 3 --beta 1                                   training, decoding, scoring with another beta
#   ./run.sh --corpus iemocap --corpus_dir IEMOCAP_full_release   the paper's setting
#
# Stages: 1 data and folds, 2 arks and token lists, 3 training, 4 decoding, 5 scoring, 6 report, 7 packs (--stage 7).
# shellcheck disable=SC2034,SC2154 # options and settings are read by name
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# Stages
stage=1       # first stage
stop_stage=   # last stage (default: 6, or 7 with --stage 7)
skip_stages=  # stages to leave out, e.g. "2 4"
dry_run=false # print what the stages would run
# Corpus and folds
corpus=mini        # mini, iemocap, emodb, ravdess, crema_d, msp_podcast, manifest or kaldi
corpus_dir=        # folder of the corpus (not for mini, which is generated)
manifest=          # the TSV of --corpus manifest
corpus_name=       # name of the data directory (default: the corpus)
classes=           # emotion classes to keep (default: four of mini, iemocap, emodb and msp_podcast; all of others)
label_map=         # labels to rename, "excited=happy anger=angry", or a file of two columns
max_classes=20     # more classes than this are refused
merge_excited=true # IEMOCAP: count excited as happy
lang=              # language of the text of a manifest or Kaldi directory (default: en if only A to Z, else unknown)
speakers=          # required, or known: train on unknown ones too (default: required where speakers are held out)
channel=mean       # of files with several channels, the one to read: 1, 2, ...; mean averages them
min_seconds=0      # leave out shorter utterances
max_seconds=inf    # leave out longer utterances
skip_broken=false  # drop broken audio and speakers of one utterance instead of stopping
allow_pipes=false  # let the wav.scp of a Kaldi directory run commands
protocol=speaker   # speaker, session, paper, kfoldK, disjoint, randomK, corpus or lists
lists=             # folder of the lists of --protocol lists (default: the column split of the manifest)
folds=             # "01F 02M" or all (default: all; 01F of mini with protocol speaker)
dev_ratio=0        # share of each training list that becomes dev
dev_speakers=0     # instead: number of speakers of each training list who become dev, and train nothing
copies=stop        # audio of test utterances that is also in training or dev: stop, drop (there) or keep
# Experiment (without a default here: as in the training settings)
train_config=                     # training settings (default: conf/<corpus>.yaml, else conf/train.yaml)
train_args=                       # settings to override, "--set epochs=2 learning_rate=1e-4"
inference_config=conf/decode.yaml # decoding settings
upstream=                         # model of the Hugging Face hub, folder, or name of a file in conf/upstream
feats_type=                       # raw, fbank, or stored: outputs of the frozen part of the upstream, computed once
token_type=                       # char, or bpe trained on each fold's training text
nbpe=                             # size of the bpe vocabulary
alpha=                            # weight of the CTC loss
learning_rate=                    # peak learning rate
beta=                             # scale of the speaker head's gradient at the encoder
grl=                              # reverse or forward
spk_norm=                         # grl (beta), none, erase, standardise, or erase+standardise
calibrate=                        # true: calibrate the emotion posteriors on dev
enrol=                            # other utterances of a test speaker that standardise gets: a number, half or all
seed=                             # seed of all random draws
tag=                              # name of the experiment (default: made from its settings)
trained=                          # exp/<tag> of another corpus: decode and score all of this one by its models
# Machine
cmd_backend=   # local, sge or slurm (default: that of conf/cmd.sh)
nj=            # jobs of stage 2 (default: number of cores; on a cluster 8)
ngpu=          # GPUs per host for a fold's training; decoding uses one (default: 1; 0 on a machine without GPUs)
jobs_per_gpu=1 # folds trained on one GPU at the same time; only with cmd_backend local
num_nodes=1    # hosts of a fold's training; more than one only with cmd_backend slurm
num_threads=   # CPU threads of a fold's job (default: cores divided by folds; on a cluster one per GPU)
python=        # absolute path of the python3 of an environment to use instead of .venv
datadir=data   # data directories
dumpdir=dump   # Kaldi arks
expdir=exp     # experiments
# Packs
onnx=false     # add an ONNX file to each pack
model_license= # licence of the weights for the model card, e.g. cc-by-nc-4.0 (default: that of the existing pack)
data_license=  # licence of the corpus for the model card (default: that of the existing pack)

arguments=("$@")
. utils/parse_options.sh
. utils/log.sh
. utils/stages.sh
if (($#)); then die 2 "run.sh takes no positional arguments, but got '$1'; see ./run.sh --help"; fi
log "run.sh${arguments[*]+$(printf " %q" "${arguments[@]}")}"
check_options
if [[ -n ${python} ]]; then export SERMTL_PYTHON=${python}; fi
. ./path.sh
. conf/cmd.sh

# Defaults that follow from other options
corpus_name=${corpus_name:-${corpus}}
if [[ ${corpus} == mini && ${protocol} == speaker ]]; then folds=${folds:-01F}; fi
if [[ -z ${train_config} && -f conf/${corpus}.yaml ]]; then train_config=conf/${corpus}.yaml; fi
train_config=${train_config:-conf/train.yaml}
read -rd '' -a settings <<<"${train_args//--set /}" || true # over all lines
for name in upstream feats_type token_type nbpe alpha beta grl spk_norm enrol calibrate learning_rate seed; do
    if [[ -n ${!name} ]]; then settings+=("${name}=${!name}"); fi
done
trains=false
if ((stage <= 3 && stop_stage >= 3)) && ! skipped 3 && ! ${dry_run}; then trains=true; fi
resolved=$(python3 -m sermtl.bin.settings --config "${train_config}" --inference_config "${inference_config}" \
    --corpus "${corpus_name}" --protocol "${protocol}" --trains "${trains}" --set ${settings[@]+"${settings[@]}"})
read_values auto_tag feats_type speeds token_type nbpe dump_name short_folds speakers_default <<<"${resolved}"
set_job_options # nj dump_nj ngpu fold_ngpu num_threads cores, and of conf/cmd.sh's commands dump_cmd fold_cmd infer_cmd

# Directories
data=${datadir}/${corpus_name} folds_dir=${datadir}/${corpus_name}/folds/${protocol}
dump=${dumpdir}/${corpus_name} tokens=${dumpdir}/${corpus_name}/tokens/${protocol}
if [[ ${token_type} == bpe ]]; then tokens=${dump}/tokens_bpe${nbpe}/${protocol}; fi
exp=${trained:-${expdir}/${tag:-${auto_tag}}} report=${expdir}/report/${corpus_name}
dumps=("${dump_name}")
for speed in ${speeds}; do dumps+=("${dump_name}_sp${speed}"); done

if ((stage > 1)); then require_file "${folds_dir}/folds" 1; fi
if ((stage > 2)); then require_file "${tokens}" 2; fi
if ((stage > 3)); then require_file "${exp}/labels.txt" 3; fi
if ((stage <= 2)); then lock_dirs "${data}" "${dump}"; fi

if ((stage <= 1 && stop_stage >= 1)) && ! skipped 1; then
    start_stage 1 "data preparation and folds: ${corpus_dir:-${manifest:-${corpus}}} -> ${data}/"
    run local/data.sh --corpus "${corpus}" --corpus_dir "${corpus_dir}" --manifest "${manifest}" --out "${data}" \
        --classes "${classes}" --label_map "${label_map}" --max_classes "${max_classes}" \
        --merge_excited "${merge_excited}" --lang "${lang}" --allow_pipes "${allow_pipes}" \
        --speakers "${speakers:-${speakers_default}}" --skip_broken "${skip_broken}" --channel "${channel}" \
        --min_seconds "${min_seconds}" --max_seconds "${max_seconds}" --nj "$((nj < cores ? nj : cores))"
    run python3 -m sermtl.bin.folds --data "${data}" --protocol "${protocol}" --dev_ratio "${dev_ratio}" \
        --dev_speakers "${dev_speakers}" --copies "${copies}" ${lists:+--lists "${lists}"}
fi
if ((stop_stage == 1)); then finish; fi

select_folds "${folds:-all}" "${folds_dir}/folds"
fold_jobs=${#fold_names[@]} score_jobs=${#fold_names[@]}
if [[ ${cmd_backend} == local ]]; then score_jobs=$((score_jobs < cores ? score_jobs : cores)); fi
if ${short_folds}; then fold_jobs=${score_jobs}; fi # a fold of seconds takes less than the start of a process
num_threads=${num_threads:-$((fold_jobs < cores ? cores / fold_jobs : 1))}
paths=(--data "${data}" --folds_dir "${folds_dir}" --dump "${dump}" --tokens "${tokens}" --exp "${exp}"
    --folds "${fold_names[@]}")
fold_job=("${paths[@]}" --job JOB --jobs "${fold_jobs}" --num_threads "${num_threads}") made_from=("${paths[@]}" --dumps "${dumps[@]}")

if ((stage <= 2 && stop_stage >= 2)) && ! skipped 2; then
    require_current 2 "${made_from[@]}"
    start_stage 2 "dump: ${data}/ -> ${dump}/"
    for out in "${dumps[@]}"; do
        speed=${out#"${dump_name}"} speed=${speed#_sp} out=${dump}/${out}
        dump_job=(--data "${data}" --out "${out}" --feats_type "${feats_type}" --speed "${speed:-1}" --nj "${dump_nj}"
            --allow_pipes "${allow_pipes}" --ngpu "${ngpu}" --config "${train_config}"
            --set ${settings[@]+"${settings[@]}"})
        submit "${dump_cmd} JOB=1:${dump_nj}" "${out}/log/dump.JOB.log" \
            python3 -m sermtl.bin.dump part "${dump_job[@]}" --job JOB
        run python3 -m sermtl.bin.dump merge "${dump_job[@]}"
    done
    run python3 -m sermtl.bin.tokens --data "${data}" --folds_dir "${folds_dir}" --folds "${fold_names[*]}" \
        --token_type "${token_type}" --nbpe "${nbpe}" --out "${tokens}"
fi

if [[ -n ${trained} ]] && ((stop_stage >= 4)); then
    require_current 3 "${made_from[@]}"
    models=("${trained}"/*/model.safetensors)
    models=("${models[@]%/model.safetensors}") models=("${models[@]##*/}") # the folds
    other=(--exp "${trained}" --folds "${models[@]}")
    start_stage 4 "decoding and scoring: ${data}/ -> ${trained}/scores_${corpus_name}.json"
    lock_dirs "${trained}"
    submit "${infer_cmd} --num_threads ${num_threads} JOB=1:${#models[@]}" "${trained}/log/decode_${corpus_name}.JOB.log" \
        python3 -m sermtl.bin.decode --config "${inference_config}" "${paths[@]}" "${other[@]}" --other_corpus \
        --job JOB --num_threads "${num_threads}" --ngpu "$((fold_ngpu > 0))"
    run python3 -m sermtl.bin.score corpus --data "${data}" "${other[@]}"
    finish
fi
if ((stop_stage >= 3)); then lock_dirs "${exp}"; fi

if ((stage <= 3 && stop_stage >= 3)) && ! skipped 3; then
    require_current 3 "${made_from[@]}"
    start_stage 3 "training: ${dump}/ -> ${exp}/ (${fold_names[*]})"
    submit "${fold_cmd} --num_threads ${num_threads} JOB=1:${fold_jobs}" "${exp}/log/train.JOB.log" \
        python3 -m sermtl.bin.train --config "${train_config}" "${fold_job[@]}" --ngpu "${fold_ngpu}" \
        --num_nodes "${num_nodes}" --set ${settings[@]+"${settings[@]}"}
fi

if ((stage <= 4 && stop_stage >= 4)) && ! skipped 4; then
    require_current 4 "${made_from[@]}"
    start_stage 4 "decoding: ${exp}/*/model.safetensors -> ${exp}/*/decode_test/"
    submit "${infer_cmd} --num_threads ${num_threads} JOB=1:${fold_jobs}" "${exp}/log/decode.JOB.log" \
        python3 -m sermtl.bin.decode --config "${inference_config}" "${fold_job[@]}" --ngpu "$((fold_ngpu > 0))"
fi

if ((stage <= 5 && stop_stage >= 5)) && ! skipped 5; then
    require_current 5 "${made_from[@]}"
    start_stage 5 "scoring: ${exp}/*/decode_test/ -> ${exp}/RESULTS.md"
    submit "${train_cmd} JOB=1:${score_jobs}" "${exp}/log/score.JOB.log" \
        python3 -m sermtl.bin.score folds --exp "${exp}" --data "${data}" --folds_dir "${folds_dir}" \
        --job JOB --jobs "${score_jobs}" --folds "${fold_names[@]}"
    run python3 -m sermtl.bin.score pool --exp "${exp}" --folds_file "${folds_dir}/folds" --scored "${fold_names[@]}"
fi

if ((stage <= 6 && stop_stage >= 6)) && ! skipped 6; then
    require_current 6 "${made_from[@]}"
    start_stage 6 "report: ${expdir}/*/scores.json -> ${report}/"
    lock_dir "${report}" log "waiting for another run.sh" # which writes this report too
    run python3 -m sermtl.bin.report --exp "${expdir}" --data "${data}" --dump "${dump}" \
        --corpus "${corpus_name}" --out "${report}"
fi

if ((stage <= 7 && stop_stage >= 7)) && ! skipped 7; then
    require_current 7 "${made_from[@]}"
    start_stage 7 "packs: ${exp}/*/ -> ${exp}/*/pack/"
    submit "${train_cmd} JOB=1:${#fold_names[@]}" "${exp}/log/pack.JOB.log" \
        python3 -m sermtl.bin.pack "${paths[@]}" --job JOB --onnx "${onnx}" \
        --model_license "${model_license}" --data_license "${data_license}"
fi
finish
