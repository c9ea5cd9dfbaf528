"""w2v-BERT 2.0: Kaldi-like filterbanks in pairs of frames, conformer layers.

Shape suffixes: B batch, S samples, M mel frames, F bands, Q frequencies, T frames, D hidden.
"""

from dataclasses import dataclass
from typing import Any

# isort: off
from sermtl import before_transformers  # noqa: F401 (before transformers)

# isort: on
import torch
from torch import Tensor, nn
from transformers import SeamlessM4TFeatureExtractor
from transformers.masking_utils import create_bidirectional_mask

from sermtl.errors import UserError
from sermtl.model.padded import own_frames
from sermtl.model.spectrum import HOP, WINDOW, power_spectrum, spectrum_kernel
from sermtl.model.upstreams.base import Masks, Upstream

FFT = 512
FLOOR = 1.192092955078125e-07
"""Of a band's energy: Kaldi's, the smallest step of a float at 1."""


@dataclass(frozen=True)
class FilterbankGeometry:
    """Frames of two mel frames each."""

    receptive_field: int = WINDOW + HOP

    def frames(self, length: int) -> int:
        """Frames of ``length`` samples."""
        return ((max(length, self.receptive_field) - WINDOW) // HOP + 1) // 2


class W2vBert(Upstream):
    """w2v-BERT 2.0; ``model`` is transformers' ``Wav2Vec2BertModel``."""

    def __init__(self, model: Any, config: Any):
        if config.add_adapter or config.use_intermediate_ffn_before_adapter:
            raise UserError("this w2v-BERT model ends in an adapter (add_adapter), which is not known here")
        super().__init__(model, config)
        self.front_size, self.geometry = config.feature_projection_input_dim, FilterbankGeometry()
        self.fronts, self.before_layers = [], [model.feature_projection, model.encoder.dropout]
        self.values_per_second = 50 * 4 * config.hidden_size  # of a layer's feed-forward part
        self.mel_QF = nn.Buffer(torch.from_numpy(SeamlessM4TFeatureExtractor().mel_filters).float(), persistent=False)
        self.kernel = nn.Buffer(spectrum_kernel(FFT, kaldi=True), persistent=False)

    def front(self, inputs: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (B, T, 2 F) as transformers' ``SeamlessM4TFeatureExtractor`` computes them of each utterance."""
        mel_B = (lengths_B.clamp(min=self.geometry.receptive_field) - WINDOW) // HOP + 1
        power_BMQ = power_spectrum(inputs * 2**15, self.kernel)
        with torch.autocast(inputs.device.type, enabled=False):
            mel_BMF = (power_BMQ @ self.mel_QF).clamp(min=FLOOR).log()
            own_BM1 = own_frames(mel_B, mel_BMF.shape[1])[:, :, None]
            count_B11 = mel_B[:, None, None]
            centred_BMF = (mel_BMF - (mel_BMF * own_BM1).sum(1, keepdim=True) / count_B11) * own_BM1
            variance_B1F = centred_BMF.square().sum(1, keepdim=True) / (count_B11 - 1)
            scaled_BMF = centred_BMF / (variance_B1F + 1e-7).sqrt()
        # An odd last frame has no partner.
        pairs = scaled_BMF.shape[1] // 2
        frames_B = mel_B // 2
        own_BT1 = own_frames(frames_B, pairs)[:, :, None]
        return scaled_BMF[:, : 2 * pairs].unflatten(1, (pairs, 2)).flatten(2) * own_BT1, frames_B

    def embed(self, front_BTC: Tensor, own_BT1: Tensor, masks: Masks) -> Tensor:
        """Projection and SpecAugment."""
        return self.model.encoder.dropout(self.project(front_BTC, masks) * own_BT1)

    def context(self, hidden_BTD: Tensor, own_BT: Tensor | None) -> dict[str, Any]:
        """Masks of attention and convolution, and positions."""
        mask = create_bidirectional_mask(config=self.model.config, inputs_embeds=hidden_BTD, attention_mask=own_BT)
        positions = self.model.encoder.embed_positions
        return {
            "attention_mask": mask,
            "conv_attention_mask": own_BT,
            "relative_position_embeddings": None if positions is None else positions(hidden_BTD),
        }
