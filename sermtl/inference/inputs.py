"""The recordings that a command line names: files, folders, lists; and their batches."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile

from sermtl.audio.formats import FFMPEG_SUFFIXES
from sermtl.audio.headers import seconds_or_fault
from sermtl.audio.resample import SAMPLE_RATE
from sermtl.errors import UserError
from sermtl.fileio.tables import read_table
from sermtl.fileio.wav_scp import is_pipe

SUFFIXES = FFMPEG_SUFFIXES | frozenset(
    {f".{name.lower()}" for name in soundfile.available_formats()} - {".raw"}
    | {".aif", ".mp3", ".oga", ".opus", ".snd", ".sph", ".wave"}
)
"""File names that are audio when a folder is searched."""
BATCH, BATCH_SECONDS = 16, 80.0
"""Most recordings of a batch, and most seconds with their padding."""
SHOWN = 10
"""Files that a warning names."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Item:
    """One recording of a command line."""

    path: str
    """A file, or an entry ``file.ark:offset`` of a dump."""
    utterance: str = ""
    """Its key, where a list names it."""


def find_audio(words: Iterable[str | Path]) -> list[Item]:
    """The recordings that files, folders (searched to any depth, in name order) and ``.scp`` lists name.

    A file that does not exist is kept: reading it raises the error. Files of a folder that are left out, because their
    names are not those of audio, are counted and named in a warning. `UserError` where a list cannot be read, or there
    is no recording at all.
    """
    items: list[Item] = []
    named = [Path(word) for word in words]
    for path in named:
        if path.is_dir():
            # Hidden files are no recordings: macOS puts a ._name.wav beside every name.wav.
            shown = (file for file in sorted(path.rglob("*")) if "/." not in f"/{file.relative_to(path)}")
            files = [file for file in shown if file.is_file()]
            items += [Item(str(file)) for file in files if file.suffix.lower() in SUFFIXES]
            if others := [str(file) for file in files if file.suffix.lower() not in SUFFIXES]:
                more = ", ..." if len(others) > SHOWN else ""
                log.warning(
                    "warning: %s: left out %d that are not named as audio is: %s%s",
                    path, len(others), ", ".join(others[:SHOWN]), more,
                )  # fmt: skip
        elif path.suffix == ".scp":
            items += [Item(value, key) for key, value in read_table(path).items()]
        else:
            items.append(Item(str(path)))
    if not items:
        raise UserError(
            f"no audio in {', '.join(map(str, named))}; give audio files, folders that hold some, or a .scp"
        )
    return items


def seconds_of(path: str) -> float:
    """Duration by the file's header; 0 where it has none that can be read."""
    readable = not is_pipe(path) and (Path(path).is_file() or not Path(path).exists())  # opening a named pipe waits
    seconds = seconds_or_fault(path) if readable else 0.0
    return 0.0 if isinstance(seconds, str) else seconds


def batches(lengths: Sequence[int], seconds: float) -> list[list[int]]:
    """Indices in batches of similar length, at most `BATCH` and ``seconds``; the longest first."""
    made: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        # The first of a batch is its longest: the others are padded to it.
        if made and len(made[-1]) < min(BATCH, seconds * SAMPLE_RATE // max(1, lengths[made[-1][0]])):
            made[-1].append(number)
        else:
            made.append([number])
    return made
