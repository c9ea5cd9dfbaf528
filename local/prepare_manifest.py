"""Prepare any corpus from a TSV: `utt path speaker emotion text`, header first, optional
`session gender split channel`.

Paths are relative to the TSV. Emotion and text may be empty for single utterances. Nothing is quoted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from audio_headers import check_audio
from labels import keep_classes, label_options, label_problem, name_problem
from prepare_common import Dropped, Utterance, clean, is_unknown, options, warn, with_speaker
from write_data import path_problem, write_data

from sermtl.errors import UserError, command
from sermtl.fileio.tables import raw_lines
from sermtl.fileio.wav_scp import channel_number

REQUIRED = ("utt", "path", "speaker", "emotion", "text")
OPTIONAL_COLUMNS = ("session", "gender", "split", "channel")
GENDERS = {"m": "m", "male": "m", "f": "f", "female": "f"}
UNKNOWN = ("", "u", "?", "unknown", "o", "other")


def width_problem(fields: list[str], names: int, needed: int) -> str | None:
    """Why a line's number of fields does not fit the header, or None."""
    if len(fields) < needed:
        return f"{len(fields)} fields, but the header needs {needed}"
    if any(fields[names:]):
        return f"{len(fields)} fields, but the header names {names}: is there a tab within one?"
    return None


def rows(manifest: Path) -> Iterator[tuple[str, list[str] | str]]:
    """Yield ``file:line`` and the fields of each line that is not blank, or what is wrong with the line."""
    for number, raw in raw_lines(manifest):
        where = f"{manifest}:{number}"
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r")
        except UnicodeDecodeError as error:
            yield where, f"not UTF-8 ({error.reason} at byte {error.start + 1})"
            continue
        if line.strip():
            yield where, [field.strip() for field in line.split("\t")]


def read_header(where: str, header: list[str] | str) -> tuple[dict[str, int], int]:
    """Map the known columns to their places; also returns the number of columns.

    Raises:
        UserError: One is missing or occurs twice.
    """
    names = header if isinstance(header, list) else []
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        first = clean(" ".join(names))[:200] or header
        raise UserError(
            f"{where}: the header lacks {' '.join(missing)}; needed are, between tabs and in any order, "
            f"{' '.join(REQUIRED)}, and optionally {' '.join(OPTIONAL_COLUMNS)}; found: {first}"
        )
    known = [name for name in names if name in REQUIRED + OPTIONAL_COLUMNS]
    if len(set(known)) < len(known):
        raise UserError(f"{where}: a column occurs twice in the header: {' '.join(known)}")
    unused = [name for name in names if name not in known]
    if unused:
        warn(f"{where}: columns that are not used: {clean(' '.join(unused))}")
    return {name: names.index(name) for name in known}, len(names)


def row_problems(row: dict[str, str]) -> Iterator[str]:
    """Say what is wrong with the fields of one line."""
    for name in ("utt", "path"):
        if not row[name]:
            yield f"no {name}"
    for name, problem_of in (("speaker", name_problem), ("emotion", label_problem), ("session", name_problem)):
        if row.get(name) and not is_unknown(row[name]) and (problem := problem_of(row[name])):
            yield f"{name} {problem}"
    if row["utt"] and (not row["utt"].isprintable() or len(row["utt"].split()) != 1):
        yield f"utt {row['utt']!r} is not one printable word"
    if row["path"] and (problem := path_problem(row["path"])):
        yield problem
    if row.get("gender", "").lower() not in (*GENDERS, *UNKNOWN):
        yield f"gender {row['gender']!r} is neither m nor f (empty: unknown)"
    if channel_number(row.get("channel", "")) is None:
        yield f"channel {row['channel']!r} is neither a number from 1 nor mean"


def make_utterance(row: dict[str, str], folder: Path, where: str) -> Utterance:
    """Make the record of a line without problems."""
    utt, speaker = with_speaker(row["utt"], row["speaker"])
    channel = row.get("channel", "")
    return Utterance(
        utt=utt,
        path=os.path.join(folder, row["path"]),
        speaker=speaker,
        emotion=" ".join(row["emotion"].split()),
        text=row["text"],
        session=row.get("session", ""),
        split=row.get("split", ""),
        gender=GENDERS.get(row.get("gender", "").lower(), ""),
        channel=f"{utt} {channel}" if channel else "",
        where=where,
    )


def read_manifest(manifest: Path) -> tuple[list[Utterance], list[Dropped]]:
    """Read all lines: utterances with their text unchanged, and the lines that cannot be used.

    Raises:
        UserError: The file is missing or empty, or its header is wrong.
    """
    lines = rows(manifest)
    try:
        columns, names = read_header(*next(lines))
    except StopIteration:
        raise UserError(f"{manifest} is empty: the first line names the columns {' '.join(REQUIRED)}") from None
    utterances: list[Utterance] = []
    bad: list[Dropped] = []
    seen: dict[str, str] = {}
    genders: dict[str, str] = {}
    width = max(columns.values()) + 1
    for where, fields in lines:
        problem = fields if isinstance(fields, str) else width_problem(fields, names, width)
        if problem:
            bad.append(Dropped("-", problem, where))
            continue
        row = {name: fields[place] for name, place in columns.items()}
        problems = list(row_problems(row))
        if not problems:
            utterance = make_utterance(row, manifest.parent, where)
            if (first := seen.setdefault(utterance.utt, where)) != where:
                problems.append(f"the same utt and speaker as {first}")
            if utterance.gender != genders.setdefault(utterance.speaker, utterance.gender):
                problems.append(f"another gender of speaker {utterance.speaker} than before")
        if problems:
            bad.append(Dropped(row["utt"] or "-", "; ".join(problems), where))
        else:
            utterances.append(utterance)
    return utterances, bad


@command
def main() -> None:
    """Read the options and the manifest, check and write.

    Raises:
        UserError: The manifest or audio that it names is broken; lists all of it.
    """
    parser = options(__doc__)
    parser.add_argument("--manifest", type=Path, required=True, help="the TSV")
    label_options(parser)
    parser.add_argument("--lang", default="", help="en, de, ... (default: en where all letters are A to Z)")
    args = parser.parse_args()
    if not args.manifest.is_file():
        raise UserError(f"--manifest {args.manifest}: no such file; a relative path is looked for from {Path.cwd()}")
    utterances, bad = read_manifest(args.manifest)
    utterances, broken = check_audio(utterances, args, bad)
    utterances, others = keep_classes(utterances, args, args.manifest)
    write_data(utterances, args, args.manifest, args.lang, broken + others)


if __name__ == "__main__":
    raise SystemExit(main())
