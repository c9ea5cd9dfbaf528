"""Audit fold lists, those of this recipe or others, against a data directory.

FOLDS has one directory per fold, or is a fold. A fold has the files train (or train.txt, train.lst) and
test, and may have dev (or valid, val, validation): utterance ids, the first word of each line.

Exit status 1 where parts share utterances, test audio is also in train or dev, a test speaker is also in
train or dev (unless --allow_shared_speakers true, the default for the protocols paper, lists and randomK), ids are
listed twice or unknown to the data directory, or train or test is empty.
"""

from collections import Counter
from pathlib import Path

from sermtl.corpus.audit import Audio, audit_fold
from sermtl.corpus.corpus import load_corpus
from sermtl.corpus.lists import read_fold, read_folds, rows_of
from sermtl.corpus.protocols import find_protocol
from sermtl.corpus.write_folds import audit_options, audit_table, print_audits
from sermtl.errors import UserError, command
from sermtl.fileio.files import write_json, write_text


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
    folds, corpus = read_folds(args.folds), load_corpus(args.data)
    for ids in [ids for lists in folds.values() for ids in lists.values()]:
        rows = rows_of(ids, corpus, args.folds)
        ids[:] = [corpus.utts[rows[utt]] if utt in rows else utt for utt in ids]
    root = args.folds.resolve()
    protocol = args.protocol or (root.parent if read_fold(root) else root).name
    try:
        disjoint = find_protocol(protocol)[0].disjoint_speakers
    except UserError:
        disjoint = True  # lists of no protocol of this recipe
    if args.allow_shared_speakers:
        disjoint = args.allow_shared_speakers == "false"
    audio = Audio.of(corpus, decode=args.audio == "true")
    audits = [
        audit_fold(corpus, audio, lists, protocol=protocol, fold=name, disjoint_speakers=disjoint)
        for name, lists in folds.items()
    ]
    kept = print_audits(audits)
    tested = Counter(utt for lists in folds.values() for utt in set(lists["test"]) if utt in corpus.index)
    labelled = [utt for utt, has in zip(corpus.utts, corpus.labelled, strict=True) if has]
    twice = sum(n > 1 for n in tested.values())
    again = f"; {twice} in more than one fold, which pooled scores count again" if twice else ""
    print(f"{sum(utt in tested for utt in labelled)} of {len(labelled)} labelled utterances are tested{again}")
    if any(audit["speaker_dependent"] for audit in audits):
        print(f"{protocol} is speaker-dependent: speakers of test parts are in train or dev")
    if args.out:
        for audit in audits:
            write_json(args.out / audit["fold"] / "audit.json", audit, sort_keys=True)
        write_text(args.out / "audit.txt", audit_table(audits))
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
