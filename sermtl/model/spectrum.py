"""Power spectra of a batch of waveforms as one matrix product, or in an ONNX file as one convolution.

All that comes before the power is linear in a window's samples, so one kernel does it.

Shape suffixes: B batch, S samples, M windows, Q frequencies.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, HOP = 400, 160
"""Samples of a window (25 ms) and between two of them (10 ms)."""


def spectrum_kernel(fft: int, kaldi: bool) -> Tensor:
    """Real and imaginary parts of a window's spectrum by a transform of ``fft``, (2 (fft / 2 + 1), WINDOW), float64.

    Kaldi's removes the mean, then applies pre-emphasis 0.97, then Povey's window; the other a periodic Hann window.
    """
    steps, frames = np.arange(WINDOW), np.eye(WINDOW)
    if kaldi:
        frames = frames - frames.mean(1, keepdims=True)
        frames = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], 1)
        window = (0.5 - 0.5 * np.cos(2 * np.pi * steps / (WINDOW - 1))) ** 0.85
    else:
        window = 0.5 - 0.5 * np.cos(2 * np.pi * steps / WINDOW)
    spectrum = np.fft.rfft(frames * window, fft)
    return torch.from_numpy(np.concatenate([spectrum.real, spectrum.imag], 1).T.copy())


def power_spectrum(wav_BS: Tensor, kernel: Tensor, window: Tensor | None = None) -> Tensor:
    """Power (B, M, Q), float32, of the windows of waveforms, for a `spectrum_kernel`.

    It is summed in float64, for a logarithm and many layers follow; in an ONNX file, which has no such convolution, in
    float32. Where the kernel is only a ``window`` (WINDOW,), the sums are those of a fast Fourier transform.
    """
    with torch.autocast(wav_BS.device.type, enabled=False):
        if window is not None and not torch.onnx.is_in_onnx_export():
            return torch.fft.rfft(wav_BS.float().unfold(1, WINDOW, HOP) * window).abs().square()
        if torch.onnx.is_in_onnx_export():
            parts = F.conv1d(wav_BS[:, None].float(), kernel.float()[:, None], stride=HOP).transpose(1, 2)
        else:
            parts = wav_BS.double().unfold(1, WINDOW, HOP) @ kernel.T
        real, imaginary = parts.square().chunk(2, 2)
        return (real + imaginary).float()
