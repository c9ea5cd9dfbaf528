"""Recordings of any length as a stream of blocks."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sermtl.audio.judge import Judge
from sermtl.audio.read import check_rate, mono_blocks, open_recording, read_recording
from sermtl.audio.resample import RESAMPLING_ROLLOFF, RESAMPLING_ZEROS, SAMPLE_RATE, as_floats, quantise, resample
from sermtl.errors import UserError
from sermtl.fileio.wav_scp import is_pipe


def read_item(path: str, channel: int = 0) -> np.ndarray:
    """Samples (S,) at 16 kHz of an `Item`'s path; a shell command is never run, but a `UserError`."""
    if is_pipe(path):
        raise UserError(f"{path}: a shell command; give a file")
    return read_recording(path, channel=channel)


def as_samples(waveform: Any, sampling_rate: int, name: str) -> np.ndarray:
    """A waveform of any accepted kind as samples (S,) at 16 kHz: int16, or quiet floats as they are.

    `UserError` where it is empty, not finite, or of another shape, type or range.
    """
    import torch  # here: listing files needs none

    if isinstance(waveform, torch.Tensor):
        waveform = waveform.detach().cpu()
        waveform = waveform.float() if waveform.is_floating_point() else waveform  # NumPy has no bfloat16
    values = np.asarray(waveform)
    check_rate(sampling_rate, name)
    if values.size == 0:
        raise UserError(f"{name} is empty")
    if values.ndim == 2 and 1 in values.shape:
        values = values.reshape(-1)
    if values.ndim != 1:
        raise UserError(f"{name} has the shape {values.shape}: average its channels, or give many as a list")
    if values.dtype == np.int16:
        if sampling_rate == SAMPLE_RATE:
            return values
        values = as_floats(values)
    if not np.issubdtype(values.dtype, np.floating):
        raise UserError(f"{name} is of type {values.dtype}: give int16, or floats in [-1, 1]")
    values = values.astype(np.float32)
    judge = Judge(name)
    judge.add(values)
    judge.refuse_scale()
    return quantise(resample(values, int(sampling_rate), SAMPLE_RATE))


def audio_blocks(path: str, channel: int = 0, seconds: float = 10.0) -> Iterator[np.ndarray]:
    """The samples of `read_item` in blocks of about ``seconds``, so that a day of audio fits into memory.

    Not quantised: all blocks are int16 where the file is 16-bit at 16 kHz, else all are float32. `UserError` as
    `read_item`, when the broken place is reached.
    """
    if is_pipe(path) or (re.search(r"\.ark:\d+$", path) and not Path(path).exists()):
        yield read_item(path, channel)
        return
    with open_recording(path, path) as file:
        stream = Resampler(file.samplerate)
        for samples_S in mono_blocks(file, path, channel, max(1, round(seconds * file.samplerate))):
            yield samples_S if samples_S.dtype == np.int16 else stream.push(samples_S)
        if len(rest_S := stream.finish()):
            yield rest_S


class Resampler:
    """Resampling to 16 kHz of a signal that comes in pieces, at ``rate`` Hz; the same samples as in one piece."""

    def __init__(self, rate: int) -> None:
        divisor = math.gcd(rate, SAMPLE_RATE)
        self.rate = rate
        self.step_in, self.step_out = rate // divisor, SAMPLE_RATE // divisor
        reach = RESAMPLING_ZEROS * self.step_in / (RESAMPLING_ROLLOFF * min(self.step_in, self.step_out))
        self.margin = self.step_in * math.ceil((reach + 1) / self.step_in)
        self.pending_S = np.zeros(0, dtype=np.float32)
        self.context = 0
        """Samples at the beginning of the pending ones that only serve as neighbours."""

    def push(self, samples_S: np.ndarray) -> np.ndarray:
        """Add samples (S,), float32; gives those at 16 kHz whose neighbourhood is complete."""
        self.pending_S = np.concatenate([self.pending_S, samples_S])
        ready = (len(self.pending_S) - self.context - self.margin) // self.step_in * self.step_in
        if ready <= 0:
            return np.zeros(0, dtype=np.float32)
        end = self.context + ready
        given_S = resample(self.pending_S[: end + self.margin], self.rate, SAMPLE_RATE)
        given_S = given_S[self.context * self.step_out // self.step_in : end * self.step_out // self.step_in]
        kept = min(end, self.margin)
        self.pending_S, self.context = self.pending_S[end - kept :], kept
        return given_S

    def finish(self) -> np.ndarray:
        """The samples that are left when the signal has ended."""
        return resample(self.pending_S, self.rate, SAMPLE_RATE)[self.context * self.step_out // self.step_in :]
