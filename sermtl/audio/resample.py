"""Resampling to 16 kHz, and speed perturbation."""

import math

import numpy as np

from sermtl.fileio.wav_scp import SAMPLE_RATE

RESAMPLING_ZEROS, RESAMPLING_ROLLOFF = 6, 0.99
"""Of torchaudio's resampling filter: its half-width in zero crossings, and its cutoff over the Nyquist frequency."""
LEAST_SNR = 40.0
"""Signal to quantisation noise (dB) that int16 must give."""
LARGEST_KERNEL = 1_000_000
"""Most values of torchaudio's table of filters, which at 44,099 Hz would take gigabytes."""


def resample(samples_S: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Band-limited resampling of float32 samples (S,) by torchaudio's filter; nothing to do at equal rates."""
    if rate == new_rate:
        return samples_S
    divisor = math.gcd(rate, new_rate)
    if rate * new_rate // divisor**2 > LARGEST_KERNEL:
        return interpolate(samples_S, rate // divisor, new_rate // divisor)
    from sermtl import torchaudio_compat  # noqa: F401, I001 (before torchaudio)
    import torch
    import torchaudio.functional

    return torchaudio.functional.resample(torch.from_numpy(samples_S), rate, new_rate).numpy()


def interpolate(samples_S: np.ndarray, step_in: int, step_out: int) -> np.ndarray:
    """Resampling by ``step_out / step_in`` with torchaudio's filter, computed for each output sample.

    Slower than its table of ``step_in x step_out`` values, but in the same memory at any ratio.
    """
    cutoff = RESAMPLING_ROLLOFF * min(step_in, step_out) / step_in
    reach = math.ceil(RESAMPLING_ZEROS / cutoff)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(samples_S, reach), 2 * reach + 1)
    output_S = np.empty(-(-len(samples_S) * step_out // step_in), dtype=np.float32)
    for numbers in np.array_split(np.arange(len(output_S)), math.ceil(len(output_S) * (2 * reach + 1) / 1_000_000)):
        nearest, rest = np.divmod(numbers * step_in, step_out)
        distance = (np.arange(-reach, reach + 1) - rest[:, None] / step_out) * cutoff
        window = np.cos(distance.clip(-RESAMPLING_ZEROS, RESAMPLING_ZEROS) * (np.pi / 2 / RESAMPLING_ZEROS)) ** 2
        output_S[numbers] = (around[nearest] * np.sinc(distance) * window).sum(1) * cutoff
    return output_S


def as_floats(samples_S: np.ndarray) -> np.ndarray:
    """Int16 samples as float32 in [-1, 1); floats as they are."""
    return samples_S.astype(np.float32) / 32768.0 if samples_S.dtype == np.int16 else samples_S


def quantise(samples_S: np.ndarray) -> np.ndarray:
    """Float samples as `to_int16` gives them, but as they are where that would lose a quiet file's bits.

    Rounding adds noise of 1 / sqrt(12) of a step. Where it would come within `LEAST_SNR` of the samples' own
    deviation from their mean, which is below -61 dB of full scale, they stay float32. Int16 stays as it is.
    """
    if samples_S.dtype == np.int16:
        return samples_S
    noise = 1 / 32768 / math.sqrt(12)
    return samples_S if 0 < samples_S.std() < noise * 10 ** (LEAST_SNR / 20) else to_int16(samples_S)


def to_int16(samples_S: np.ndarray) -> np.ndarray:
    """Float samples in [-1, 1] as int16, rounded and clipped."""
    return np.clip(np.rint(samples_S * 32768.0), -32768, 32767).astype(np.int16)


def change_speed(samples_S: np.ndarray, speed: float) -> np.ndarray:
    """Samples of `quantise` played ``speed`` times as fast (tempo and pitch), as sox's ``speed`` does."""
    return quantise(resample(as_floats(samples_S), round(SAMPLE_RATE * speed), SAMPLE_RATE))
