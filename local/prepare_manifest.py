"""Prepare any corpus from a TSV with a header: `utt path speaker emotion text`, and `session gender split channel`.

The last four are optional. Paths are relative to the TSV. Emotion and text may be empty. Nothing is quoted.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from checks import check_audio, keep_classes, label_problem, name_problem
from prepare_common import Dropped, Scan, Utterance, is_unknown, options, warn, with_speaker
from write_data import path_problem, write_data

from sermtl.errors import UserError, command
from sermtl.fileio.tables import raw_lines
from sermtl.fileio.text_table import printable
from sermtl.fileio.wav_scp import channel_number

REQUIRED = ("utt", "path", "speaker", "emotion", "text")
OPTIONAL_COLUMNS = ("session", "gender", "split", "channel")
GENDERS = {"m": "m", "male": "m", "f": "f", "female": "f"}
UNKNOWN = ("", "u", "?", "unknown", "o", "other")


def rows(manifest: Path) -> Iterator[tuple[str, dict[str, str] | str]]:
    """Yield ``file:line`` and the known fields of each line that is not blank, or what is wrong with the line."""
    columns: dict[str, int] = {}
    for number, raw in raw_lines(manifest):
        where, problem, fields = f"{manifest}:{number}", "", [""]
        try:
            fields = [field.strip() for field in raw.decode("utf-8-sig" if number == 1 else "utf-8").split("\t")]
        except UnicodeDecodeError as error:
            problem = f"not UTF-8 ({error.reason} at byte {error.start + 1})"
        if not problem and not any(fields):
            continue
        if not columns:
            columns, width = read_header(where, fields, problem), len(fields)
            continue
        needed = max(columns.values()) + 1
        if not problem and len(fields) < needed:
            problem = f"{len(fields)} fields, but the header needs {needed}"
        elif any(fields[width:]):
            problem = f"{len(fields)} fields, but the header names {width}: is there a tab within one?"
        yield where, problem or {name: fields[place] for name, place in columns.items()}
    if not columns:
        raise UserError(f"{manifest} is empty: the first line names the columns {' '.join(REQUIRED)}")


def read_header(where: str, names: list[str], problem: str) -> dict[str, int]:
    """Map the known columns to their places; UserError where one is missing or occurs twice."""
    if missing := [name for name in REQUIRED if name not in names]:
        raise UserError(
            f"{where}: the header lacks {' '.join(missing)}; needed are, between tabs and in any order, "
            f"{' '.join(REQUIRED)}, and optionally {' '.join(OPTIONAL_COLUMNS)}; "
            f"found: {problem or printable(' '.join(names))[:200]}"
        )
    known = [name for name in names if name in REQUIRED + OPTIONAL_COLUMNS]
    if len(set(known)) < len(known):
        raise UserError(f"{where}: a column occurs twice in the header: {' '.join(known)}")
    if unused := [name for name in names if name not in known]:
        warn(f"{where}: columns that are not used: {printable(' '.join(unused))}")
    return {name: names.index(name) for name in known}


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


def read_manifest(scan: Scan) -> None:
    """Read all lines: utterances with their text unchanged; the lines that cannot be used are broken."""
    seen: dict[str, str] = {}
    genders: dict[str, str] = {}
    for where, row in rows(scan.source):
        if isinstance(row, str):
            scan.broken.append(Dropped("-", row, where))
            continue
        problems = list(row_problems(row))
        if not problems:
            utt, speaker = with_speaker(row["utt"], row["speaker"])
            gender, channel = GENDERS.get(row.get("gender", "").lower(), ""), row.get("channel", "")
            if (first := seen.setdefault(utt, where)) != where:
                problems.append(f"the same utt and speaker as {first}")
            if gender != genders.setdefault(speaker, gender):
                problems.append(f"another gender of speaker {speaker} than before")
        if problems:
            scan.broken.append(Dropped(row["utt"] or "-", "; ".join(problems), where))
            continue
        utterance = Utterance(utt, os.path.join(scan.source.parent, row["path"]), speaker, gender=gender, where=where)
        utterance.emotion, utterance.text = " ".join(row["emotion"].split()), row["text"]
        utterance.session, utterance.split = row.get("session", ""), row.get("split", "")
        utterance.channel = f"{utt} {channel}" if channel else ""
        scan.utterances.append(utterance)


@command
def main() -> None:
    """Read the options and the manifest, check and write."""
    parser = options(__doc__)
    parser.add_argument("--manifest", type=Path, required=True, help="the TSV")
    parser.add_argument("--lang", default="", help="en, de, ... (default: en where all letters are A to Z)")
    args = parser.parse_args()
    if not args.manifest.is_file():
        raise UserError(f"--manifest {args.manifest}: no such file; a relative path is looked for from {Path.cwd()}")
    scan = Scan(args, args.manifest)
    read_manifest(scan)
    check_audio(scan)
    keep_classes(scan)
    write_data(scan, args.lang)


if __name__ == "__main__":
    raise SystemExit(main())
