"""wav2vec 2.0 and its relatives from transformers: HuBERT, WavLM, data2vec-audio, UniSpeech-SAT.

Shape suffixes: B batch, S samples, T frames, F bands, C channels, D hidden, N frames of all utterances.
"""

import threading
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sermtl.model.geometry import ConvGeometry
from sermtl.model.packed import ROWS, Dropout, Packing, convolve_positions, is_packable, run_layer
from sermtl.model.padded import (
    convolve_by_device,
    convolve_channels_last,
    enough_bits,
    is_padded,
    masked_group_norm,
    own_frames,
)
from sermtl.model.upstreams.base import Masks, Upstream

_current = threading.local()
"""``own_BT1`` is the mask of the current batch's frames; each thread has its own batch."""


class Wav2Vec2(Upstream):
    """wav2vec 2.0 or a relative; ``model`` is transformers' model of its type."""

    def __init__(self, model: Any, config: Any):
        super().__init__(model, config)
        encoder, self.front_size = model.encoder, config.conv_dim[-1]
        self.geometry: ConvGeometry = ConvGeometry(tuple(config.conv_kernel), tuple(config.conv_stride))
        self.values_per_second = config.conv_dim[0] / config.conv_stride[0] * (100 if self.input_bands else 16000)
        self.packable = is_packable(encoder)
        self.packed_layer, self.rows = run_layer, ROWS
        self.fourier_positions = True
        """Whether the positional convolution of packed utterances goes through Fourier transforms on a CPU."""
        self.pre_norm: bool = getattr(config, "do_stable_layer_norm", False)
        """Whether the norms come first in a layer, and a final one last."""
        stacked = [*getattr(encoder.pos_conv_embed, "layers", [])]
        for layer in (*stacked, getattr(encoder.pos_conv_embed, "batch_norm", None)):
            if layer is not None:
                layer.register_forward_hook(_silence_padding)
        # Weights and names stay.
        for layer in (encoder.pos_conv_embed, *stacked):
            if conv := getattr(layer, "conv", None):
                conv._conv_forward = partial(convolve_by_device, conv)
        for parent in list(model.modules()):
            for name, child in parent.named_children():
                if type(child) is nn.Dropout:
                    setattr(parent, name, Dropout(child.p))
        norms = [] if self.pre_norm else [encoder.layer_norm]
        self.fronts = [model.feature_extractor]
        self.before_layers = [model.feature_projection, encoder.pos_conv_embed, encoder.dropout, *norms]

    @staticmethod
    def build(config: Any) -> nn.Module:
        """A model with fresh weights; its first convolution reads mel bands where ``input_bands`` says so."""
        model: Any = Upstream.build(config)
        if config.input_bands:
            first = model.feature_extractor.conv_layers[0]
            old, bias = first.conv, first.conv.bias is not None
            first.conv = nn.Conv1d(config.input_bands, old.out_channels, old.kernel_size[0], old.stride[0], bias=bias)
            nn.init.kaiming_normal_(first.conv.weight)
        return model

    def front(self, inputs: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """The convolutional encoder.

        The convolutions have no padding, so own frames see own samples only; the one leak is group
        normalisation, whose statistics run over time: it gets those of the own frames.
        """
        on_cpu = inputs.device.type == "cpu"
        if self.packed and on_cpu and len(inputs) > 1 and is_padded(lengths_B, inputs.shape[1]):
            # An utterance at a time: what fills the padding costs more than many small operations here too.
            wholes = [max(length, self.geometry.receptive_field) for length in lengths_B.tolist()]
            parts = [self.front(inputs[b : b + 1, :n], lengths_B[b : b + 1]) for b, n in enumerate(wholes)]
            conv_BTC = nn.utils.rnn.pad_sequence([conv[0] for conv, _ in parts], batch_first=True)
            return conv_BTC, torch.cat([frames for _, frames in parts])
        hidden_BCT = inputs[:, None] if inputs.ndim == 2 else inputs.transpose(1, 2)
        lengths_B = lengths_B.clamp(min=self.geometry.receptive_field)
        for layer in self.model.feature_extractor.conv_layers:
            lengths_B = (lengths_B - layer.conv.kernel_size[0]) // layer.conv.stride[0] + 1
            norm = getattr(layer, "layer_norm", None)
            if isinstance(norm, nn.LayerNorm):
                hidden_BTC = layer.activation(norm(convolve_channels_last(hidden_BCT, layer.conv).transpose(1, 2)))
                hidden_BCT = hidden_BTC.transpose(1, 2)
                continue
            with enough_bits(hidden_BCT, layer.conv.weight.shape[1]) as input_BCT:
                hidden_BCT = layer.conv(input_BCT)
            if norm is not None:
                padded = is_padded(lengths_B, hidden_BCT.shape[2])
                hidden_BCT = masked_group_norm(hidden_BCT, lengths_B, norm) if padded else norm(hidden_BCT)
            hidden_BCT = layer.activation(hidden_BCT)
        return hidden_BCT.transpose(1, 2), lengths_B

    def states(self, rows_BTC: Tensor, frames_B: Tensor, masks: Masks, counts_B: Tensor | None) -> list[Tensor]:
        """The states of ``reads``, of packed frames where ``packed`` says so."""
        if not self.packed:
            return super().states(rows_BTC, frames_B, masks, counts_B)
        counts_B = frames_B.cpu() if counts_B is None else counts_B
        packing = Packing.of(counts_B, own_frames(frames_B, rows_BTC.shape[1]), self.rows)
        hidden_ND = packing.pack(rows_BTC)
        if not isinstance(self.entry, int):
            time_mask_N = None if masks[0] is None else packing.pack(masks[0])
            feature_mask_ND = None
            if masks[1] is not None:
                feature_mask_ND = masks[1][:, 0].index_select(0, packing.places_N // rows_BTC.shape[1])
            # Residuals in float32 under autocast too: the sums over layers are where bf16 would lose most.
            hidden_ND = self.project(hidden_ND, (time_mask_N, feature_mask_ND)).float()
            hidden_ND = self._enter_layers(hidden_ND + self._positions(hidden_ND, packing))
        found = self.run_layers(
            hidden_ND, lambda layer, hidden: self.packed_layer(layer, hidden, packing, self.pre_norm)
        )
        return [packing.pad(state_ND) for state_ND in found]

    def embed(self, front_BTC: Tensor, own_BT1: Tensor, masks: Masks) -> Tensor:
        """Projection, SpecAugment, and the convolution of positions."""
        _current.own_BT1 = own_BT1
        hidden_BTD = self.project(front_BTC, masks) * own_BT1
        return self._enter_layers(hidden_BTD + self.model.encoder.pos_conv_embed(hidden_BTD))

    def _enter_layers(self, hidden: Tensor) -> Tensor:
        encoder = self.model.encoder
        return encoder.dropout(hidden if self.pre_norm else encoder.layer_norm(hidden))

    def context(self, hidden_BTD: Tensor, own_BT: Tensor | None) -> dict[str, Any]:
        """The attention's mask, and WavLM's positions."""
        if self.config.model_type != "wavlm":
            # Not transformers' own way to this mask, which waits for a GPU to find whether there is padding.
            return super().context(hidden_BTD, own_BT)
        first: Any = self.layers[0]
        bias_HTT = first.attention.compute_bias(hidden_BTD.shape[1], hidden_BTD.shape[1])
        bias = bias_HTT.repeat(hidden_BTD.shape[0], 1, 1, 1).flatten(0, 1)
        return {"attention_mask": own_BT, "position_bias": bias}

    def final(self, hidden: Tensor) -> Tensor:
        """The norm behind the last layer of models whose norms come first."""
        return self.model.encoder.layer_norm(hidden) if self.pre_norm else hidden

    def _positions(self, hidden_ND: Tensor, packing: Packing) -> Tensor:
        """The positional convolution of packed frames."""
        positions = self.model.encoder.pos_conv_embed
        single = hasattr(positions, "conv") and getattr(positions, "batch_norm", None) is None
        if self.fourier_positions and single and hidden_ND.device.type == "cpu":
            return positions.activation(convolve_positions(hidden_ND, packing.frames, positions.conv))
        _current.own_BT1 = packing.own_BT[:, :, None]
        return packing.pack(positions(packing.pad(hidden_ND)))


def _silence_padding(_layer: nn.Module, _inputs: Any, output_BDT: Tensor) -> Tensor:
    """Keep what fills the padding out of the next positional convolution.

    data2vec-audio stacks such convolutions, which have biases; some HuBERT models put a batch normalisation before
    theirs.
    """
    return output_BDT * _current.own_BT1.transpose(1, 2).to(output_BDT.dtype)
