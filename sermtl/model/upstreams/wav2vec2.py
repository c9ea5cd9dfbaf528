"""wav2vec 2.0 and its relatives from transformers: HuBERT, WavLM, data2vec-audio, UniSpeech-SAT.

Shape suffixes: B batch, S samples, T frames, F bands, C channels, D hidden, N frames of all utterances.
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
from transformers import AutoModel

from sermtl.model.geometry import ConvGeometry
from sermtl.model.packed import Dropout, Packing, convolve_positions, is_packable, run_layer
from sermtl.model.padded import (
    convolve_by_device,
    convolve_channels_last,
    enough_bits,
    is_padded,
    masked_group_norm,
    own_frames,
)
from sermtl.model.upstreams.base import Upstream

PACKED_FROM = 256
"""Hidden size from which arithmetic on padding costs more than many small operations."""
_current = threading.local()


class Wav2Vec2(Upstream):
    """wav2vec 2.0 or a relative; ``model`` is transformers' model of its type."""

    def __init__(self, model: nn.Module, config: Any):
        super().__init__(model, config)
        self.hidden_size, self.front_size = config.hidden_size, config.conv_dim[-1]
        self.geometry: ConvGeometry = ConvGeometry(tuple(config.conv_kernel), tuple(config.conv_stride))
        self.packed = False
        """Whether utterances are laid end to end instead of padded; see `sermtl.model.packed`."""
        self.packed_layer = run_layer
        self.fourier_positions = True
        """Whether the positional convolution of packed utterances goes through Fourier transforms on a CPU."""
        self.pre_norm: bool = getattr(config, "do_stable_layer_norm", False)
        """Whether the norms come first in a layer, and a final one last."""
        self._keep_padding_out_of_positions()
        self._make_cpu_faster()

    @staticmethod
    def load(name: str, config: Any) -> tuple[nn.Module, dict[str, Any]]:
        """A pretrained model, and transformers' notes on its weights."""
        _choose_attention(config)
        return AutoModel.from_pretrained(
            name, config=config, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )

    @staticmethod
    def build(config: Any) -> nn.Module:
        """A model with fresh weights; its first convolution reads mel bands where ``input_bands`` says so."""
        _choose_attention(config)
        model = AutoModel.from_config(config)
        if config.input_bands:
            first = model.feature_extractor.conv_layers[0]
            old, bias = first.conv, first.conv.bias is not None
            first.conv = nn.Conv1d(config.input_bands, old.out_channels, old.kernel_size[0], old.stride[0], bias=bias)
            nn.init.kaiming_normal_(first.conv.weight)
        return model

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer's layers."""
        return self.model.encoder.layers

    def fronts(self) -> list[nn.Module]:
        """The convolutional encoder."""
        return [self.model.feature_extractor]

    def before_layers(self) -> list[nn.Module]:
        """Projection and positions, and the norm behind them."""
        encoder = self.model.encoder
        norms = [] if self.pre_norm else [encoder.layer_norm]
        return [self.model.feature_projection, encoder.pos_conv_embed, encoder.dropout, *norms]

    def _make_cpu_faster(self) -> None:
        """Compute dropout and the positional convolution by what a CPU is good at; weights and names stay."""
        for parent in list(self.model.modules()):
            for name, child in parent.named_children():
                if type(child) is nn.Dropout:
                    setattr(parent, name, Dropout(child.p))
        positions = self.model.encoder.pos_conv_embed
        for layer in (positions, *getattr(positions, "layers", ())):
            if conv := getattr(layer, "conv", None):
                conv._conv_forward = partial(convolve_by_device, conv)

    @property
    def values_per_second(self) -> float:
        """Those of the first convolution."""
        return self.config.conv_dim[0] / self.geometry.strides[0] * (100 if self.input_bands else 16000)

    @property
    def packable(self) -> bool:
        """Whether ``packed`` may be set."""
        return is_packable(self.model.encoder)

    def lay_out(self, layout: str, device: torch.device) -> None:
        """Set ``packed``; `Upstream.lay_out` has the errors."""
        super().lay_out(layout, device)
        gains = self.hidden_size >= PACKED_FROM and self.packable
        self.packed = layout == "packed" or (layout == "auto" and gains)

    def compile_layers(self, backend: str = "inductor") -> None:
        """`Upstream.compile_layers`, for the layout that `lay_out` chose."""
        if self.packed:
            self.packed_layer = torch.compile(run_layer, dynamic=True, backend=backend)
        else:
            super().compile_layers(backend)

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

    def states(
        self,
        rows_BTC: Tensor,
        frames_B: Tensor,
        masks: tuple[Tensor | None, Tensor | None],
        counts_B: Tensor | None = None,
    ) -> list[Tensor]:
        """The states of ``reads``, of packed frames where ``packed`` says so."""
        if not self.packed:
            return super().states(rows_BTC, frames_B, masks)
        packing = Packing.of(frames_B.cpu() if counts_B is None else counts_B, own_frames(frames_B, rows_BTC.shape[1]))
        hidden_ND = packing.pack(rows_BTC)
        if not isinstance(self.entry, int):
            time_mask_N = None if masks[0] is None else packing.pack(masks[0])
            feature_mask_ND = None
            if masks[1] is not None:
                feature_mask_ND = masks[1].repeat_interleave(frames_B, 0, output_size=len(hidden_ND))
            hidden_ND = self._mask(self._project(hidden_ND), time_mask_N, feature_mask_ND)
            # Residuals in float32 under autocast too: the sums over layers are where bf16 would lose most.
            hidden_ND = hidden_ND.float()
            hidden_ND = self._enter_layers(hidden_ND + self._positions(hidden_ND, packing))
        return [packing.pad(state_ND) for state_ND in self.run_layers(hidden_ND, packing)]

    def embed(self, front_BTC: Tensor, frames_B: Tensor, masks: tuple[Tensor | None, Tensor | None]) -> Tensor:
        """Projection, SpecAugment, and the convolution of positions."""
        time_mask_BT, feature_mask_BD = masks
        feature_mask_B1D = None if feature_mask_BD is None else feature_mask_BD[:, None]
        hidden_BTD = self._mask(self._project(front_BTC), time_mask_BT, feature_mask_B1D)
        self._own_BT = own_BT = own_frames(frames_B, hidden_BTD.shape[1])
        if is_padded(frames_B, hidden_BTD.shape[1]):
            hidden_BTD = hidden_BTD * own_BT[:, :, None]
        return self._enter_layers(hidden_BTD + self.model.encoder.pos_conv_embed(hidden_BTD))

    def _enter_layers(self, hidden: Tensor) -> Tensor:
        encoder = self.model.encoder
        return encoder.dropout(hidden if self.pre_norm else encoder.layer_norm(hidden))

    def context(self, hidden_BTD: Tensor, frames_B: Tensor) -> dict[str, Any]:
        """The words that each layer takes: the attention's mask, and WavLM's positions."""
        own_BT = own_frames(frames_B, hidden_BTD.shape[1]) if is_padded(frames_B, hidden_BTD.shape[1]) else None
        if self.config.model_type == "wavlm":
            first: Any = self.layers[0]
            bias_HTT = first.attention.compute_bias(hidden_BTD.shape[1], hidden_BTD.shape[1])
            bias = bias_HTT.repeat(hidden_BTD.shape[0], 1, 1, 1).flatten(0, 1)
            return {"attention_mask": own_BT, "position_bias": bias}
        # Not transformers' own way to this mask, which waits for a GPU to find whether there is padding.
        return {"attention_mask": None if own_BT is None else own_BT[:, None, None]}

    def layer(self, number: int, hidden: Tensor, context: Any) -> Tensor:
        """A layer's output; during training layers are left out at random, as the model was trained."""
        layer = self.layers[number - 1]
        if layer.training and float(torch.rand([])) < self.config.layerdrop:
            return hidden
        if self.packed:
            return self.packed_layer(layer, hidden, context, self.pre_norm)
        output = layer(hidden, **context)
        return output[0] if isinstance(output, tuple) else output

    def final(self, hidden: Tensor) -> Tensor:
        """The norm behind the last layer of models whose norms come first."""
        return self.model.encoder.layer_norm(hidden) if self.pre_norm else hidden

    def _positions(self, hidden_ND: Tensor, packing: Packing) -> Tensor:
        """The positional convolution of packed frames."""
        positions = self.model.encoder.pos_conv_embed
        single = hasattr(positions, "conv") and getattr(positions, "batch_norm", None) is None
        if self.fourier_positions and single and hidden_ND.device.type == "cpu":
            return positions.activation(convolve_positions(hidden_ND, packing.frames, positions.conv))
        self._own_BT = packing.own_BT
        return packing.pack(positions(packing.pad(hidden_ND)))

    def _mask(self, hidden: Tensor, time_mask: Tensor | None, feature_mask: Tensor | None) -> Tensor:
        """SpecAugment: the mask vector in the place of masked frames, 0 in masked channels."""
        if time_mask is not None:
            hidden = torch.where(time_mask[..., None], self.model.masked_spec_embed.to(hidden.dtype), hidden)
        return hidden if feature_mask is None else hidden.masked_fill(feature_mask, 0.0)

    def _project(self, conv: Tensor) -> Tensor:
        projected = self.model.feature_projection(conv)
        return projected[0] if isinstance(projected, tuple) else projected

    @property
    def _own_BT(self) -> Tensor:
        """Mask of the current batch's frames; each thread has its own batch."""
        return _current.own_BT

    @_own_BT.setter
    def _own_BT(self, own_BT: Tensor) -> None:
        _current.own_BT = own_BT

    def _keep_padding_out_of_positions(self) -> None:
        """Silence what fills the padding before a positional convolution sees it.

        data2vec-audio stacks such convolutions, which have biases; some HuBERT models put a batch normalisation
        before theirs.
        """

        def silence_padding(_layer: nn.Module, _inputs: Any, output_BTD: Tensor) -> Tensor:
            return output_BTD * self._own_BT[:, None].to(output_BTD.dtype)

        positions = self.model.encoder.pos_conv_embed
        for layer in [*getattr(positions, "layers", []), getattr(positions, "batch_norm", None)]:
            if layer is not None:
                layer.register_forward_hook(silence_padding)


def _choose_attention(config: Any) -> None:
    """WavLM's relative positions need transformers' plain attention."""
    config._attn_implementation = "eager" if config.model_type == "wavlm" else "sdpa"
