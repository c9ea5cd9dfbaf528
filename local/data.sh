#!/usr/bin/env bash
# Prepare and validate the data directory of one corpus, unless the same files and options have made it before.
# shellcheck disable=SC2034 # options are read by name
set -euo pipefail

corpus=mini        # mini, iemocap, emodb, ravdess, crema_d, msp_podcast, manifest or kaldi
corpus_dir=        # folder of the corpus (not for mini, which is generated)
manifest=          # the TSV of --corpus manifest
out=               # data directory to write, e.g. data/mini
classes=           # emotion classes to keep (default: four of mini, iemocap, emodb and msp_podcast; all of others)
label_map=         # labels to rename, "excited=happy anger=angry", or a file of two columns
max_classes=20     # more classes than this are refused
merge_excited=true # IEMOCAP: count excited as happy
lang=              # language of the text of a manifest or Kaldi directory (default: en if only A to Z, else unknown)
allow_pipes=false  # let the wav.scp of a Kaldi directory run commands
speakers=required  # required, or known: utterances of unknown speakers are used too
channel=mean       # of files with several channels, the one to read: 1, 2, ...; mean averages them
min_seconds=0      # leave out shorter utterances
max_seconds=inf    # leave out longer utterances
skip_broken=false  # drop broken audio and speakers of one utterance instead of stopping
nj=2               # processes that read audio headers

. utils/parse_options.sh
. utils/log.sh
. ./path.sh

# Corpora, each prepared by local/prepare_<name>.py (mini by that of iemocap): what --corpus_dir, or --manifest, is
declare -A source_of=(
    [mini]="made on the spot"
    [iemocap]="the folder IEMOCAP_full_release"
    [emodb]="the folder that holds wav/03a01Wa.wav"
    [ravdess]="the folder that holds Actor_01 to Actor_24"
    [crema_d]="the folder that holds AudioWAV/1001_DFA_ANG_XX.wav"
    [msp_podcast]="the folder that holds Labels/, Audios/ and Transcripts/"
    [manifest]="a TSV with the columns utt path speaker emotion text"
    [kaldi]="a Kaldi data directory with utt2emo"
)
# The options that only they have
declare -A options_of=([mini]=merge_excited [iemocap]=merge_excited [manifest]="lang" [kaldi]="lang allow_pipes")

known="mini iemocap emodb ravdess crema_d msp_podcast manifest kaldi"
if (($#)); then die 2 "local/data.sh takes no positional arguments, but got '$1'"; fi
if [[ " ${known} " != *" ${corpus} "* ]]; then
    die 2 "--corpus ${corpus}: unknown; known are: ${known} (any other corpus: --corpus manifest --manifest my.tsv)"
fi
out=${out:-data/${corpus}}
source=corpus_dir
if [[ ${corpus} == manifest ]]; then source=manifest; fi
if [[ ${corpus} == mini && -n ${corpus_dir} ]]; then
    die 2 "--corpus mini is made on the spot: leave out --corpus_dir"
elif [[ ${corpus} == mini ]]; then
    corpus_dir=$(dirname "${out}")/local/mini/IEMOCAP_full_release
    python3 local/make_mini.py --out "${corpus_dir}"
elif [[ -z ${!source} ]]; then
    die 2 "--corpus ${corpus} needs --${source}: ${source_of[${corpus}]}"
fi

options=()
for name in label_map max_classes speakers skip_broken channel min_seconds max_seconds ${options_of[${corpus}]:-}; do
    options+=("--${name}" "${!name}")
done
if [[ -n ${classes} ]]; then options+=(--classes "${classes}"); fi
if [[ ${corpus} == mini ]]; then options+=(--known_counts false); fi
sources=("${!source}")
if [[ ${corpus} == iemocap ]]; then
    sources=("${corpus_dir}"/Session*/{dialog/EmoEvaluation,dialog/transcriptions,sentences/wav})
fi

# Broken audio that was left out is in no table, so a repair would go unnoticed: check again.
again=
if ${skip_broken}; then printf -v again '%(%s)T' -1; fi
if [[ -f ${label_map} ]]; then sources+=("${label_map}"); fi
stamp=(--stamp "${out}/stamp.json" --settings "${corpus} ${options[*]@Q}${again}"
    --inputs local/*.py "${sources[@]}" "${out}/wav.scp*")
status=0
python3 -m sermtl.bin.stamp current "${stamp[@]}" || status=$?
if ((status != 1)); then exit "${status}"; fi
python3 "local/prepare_${corpus/mini/iemocap}.py" "--${source}" "${!source}" --out "${out}" --nj "${nj}" "${options[@]}"
utils/validate_data_dir.sh --allow_pipes "${allow_pipes}" --nj "${nj}" "${out}"
python3 -m sermtl.bin.stamp finish "${stamp[@]}"
