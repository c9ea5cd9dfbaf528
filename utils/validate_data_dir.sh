#!/usr/bin/env bash
# Checks a data directory: utils/validate_data_dir.sh [--no-text] [--no-wav] [--allow_pipes true] data/mini
set -euo pipefail
[[ :${PATH}: == *:${PWD}/utils:* ]] || . ./path.sh
exec python3 -m sermtl.bin.datadir validate "$@"
