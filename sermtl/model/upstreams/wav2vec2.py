"""The encoder: wav2vec 2.0 and its relatives from transformers, with outputs that do not depend on the batch.

Shape suffixes: B batch, S samples, T frames, F bands, C channels, D hidden.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

# isort: off
from sermtl import torchaudio_compat  # noqa: F401 (before transformers)

# isort: on
import torch
from torch import Tensor, nn
from transformers import AutoModel, PretrainedConfig

from sermtl.errors import UserError
from sermtl.model import padded
from sermtl.model.geometry import ConvGeometry, SpanMasking
from sermtl.model.packed import Dropout, convolve_positions, encode, is_packable

PACKED_FROM = 256
"""Hidden size from which arithmetic on padding costs more than many small operations."""
_current = threading.local()
"""``own_BT`` is the mask of the frames of the batch that this thread encodes."""


class Upstream(nn.Module):
    """A transformers speech encoder run on each utterance's own frames only.

    Args:
        config: The transformers configuration; two further attributes are kept in it: ``input_bands``
            (0: waveform; else the number of mel bands that the first convolution reads) and ``normalize``
            (whether each waveform is brought to zero mean and unit variance).
    """

    def __init__(self, config: PretrainedConfig):
        super().__init__()
        self.model: Any = _build(config)
        self._set_up(config)

    @classmethod
    def around(cls, model: Any, config: PretrainedConfig) -> Upstream:
        """Wrap a model whose weights are loaded."""
        upstream = cls.__new__(cls)
        nn.Module.__init__(upstream)
        upstream.model = model
        upstream._set_up(config)
        return upstream

    def _set_up(self, config: PretrainedConfig) -> None:
        self.config = config
        self.input_bands: int = getattr(config, "input_bands", 0)
        self.normalize: bool = getattr(config, "normalize", True)
        self.geometry = ConvGeometry(tuple(config.conv_kernel), tuple(config.conv_stride))
        self.hidden_size: int = config.hidden_size
        self.final_dropout: float = getattr(config, "final_dropout", 0.0)
        self.packed = False
        """Whether utterances are laid end to end instead of padded; see `sermtl.model.packed`."""
        self.fourier_positions = True
        """Whether the positional convolution of packed utterances goes through Fourier transforms."""
        self._keep_padding_out_of_positions()
        self._make_cpu_faster()

    def _make_cpu_faster(self) -> None:
        """Compute dropout and the positional convolution by what a CPU is good at; weights and names stay."""
        for parent in list(self.model.modules()):
            for name, child in parent.named_children():
                if type(child) is nn.Dropout:
                    setattr(parent, name, Dropout(child.p))
        positions = self.model.encoder.pos_conv_embed
        for layer in (positions, *getattr(positions, "layers", ())):
            if conv := getattr(layer, "conv", None):
                conv._conv_forward = partial(padded.convolve_by_device, conv)

    @property
    def packable(self) -> bool:
        """Whether ``packed`` may be set."""
        return is_packable(self.model.encoder)

    def lay_out(self, layout: str, device: torch.device) -> None:
        """Set ``packed`` as the setting ``layout`` asks.

        Raises:
            UserError: It asks for packed utterances, and the upstream's attention needs them padded.
        """
        if layout == "packed" and not self.packable:
            raise UserError(f"layout: packed is not known for {self.config.model_type}; use auto or padded")
        gains = device.type == "cpu" and self.hidden_size >= PACKED_FROM and self.packable
        self.packed = layout == "packed" or (layout == "auto" and gains)

    @property
    def masking(self) -> SpanMasking:
        """SpecAugment as the configuration asks for it."""
        c = self.config
        if not getattr(c, "apply_spec_augment", True):
            return SpanMasking(hidden_size=self.hidden_size)
        return SpanMasking(
            c.mask_time_prob,
            c.mask_time_length,
            getattr(c, "mask_time_min_masks", 0),
            c.mask_feature_prob,
            c.mask_feature_length,
            getattr(c, "mask_feature_min_masks", 0),
            self.hidden_size,
        )

    def forward(
        self,
        inputs: Tensor,
        lengths_B: Tensor,
        time_mask_BT: Tensor | None = None,
        feature_mask_BD: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encode a batch.

        Args:
            inputs: Waveforms (B, S) or features (B, T, F), continued with zeros to the longest, and to the
                receptive field; or what the convolutional encoder makes of waveforms (B, T, C).
            lengths_B: Own samples or feature frames.
            time_mask_BT: Frames whose projected features are replaced by the mask vector.
            feature_mask_BD: Channels of the projected features that are set to 0.

        Returns:
            hidden_BTD (0 beyond an utterance's own frames) and the number of own frames (B,).
        """
        stored = inputs.ndim == 3 and not self.input_bands
        conv_BTC, frames_B = (inputs, lengths_B) if stored else self.convolve(inputs, lengths_B)
        return self.contextualise(conv_BTC, frames_B, time_mask_BT, feature_mask_BD), frames_B

    def convolve(self, inputs: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """The convolutional encoder: (B, T, C) and the number of own frames (B,).

        The convolutions have no padding, so own frames depend on own samples only; the one exception is group
        normalisation, whose statistics run over time: it gets those of the own frames.
        """
        if self.packed and len(inputs) > 1 and padded.is_padded(lengths_B, inputs.shape[1]):
            # An utterance at a time: what fills the padding costs more than many small operations here too.
            wholes = [max(length, self.geometry.receptive_field) for length in lengths_B.tolist()]
            parts = [self.convolve(inputs[b : b + 1, :n], lengths_B[b : b + 1]) for b, n in enumerate(wholes)]
            conv_BTC = nn.utils.rnn.pad_sequence([conv[0] for conv, _ in parts], batch_first=True)
            return conv_BTC, torch.cat([frames for _, frames in parts])
        hidden_BCT = inputs[:, None] if inputs.ndim == 2 else inputs.transpose(1, 2)
        lengths_B = lengths_B.clamp(min=self.geometry.receptive_field)
        for layer in self.model.feature_extractor.conv_layers:
            lengths_B = (lengths_B - layer.conv.kernel_size[0]) // layer.conv.stride[0] + 1
            norm = getattr(layer, "layer_norm", None)
            if isinstance(norm, nn.LayerNorm):
                hidden_BTC = layer.activation(
                    norm(padded.convolve_channels_last(hidden_BCT, layer.conv).transpose(1, 2))
                )
                hidden_BCT = hidden_BTC.transpose(1, 2)
                continue
            with padded.enough_bits(hidden_BCT, layer.conv.weight.shape[1]) as input_BCT:
                hidden_BCT = layer.conv(input_BCT)
            if norm is not None:
                if padded.is_padded(lengths_B, hidden_BCT.shape[2]):
                    hidden_BCT = padded.masked_group_norm(hidden_BCT, lengths_B, norm)
                else:
                    hidden_BCT = norm(hidden_BCT)
            hidden_BCT = layer.activation(hidden_BCT)
        return hidden_BCT.transpose(1, 2), lengths_B

    def contextualise(
        self,
        conv_BTC: Tensor,
        frames_B: Tensor,
        time_mask_BT: Tensor | None = None,
        feature_mask_BD: Tensor | None = None,
    ) -> Tensor:
        """Projection and transformer: hidden_BTD, 0 beyond an utterance's own frames."""
        if self.packed:
            return self._contextualise_packed(conv_BTC, frames_B, time_mask_BT, feature_mask_BD)
        feature_mask_B1D = None if feature_mask_BD is None else feature_mask_BD[:, None]
        hidden_BTD = self._mask(self._project(conv_BTC), time_mask_BT, feature_mask_B1D)
        own_BT = padded.own_frames(frames_B, hidden_BTD.shape[1])
        _current.own_BT = own_BT
        if not padded.is_padded(frames_B, hidden_BTD.shape[1]):
            return self.model.encoder(hidden_BTD).last_hidden_state
        hidden_BTD = hidden_BTD * own_BT[:, :, None]
        output_BTD = self.model.encoder(hidden_BTD, attention_mask=own_BT).last_hidden_state
        return output_BTD * own_BT[:, :, None]

    def _contextualise_packed(
        self, conv_BTC: Tensor, frames_B: Tensor, time_mask_BT: Tensor | None, feature_mask_BD: Tensor | None
    ) -> Tensor:
        """The same without padding."""
        own_BT = padded.own_frames(frames_B, conv_BTC.shape[1])
        places_N = own_BT.flatten().nonzero()[:, 0]
        frames = frames_B.tolist()
        hidden_ND = self._project(conv_BTC.flatten(0, 1).index_select(0, places_N))
        time_mask_N = None if time_mask_BT is None else time_mask_BT.flatten()[places_N]
        feature_mask_ND = None if feature_mask_BD is None else feature_mask_BD.repeat_interleave(frames_B, 0)
        hidden_ND = self._mask(hidden_ND, time_mask_N, feature_mask_ND)
        # Residuals in float32 under autocast too: the sums over layers are where bf16 would lose most.
        hidden_ND = hidden_ND.float()
        encoder = self.model.encoder
        pre_norm = getattr(self.config, "do_stable_layer_norm", False)
        output_ND = encode(encoder, hidden_ND, self._positions(hidden_ND, frames, own_BT), frames, pre_norm)
        output_MD = output_ND.new_zeros((own_BT.numel(), self.hidden_size))
        return output_MD.index_copy(0, places_N, output_ND).unflatten(0, own_BT.shape)

    def _positions(self, hidden_ND: Tensor, frames: list[int], own_BT: Tensor) -> Tensor:
        """The positional convolution of packed frames."""
        positions = self.model.encoder.pos_conv_embed
        single = hasattr(positions, "conv") and getattr(positions, "batch_norm", None) is None
        if self.fourier_positions and single:
            return positions.activation(convolve_positions(hidden_ND, frames, positions.conv))
        _current.own_BT = own_BT
        hidden_BTD = hidden_ND.new_zeros((*own_BT.shape, self.hidden_size))
        return positions(hidden_BTD.masked_scatter(own_BT[:, :, None], hidden_ND))[own_BT]

    def _mask(self, hidden: Tensor, time_mask: Tensor | None, feature_mask: Tensor | None) -> Tensor:
        """SpecAugment: the mask vector in the place of masked frames, 0 in masked channels."""
        if time_mask is not None:
            hidden = torch.where(time_mask[..., None], self.model.masked_spec_embed.to(hidden.dtype), hidden)
        return hidden if feature_mask is None else hidden.masked_fill(feature_mask, 0.0)

    def _project(self, conv: Tensor) -> Tensor:
        projected = self.model.feature_projection(conv)
        return projected[0] if isinstance(projected, tuple) else projected

    def freeze_feature_encoder(self) -> None:
        """Keep the convolutional encoder's weights as they are."""
        self.model.feature_extractor.requires_grad_(False)

    def _keep_padding_out_of_positions(self) -> None:
        """Set the frames of the padding to 0 after each layer, before a positional convolution reads them.

        data2vec-audio stacks such convolutions, which have biases; some HuBERT models put a batch normalisation
        before theirs.
        """

        def clear_padding(_layer: nn.Module, _inputs: Any, output_BTD: Tensor) -> Tensor:
            return output_BTD * _current.own_BT[:, None].to(output_BTD.dtype)

        positions = self.model.encoder.pos_conv_embed
        for layer in [*getattr(positions, "layers", []), getattr(positions, "batch_norm", None)]:
            if layer is not None:
                layer.register_forward_hook(clear_padding)


def _build(config: PretrainedConfig) -> nn.Module:
    """A model with fresh weights; its first convolution reads mel bands where the geometry says so."""
    model = AutoModel.from_config(config)
    bands = getattr(config, "input_bands", 0)
    if bands:
        first = model.feature_extractor.conv_layers[0]
        old = first.conv
        first.conv = nn.Conv1d(bands, old.out_channels, old.kernel_size[0], old.stride[0], bias=old.bias is not None)
        nn.init.kaiming_normal_(first.conv.weight)
    return model
