"""What the values of wav.scp and segments mean: files, parts of archives, shell commands, spans."""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from sermtl.errors import UserError
from sermtl.fileio.tables import read_table

SAMPLE_RATE = 16000
"""Of all audio that was read, in memory and in dumps (Hz)."""


@dataclass(frozen=True)
class Source:
    """Where a recording's bytes are: a whole file, or ``size`` bytes from ``offset`` in an archive."""

    path: str
    offset: int
    size: int

    def read(self, start: int = 0, count: int | None = None) -> bytes:
        """Read ``count`` bytes from ``start``, fewer (None: all) to the recording's end."""
        left = self.size - start
        # Unbuffered: a probe of many thousand files would read twice as much through a buffer.
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.offset + start)
            return file.read(left if count is None else min(left, count))


def locate(entry: str) -> Source:
    """Find the bytes that a wav.scp value means: a path, or ``archive:offset`` at a RIFF header.

    Raises:
        OSError: The file cannot be read, or no RIFF file starts at the offset.
    """
    path, colon, offset = entry.rpartition(":")
    if not (colon and offset.isdigit() and not Path(entry).exists()):
        return Source(entry, 0, Path(entry).stat().st_size)
    with open(path, "rb") as file:
        file.seek(int(offset))
        magic, size = struct.unpack("<4sI", file.read(8).ljust(8, b"\0"))
    if magic != b"RIFF":
        raise OSError(f"no RIFF file at {entry}")
    return Source(path, int(offset), size + 8)


def stat_of(entry: str) -> tuple[int, int] | None:
    """Size and time (ns) of the file that a wav.scp value means, its archive's for a part of one; None for commands.

    Raises:
        OSError: There is none.
    """
    if is_pipe(entry):
        return None
    path, colon, offset = entry.rpartition(":")
    stat = os.stat(path if colon and offset.isdigit() and not os.path.exists(entry) else entry)
    return stat.st_size, stat.st_mtime_ns


def is_pipe(entry: str) -> bool:
    """Tell whether a wav.scp value is a shell command."""
    return entry.rstrip().endswith("|") or entry.lstrip().startswith("|")


def read_segments(path: Path) -> dict[str, tuple[str, str]]:
    """Read ``segments`` into utterance -> (recording, "start end"); nothing where there is no such file."""
    if not path.exists():
        return {}
    spans: dict[str, tuple[str, str]] = {}
    for number, (utt, value) in enumerate(read_table(path).items(), 1):
        words = re.match(r"(\S+) +(\S+ +\S+)$", value)
        if not words:
            raise UserError(f"{path}:{number}: expected `utterance recording start end`")
        spans[utt] = (words[1], words[2])
    return spans
