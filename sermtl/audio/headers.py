"""Audio headers of many recordings, checked in parallel without decoding."""

import io
import math
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import BinaryIO, TypeVar

from sermtl.audio.formats import open_sound
from sermtl.errors import UserError
from sermtl.fileio.wav_scp import is_pipe, locate

POOL_FROM = 2000
"""Recordings below which starting processes costs more than it saves."""
MOST_CHUNKS = 1000
"""Chunks of a file that are read."""
SLACK = 1024
"""Bytes behind the audio that some programs leave."""
UNKNOWN_SIZE = 0x7FFF0000
"""Data sizes from here on are written by programs that do not know the size (a stream's header)."""
TOLERANCE = 0.1
"""Seconds by which utt2dur may miss a header's duration: tables made from frame counts round so."""

Task = tuple[str, str, float | None, float | None]
"""Key, wav.scp value, duration in utt2dur (s), latest end in segments (s); None where not known."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def map_recordings(function: Callable[[Item], Answer], items: Sequence[Item], nj: int) -> Iterator[Answer]:
    """Apply a function to each recording, in order; in ``nj`` processes where there are many."""
    if nj < 2 or len(items) < POOL_FROM:
        yield from map(function, items)
        return
    with ProcessPoolExecutor(nj, get_context("fork")) as pool:
        yield from pool.map(function, items, chunksize=250)


def check_recording(task: Task, allow_pipes: bool = False) -> str | None:
    """The error of a recording; None where its header can be read and agrees with the tables.

    With ``allow_pipes``, shell commands are passed over (and never run) instead of refused.
    """
    key, entry, duration, end = task
    if not entry:
        return f"{key}: no path"
    if is_pipe(entry):
        return None if allow_pipes else f"{key}: a shell command, refused unless --allow_pipes true: {entry}"
    seconds = seconds_or_fault(entry)
    if isinstance(seconds, str):
        return f"{key}: {seconds}: {entry}"
    if duration is not None and abs(duration - seconds) > TOLERANCE:
        return f"{key}: {seconds:.2f} s of audio, but {duration:.2f} s in utt2dur: {entry}"
    if end is not None and end > seconds + TOLERANCE:
        return f"{key}: {seconds:.2f} s of audio, but segments go to {end:.2f} s: {entry}"
    return None


def seconds_or_fault(entry: str) -> float | str:
    """Duration of a recording (s) by its header, or what is wrong with it, without its path."""
    try:
        return header_seconds(entry)
    except FileNotFoundError:
        return "no such file"
    except UserError as error:
        return str(error).removeprefix(f"{entry}: ")
    except (OSError, RuntimeError, ValueError, TypeError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return f"not readable as audio: {reason.removesuffix(f': {entry}')}"


def header_seconds(entry: str) -> float:
    """Duration of a recording (s) by its header; raises what `seconds_or_fault` catches."""
    source = locate(entry)
    if not source.size:
        raise ValueError("the file is empty")
    with open(source.path, "rb", buffering=0) as file:
        file.seek(source.offset)
        if flaw := length_flaw(file, os.fstat(file.fileno()).st_size - source.offset, alone=not source.offset):
            raise ValueError(flaw)
        # libsndfile knows formats without magic by name only.
        with open_sound(io.BytesIO(source.read()) if source.offset else source.path, entry) as audio:
            if not audio.frames:
                raise ValueError("no samples")
            return audio.frames / audio.samplerate


def length_flaw(file: BinaryIO, size: int, alone: bool = True) -> str:
    """What is wrong with the length that a recording's own header gives; empty where nothing is, or it gives none.

    libsndfile shortens a truncated file without an error, and inside an archive reads on into the next file.

    Args:
        file: Open at the recording's first byte, where it is left.
        size: Bytes from there to the end of the file.
        alone: Whether the file holds this recording only, so that bytes behind it are an error.
    """
    start = file.tell()

    def read(at: int, count: int) -> bytes:
        file.seek(start + at)
        return file.read(count)

    try:
        end = _end_of_audio(read, size)
        if end is not None and end > size:
            return f"truncated: {end - size} bytes are missing"
        if end is not None and alone and read(0, 4) in (b"RIFF", b"RIFX") and (more := _uncounted(read, end, size)):
            return f"the length in its header is wrong: {more} bytes follow the audio that it counts"
        return ""
    finally:
        file.seek(start)


def _end_of_audio(read: Callable[[int, int], bytes], size: int) -> int | None:
    """Where the samples end by the header of a WAV (RIFF, RIFX, RF64), AIFF or uncompressed NIST file.

    Of FLAC and MP3, what is missing shows in decoding; other formats are not checked.
    """
    head = read(0, 1024)
    if head[:8] == b"NIST_1A\n":
        words = head.decode("ascii", "replace").split()
        known = dict(zip(words, words[2:], strict=False))  # NAME -TYPE VALUE
        counts = [known.get(name, "") for name in ("sample_count", "channel_count", "sample_n_bytes")]
        plain = known.get("sample_coding", "pcm") == "pcm" and all(map(str.isdigit, [words[1], *counts]))
        return int(words[1]) + math.prod(map(int, counts)) if plain else None
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return _find_chunk(read, size, ">4sI" if head[3:4] == b"X" else "<4sI", b"data")
    if head[:4] == b"FORM" and head[8:11] == b"AIF":
        return _find_chunk(read, size, ">4sI", b"SSND")
    return None


def _find_chunk(read: Callable[[int, int], bytes], size: int, form: str, wanted: bytes) -> int | None:
    """Where the chunk of samples ends; None where there is none, or its length was not known when it was written."""
    at, long = 12, None
    for _ in range(MOST_CHUNKS):
        if at + 8 > size:
            break
        name, length = struct.unpack(form, read(at, 8))
        if name == b"ds64":
            long = struct.unpack("<Q", read(at + 16, 8).ljust(8, b"\0"))[0]  # of RF64
        if name == wanted:
            if length < UNKNOWN_SIZE:
                return at + 8 + length
            return None if long is None else at + 8 + long
        at += 8 + length + length % 2
    return None


def _uncounted(read: Callable[[int, int], bytes], at: int, size: int) -> int:
    """Bytes behind the samples that are no chunks, tags or padding; 0 where they could not be much audio."""
    at += at % 2
    for _ in range(MOST_CHUNKS):
        name, length = struct.unpack("<4sI", read(at, 8).ljust(8, b"\0"))
        if not all(32 <= byte < 127 for byte in name) or at + 8 + length > size:
            break
        at += 8 + length + length % 2
    rest = read(at, 4096)
    tagged = rest.startswith((b"TAG", b"ID3", b"APETAGEX"))
    return size - at if size - at > SLACK and any(rest) and not tagged else 0
