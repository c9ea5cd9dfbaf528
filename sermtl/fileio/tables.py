"""Kaldi tables: one entry a line, key first, then blanks, sorted and unique in byte order, UTF-8."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from sermtl.errors import UserError
from sermtl.fileio.files import atomic_write

PARTS = ("train", "dev", "test")
"""The lists of a fold."""
KINDS = {
    "utterance": r"text|feats\.scp|vad\.scp|segments|utt2.*", "speaker": r"cmvn\.scp|spk2(?!utt$).*",
    "recording": r"wav\.scp|reco2.*",
}  # fmt: skip
"""Names of tables by what their keys are; without ``segments``, those of recordings are keyed by utterances."""
MAIN_TABLE = "utt2spk"
DERIVED_TABLE = "spk2utt"

BLANKS = re.compile("[ \t]+")
BOM = "\ufeff"
BOM_FOUND = "begins with a byte order mark (BOM): save it as UTF-8 without one"


def raw_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """A file's lines: numbers from 1, and bytes without the line feed; `UserError` where it cannot be read."""
    try:
        with open(path, "rb") as file:
            for number, raw in enumerate(file, 1):
                yield number, raw.removesuffix(b"\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def split_line(line: str) -> tuple[str, str]:
    """Key and value of a table's line: any number of spaces or tabs part them, and those at the end do not count."""
    key, value = (*BLANKS.split(line.rstrip(" \t\r"), 1), "")[:2]
    return key, value


def read_table(path: str | Path) -> dict[str, str]:
    """Read a table into a dictionary in the file's order; a key without a value gives ``""``.

    Lines may end as Windows ends them. `UserError`, naming the file and the line, where the file is missing, not UTF-8,
    unsorted, or has an empty or repeated key, one with an unprintable character, or a byte order mark.
    """
    table: dict[str, str] = {}
    previous = ""
    for number, raw in raw_lines(path):
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}:{number}: not UTF-8 ({error.reason})") from error
        if "\t" in line or "  " in line:
            key, value = split_line(line)
        else:  # as it almost always is; a call for each of a million lines is felt
            key, _, value = line.rstrip(" \r").partition(" ")
        if not previous and key.startswith(BOM):
            raise UserError(f"{path}:1: {BOM_FOUND}")
        if not key:
            raise UserError(f"{path}:{number}: an empty line or a line without a key")
        if not key.isprintable():
            raise UserError(f"{path}:{number}: key {key!r} has an unprintable character")
        # The order of code points is the byte order of UTF-8.
        if key <= previous:
            what = "repeated" if key in table else "out of byte order"
            raise UserError(f"{path}:{number}: key {key!r} is {what}; utils/fix_data_dir.sh sorts a directory")
        previous = key
        table[key] = value
    return table


def write_table(path: str | Path, table: Mapping[str, object]) -> None:
    """Write a table in byte order of its keys, without trailing spaces; `UserError` where one is no line of UTF-8."""
    with atomic_write(path) as file:
        for key in sorted(table):
            line = f"{key} {table[key]}".rstrip(" ")
            if not key or " " in key or not key.isprintable() or "\n" in line or "\r" in line:
                raise UserError(f"{path}: cannot write {line!r}: a blank in a key or a line break")
            try:
                file.write(line + "\n")
            except UnicodeEncodeError as error:
                raise UserError(f"{path}: cannot write {line!r}: not UTF-8; rename the file it names") from error


def read_own_scp(path: str | Path) -> dict[str, str]:
    """Read an scp whose ark stands beside it, wherever both were moved."""
    path = Path(path)
    return {key: str(path.parent / Path(entry).name) for key, entry in read_table(path).items()}


def read_list(path: str | Path) -> list[str]:
    """Read a list of utterance ids, one a line (an empty file is an empty list)."""
    return list(read_table(path))


def read_ids(path: str | Path) -> list[str]:
    """The first words of another source's lines, in any order, repeated or not; `UserError` where it is not UTF-8."""
    ids: list[str] = []
    for number, raw in raw_lines(path):
        try:
            ids += raw.decode("utf-8-sig").split()[:1]
        except UnicodeDecodeError as error:
            raise UserError(f"{path}:{number}: not UTF-8; expected an utterance id a line") from error
    return ids


def write_list(path: str | Path, ids: Iterable[str]) -> None:
    """Write a list of ids, one a line, in byte order."""
    write_table(path, dict.fromkeys(ids, ""))


def spk2utt_of(utt2spk: Mapping[str, str]) -> dict[str, str]:
    """Make spk2utt, speaker -> "utt utt ...", from utt2spk; utterances keep their order."""
    spk2utt: dict[str, list[str]] = {}
    for utt, speaker in utt2spk.items():
        spk2utt.setdefault(speaker, []).append(utt)
    return {speaker: " ".join(utts) for speaker, utts in spk2utt.items()}


UNKNOWN = "unknown"
"""The speaker of all utterances of unknown speakers, in scores and lists; their ids begin with it."""


def known_speakers(utt2spk: Mapping[str, str]) -> set[str]:
    """The speakers of more than one utterance.

    Where a speaker is unknown, Kaldi's directories give the utterance's id instead; nothing of a speaker can be learned
    from a single utterance, nor tested.
    """
    return {speaker for speaker, count in Counter(utt2spk.values()).items() if count > 1}


def tables_of(data: Path) -> dict[str, list[str]]:
    """Names of the tables that a data directory holds, by their kind in `KINDS`: sorted, ``utt2spk`` first.

    ``spk2utt`` is made from ``utt2spk`` and is not among them.
    """
    names = sorted(path.name for path in data.iterdir() if path.is_file())
    found = {kind: [name for name in names if re.fullmatch(form, name, re.DOTALL)] for kind, form in KINDS.items()}
    if "segments" not in names:
        found |= {"utterance": sorted(found["utterance"] + found["recording"]), "recording": []}
    found["utterance"].sort(key=lambda name: name != MAIN_TABLE)
    return found
