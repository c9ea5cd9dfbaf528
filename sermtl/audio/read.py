"""Audio files as 16 kHz mono int16 samples."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from sermtl.audio.headers import length_flaw
from sermtl.audio.resample import SAMPLE_RATE, resample, to_int16
from sermtl.errors import UserError
from sermtl.fileio.wav_scp import is_pipe, locate

LOWEST_RATE, HIGHEST_RATE = 1000, 768_000


def read_audio(path: str | Path) -> np.ndarray:
    """Samples (S,), int16, at 16 kHz of a file in any rate, channel count and format of libsndfile.

    16-bit mono at 16 kHz comes through exactly; channels are averaged; other rates are resampled.

    Raises:
        UserError: The file is missing, empty, truncated, no audio, or holds NaN or infinite samples.
    """
    refuse_no_file(path)
    try:
        with open(path, "rb") as file:
            refuse_wrong_length(file, str(path))
        return _decode(os.fsencode(path), str(path))
    except OSError as error:
        reason = "no such file" if not Path(path).exists() else error.strerror or str(error)
        raise UserError(f"{path}: {reason}") from error


def refuse_no_file(path: str | Path) -> None:
    """Refuse what is there and no file.

    Raises:
        UserError: It is a folder or, whose opening would wait for ever, a named pipe.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise UserError(f"{path}: a folder, a named pipe or the like, no file")


def read_recording(entry: str, allow_pipes: bool = False) -> np.ndarray:
    """Samples (S,), int16, at 16 kHz of a ``wav.scp`` value: a file, ``file.ark:offset``, or a shell command.

    Raises:
        UserError: As `read_audio`; or the command fails, or is not allowed.
    """
    if not is_pipe(entry):
        try:
            source = locate(entry)
        except OSError:
            return read_audio(entry)
        return read_audio(entry) if source.path == entry else _decode(io.BytesIO(source.read()), entry)
    if not allow_pipes:
        raise UserError(f"{entry}: a shell command, refused unless --allow_pipes true")
    command = ["bash", "-o", "pipefail", "-c", entry.strip().strip("|")]
    result = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL)
    if result.returncode:
        last = result.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise UserError(f"{entry}: ended with status {result.returncode}: {' '.join(last)}")
    return _decode(io.BytesIO(result.stdout), entry)


def cut(samples_S: np.ndarray, start: float, end: float, name: str) -> np.ndarray:
    """The samples from ``start`` to ``end`` seconds of a recording; an ``end`` of -1 is the recording's, as for Kaldi.

    Raises:
        UserError: The span is empty or begins after the recording's end.
    """
    first, last = round(start * SAMPLE_RATE), len(samples_S) if end == -1 else round(end * SAMPLE_RATE)
    if not 0 <= first < min(last, len(samples_S)):
        seconds = len(samples_S) / SAMPLE_RATE
        raise UserError(f"{name}: the segment {start} to {end} s is not within the {seconds:.2f} s of its recording")
    return samples_S[first:last]


def _decode(file: bytes | io.BytesIO, name: str) -> np.ndarray:
    if isinstance(file, io.BytesIO):
        refuse_wrong_length(file, name)
    try:
        with soundfile.SoundFile(file) as sound:
            samples_S, rate = np.concatenate([*mono_blocks(sound, name)]), sound.samplerate
    except RuntimeError as error:
        raise UserError(f"{name}: not readable as audio ({error})") from error
    return samples_S if samples_S.dtype == np.int16 else to_int16(resample(samples_S, rate, SAMPLE_RATE))


def mono_blocks(sound: soundfile.SoundFile, name: str, size: int = -1) -> Iterator[np.ndarray]:
    """A file's samples in blocks of ``size`` (-1: in one), at its rate; channels are averaged.

    Yields:
        int16 (S,) of 16-bit mono at 16 kHz, float32 (S,) of all else.

    Raises:
        UserError: The file is empty, truncated, or holds NaN or infinite samples; the message begins with ``name``.
    """
    check_rate(sound.samplerate, name)
    exact = sound.subtype == "PCM_16" and sound.channels == 1 and sound.samplerate == SAMPLE_RATE
    read = 0
    while len(samples := sound.read(size, dtype="int16" if exact else "float32")):
        read += len(samples)
        if not (exact or np.isfinite(samples).all()):
            raise UserError(f"{name}: NaN or infinite samples")
        yield samples.mean(axis=1) if samples.ndim == 2 else samples
    if not read:
        raise UserError(f"{name}: no samples")
    if read < sound.frames:
        raise UserError(f"{name}: truncated: {read} of {sound.frames} samples")


def refuse_wrong_length(file: BinaryIO, name: str) -> None:
    """Refuse a recording that is shorter or longer than its own header says, by `sermtl.audio.headers.length_flaw`.

    Raises:
        UserError: The message begins with ``name``.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if flaw := length_flaw(file, size):
        raise UserError(f"{name}: {flaw}")


def check_rate(rate: int, name: str) -> None:
    """Refuse a sampling rate that speech does not have; resampling such a short file could fill the memory.

    Raises:
        UserError: The message begins with ``name``.
    """
    if not isinstance(rate, (int, np.integer)) or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise UserError(
            f"{name}: a sampling rate of {rate!r} Hz; {LOWEST_RATE} to {HIGHEST_RATE} are read, give the audio's own"
        )
