#!/usr/bin/env bash
# What a GPU does: equality with the CPU, speed, a whole epoch, several trainings at once, decoding, the recipe.
# It needs PyTorch with CUDA and the recipe's packages, and neither the network nor a corpus:
#
#   SERMTL_PYTHON=/path/to/bin/python3 tests/gpu/run.sh [--minutes 8] [--out DIR] [--device cuda|cpu] [--steps "equality bench"]
#
# The most important steps come first. DIR/gpu.json and a table are written after each, so that a run which is cut keeps
# what was done. The status is 1 where a check fails.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. ./path.sh
exec python3 tests/gpu/checks.py "$@"
