"""Log-mel features, as Kaldi computes them."""

import numpy as np

from sermtl.audio.resample import SAMPLE_RATE, as_floats

FBANK_BANDS = 80
FBANK_WINDOW = 400
"""Samples of a 25 ms window; one frame needs as many."""


def fbank(samples_S: np.ndarray) -> np.ndarray:
    """Log-mel features (T, 80), float32, 25 ms windows every 10 ms, of samples, without dither.

    Audio shorter than one window is continued with zeros to one window. The values are those of
    Kaldi's ``compute-fbank-feats --num-mel-bins=80 --dither=0``.
    """
    from sermtl import torchaudio_compat  # noqa: F401, I001 (before torchaudio)
    import torch
    import torchaudio.compliance.kaldi

    if len(samples_S) < FBANK_WINDOW:
        samples_S = np.pad(samples_S, (0, FBANK_WINDOW - len(samples_S)))
    wav_1S = torch.from_numpy(as_floats(samples_S) * np.float32(32768))[None]  # Kaldi's scale
    features_TF = torchaudio.compliance.kaldi.fbank(
        wav_1S, num_mel_bins=FBANK_BANDS, dither=0.0, sample_frequency=SAMPLE_RATE
    )
    return features_TF.numpy()
