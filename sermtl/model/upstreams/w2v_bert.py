"""w2v-BERT 2.0: Kaldi-like filterbanks in pairs of frames, conformer layers.

Shape suffixes: B batch, S samples, M mel frames, F bands, Q frequencies, T frames, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# isort: off
from sermtl import torchaudio_compat  # noqa: F401 (before transformers)

# isort: on
import torch
from torch import Tensor, nn
from transformers import SeamlessM4TFeatureExtractor
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertModel

from sermtl.errors import UserError
from sermtl.model.padded import is_padded, own_frames
from sermtl.model.spectrum import HOP, WINDOW, power_spectrum, spectrum_kernel
from sermtl.model.upstreams.base import Upstream

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

    def __init__(self, model: nn.Module, config: Any):
        if config.add_adapter or config.use_intermediate_ffn_before_adapter:
            raise UserError("this w2v-BERT model ends in an adapter (add_adapter), which is not known here")
        super().__init__(model, config)
        self.hidden_size, self.front_size = config.hidden_size, config.feature_projection_input_dim
        self.geometry = FilterbankGeometry()
        self.mel_QF: Tensor
        self.kernel: Tensor
        mel_QF = torch.from_numpy(SeamlessM4TFeatureExtractor().mel_filters).float()
        self.register_buffer("mel_QF", mel_QF, persistent=False)
        self.register_buffer("kernel", spectrum_kernel(FFT, kaldi=True), persistent=False)

    @staticmethod
    def load(name: str, config: Any) -> Any:
        """A pretrained model, and transformers' notes on its weights."""
        return Wav2Vec2BertModel.from_pretrained(name, config=config, dtype=torch.float32, output_loading_info=True)

    @staticmethod
    def build(config: Any) -> nn.Module:
        """A model with fresh weights."""
        return Wav2Vec2BertModel(config)

    @property
    def layers(self) -> nn.ModuleList:
        """The conformer's layers."""
        return self.model.encoder.layers

    @property
    def values_per_second(self) -> float:
        """Those of a layer's feed-forward part."""
        return 50 * 4 * self.hidden_size

    def fronts(self) -> list[nn.Module]:
        """None: the filterbanks have no weights."""
        return []

    def before_layers(self) -> list[nn.Module]:
        """The projection."""
        return [self.model.feature_projection, self.model.encoder.dropout]

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

    def embed(self, front_BTC: Tensor, frames_B: Tensor, masks: tuple[Tensor | None, Tensor | None]) -> Tensor:
        """Projection and SpecAugment."""
        time_mask_BT, feature_mask_BD = masks
        hidden_BTD = self.model.feature_projection(front_BTC)[0]
        if time_mask_BT is not None:
            vector_D = self.model.masked_spec_embed.to(hidden_BTD.dtype)
            hidden_BTD = torch.where(time_mask_BT[..., None], vector_D, hidden_BTD)
        if feature_mask_BD is not None:
            hidden_BTD = hidden_BTD.masked_fill(feature_mask_BD[:, None], 0.0)
        return self.model.encoder.dropout(hidden_BTD * own_frames(frames_B, hidden_BTD.shape[1])[:, :, None])

    def context(self, hidden_BTD: Tensor, frames_B: Tensor) -> dict[str, Any]:
        """The words that each layer takes: masks of attention and convolution, and positions."""
        own_BT = own_frames(frames_B, hidden_BTD.shape[1]) if is_padded(frames_B, hidden_BTD.shape[1]) else None
        mask = create_bidirectional_mask(config=self.model.config, inputs_embeds=hidden_BTD, attention_mask=own_BT)
        positions = self.model.encoder.embed_positions
        return {
            "attention_mask": mask,
            "conv_attention_mask": own_BT,
            "relative_position_embeddings": None if positions is None else positions(hidden_BTD),
        }

    def layer(self, number: int, hidden: Tensor, context: Any) -> Tensor:
        """A layer's output; during training layers are left out at random, as the model was trained."""
        layer = self.layers[number - 1]
        if layer.training and float(torch.rand([])) < self.config.layerdrop:
            return hidden
        return layer(hidden, **context)
