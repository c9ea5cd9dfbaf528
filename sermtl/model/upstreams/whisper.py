"""Whisper's encoder: log-mel bands, two convolutions, layers; an utterance at its own length, not padded to 30 s.

Longer utterances are encoded in windows of 30 s, the last one shorter, whose frames are joined.

Shape suffixes: B batch, S samples, F bands, M mel frames, T frames, D hidden, R windows of all utterances.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# isort: off
from sermtl import torchaudio_compat  # noqa: F401 (before transformers)

# isort: on
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from sermtl.model.geometry import SpanMasking
from sermtl.model.padded import is_padded, own_frames
from sermtl.model.spectrum import HOP, WINDOW, power_spectrum, spectrum_kernel
from sermtl.model.upstreams.base import Upstream

KEYS = {r"^(model\.)?encoder\.": ""}
"""Where a whole model's folder keeps the encoder's weights."""


@dataclass(frozen=True)
class WhisperGeometry:
    """Frames of windows of ``window`` samples: a mel frame a hop, and half as many frames, rounded up."""

    window: int
    receptive_field: int = WINDOW

    def windows(self, length: int) -> list[int]:
        """Samples of each window; one shorter than `WINDOW` counts as that."""
        length = max(length, self.receptive_field)
        return [max(min(self.window, length - start), WINDOW) for start in range(0, length, self.window)]

    def frames(self, length: int) -> int:
        """Frames of ``length`` samples."""
        return sum(-(-(samples // HOP) // 2) for samples in self.windows(length))


class Whisper(Upstream):
    """Whisper's encoder, tiny to large-v3; ``model`` is transformers' ``WhisperEncoder``."""

    def __init__(self, model: nn.Module, config: Any):
        super().__init__(model, config)
        self.hidden_size = self.front_size = config.d_model
        self.window = config.max_source_positions
        self.geometry: WhisperGeometry = WhisperGeometry(2 * HOP * config.max_source_positions)
        mel_QF = WhisperFeatureExtractor(feature_size=config.num_mel_bins).mel_filters
        self.mel_QF: Tensor
        self.kernel: Tensor
        self.hann: Tensor
        self.register_buffer("hann", torch.hann_window(WINDOW), persistent=False)
        self.register_buffer("mel_QF", torch.from_numpy(mel_QF).float(), persistent=False)
        self.register_buffer("kernel", spectrum_kernel(WINDOW, kaldi=False), persistent=False)

    @staticmethod
    def load(name: str, config: Any) -> Any:
        """The encoder of a whole model or alone, and transformers' notes; a decoder's weights are never read."""
        return WhisperEncoder.from_pretrained(
            name, config=config, key_mapping=KEYS, dtype=torch.float32, output_loading_info=True
        )

    @staticmethod
    def build(config: Any) -> nn.Module:
        """The encoder with fresh weights."""
        return WhisperEncoder(config)

    @property
    def layers(self) -> nn.ModuleList:
        """The encoder's layers."""
        return self.model.layers

    @property
    def masking(self) -> SpanMasking:
        """None: Whisper was trained without SpecAugment on frames."""
        return SpanMasking(hidden_size=self.hidden_size)

    @property
    def values_per_second(self) -> float:
        """Those of the first convolution."""
        return 100 * self.hidden_size

    def fronts(self) -> list[nn.Module]:
        """The two convolutions."""
        return [self.model.conv1, self.model.conv2]

    def before_layers(self) -> list[nn.Module]:
        """The positions, which are never trained."""
        return [self.model.embed_positions]

    def log_mel(self, wav_RS: Tensor, samples_R: Tensor) -> Tensor:
        """Log-mel bands (R, M, F), float32, as transformers' ``WhisperFeatureExtractor`` computes them of each window.

        Args:
            wav_RS: Windows, continued with zeros.
            samples_R: Own samples of each, at least `WINDOW`; each is mirrored at both of its own ends.
        """
        places_S = torch.arange(-WINDOW // 2, wav_RS.shape[1] + WINDOW // 2, device=wav_RS.device).abs()[None]
        last_R1 = samples_R[:, None] - 1
        places_RS = torch.where(places_S > last_R1, 2 * last_R1 - places_S, places_S).clamp(min=0)
        power_RMQ = power_spectrum(wav_RS.gather(1, places_RS), self.kernel, self.hann)[:, :-1]
        with torch.autocast(wav_RS.device.type, enabled=False):
            mel_RMF = (power_RMQ @ self.mel_QF).clamp(min=1e-10).log10()
            own_RM1 = own_frames(samples_R // HOP, mel_RMF.shape[1])[:, :, None]
            most_R11 = mel_RMF.masked_fill(~own_RM1, -10.0).amax((1, 2), keepdim=True)
            return (torch.maximum(mel_RMF, most_R11 - 8.0) + 4.0) / 4.0 * own_RM1

    def front(self, inputs: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel and convolutions of each window; padding is 0 before either convolution, as behind a window's end."""
        samples_B = lengths_B.clamp(min=WINDOW)
        if inputs.shape[1] <= self.geometry.window:
            return self._convolve(inputs, samples_B)
        rows, sizes = [], []
        for wav_S, length in zip(inputs, samples_B.tolist(), strict=True):
            windows = self.geometry.windows(length)
            sizes.append(windows)
            rows += [wav_S[i * self.geometry.window :][:size] for i, size in enumerate(windows)]
        wav_RS = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        samples_R = torch.tensor([size for windows in sizes for size in windows], device=inputs.device)
        frames_RTD, frames_R = self._convolve(wav_RS, samples_R)
        own = iter([frames_TD[:n] for frames_TD, n in zip(frames_RTD, frames_R.tolist(), strict=True)])
        wholes = [torch.cat([next(own) for _ in windows]) for windows in sizes]
        frames_B = torch.tensor([len(whole) for whole in wholes], device=inputs.device)
        return nn.utils.rnn.pad_sequence(wholes, batch_first=True), frames_B

    def _convolve(self, wav_RS: Tensor, samples_R: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (R, T, D) of windows, and the numbers of own frames (R,)."""
        mel_R = samples_R // HOP
        hidden_RDM = F.gelu(self.model.conv1(self.log_mel(wav_RS, samples_R).transpose(1, 2)))
        if is_padded(mel_R, hidden_RDM.shape[2]):
            hidden_RDM = hidden_RDM * own_frames(mel_R, hidden_RDM.shape[2])[:, None]
        return F.gelu(self.model.conv2(hidden_RDM)).transpose(1, 2), (mel_R + 1) // 2

    def embed(self, front_BTC: Tensor, frames_B: Tensor, masks: tuple[Tensor | None, Tensor | None]) -> Tensor:
        """Positions added to the frames."""
        hidden_BTD = front_BTC + self.model.embed_positions.weight[: front_BTC.shape[1]]
        return F.dropout(hidden_BTD, self.model.dropout, self.training and self.frozen in ("none", "conv"))

    def context(self, hidden_BTD: Tensor, frames_B: Tensor) -> Tensor | None:
        """The attention's mask (B, 1, 1, T) of own frames; None where all are."""
        total = hidden_BTD.shape[1]
        return own_frames(frames_B, total)[:, None, None] if is_padded(frames_B, total) else None

    def layer(self, number: int, hidden: Tensor, context: Any) -> Tensor:
        """A layer's output."""
        layer = self.layers[number - 1]
        if layer.training and float(torch.rand([])) < self.model.layerdrop:
            return hidden
        return layer(hidden, context)

    def final(self, hidden: Tensor) -> Tensor:
        """The final norm."""
        return self.model.layer_norm(hidden)
