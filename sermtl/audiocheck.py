"""Audio headers of many recordings, checked in parallel without decoding."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from functools import partial
from multiprocessing import get_context

from sermtl.recordings import is_pipe, locate

POOL_FROM = 2000
"""Recordings below which starting processes costs more than it saves."""
HEADER_BYTES = 4096
UNKNOWN_SIZE = 0x7FFF0000
"""Data sizes from here on are what programs write that do not know the size (a stream's header)."""
TOLERANCE = 0.1
"""Seconds by which utt2dur may miss a header's duration: tables made from frame counts round so."""

Task = tuple[str, str, float | None, float | None]
"""Key, wav.scp value, duration in utt2dur (s), latest end in segments (s); None where not known."""


def check_all(tasks: list[Task], allow_pipes: bool, nj: int) -> Iterator[str]:
    """Give a message for each recording with something wrong, in order.

    Args:
        tasks: The recordings.
        allow_pipes: Shell commands are passed over (and never run) instead of refused.
        nj: Processes.
    """
    check = partial(check_recording, allow_pipes=allow_pipes)
    if nj < 2 or len(tasks) < POOL_FROM:
        yield from told(map(check, tasks))
        return
    with get_context("fork").Pool(nj) as pool:
        yield from told(pool.imap(check, tasks, chunksize=500))


def told(messages: Iterable[str | None]) -> Iterator[str]:
    """Leave out the recordings that are right."""
    return (message for message in messages if message)


def check_recording(task: Task, allow_pipes: bool = False) -> str | None:
    """Say what is wrong with a recording; None where its header can be read and agrees with the tables."""
    key, entry, duration, end = task
    if not entry:
        return f"{key}: no path"
    if is_pipe(entry):
        return None if allow_pipes else f"{key}: a shell command, refused unless --allow_pipes true: {entry}"
    try:
        seconds = header_seconds(entry)
    except FileNotFoundError:
        return f"{key}: no such file: {entry}"
    except (OSError, RuntimeError, ValueError, TypeError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        return f"{key}: not readable as audio: {entry}: {reason}"
    if duration is not None and abs(duration - seconds) > TOLERANCE:
        return f"{key}: {seconds:.2f} s of audio, but {duration:.2f} s in utt2dur: {entry}"
    if end is not None and end > seconds + TOLERANCE:
        return f"{key}: {seconds:.2f} s of audio, but segments go to {end:.2f} s: {entry}"
    return None


def header_seconds(entry: str) -> float:
    """Duration of a recording by its header.

    Raises:
        OSError, RuntimeError, ValueError, TypeError, OverflowError: No such file, no audio, empty, or truncated.
    """
    import soundfile

    source = locate(entry)
    if not source.size:
        raise ValueError("the file is empty")
    with open(source.path, "rb", buffering=0) as file:
        file.seek(source.offset)
        if (missing := missing_bytes(file.read(HEADER_BYTES), os.fstat(file.fileno()).st_size - source.offset)) > 0:
            raise ValueError(f"truncated, {missing} bytes are missing")
        file.seek(source.offset)
        # libsndfile reads an embedded file from a descriptor's position, but formats without magic by name only.
        with soundfile.SoundFile(file.fileno() if source.offset else source.path, closefd=False) as audio:
            if not audio.frames:
                raise ValueError("no samples")
            return audio.frames / audio.samplerate


def missing_bytes(header: bytes, size: int) -> int:
    """Bytes that a WAV file of ``size`` bytes lacks by its own header; 0 for other formats.

    libsndfile shortens a truncated file without a word, and inside an archive reads on into the next one.
    """
    if header[:4] != b"RIFF" or header[8:12] != b"WAVE":
        return 0
    at = 12
    while at + 8 <= len(header):
        chunk, length = struct.unpack_from("<4sI", header, at)
        if chunk == b"data":
            return 0 if length >= UNKNOWN_SIZE else max(0, at + 8 + length - size)
        at += 8 + length + length % 2
    return 0
