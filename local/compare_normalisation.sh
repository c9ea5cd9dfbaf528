#!/usr/bin/env bash
# Methods of speaker normalisation compared on frozen outputs of an encoder: emotion, and what is left of the speaker.
#
#   local/compare_normalisation.sh --corpus emodb --corpus_dir EMODB --upstream openai/whisper-base
#
# Options are those of local/reproduce_paper.sh, and of run.sh; these ones have other defaults here. A quarter of each
# training list is dev, whose utterances fit nothing: they test the probes of training speakers. Probes of unseen
# speakers need protocols whose folds test several, as kfold5 does where a corpus has ten. Where test speakers are
# standardised, "half" keeps the utterances that enrol apart from those of the probe.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

exec local/reproduce_paper.sh --protocols "speaker kfold5" --seeds 0 --alpha 0 --dev_ratio 0.25 \
    --settings "none erase standardise:all standardise:half erase+standardise:half beta0 reverse0.1 reverse1 reverse10" \
    --train_config conf/frozen.yaml --grl_config conf/frozen_grl.yaml \
    --inference_config conf/decode_train.yaml "$@"
