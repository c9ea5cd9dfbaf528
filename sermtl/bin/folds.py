"""Write a protocol's fold lists with their audits: ``data/X/folds/<protocol>/<fold>/{train,dev,test}``.

``folds`` has their names, one per line, and ``audit.txt`` the table that is printed. If a fold breaks a rule
of the protocol, nothing is written, what is shared is printed, and the exit status is 1.
"""

import sys
from pathlib import Path

from sermtl.corpus.audit import Audio
from sermtl.corpus.corpus import load_corpus
from sermtl.corpus.folds import make_folds
from sermtl.corpus.protocols import PROTOCOLS
from sermtl.corpus.write_folds import audit_options, write_folds
from sermtl.errors import command
from sermtl.fileio.stamp import NAME, Stamp, inputs, package_digest

INPUTS = (
    "data:wav.scp*", "data:segments", "data:reco2file_and_channel", "data:utt2spk", "data:utt2emo",
    "data:utt2session", "data:text", "data:utt2style", "data:utt2paper", "data:utt2corpus", "data:utt2split",
    "data:spk2fold",
)  # fmt: skip
MANY_LINES = 20_000_000
"""List lines (about 0.5 GB) above which a protocol of fewer folds is recommended."""


@command
def main() -> None:
    """Make, audit and write folds."""
    parser = audit_options(__doc__)
    parser.add_argument("--protocol", default="speaker", help=f"out of {' '.join(PROTOCOLS)}; kfold5, random5")
    parser.add_argument("--lists", type=Path, help="lists of protocol lists (default: the table utt2split)")
    parser.add_argument("--dev_ratio", type=float, default=0.0, help="share of each training list that becomes dev")
    parser.add_argument("--dev_speakers", type=int, default=0, help="or number of its speakers who become dev")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of dev")
    parser.add_argument(
        "--copies", choices=("stop", "drop", "keep"), default="stop",
        help="audio of test utterances that is also in train or dev: stop, drop it there, or keep it",
    )  # fmt: skip
    args = parser.parse_args()
    corpus = load_corpus(args.data)
    # Made lazily, but checked here: before the audio is compared, which is the slow part.
    division, folds = make_folds(corpus, args.protocol, args.dev_ratio, args.seed, args.lists, args.dev_speakers)
    count = len(division.names)
    if count * len(corpus.utts) > MANY_LINES:
        print(f"warning: {count} folds of {len(corpus.utts)} utterances each; kfold10 would be 10", file=sys.stderr)
    out = args.data / "folds" / args.protocol
    names = ("protocol", "dev_ratio", "dev_speakers", "seed", "audio", "copies")
    settings = {name: getattr(args, name) for name in names}
    read = inputs({"data": args.data}, *INPUTS) | ({str(args.lists.resolve()): args.lists} if args.lists else {})
    made = Stamp(out / NAME, package_digest(), settings, read)
    if not made.changed():
        print(f"nothing changed: {out}")
        return
    audio = Audio.of(corpus, decode=args.audio == "true")
    chosen = {"protocol": args.protocol, "dev_ratio": args.dev_ratio, "copies": args.copies}
    write_folds(corpus, audio, folds, made, **chosen)
    for note in division.notes:
        print(f"{args.protocol}: {note}")


if __name__ == "__main__":
    raise SystemExit(main())
