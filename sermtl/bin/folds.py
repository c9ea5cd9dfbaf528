"""Write a protocol's fold lists with their audits: ``data/X/folds/<protocol>/<fold>/{train,dev,test}``.

Beside the folds stand ``folds`` (their names, one a line) and ``audit.txt`` (the table that is printed).
Nothing is written where the protocol's promise is broken: exit status 1, with what is shared.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from sermtl.corpus.audit import Audio, Audit, audit_fold
from sermtl.corpus.audit_table import audit_options, audit_table, print_audits
from sermtl.corpus.corpus import Corpus, load_corpus
from sermtl.corpus.folds import Fold, divide, make_folds, promises_disjoint_speakers, without_copies
from sermtl.errors import UserError, command
from sermtl.fileio.files import atomic_write, temporary_path, write_json, write_text
from sermtl.fileio.stamp import NAME, Stamp, inputs, package_digest
from sermtl.fileio.tables import write_list
from sermtl.fileio.text_table import plural

INPUTS = (
    "data:wav.scp*", "data:segments", "data:utt2spk", "data:utt2emo", "data:utt2session", "data:text",
    "data:utt2style", "data:utt2paper", "data:spk2fold",
)  # fmt: skip
MANY_LINES = 20_000_000
"""List lines (about 0.5 GB) above which a protocol of fewer folds is recommended."""


@contextlib.contextmanager
def replaced_directory(path: Path) -> Iterator[Path]:
    """Give a new directory that takes the place of ``path`` when the block ends well, whole or not at all."""
    staging = temporary_path(path)
    previous = temporary_path(path.with_name(f"{path.name}.old"))
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        yield staging
        if path.exists():
            path.rename(previous)
        staging.rename(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        # Interrupted between the two renames: the earlier folds come back.
        if previous.exists() and not path.exists():
            previous.rename(path)
        shutil.rmtree(previous, ignore_errors=True)


def write_fold(corpus: Corpus, audio: Audio, args: argparse.Namespace, fold: Fold, out: Path) -> Audit:
    """Write a fold's lists and audit below ``out``."""
    before = len(fold.train) + len(fold.dev)
    if args.copies == "drop" and audio.codes is not None:
        fold = without_copies(fold, audio.codes)
    lists = fold.lists(corpus)
    audit = audit_fold(
        corpus, audio, lists, protocol=args.protocol, fold=fold.name,
        disjoint_speakers=promises_disjoint_speakers(args.protocol), allow_copies=args.copies == "keep",
    )  # fmt: skip
    if left_out := before - len(fold.train) - len(fold.dev):
        audit["warnings"].append(
            f"{plural(left_out, 'training utterance')} with the audio of a test utterance left out"
        )
    if args.dev_ratio and not len(fold.dev):
        audit["warnings"].append(f"--dev_ratio {args.dev_ratio:g} of so few utterances gives an empty dev")
    for part, ids in lists.items():
        write_list(out / fold.name / part, ids)
    write_json(out / fold.name / "audit.json", audit, sort_keys=True)
    return audit


def write_index(audits: list[Audit], out: Path) -> None:
    """Write the folds' names and their table."""
    with atomic_write(out / "folds") as file:
        file.writelines(f"{audit['fold']}\n" for audit in audits)
    write_text(out / "audit.txt", audit_table(audits))


class BrokenPromise(Exception):
    """The folds do not keep what their protocol promises and must not be used."""


def report(corpus: Corpus, protocol: str, audits: list[Audit], out: Path) -> None:
    """Print the table, warnings and broken promises.

    Raises:
        BrokenPromise: A fold breaks one.
    """
    kept = print_audits(audits)
    if protocol == "paper":
        print("protocol paper is speaker-dependent: compare its scores with the published ones only")
    if not kept:
        hint = "; correct utt2session or use --protocol speaker" if protocol == "session" else ""
        if any(audit["test_utterances_audio_seen"] for audit in audits):
            hint += "; --copies drop leaves copies of test audio out of training, --copies keep goes on with them"
        raise BrokenPromise(f"{corpus.path} breaks the promise of protocol {protocol}, {out} stays as it was{hint}")
    unlabelled = int((~corpus.labelled).sum())
    note = f"; {unlabelled} without emotion are in no test part" if unlabelled else ""
    print(f"{len(audits)} folds of {len(corpus.utts)} utterances{note}: {out}")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = audit_options(__doc__)
    parser.add_argument("--protocol", default="speaker", help="speaker, session, paper or kfoldK")
    parser.add_argument("--dev_ratio", type=float, default=0.0, help="share of training that becomes dev")
    parser.add_argument("--seed", type=int, default=0, help="which utterances become dev")
    parser.add_argument(
        "--copies", choices=("stop", "drop", "keep"), default="stop",
        help="audio of the test part that is also in train or dev: stop, drop it there, or keep it",
    )  # fmt: skip
    return parser.parse_args()


@command
def main() -> int:
    """Make, audit and write folds."""
    args = parse()
    corpus = load_corpus(args.data)
    # Made lazily, but checked here: before the audio is compared, which is the slow part.
    folds = make_folds(corpus, args.protocol, args.dev_ratio, args.seed)
    count = len(divide(corpus, args.protocol)[1])
    if count * len(corpus.utts) > MANY_LINES:
        print(f"warning: {count} folds of {len(corpus.utts)} utterances each; kfold10 would be 10", file=sys.stderr)
    out = args.data / "folds" / args.protocol
    names = ("protocol", "dev_ratio", "seed", "audio", "copies")
    settings = {name: getattr(args, name) for name in names}
    made = Stamp(out / NAME, package_digest(), settings, inputs({"data": args.data}, *INPUTS))
    if not made.changed():
        print(f"nothing changed: {out}")
        return 0
    audio = Audio.of(corpus, decode=args.audio == "true")
    try:
        with replaced_directory(out) as staging:
            audits = [write_fold(corpus, audio, args, fold, staging) for fold in folds]
            write_index(audits, staging)
            report(corpus, args.protocol, audits, out)
            made.finish(sorted(path for path in staging.rglob("*") if path.is_file()), staging / NAME)
    except BrokenPromise as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
