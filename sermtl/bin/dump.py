"""Stage 2: write the audio of a data directory to Kaldi arks; `part` writes one part per job, `merge` joins them.

    python -m sermtl.bin.dump part --data data/X --out dump/X/raw --feats_type raw --job 1 --nj 4
    python -m sermtl.bin.dump merge --data data/X --out dump/X/raw --feats_type raw --nj 4

raw is 16-bit audio, fbank is log-mel features, conv is the outputs of --upstream's convolutional encoder, for which
--out is dump/X/conv/<digest>; python -m sermtl.bin.settings prints it as dump_name.
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
    parser.add_argument("--speed", type=float, default=1.0, help="speed perturbation; ids get the prefix sp<speed>-")
    parser.add_argument("--allow_pipes", choices=["true", "false"], default="false", help="run the commands in wav.scp")
    parser.add_argument("--job", type=int, default=1, help="number of this part, from 1")
    parser.add_argument("--nj", type=int, default=1, help="number of parts")
    parser.add_argument("--upstream", default="", help="conv: the model whose convolutional encoder is used")
    parser.add_argument("--seed", type=int, default=0, help="conv: seed of an upstream without pretrained weights")
    parser.add_argument("--ngpu", type=int, default=0, help="conv: 1 computes on a GPU")
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
