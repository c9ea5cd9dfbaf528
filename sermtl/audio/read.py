"""Audio files as 16 kHz mono samples: int16, or float32 where that keeps a quiet file's bits."""

import io
import logging
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from sermtl.audio.formats import open_sound
from sermtl.audio.headers import length_flaw
from sermtl.audio.judge import Judge
from sermtl.audio.resample import SAMPLE_RATE, quantise, resample
from sermtl.errors import UserError
from sermtl.fileio.wav_scp import is_pipe, locate

log = logging.getLogger(__name__)
LOWEST_RATE, HIGHEST_RATE = 1000, 768_000


def read_recording(entry: str | Path, allow_pipes: bool = False, channel: int = 0) -> np.ndarray:
    """Samples (S,) at 16 kHz of a ``wav.scp`` value: a file, ``file.ark:offset``, or a shell command.

    Rate, channel count and format, of libsndfile or ffmpeg, may be any. 16-bit mono at 16 kHz comes through exactly;
    other rates are resampled; `quantise` says what is int16. Channels are from 1; 0 averages all. `UserError` where the
    file is missing, empty, truncated, no audio, lacks the channel, or `Judge` refuses its samples; where a command
    fails, or is not allowed.
    """
    entry = str(entry)
    if not is_pipe(entry):
        try:
            source = locate(entry)
        except FileNotFoundError:
            return _decode(entry, entry, channel)
        except OSError as error:
            raise UserError(f"{entry}: {str(error).removesuffix(f': {entry}')}") from error
        return _decode(entry if source.path == entry else io.BytesIO(source.read()), entry, channel)
    if not allow_pipes:
        raise UserError(f"{entry}: a shell command, refused unless --allow_pipes true")
    command = ["bash", "-o", "pipefail", "-c", entry.strip().strip("|")]
    result = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL)
    if result.returncode:
        last = result.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise UserError(f"{entry}: ended with status {result.returncode}: {' '.join(last)}")
    return _decode(io.BytesIO(result.stdout), entry, channel)


def cut(samples_S: np.ndarray, start: float, end: float, name: str) -> np.ndarray:
    """The samples from ``start`` to ``end`` seconds of a recording; an ``end`` of -1 is the recording's, as for Kaldi.

    `UserError` where the span is empty or begins after the recording's end, or `Judge` refuses its samples.
    """
    first, last = round(start * SAMPLE_RATE), len(samples_S) if end == -1 else round(end * SAMPLE_RATE)
    if not 0 <= first < min(last, len(samples_S)):
        seconds = len(samples_S) / SAMPLE_RATE
        raise UserError(f"{name}: the segment {start} to {end} s is not within the {seconds:.2f} s of its recording")
    judge = Judge(f"{name} from {start} to {end} s")
    judge.add(samples_S[first:last])
    judge.finish()
    return samples_S[first:last]


def _decode(file: str | BinaryIO, name: str, channel: int) -> np.ndarray:
    with open_recording(file, name) as sound:
        samples_S, rate = np.concatenate([*mono_blocks(sound, name, channel)]), sound.samplerate
    if samples_S.dtype == np.int16:
        return samples_S
    samples_S = quantise(resample(samples_S, rate, SAMPLE_RATE))
    if samples_S.dtype != np.int16:
        log.warning("warning: %s: so quiet that it is kept as float32 (peak %.2g)", name, np.abs(samples_S).max())
    return samples_S


@contextmanager
def open_recording(file: str | BinaryIO, name: str) -> Iterator[soundfile.SoundFile]:
    """Open a path or a file in memory; errors of that and of the block become a `UserError` about ``name``."""
    try:
        # The opening of a named pipe would wait for ever.
        if isinstance(file, str) and Path(file).exists() and not Path(file).is_file():
            raise UserError(f"{name}: a folder, a named pipe or the like, no file")
        with open(file, "rb") if isinstance(file, str) else nullcontext(file) as raw:
            size = raw.seek(0, os.SEEK_END)
            raw.seek(0)
            if flaw := length_flaw(raw, size):
                raise UserError(f"{name}: {flaw}")
        with open_sound(file, name) as sound:
            yield sound
    except RuntimeError as error:
        raise UserError(f"{name}: not readable as audio ({error})") from error
    except OSError as error:
        reason = "no such file" if not Path(name).exists() else error.strerror or str(error)
        raise UserError(f"{name}: {reason}") from error


def mono_blocks(sound: soundfile.SoundFile, name: str, channel: int = 0, size: int = -1) -> Iterator[np.ndarray]:
    """A file's samples in blocks of ``size`` (-1: in one), at its rate: one channel (from 1), or the average (0).

    Blocks are int16 (S,) of 16-bit at 16 kHz that is not averaged, float32 (S,) of all else. `UserError` where the file
    is empty, truncated, lacks the channel, or, at the end, `Judge` refuses the samples of all blocks.
    """
    check_rate(sound.samplerate, name)
    several = sound.channels > 1
    if several and channel > sound.channels:
        raise UserError(f"{name}: has {sound.channels} channels, no channel {channel}")
    exact = sound.subtype == "PCM_16" and not (several and not channel) and sound.samplerate == SAMPLE_RATE
    read, judge = 0, Judge(name)
    while len(samples := sound.read(size, dtype="int16" if exact else "float32")):
        read += len(samples)
        yield judge.add(samples[:, channel - 1] if several and channel else samples)
    if not read:
        raise UserError(f"{name}: no samples")
    if read < sound.frames:
        raise UserError(f"{name}: truncated: {read} of {sound.frames} samples")
    judge.finish()


def check_rate(rate: int, name: str) -> None:
    """Refuse (`UserError`) a rate that speech does not have; resampling such a short file could fill the memory."""
    if not isinstance(rate, (int, np.integer)) or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise UserError(
            f"{name}: a sampling rate of {rate!r} Hz; {LOWEST_RATE} to {HIGHEST_RATE} are read, give the audio's own"
        )
