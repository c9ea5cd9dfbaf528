#!/usr/bin/env bash
# Methods of speaker normalisation compared on frozen outputs of an encoder: emotion, and what is left of the speaker.
#
#   local/compare_normalisation.sh --corpus emodb --corpus_dir EMODB --upstream openai/whisper-base
#
# Emotion is measured with each speaker held out. Speakers are measured with several held out together, so that those who
# are unseen can be distinguished, and with a quarter of each training list as dev, whose utterances fit nothing. Test
# speakers who are standardised are enrolled by half of their utterances there: the probe takes the others.
# Other options are those of local/reproduce_paper.sh and of run.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

probe_protocol=kfold5                           # its folds test several speakers together: kfold3 of nine speakers
gradients="beta0 reverse0.1 reverse1 reverse10" # gradient reversal, as --settings of local/reproduce_paper.sh
seeds=0                                         # seeds of all random draws

other_options=() # reproduce_paper.sh's
. utils/parse_options.sh
shared=(--seeds "${seeds}" --alpha 0 --train_config conf/frozen.yaml --grl_config conf/frozen_grl.yaml
    ${other_options[@]+"${other_options[@]}"})

local/reproduce_paper.sh --protocols speaker --dev_ratio 0 \
    --settings "none erase standardise:all erase+standardise:all ${gradients}" "${shared[@]}"
local/reproduce_paper.sh --protocols "${probe_protocol}" --dev_ratio 0.25 --inference_config conf/decode_train.yaml \
    --settings "none erase standardise:half erase+standardise:half ${gradients}" "${shared[@]}"
