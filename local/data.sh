#!/usr/bin/env bash
# Prepare and validate the data directory of one corpus, unless the same files and options have made it before.
# shellcheck disable=SC2034 # options are read by name
set -euo pipefail

corpus=mini        # mini, iemocap, emodb, manifest or kaldi
corpus_dir=        # folder of the corpus (not for mini, which is generated)
manifest=          # the TSV of --corpus manifest
out=               # data directory to write, e.g. data/mini
classes=           # emotion classes to keep (default: four of mini, iemocap and emodb; all of others)
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

known="mini iemocap emodb manifest kaldi"
if (($#)); then die 2 "local/data.sh takes no positional arguments, but got '$1'"; fi
if [[ " ${known} " != *" ${corpus} "* ]]; then
    die 2 "--corpus ${corpus}: unknown; known are: ${known} (any other corpus: --corpus manifest --manifest my.tsv)"
fi
out=${out:-data/${corpus}}

# need OPTION VALUE WHAT
need() {
    if [[ -z $2 ]]; then die 2 "--corpus ${corpus} needs --$1: $3"; fi
}

sources=()
options=(--out "${out}" --nj "${nj}" --skip_broken "${skip_broken}" --label_map "${label_map}"
    --max_classes "${max_classes}" --speakers "${speakers}" --channel "${channel}"
    --min_seconds "${min_seconds}" --max_seconds "${max_seconds}")
if [[ -n ${classes} ]]; then options+=(--classes "${classes}"); fi
case ${corpus} in
    mini)
        if [[ -n ${corpus_dir} ]]; then die 2 "--corpus mini is made on the spot: leave out --corpus_dir"; fi
        corpus_dir=$(dirname "${out}")/local/mini/IEMOCAP_full_release
        python3 local/make_mini.py --out "${corpus_dir}"
        options+=(--merge_excited "${merge_excited}" --known_counts false)
        ;;
    iemocap)
        need corpus_dir "${corpus_dir}" "the folder IEMOCAP_full_release"
        options+=(--merge_excited "${merge_excited}")
        sources=("${corpus_dir}"/Session*/{dialog/EmoEvaluation,dialog/transcriptions,sentences/wav})
        ;;
    emodb)
        need corpus_dir "${corpus_dir}" "the folder that holds wav/03a01Wa.wav"
        ;;
    manifest)
        need manifest "${manifest}" "a TSV with the columns utt path speaker emotion text"
        options+=(--manifest "${manifest}" --lang "${lang}")
        sources=("${manifest}")
        ;;
    kaldi)
        need corpus_dir "${corpus_dir}" "a Kaldi data directory with utt2emo"
        options+=(--lang "${lang}" --allow_pipes "${allow_pipes}")
        ;;
esac
if [[ ${corpus} != manifest ]]; then options+=(--corpus_dir "${corpus_dir}"); fi

# Broken audio that was left out is in no table, so a repair would go unnoticed: check again.
again=
if ${skip_broken}; then printf -v again '%(%s)T' -1; fi
sources=("${sources[@]:-${corpus_dir}}")
if [[ -f ${label_map} ]]; then sources+=("${label_map}"); fi
stamp=(--stamp "${out}/stamp.json" --settings "${corpus}" "${classes}" "${label_map}" "${max_classes}"
    "${merge_excited}" "${lang}" "${allow_pipes}" "${speakers}" "${skip_broken}${again}" "${channel}"
    "${min_seconds}" "${max_seconds}"
    --inputs local/*.py "${sources[@]}" "${out}/wav.scp*")
status=0
python3 -m sermtl.bin.stamp current "${stamp[@]}" || status=$?
if ((status != 1)); then exit "${status}"; fi
python3 "local/prepare_${corpus/mini/iemocap}.py" "${options[@]}"
utils/validate_data_dir.sh --allow_pipes "${allow_pipes}" --nj "${nj}" "${out}"
python3 -m sermtl.bin.stamp finish "${stamp[@]}"
