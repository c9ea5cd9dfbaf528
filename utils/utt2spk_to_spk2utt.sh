#!/usr/bin/env bash
# utils/utt2spk_to_spk2utt.sh data/mini/utt2spk > data/mini/spk2utt
set -euo pipefail
[[ :${PATH}: == *:${PWD}/utils:* ]] || . ./path.sh
exec python3 -m sermtl.bin.datadir utt2spk_to_spk2utt "$@"
