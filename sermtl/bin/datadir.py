"""Data directories: what the scripts in utils/ do that users of Kaldi know by these names."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from sermtl.corpus.choose import WAYS, choose
from sermtl.corpus.fix import fix, subset
from sermtl.corpus.validate import Options, validate
from sermtl.errors import UserError, command
from sermtl.fileio.files import atomic_write
from sermtl.fileio.tables import (
    Line,
    raw_lines,
    read_ids,
    read_table,
    spk2utt_of,
    split_by_speaker,
    split_evenly,
)


def run_validate(args: argparse.Namespace) -> int:
    """Check a directory; 1 where something is wrong."""
    options = Options(
        text=not args.no_text, wav=not args.no_wav, spk_sort=not args.no_spk_sort,
        allow_pipes=args.allow_pipes == "true", nj=args.nj,
    )  # fmt: skip
    faults, utt2spk = validate(args.data, options)
    if faults:
        print(*faults, sep="\n", file=sys.stderr)
        print(f"validate_data_dir.sh: {args.data} is not as it should be; utils/fix_data_dir.sh sorts "
              "tables and drops utterances that some table lacks", file=sys.stderr)  # fmt: skip
        return 1
    speakers = len(set(utt2spk.values()))
    print(f"validate_data_dir.sh: successfully validated {args.data}: {len(utt2spk)} utterances, {speakers} speakers")
    return 0


def run_fix(args: argparse.Namespace) -> int:
    """Sort and intersect."""
    kept, before, notes = fix(args.data)
    print(*(f"fix_data_dir.sh: {note}" for note in notes), sep="\n", end="\n" * bool(notes), file=sys.stderr)
    print(f"fix_data_dir.sh: kept {kept} utterances out of {before}; originals of what changed: {args.data}/.backup")
    return 0


def run_spk2utt(args: argparse.Namespace) -> int:
    """Turn utt2spk, a file or stdin, into spk2utt on stdout."""
    utt2spk: dict[str, str] = {}
    name = args.utt2spk or "stdin"
    for number, words in words_of(lines_of(args.utt2spk), name):
        if len(words) != 2 or words[0] in utt2spk:
            raise UserError(f"{name}:{number}: expected `utterance speaker`, each utterance once: {' '.join(words)}")
        utt2spk[words[0]] = words[1]
    for speaker, utts in spk2utt_of(utt2spk).items():
        print(f"{speaker} {utts}")
    return 0


def run_split(args: argparse.Namespace) -> int:
    """Split a table into files, or give one part of several."""
    lines = [raw + b"\n" for _, raw in raw_lines(args.scp)]
    count, outputs = len(args.outputs), args.outputs
    if args.jobs:
        count, job = args.jobs[0], args.jobs[1] - args.one_based
        if len(outputs) > 1 or not 0 <= job < count:
            raise UserError(f"-j {count} {args.jobs[1]}: one output at most, and a job from {int(args.one_based)} on")
    if not 1 <= count <= max(len(lines), 1) or not lines:
        raise UserError(f"{args.scp} has {len(lines)} lines, too few for {count} parts")
    if args.utt2spk:
        parts = by_speaker(lines, args, count)
    else:
        parts = split_evenly(lines, count)
    if args.jobs and not outputs:
        sys.stdout.buffer.writelines(parts[job])
        return 0
    for part, output in zip([parts[job]] if args.jobs else parts, outputs, strict=True):
        with atomic_write(output, "wb") as file:
            file.writelines(part)
    return 0


def by_speaker(lines: list[bytes], args: argparse.Namespace, count: int) -> list[list[bytes]]:
    """Split without dividing a speaker."""
    utt2spk = read_table(args.utt2spk)
    keys = [line.split(maxsplit=1)[0].decode("utf-8", "replace") if line.strip() else "" for line in lines]
    missing = [key for key in keys if key not in utt2spk]
    if missing:
        raise UserError(f"{args.utt2spk}: no speaker for {missing[0]} of {args.scp}")
    speakers = [utt2spk[key] for key in keys]
    changes = sum(a != b for a, b in zip(speakers, [None, *speakers], strict=False))
    if changes != len(set(speakers)):
        raise UserError(f"{args.scp}: the lines of a speaker are not together; sort it")
    if changes < count:
        raise UserError(f"{args.scp} has {changes} speakers, too few for {count} parts")
    return split_by_speaker(lines, speakers, count)


def run_subset(args: argparse.Namespace) -> int:
    """Write a smaller directory."""
    chosen = [way for way in WAYS if getattr(args, way, False)]
    lists = [path for path in (args.utt_list, args.spk_list) if path]
    if len(chosen) + len(lists) > 1:
        raise UserError("--first, --last, --shortest, --speakers, --per-spk, --utt-list, --spk-list: give one")
    if len(args.rest) != (1 if lists else 2):
        raise UserError("expected SRC DEST with --utt-list or --spk-list, else SRC NUMBER DEST")
    target = Path(args.rest[-1])
    if args.utt_list:
        utts = set(read_ids(args.utt_list))
    elif args.spk_list:
        speakers = set(read_ids(args.spk_list))
        utts = {utt for utt, speaker in read_table(args.source / "utt2spk").items() if speaker in speakers}
    else:
        if not args.rest[0].isdecimal():
            raise UserError(f"{args.rest[0]!r} is no number of utterances: SRC NUMBER DEST")
        utts = choose(args.source, int(args.rest[0]), *chosen)
    kept = subset(args.source, target, utts)
    print(f"subset_data_dir.sh: {kept} utterances of {args.source} are in {target}", file=sys.stderr)
    return 0


def lines_of(path: Path | None) -> Iterable[Line]:
    """A file's lines, or those of stdin."""
    if path and str(path) != "-":
        return raw_lines(path)
    return enumerate((raw.removesuffix(b"\n") for raw in sys.stdin.buffer), 1)


