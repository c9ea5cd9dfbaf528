"""Audit fold lists, those of this recipe or others, against a data directory.

FOLDS has one directory per fold, or is a fold. A fold has the files train (or train.txt, train.lst) and
test, and may have dev (or valid, val, validation): utterance ids, the first word of each line.

Exit status 1 where parts share utterances, test audio is also in train or dev, a test speaker is also in
train or dev (unless --allow_shared_speakers true, the default for protocol paper), ids are listed twice or
unknown to the data directory, test utterances have no emotion, or train or test is empty.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from sermtl.corpus.audit import Audio, audit_fold
from sermtl.corpus.audit_table import audit_options, audit_table, print_audits
from sermtl.corpus.corpus import Corpus, load_corpus
from sermtl.corpus.folds import promises_disjoint_speakers
from sermtl.errors import UserError, command
from sermtl.fileio.files import write_json, write_text
from sermtl.fileio.tables import read_ids

LISTS = {"train": ["train"], "dev": ["dev", "valid", "val", "validation"], "test": ["test"]}
"""Names of a part's list, before .txt or .lst."""


def read_fold(fold: Path) -> dict[str, list[str]] | None:
    """Read a fold's lists; None where the directory is not a fold."""
    lists: dict[str, list[str]] = {"dev": []}
    for part, names in LISTS.items():
        paths = [fold / f"{name}{suffix}" for name in names for suffix in ("", ".txt", ".lst")]
        found = [path for path in paths if path.is_file()]
        if len(found) > 1:
            raise UserError(f"{fold}: {found[0].name} or {found[1].name}? Keep one list for {part}")
        if found:
            lists[part] = read_ids(found[0])
    return lists if len(lists) == 3 else None


def read_folds(root: Path) -> dict[str, dict[str, list[str]]]:
    """Read all folds of a directory, by name in byte order.

    Raises:
        UserError: There is no such directory, or no fold in it.
    """
    if not root.is_dir():
        raise UserError(f"no directory {root}")
    if (lists := read_fold(root)) is not None:
        return {root.name: lists}
    found = {path.name: read_fold(path) for path in root.iterdir() if path.is_dir()}
    folds = {name: lists for name, lists in sorted(found.items()) if lists is not None}
    if not folds:
        raise UserError(f"{root}: no fold, that is a directory with the lists train and test")
    return folds


def coverage(corpus: Corpus, folds: dict[str, dict[str, list[str]]]) -> str:
    """The labelled utterances that the folds test, and those that more than one tests, as a sentence."""
    tested = Counter(utt for lists in folds.values() for utt in set(lists["test"]) if utt in corpus.index)
    labelled = [utt for utt, has in zip(corpus.utts, corpus.labelled, strict=True) if has]
    once = sum(utt in tested for utt in labelled)
    twice = sum(n > 1 for n in tested.values())
    again = f"; {twice} in more than one fold, which pooled scores count again" if twice else ""
    return f"{once} of {len(labelled)} labelled utterances are tested{again}"


@command
def main() -> int:
    """Audit and print."""
    parser = audit_options(__doc__)
    parser.add_argument("--folds", type=Path, required=True, help="directory of folds, or one fold")
    parser.add_argument("--protocol", help="name in the audits (default: that of the directory of folds)")
    parser.add_argument("--out", type=Path, help="write <fold>/audit.json and audit.txt here")
    parser.add_argument(
        "--allow_shared_speakers", choices=("true", "false"), help="test speakers may be in train or dev"
    )
    args = parser.parse_args()
    folds = read_folds(args.folds)
    corpus = load_corpus(args.data)
    root = args.folds.resolve()
    protocol = args.protocol or (root.parent if read_fold(root) else root).name
    disjoint = promises_disjoint_speakers(protocol)
    if args.allow_shared_speakers:
        disjoint = args.allow_shared_speakers == "false"
    audio = Audio.of(corpus, decode=args.audio == "true")
    audits = [
        audit_fold(corpus, audio, lists, protocol=protocol, fold=name, disjoint_speakers=disjoint)
        for name, lists in folds.items()
    ]
    kept = print_audits(audits)
    print(coverage(corpus, folds))
    if any(audit["speaker_dependent"] for audit in audits):
        print(f"{protocol} is speaker-dependent: speakers of test parts are in train or dev")
    if args.out:
        for audit in audits:
            write_json(args.out / audit["fold"] / "audit.json", audit, sort_keys=True)
        write_text(args.out / "audit.txt", audit_table(audits))
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
