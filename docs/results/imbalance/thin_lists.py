"""Fold lists whose training lists have few utterances of some classes; dev and test lists stay whole.

    python docs/results/imbalance/thin_lists.py --folds data/emodb/folds/speaker --utt2emo data/emodb/utt2emo \\
        --classes "happiness sadness" --like anger --share 0.1 --out thinned

Of each of the classes stay as many utterances as ``--share`` of those of ``--like``, in an order given by digests of
their ids. `./run.sh --protocol lists --lists thinned` trains on the lists.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3]))
from sermtl.fileio.tables import read_list, read_table, write_list  # noqa: E402
from sermtl.seeding import derive_seed  # noqa: E402


def main() -> None:
    """Write the lists, and print how many utterances of each class train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folds", type=Path, required=True)
    parser.add_argument("--utt2emo", type=Path, required=True)
    parser.add_argument("--classes", required=True)
    parser.add_argument("--like", required=True)
    parser.add_argument("--share", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    emotions = read_table(args.utt2emo)
    for fold in read_list(args.folds / "folds"):
        lists = {part: read_list(args.folds / fold / part) for part in ("train", "dev", "test")}
        most = round(args.share * sum(emotions[utt] == args.like for utt in lists["train"]))
        for label in args.classes.split():
            own = sorted((u for u in lists["train"] if emotions[u] == label), key=lambda utt: derive_seed("thin", utt))
            lists["train"] = [utt for utt in lists["train"] if utt not in set(own[most:])]
        for part, utts in lists.items():
            if utts:
                write_list(args.out / fold / part, utts)
        counts = {label: sum(emotions[u] == label for u in lists["train"]) for label in sorted(set(emotions.values()))}
        print(fold, *(f"{label} {count}" for label, count in counts.items()))


if __name__ == "__main__":
    main()
