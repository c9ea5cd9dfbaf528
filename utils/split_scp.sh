#!/usr/bin/env bash
# utils/split_scp.sh [--utt2spk utt2spk] in.scp out1 out2 ..., or -j N I [--one-based] in.scp [out]
set -euo pipefail
[[ :${PATH}: == *:${PWD}/utils:* ]] || . ./path.sh
exec python3 -m sermtl.bin.datadir split_scp "$@"
