"""What the values of wav.scp mean: files, parts of archives, shell commands."""

import os
from dataclasses import dataclass
from pathlib import Path

from sermtl.errors import UserError
from sermtl.fileio.tables import read_table

SAMPLE_RATE = 16000
"""Of all audio that was read, in memory and in dumps (Hz)."""

CHANNELS = "reco2file_and_channel"
"""Kaldi's table of each recording's name in its file and its channel there: A, B, or a number from 1."""


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
    """Find the bytes that a wav.scp value means: a path, or ``archive:offset`` at a WAV file or a file of kaldiio's.

    Before FLAC and other files, ESPnet and kaldiio put ``AUDIO``, the number of bytes of the size, and the size.
    `OSError` where the file cannot be read, or no audio starts at the offset.
    """
    path, offset = file_and_offset(entry)
    if offset is None:
        return Source(entry, 0, os.stat(entry).st_size)
    with open(path, "rb") as file:
        file.seek(offset)
        head = file.read(16)
    if head[:5] == b"AUDIO" and len(head) > 5:
        start = 6 + head[5]
        return Source(path, offset + start, int.from_bytes(head[6:start], "little"))
    if head[:4] == b"RIFF":
        return Source(path, offset, int.from_bytes(head[4:8], "little") + 8)
    raise OSError(f"no WAV file and no audio of kaldiio at this offset: {entry}")


def file_and_offset(entry: str) -> tuple[str, int | None]:
    """The file that a wav.scp value means, and the offset in it where it is an archive."""
    path, colon, offset = entry.rpartition(":")
    return (path, int(offset)) if colon and offset.isdigit() and not os.path.exists(entry) else (entry, None)


def stat_of(entry: str) -> tuple[int, int] | None:
    """Size and time (ns) of the file or archive that a wav.scp value means; None for commands, `OSError` for none."""
    if is_pipe(entry):
        return None
    stat = os.stat(file_and_offset(entry)[0])
    return stat.st_size, stat.st_mtime_ns


def is_pipe(entry: str) -> bool:
    """Whether a wav.scp value is a shell command."""
    return entry.rstrip().endswith("|") or entry.lstrip().startswith("|")


def read_channels(path: Path) -> dict[str, int]:
    """``reco2file_and_channel`` as recording -> channel, from 1 (0: all); empty without a file."""
    channels: dict[str, int] = {}
    for number, (recording, value) in enumerate(read_table(path).items() if path.exists() else (), 1):
        if (channel := channel_number(value.split()[-1] if value else "?")) is None:
            raise UserError(f"{path}:{number}: expected `recording file channel`, the channel A, B, or a number from 1")
        channels[recording] = channel
    return channels


def channel_number(word: str) -> int | None:
    """The channel, from 1, that A, B or a number means; 0 for ``mean`` and an empty word, None for any other."""
    known = {"": 0, "mean": 0, "a": 1, "b": 2}
    return int(word) if word.isdecimal() and int(word) else known.get(word.lower())
