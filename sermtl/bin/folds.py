"""Write a protocol's fold lists with their audits: ``data/X/folds/<protocol>/<fold>/{train,dev,test}``.

Beside the folds stand ``folds`` (their names, one a line) and ``audit.txt`` (the table that is printed).
Nothing is written where the protocol's promise is broken: exit status 1, with what is shared.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
from collections.abc import Iterator
from os import getpid
from pathlib import Path

from sermtl.audit import Audio, Audit, audit_fold, audit_table, gathered
from sermtl.corpus import Corpus, load_corpus
from sermtl.datadir import write_list
from sermtl.errors import UserError, command
from sermtl.files import atomic_write
from sermtl.folds import Fold, divide, make_folds, promises_disjoint_speakers

MANY_LINES = 20_000_000
"""List lines (about 0.5 GB) above which a protocol of fewer folds is recommended."""


@contextlib.contextmanager
def replaced_directory(path: Path) -> Iterator[Path]:
    """Give a new directory that takes the place of ``path`` when the block ends well, whole or not at all."""
    staging = path.with_name(f".{path.name}.{getpid()}.tmp")
    previous = path.with_name(f".{path.name}.{getpid()}.old")
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
        shutil.rmtree(previous, ignore_errors=True)


def write_json(path: Path, value: Audit) -> None:
    """Write readable JSON in a fixed order of keys."""
    with atomic_write(path) as file:
        file.write(json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def write_fold(corpus: Corpus, audio: Audio, args: argparse.Namespace, fold: Fold, out: Path) -> Audit:
    """Write a fold's lists and audit below ``out``."""
    lists = fold.lists(corpus)
    promise = promises_disjoint_speakers(args.protocol)
    audit = audit_fold(
        corpus, audio, lists, protocol=args.protocol, fold=fold.name, disjoint_speakers=promise
    )
    if args.dev_ratio and not len(fold.dev):
        audit["warnings"].append(f"--dev_ratio {args.dev_ratio:g} of so few utterances gives an empty dev")
    for part, ids in lists.items():
        write_list(out / fold.name / part, ids)
    write_json(out / fold.name / "audit.json", audit)
    return audit


def write_index(audits: list[Audit], out: Path) -> None:
    """Write the folds' names and their table."""
    with atomic_write(out / "folds") as file:
        file.writelines(f"{audit['fold']}\n" for audit in audits)
    with atomic_write(out / "audit.txt") as file:
        file.write(audit_table(audits) + "\n")


def report(corpus: Corpus, protocol: str, audits: list[Audit], out: Path) -> int:
    """Print the table, warnings and broken promises; return the exit status."""
    print(audit_table(audits))
    if protocol == "paper":
        print("protocol paper is speaker-dependent: compare its scores with the published ones only")
    for line in gathered(audits, "warnings"):
        print(f"warning: {line}", file=sys.stderr)
    broken = gathered(audits, "broken")
    for line in broken:
        print(f"error: {line}", file=sys.stderr)
    if broken:
        print(
            f"error: protocol {protocol} breaks its promise on {corpus.path}, {out} is as it was",
            file=sys.stderr,
        )
        return 1
    unlabelled = int((~corpus.labelled).sum())
    note = f"; {unlabelled} without emotion are in no test part" if unlabelled else ""
    print(f"{len(audits)} folds of {len(corpus.utts)} utterances{note}: {out}")
    return 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="data directory")
    parser.add_argument("--protocol", default="speaker", help="speaker, session, paper or kfoldK")
    parser.add_argument("--dev_ratio", type=float, default=0.0, help="share of training that becomes dev")
    parser.add_argument("--seed", type=int, default=0, help="which utterances become dev")
    parser.add_argument(
        "--audio", choices=("true", "false"), default="false",
        help="compare decoded samples (reads everything) instead of the files' bytes",
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
        print(
            f"warning: {count} folds of {len(corpus.utts)} utterances each; kfold10 would be 10",
            file=sys.stderr,
        )
    audio = Audio.of(corpus, decode=args.audio == "true")
    out = args.data / "folds" / args.protocol
    with replaced_directory(out) as staging:
        audits = [write_fold(corpus, audio, args, fold, staging) for fold in folds]
        write_index(audits, staging)
        status = report(corpus, args.protocol, audits, out)
        if status:
            raise SystemExit(status)
    return 0


if __name__ == "__main__":
    sys.exit(main())
