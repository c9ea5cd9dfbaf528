"""Repair data directories: sort their tables, keep the utterances that all have."""

import shutil
from pathlib import Path

from sermtl.errors import UserError
from sermtl.fileio.tables import DERIVED_TABLE, MAIN_TABLE, raw_lines, spk2utt_of, tables_of, write_table
from sermtl.fileio.text_table import plural

BACKUP = ".backup"

Table = dict[str, str]
Tables = dict[str, dict[str, Table]]
"""What the keys are (utterance, speaker, recording: as `tables_of` names them) -> file name -> table."""


def read_leniently(path: Path, notes: list[str]) -> Table:
    """Read a table in any order, with any blanks after the key; the first of a repeated key counts."""
    table: Table = {}
    for number, raw in raw_lines(path):
        try:
            words = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip().split(None, 1)
        except UnicodeDecodeError:
            notes.append(f"{path}:{number}: dropped, not UTF-8")
            continue
        if not words:
            continue
        key, value = words[0], "".join(words[1:])
        if not key.isprintable():
            notes.append(f"{path}:{number}: dropped, unprintable key {key!r}")
        elif table.setdefault(key, value) != value:
            notes.append(f"{path}:{number}: dropped, {key} has another value before")
    return table


def keep(tables: Tables, utts: set[str]) -> Tables:
    """Cut all tables down to some utterances, their speakers and their recordings."""
    utt2spk = tables["utterance"][MAIN_TABLE]
    speakers = {utt2spk[utt] for utt in utts}
    recordings = {v.split()[0] for u, v in tables["utterance"].get("segments", {}).items() if u in utts and v}
    keys = {"utterance": utts, "speaker": speakers, "recording": recordings}
    return {
        kind: {name: {k: v for k, v in sorted(table.items()) if k in keys[kind]} for name, table in group.items()}
        for kind, group in tables.items()
    }


def complete(tables: Tables, notes: list[str], data: Path) -> set[str]:
    """The utterances that every table has, with their speaker and their recording."""
    utt2spk = tables["utterance"][MAIN_TABLE]
    left = {utt for utt, speaker in utt2spk.items() if len(speaker.split()) == 1}
    note_lost(notes, f"{data / MAIN_TABLE} gives no single speaker for", utt2spk.keys() - left)
    for name, table in tables["utterance"].items():
        note_lost(notes, f"{data / name} lacks", left - table.keys())
        left &= table.keys()
    for name, table in tables["speaker"].items():
        lost = {utt for utt in left if utt2spk[utt] not in table}
        note_lost(notes, f"{data / name} lacks the speaker of", lost)
        left -= lost
    segments = tables["utterance"].get("segments", {})
    for name, table in tables["recording"].items():
        lost = {utt for utt in left if not set(segments[utt].split()[:1]) & table.keys()}
        note_lost(notes, f"{data / name} lacks the recording of", lost)
        left -= lost
    return left


def note_lost(notes: list[str], what: str, utts: set[str]) -> None:
    """Note how many utterances are lost, and which one is the first."""
    if utts:
        notes.append(f"{what} {plural(len(utts), 'utterance')}, first {min(utts)}")


def fix(data: Path) -> tuple[int, int, list[str]]:
    """Sort the tables, cut them to the utterances that all have, remake spk2utt; originals go to .backup/.

    Gives the numbers of utterances kept and before, and what was dropped, why; `UserError` where there is no utt2spk,
    or nothing would be left (the directory stays as it was).
    """
    if not (data / MAIN_TABLE).is_file():
        raise UserError(f"no {data / MAIN_TABLE}: {data} is no data directory")
    notes: list[str] = []
    kinds = tables_of(data).items()
    tables = {kind: {name: read_leniently(data / name, notes) for name in names} for kind, names in kinds}
    before = len(tables["utterance"][MAIN_TABLE])
    kept = complete(tables, notes, data)
    if not kept:
        raise UserError("\n  ".join([f"{data}: no utterance is in all tables; nothing was changed", *notes]))
    write_tables(data, keep(tables, kept))
    return len(kept), before, notes


def write_tables(data: Path, tables: Tables) -> None:
    """Write tables and the spk2utt that follows; copy what changes to .backup/ first."""
    files = {name: table for group in tables.values() for name, table in group.items()}
    files |= {DERIVED_TABLE: spk2utt_of(tables["utterance"][MAIN_TABLE])}
    for name, table in files.items():
        path = data / name
        if path.exists():
            text = "".join(f"{key} {value}".rstrip(" ") + "\n" for key, value in sorted(table.items()))
            if path.read_bytes() == text.encode():
                continue
            (data / BACKUP).mkdir(exist_ok=True)
            shutil.copy2(path, data / BACKUP / name)
        write_table(path, table)
