"""Whisper's encoder: log-mel bands, two convolutions, layers; an utterance at its own length, not padded to 30 s.

Longer utterances are encoded in windows of 30 s, the last one shorter, whose frames are joined.

Shape suffixes: B batch, S samples, F bands, M mel frames, T frames, D hidden, R windows of all utterances.
"""

from dataclasses import dataclass
from typing import Any

# isort: off
from sermtl import before_transformers  # noqa: F401 (before transformers)

# isort: on
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from sermtl.model.padded import cut, is_padded, join, own_frames
from sermtl.model.spectrum import HOP, WINDOW, power_spectrum, spectrum_kernel
from sermtl.model.upstreams.base import Masks, Upstream

KEYS = {r"^(model\.)?encoder\.": ""}
"""Where a whole model's folder keeps the encoder's weights."""


@dataclass(frozen=True)
class WhisperGeometry:
    """Frames of windows of ``window`` samples: a mel frame a hop, and half as many frames, rounded up."""

    window: int
    receptive_field: int = WINDOW

    def frames(self, length: int) -> int:
        """Frames of ``length`` samples; a window shorter than `WINDOW` counts as that."""
        sizes = [min(self.window, length - start) for start in range(0, max(length, 1), self.window)]
        return sum(-(-(max(size, WINDOW) // HOP) // 2) for size in sizes)


class Whisper(Upstream):
    """Whisper's encoder, tiny to large-v3; ``model`` is transformers' ``WhisperEncoder``."""

    masked = False

    def __init__(self, model: Any, config: Any):
        super().__init__(model, config)
        self.front_size, self.layerdrop = config.d_model, config.encoder_layerdrop
        self.fronts, self.before_layers = [model.conv1, model.conv2], [model.embed_positions]
        self.values_per_second = 100 * config.d_model
        self.window = config.max_source_positions
        self.geometry: WhisperGeometry = WhisperGeometry(2 * HOP * config.max_source_positions)
        mel_QF = WhisperFeatureExtractor(feature_size=config.num_mel_bins).mel_filters
        self.hann = nn.Buffer(torch.hann_window(WINDOW), persistent=False)
        self.mel_QF = nn.Buffer(torch.from_numpy(mel_QF).float(), persistent=False)
        self.kernel = nn.Buffer(spectrum_kernel(WINDOW, kaldi=False), persistent=False)

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

    def log_mel(self, wav_RS: Tensor, samples_R: Tensor) -> Tensor:
        """Log-mel bands (R, M, F), float32, as transformers' ``WhisperFeatureExtractor`` computes them of each window.

        Each window, of at least `WINDOW` own samples, is mirrored at both of its own ends.
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
        window = self.geometry.window
        if inputs.shape[1] <= window:
            return self._convolve(inputs, lengths_B)
        frames_RTD, _ = self._convolve(*cut(inputs, lengths_B, window))
        frames_B = torch.tensor([self.geometry.frames(n) for n in lengths_B.tolist()], device=inputs.device)
        return join(frames_RTD, frames_B, self.config.max_source_positions), frames_B

    def _convolve(self, wav_RS: Tensor, samples_R: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (R, T, D) of windows, and the numbers of own frames (R,)."""
        samples_R = samples_R.clamp(min=WINDOW)
        mel_R = samples_R // HOP
        hidden_RDM = F.gelu(self.model.conv1(self.log_mel(wav_RS, samples_R).transpose(1, 2)))
        if is_padded(mel_R, hidden_RDM.shape[2]):
            hidden_RDM = hidden_RDM * own_frames(mel_R, hidden_RDM.shape[2])[:, None]
        return F.gelu(self.model.conv2(hidden_RDM)).transpose(1, 2), (mel_R + 1) // 2

    def embed(self, front_BTC: Tensor, own_BT1: Tensor, masks: Masks) -> Tensor:
        """Positions added to the frames."""
        hidden_BTD = front_BTC + self.model.embed_positions.weight[: front_BTC.shape[1]]
        return F.dropout(hidden_BTD, self.model.dropout, self.training and self.frozen in ("none", "conv"))

    def final(self, hidden: Tensor) -> Tensor:
        """The final norm."""
        return self.model.layer_norm(hidden)
