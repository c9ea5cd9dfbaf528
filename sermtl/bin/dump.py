"""Stage 2: write the audio of a data directory to Kaldi arks; `part` writes one part per job, `merge` joins them.

    python -m sermtl.bin.dump part --data data/X --out dump/X/raw --feats_type raw --job 1 --nj 4
    python -m sermtl.bin.dump merge --data data/X --out dump/X/raw --feats_type raw --nj 4

raw is 16-bit audio, fbank is log-mel features, stored is the outputs of the frozen part of the upstream, for which
--out is dump/X/stored/<digest>; python -m sermtl.bin.settings prints it as dump_name.
"""

import argparse
import functools
from pathlib import Path

import numpy as np

from sermtl.audio.features import fbank
from sermtl.config import TrainConfig, load_config
from sermtl.data.dump import Dump, Features
from sermtl.data.names import dump_name
from sermtl.errors import UserError, command


@command
def main() -> None:
    """Run one verb."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("verb", choices=["part", "merge"])
    parser.add_argument("--data", type=Path, required=True, help="data directory with wav.scp")
    parser.add_argument("--out", type=Path, required=True, help="dump directory")
    parser.add_argument("--feats_type", choices=["raw", "fbank", "stored"], required=True)
    parser.add_argument("--speed", type=float, default=1.0, help="speed perturbation; ids get the prefix sp<speed>-")
    parser.add_argument("--allow_pipes", choices=["true", "false"], default="false", help="run the commands in wav.scp")
    parser.add_argument("--job", type=int, default=1, help="number of this part, from 1")
    parser.add_argument("--nj", type=int, default=1, help="number of parts")
    parser.add_argument("--config", type=Path, default=Path("conf/train.yaml"), help="stored: training settings (YAML)")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="stored: settings that override the file"
    )
    parser.add_argument("--ngpu", type=int, default=0, help="stored: 1 computes on a GPU")
    args = parser.parse_args()
    dump = Dump(args.data, args.out, args.feats_type, args.speed, args.nj)
    if args.verb == "merge":
        dump.merge()
        return
    config = load_config(TrainConfig, args.config, args.set) if args.feats_type == "stored" else None
    if config:
        wanted = Path(dump_name(config) if args.speed == 1.0 else f"{dump_name(config)}_sp{args.speed:g}").name
        if args.out.name != wanted:
            raise UserError(f"{args.out}: this upstream's outputs belong in {args.out.parent / wanted}")
    dump.write_part(args.job, args.allow_pipes == "true", functools.partial(features, config, args))


def features(config: TrainConfig | None, args: argparse.Namespace) -> tuple[Features, int]:
    """What is dumped of samples, and of how many utterances at once; see `sermtl.data.dump.Dump.write_part`."""
    if config is None:
        make = fbank if args.feats_type == "fbank" else np.asarray
        return lambda wavs: {key: make(samples_S) for key, samples_S in wavs.items()}, 1
    from sermtl.data.stored_features import stored_features  # PyTorch takes seconds to import

    return stored_features(config, args.ngpu, args.data, args.out, args.speed)


if __name__ == "__main__":
    raise SystemExit(main())
