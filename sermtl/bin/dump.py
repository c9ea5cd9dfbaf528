"""Stage 2: audio of a data directory into Kaldi arks, in parts that jobs make side by side.

    python -m sermtl.bin.dump part --data data/X --out dump/X/raw --feats_type raw --job 1 --nj 4
    python -m sermtl.bin.dump merge --data data/X --out dump/X/raw --feats_type raw --nj 4

raw is 16-bit audio, fbank log-mel features, conv the outputs of --upstream's convolutional encoder, for which --out
is dump/X/conv/<digest>; python -m sermtl.bin.settings prints the digest.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sermtl.audio.features import fbank
from sermtl.data.dump import Dump
from sermtl.errors import command


@command
def main() -> int:
    """Run one verb."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("verb", choices=["part", "merge"])
    parser.add_argument("--data", type=Path, required=True, help="data directory with wav.scp")
    parser.add_argument("--out", type=Path, required=True, help="dump directory")
    parser.add_argument("--feats_type", choices=["raw", "fbank", "conv"], required=True)
    parser.add_argument("--speed", type=float, default=1.0, help="speed perturbation; ids get sp<speed>-")
    parser.add_argument("--allow_pipes", choices=["true", "false"], default="false", help="run wav.scp's commands")
    parser.add_argument("--job", type=int, default=1, help="this part, from 1")
    parser.add_argument("--nj", type=int, default=1, help="number of parts")
    parser.add_argument("--upstream", default="", help="conv: whose convolutional encoder")
    parser.add_argument("--seed", type=int, default=0, help="conv: of the training, for an upstream without weights")
    parser.add_argument("--ngpu", type=int, default=0, help="conv: compute on a GPU")
    args = parser.parse_args()
    dump = Dump(args.data, args.out, args.feats_type, args.speed, args.nj)
    if args.verb == "merge":
        dump.merge()
        return 0
    features = fbank
    if args.feats_type == "conv":
        # Only this kind of dump needs PyTorch, which takes seconds to import.
        from sermtl.data.stored_features import conv_features

        features = conv_features(args.upstream, args.seed, args.ngpu, args.data, args.out, args.speed)
    dump.write_part(args.job, args.allow_pipes == "true", features)
    return 0


if __name__ == "__main__":
    sys.exit(main())
