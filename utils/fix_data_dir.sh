#!/usr/bin/env bash
# Sorts a data directory's tables and keeps the utterances that all have: utils/fix_data_dir.sh data/mini
set -euo pipefail
[[ :${PATH}: == *:${PWD}/utils:* ]] || . ./path.sh
exec python3 -m sermtl.bin.datadir fix "$@"
