"""Read a tree laid out as IEMOCAP_full_release, as it really is: litter, gaps, bytes that are not UTF-8."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prepare_common import Dropped, entries

from sermtl.errors import UserError
from sermtl.fileio.tables import raw_lines

CODES = ("ang", "hap", "exc", "neu", "sad", "fru", "fea", "sur", "dis", "oth", "xxx")
SESSIONS = (1, 2, 3, 4, 5)
# Folder of a session: the suffix of a dialog's file in it, none where the dialog is a folder.
PARTS: dict[str, tuple[str, ...]] = {
    "dialog/EmoEvaluation": (".txt",),
    "dialog/transcriptions": (".txt",),
    "sentences/wav": (),
}
# Session, actor with the markers, dialog, real speaker, turn.
TURN = re.compile(r"Ses(\d\d)([FM])_((?:impro|script)\w*)_([FM])(\d{3}|XX\d*)")
_LABEL = re.compile(r"\[\s*[\d.]+\s*-\s*[\d.]+\s*\]\s+(\S+)\s+([A-Za-z]+)(?:\s|$)")
_LINE = re.compile(r"(Ses\w+)\s*(?:\[[^\]]*\]\s*)?:(.*)")


@dataclass
class Dialog:
    """What a tree holds of one dialog; a part that is missing is None."""

    labels: Path | None
    transcript: Path | None
    wavs: Path | None


def decode(raw: bytes) -> str:
    """Decode a line: UTF-8, else the Windows code page."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace")


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the lines of a file that are not blank, stripped, each with ``file:number``.

    Raises:
        UserError: The file cannot be read.
    """
    for number, raw in raw_lines(path):
        if line := decode(raw).strip("\ufeff \t\r\n\0"):
            yield f"{path}:{number}", line


def sessions(root: Path) -> dict[int, Path]:
    """Find the session folders.

    Raises:
        UserError: There are none; the message names where they might be.
    """
    if not root.is_dir():
        raise UserError(f"no corpus folder {root}: give --corpus_dir .../IEMOCAP_full_release")
    folders = entries(root)
    found = {int(m[1]): path for name, path in folders.items() if (m := re.fullmatch(r"Session(\d+)", name))}
    if found:
        return found
    hint = "give the folder that holds Session1 to Session5"
    if "dialog" in folders or "sentences" in folders:
        hint = f"this is one session; did you mean --corpus_dir {root.resolve().parent} ?"
    for name in folders:
        if any(re.fullmatch(r"Session\d+", below) for below in entries(root / name)):
            hint = f"did you mean --corpus_dir {root / name} ?"
    state = "holds no Session folder" if any(root.iterdir()) else "is empty"
    raise UserError(f"{root} {state}: {hint}")


def read_tree(root: Path) -> tuple[list[Dialog], list[str]]:
    """List the dialogs of all sessions in order, and the paths of the full release that are missing.

    Raises:
        UserError: There is no session, or no label file at all.
    """
    dialogs, found = [], sessions(root)
    missing = [f"{root / f'Session{number}'}" for number in SESSIONS if number not in found]
    for _, session in sorted(found.items()):
        parts = {folder: entries(session / folder, *suffix) for folder, suffix in PARTS.items()}
        missing += [f"{session / folder}" for folder, content in parts.items() if not content]
        labels, _, wavs = parts.values()
        for name in sorted(name for name in labels.keys() | wavs.keys() if name.startswith("Ses")):
            dialogs.append(Dialog(*(content.get(name) for content in parts.values())))
            for folder, content in parts.items():
                if content and name not in content:
                    missing.append(f"{session / folder / name}{''.join(PARTS[folder])}")
    if not any(dialog.labels for dialog in dialogs):
        raise UserError(f"{root}: no label file Session*/dialog/EmoEvaluation/Ses*.txt; is the copy complete?")
    return dialogs, missing


def read_labels(path: Path) -> tuple[dict[str, tuple[str, str]], list[Dropped]]:
    """Read a label file: utterance to (code, ``file:line``), and the lines that cannot be used."""
    labels: dict[str, tuple[str, str]] = {}
    dropped = []
    for where, line in lines(path):
        if not line.startswith("["):
            continue
        match = _LABEL.match(line)
        if not match:
            dropped.append(Dropped("-", "label line that cannot be read", where))
        elif not TURN.fullmatch(match[1]):
            dropped.append(Dropped(match[1], "not an IEMOCAP utterance id", where))
        elif match[2].lower() not in CODES:
            dropped.append(Dropped(match[1], f"unknown emotion code {match[2][:20]}", where))
        elif match[1] in labels:
            dropped.append(Dropped(match[1], "labelled again, the first label counts", where))
        else:
            labels[match[1]] = (match[2].lower(), where)
    return labels, dropped


def read_transcript(path: Path) -> tuple[dict[str, tuple[str, str]], list[Dropped]]:
    """Read a transcript file: turn to (text, ``file:line``), and the lines that belong to no turn."""
    texts: dict[str, tuple[str, str]] = {}
    dropped = []
    for where, line in lines(path):
        match = _LINE.fullmatch(line)
        if not match:
            dropped.append(Dropped("-", "transcript line without a turn", where))
        elif match[1] in texts:
            dropped.append(Dropped(match[1], "transcribed again, the first transcript counts", where))
        else:
            texts[match[1]] = (match[2].strip(), where)
    return texts, dropped
