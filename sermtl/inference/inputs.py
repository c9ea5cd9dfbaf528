"""The recordings that a command line names: files, folders, lists."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import soundfile

from sermtl.audio.stream import _is_ark_entry
from sermtl.errors import UserError
from sermtl.fileio.tables import read_table
from sermtl.fileio.wav_scp import is_pipe

SUFFIXES = frozenset(
    {f".{name.lower()}" for name in soundfile.available_formats()} - {".raw"}
    | {".aif", ".mp3", ".oga", ".opus", ".snd", ".sph"}
)
"""File names that are audio when a folder is searched."""


@dataclass(frozen=True)
class Item:
    """One recording of a command line."""

    path: str
    """A file, or an entry ``file.ark:offset`` of a dump."""
    utterance: str = ""
    """Its key, where a list names it."""


def find_audio(words: Iterable[str | Path]) -> list[Item]:
    """The recordings that files, folders (searched to any depth, in name order) and ``.scp`` lists name.

    A file that does not exist is kept: reading it raises the error.

    Raises:
        UserError: A list cannot be read, or there is no recording at all.
    """
    items: list[Item] = []
    named = [Path(word) for word in words]
    for path in named:
        if path.is_dir():
            items += [Item(str(file)) for file in sorted(path.rglob("*")) if _is_audio(file, path)]
        elif path.suffix == ".scp":
            items += [Item(value, key) for key, value in read_table(path).items()]
        else:
            items.append(Item(str(path)))
    if not items:
        raise UserError(
            f"no audio in {', '.join(map(str, named))}; give audio files, folders that hold some, or a .scp"
        )
    return items


def _is_audio(file: Path, folder: Path) -> bool:
    # Hidden files are no recordings: macOS puts a ._name.wav beside every name.wav.
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return not hidden and file.suffix.lower() in SUFFIXES and file.is_file()


def seconds_of(path: str) -> float:
    """Duration by the file's header; 0 where it has none that can be read."""
    if _is_ark_entry(path) or is_pipe(path) or not Path(path).is_file():
        return 0.0
    try:
        return float(soundfile.info(os.fsencode(path)).duration)
    except (OSError, RuntimeError):
        return 0.0