def words_of(lines: Iterable[Line], name: object) -> Iterable[tuple[int, list[str]]]:
    """Split lines into words."""
    for number, raw in lines:
        try:
            yield number, raw.decode("utf-8").split()
        except UnicodeDecodeError as error:
            raise UserError(f"{name}:{number}: not UTF-8") from error


def parse(words: list[str]) -> argparse.Namespace:
    """Read the command line; dashes and underscores in option names are equal."""
    words = [f"--{w[2:].replace('-', '_')}" if w.startswith("--") and "=" not in w else w for w in words]
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(required=True, dest="verb")

    check = verbs.add_parser("validate", prog="validate_data_dir.sh", help="check a data directory")
    check.add_argument("data", type=Path, help="data directory")
    check.add_argument("--no_text", action="store_true", help="there need be no text")
    check.add_argument("--no_wav", action="store_true", help="there need be no wav.scp; audio is not opened")
    check.add_argument("--no_feats", action="store_true", help="accepted: feats.scp is never required")
    check.add_argument("--no_spk_sort", action="store_true", help="speaker ids need not begin utterance ids")
    check.add_argument("--allow_pipes", choices=("true", "false"), default="false", help="pass over shell commands")
    cores = len(os.sched_getaffinity(0))
    check.add_argument("--nj", type=int, default=min(4, cores), help="processes that open audio (%(default)s)")
    check.set_defaults(run=run_validate)

    mend = verbs.add_parser("fix", prog="fix_data_dir.sh", help="sort tables, keep what all have")
    mend.add_argument("data", type=Path, help="data directory")
    mend.set_defaults(run=run_fix)

    invert = verbs.add_parser("utt2spk_to_spk2utt", prog="utt2spk_to_spk2utt.sh", help="utt2spk to spk2utt")
    invert.add_argument("utt2spk", type=Path, nargs="?", help="utt2spk (default: stdin)")
    invert.set_defaults(run=run_spk2utt)

    cut = verbs.add_parser("split_scp", prog="split_scp.sh", help="split a table into parts of like size")
    cut.add_argument("-j", dest="jobs", type=int, nargs=2, metavar=("N", "I"), help="give part I of N only, from 0")
    cut.add_argument("--one_based", action="store_true", help="with -j: from 1")
    cut.add_argument("--utt2spk", type=Path, help="keep the lines of a speaker together")
    cut.add_argument("scp", type=Path, help="the table")
    cut.add_argument("outputs", type=Path, nargs="*", help="one file a part")
    cut.set_defaults(run=run_split)

    less = verbs.add_parser("subset", prog="subset_data_dir.sh", help="write a smaller data directory")
    for way in WAYS[1:]:
        less.add_argument(f"--{way}", action="store_true", help=f"instead of evenly spread: {way}")
    less.add_argument("--utt_list", type=Path, help="the utterances to take")
    less.add_argument("--spk_list", type=Path, help="the speakers to take")
    less.add_argument("source", type=Path, metavar="SRC", help="data directory")
    less.add_argument("rest", nargs="+", metavar="[NUMBER] DEST", help="how many utterances, and the new directory")
    less.set_defaults(run=run_subset)
    return parser.parse_args(words)


@command
def main() -> int:
    """Run the verb."""
    args = parse(sys.argv[1:])
    status: int = args.run(args)
    return status


if __name__ == "__main__":
    sys.exit(main())
