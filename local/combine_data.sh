#!/usr/bin/env bash
# Combines data directories: local/combine_data.sh [--label_map CORPUS MAP]... data/a data/b data/a+b
set -euo pipefail
[[ :${PATH}: == *:${PWD}/utils:* ]] || . ./path.sh
exec python3 local/combine_data.py "$@"
