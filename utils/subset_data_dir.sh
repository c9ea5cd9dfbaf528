#!/usr/bin/env bash
# utils/subset_data_dir.sh [--first|--last|--shortest|--speakers|--per-spk] SRC N DEST, or --utt-list F SRC DEST
set -euo pipefail
[[ :${PATH}: == *:${PWD}/utils:* ]] || . ./path.sh
exec python3 -m sermtl.bin.datadir subset "$@"
