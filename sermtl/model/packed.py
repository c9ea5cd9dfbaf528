"""A wav2vec 2.0 transformer over utterances laid end to end, with hardly any arithmetic on padding.

The same weights and the same function as transformers' own encoder; dropout draws other numbers. Linear layers and
norms see all frames of a batch as the rows of one matrix, attention sees one utterance at a time (on a GPU all at once,
in float32 padded), and the positional convolution, which is slow on a CPU as a convolution of 128 taps in groups, goes
through Fourier transforms of short blocks there. Numbers of frames are known on the CPU, so a GPU is not waited for.

Shape suffixes: N frames of all utterances (and copies, see `Packing`), B utterances, D hidden, H heads, T frames of one
utterance, C channels of a group, G groups, K taps, W blocks, Q frequencies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = {"cuda": 64, "meta": 64}
"""By type of device, what a batch's number of rows is a multiple of: for each new number, cuBLAS looks for an algorithm
again, which takes longer than the product. Tests compute on ``meta`` what a GPU would."""
BLOCK = 256
"""Frames of a Fourier transform, or the power of two from twice the kernel where that is more: the transform of the
kernel costs most."""


@dataclass(frozen=True)
class Packing:
    """Where the frames of utterances laid end to end stand in a padded batch.

    Copies of the first frame, which count as an utterance of their own and are left out of what is padded again, make
    the number of rows a multiple.
    """

    frames: list[int]
    """Of each utterance."""
    places_N: Tensor
    """Rows of the padded batch's (B * T, D), on the device."""
    bounds: Tensor
    """Of each utterance in the line, and of the copies: (B + 1,) or, on the devices of `ROWS`, (B + 2,) int32."""
    own_BT: Tensor
    own: int
    """Rows without the copies."""

    @classmethod
    def of(cls, frames_B: Tensor, own_BT: Tensor, rows: Mapping[str, int]) -> Packing:
        """For numbers of frames that are on the CPU, and the mask of own frames on the device; ``rows`` as `ROWS`."""
        places_N = (torch.arange(own_BT.shape[1]) < frames_B[:, None]).flatten().nonzero()[:, 0]
        own = len(places_N)
        if multiple := rows.get(own_BT.device.type):
            copies = -own % multiple
            frames_B, places_N = F.pad(frames_B, (0, 1), value=copies), F.pad(places_N, (0, copies))
        bounds = F.pad(frames_B.cumsum(0), (1, 0)).to(torch.int32)
        places_N, bounds = (indices.to(own_BT.device, non_blocking=True) for indices in (places_N, bounds))
        return cls(frames_B.tolist(), places_N, bounds, own_BT, own)

    def pack(self, padded: Tensor) -> Tensor:
        """Rows (N, ...) of (B, T, ...)."""
        return padded.flatten(0, 1).index_select(0, self.places_N)

    def pad(self, packed: Tensor) -> Tensor:
        """(B, T, ...) of rows (N, ...), 0 elsewhere."""
        padded = packed.new_zeros((self.own_BT.numel(), *packed.shape[1:]))
        return padded.index_copy(0, self.places_N[: self.own], packed[: self.own]).unflatten(0, self.own_BT.shape)


def is_packable(encoder: Any) -> bool:
    """Whether `encode` can compute an encoder (not one with WavLM's relative positions)."""
    parts = {"feed_forward.intermediate_dense", "final_layer_norm"}
    parts |= {f"attention.{name}_proj" for name in ("q", "k", "v", "out")}
    return all(
        parts <= {name for name, _ in layer.named_modules()}
        and not (hasattr(layer.attention, "rel_attn_embed") or getattr(layer, "adapter_layer", None))
        for layer in encoder.layers
    )


def run_layer(layer: Any, hidden_ND: Tensor, packing: Packing, pre_norm: bool) -> Tensor:
    """What ``Wav2Vec2EncoderLayer`` or a relative, with the norms first or not, makes of each utterance alone."""
    normed_ND = layer.layer_norm(hidden_ND) if pre_norm else hidden_ND
    hidden_ND = hidden_ND + layer.dropout(_attend(layer.attention, normed_ND, packing))
    if pre_norm:
        return hidden_ND + _feed_forward(layer.feed_forward, layer.final_layer_norm(hidden_ND))
    hidden_ND = layer.layer_norm(hidden_ND)
    return layer.final_layer_norm(hidden_ND + _feed_forward(layer.feed_forward, hidden_ND))


def _attend(attention: Any, hidden_ND: Tensor, packing: Packing) -> Tensor:
    """Self-attention within each utterance."""
    # One product for the three: under autocast the frames are rounded once, and their gradient is not summed in parts.
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    weight_ED, bias_E = (torch.cat([getattr(part, name) for part in projections]) for name in ("weight", "bias"))
    projected_NKHD = F.linear(hidden_ND, weight_ED, bias_E).unflatten(1, (3, attention.num_heads, attention.head_dim))
    share = attention.dropout if attention.training else 0.0
    if hidden_ND.device.type != "cpu":
        attend = attend_varlen if projected_NKHD.dtype == torch.bfloat16 else attend_padded
        return attention.out_proj(attend(projected_NKHD, packing, share).flatten(1))
    queries, keys, values = (part.transpose(0, 1).split(packing.frames, 1) for part in projected_NKHD.unbind(1))
    mixed = []
    for query_HTD, key_HTD, value_HTD in zip(queries, keys, values, strict=True):
        if not share:
            mixed.append(F.scaled_dot_product_attention(query_HTD[None], key_HTD[None], value_HTD[None])[0])
            continue
        weights_HTT = ((query_HTD * attention.scaling) @ key_HTD.transpose(1, 2)).softmax(-1)
        mixed.append(_drop(weights_HTT, share) @ value_HTD)
    return attention.out_proj(torch.cat(mixed, 1).transpose(0, 1).flatten(1))


def attend_padded(projected_NKHD: Tensor, packing: Packing, dropout: float) -> Tensor:
    """What queries, keys and values (K = 3) of each utterance make (N, H, D), all utterances at once."""
    padded_BTKHD = packing.pad(projected_NKHD)
    query_BHTD, key_BHTD, value_BHTD = (part.transpose(1, 2) for part in padded_BTKHD.unbind(2))
    own_B11T = packing.own_BT[:, None, None]
    return packing.pack(
        F.scaled_dot_product_attention(query_BHTD, key_BHTD, value_BHTD, own_B11T, dropout).transpose(1, 2)
    )


def attend_varlen(projected_NKHD: Tensor, packing: Packing, dropout: float) -> Tensor:
    """The same on a GPU in bf16, without padding.

    ``torch.nn.attention.varlen`` calls this operation too, but has no dropout.
    """
    longest = max(packing.frames)
    bounds = packing.bounds, packing.bounds, longest, longest
    return torch.ops.aten._flash_attention_forward(*projected_NKHD.unbind(1), *bounds, dropout, False, False)[0]


def _feed_forward(layer: Any, hidden_ND: Tensor) -> Tensor:
    inner = layer.intermediate_dropout(layer.intermediate_act_fn(layer.intermediate_dense(hidden_ND)))
    return layer.output_dropout(layer.output_dense(inner))


class Dropout(nn.Dropout):
    """PyTorch's dropout, with cheaper draws on a CPU."""

    def forward(self, values: Tensor) -> Tensor:
        """Values of any shape, of which a share is 0 during training and the others are scaled up."""
        return _drop(values, self.p) if self.training and self.p else values


def _drop(values: Tensor, share: float) -> Tensor:
    """Dropout whose mask is made of 16 random bits a value: PyTorch's own draws a double each, on one CPU core.

    The share that is dropped is the next multiple of 2^-16, and the scale is that share's.
    """
    if values.device.type != "cpu":
        return F.dropout(values, share)
    dropped = round(share * 65536)
    bits = torch.empty(-(-values.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    keep = bits.view(torch.int16)[: values.numel()].view(values.shape) >= dropped - 32768
    return values * keep.to(values.dtype).mul_(65536 / (65536 - dropped))


def convolve_positions(hidden_ND: Tensor, frames: Sequence[int], conv: nn.Conv1d) -> Tensor:
    """A grouped convolution on a CPU, centred and zero-padded within each utterance, in float32.

    Utterances are laid on one line with gaps of zeros as wide as half the kernel, the line is cut into blocks that
    overlap by the kernel, and a block's correlation with the kernel is a product of their Fourier transforms. Gives as
    many frames (an even kernel's last output is dropped, as transformers does).
    """
    with torch.autocast(hidden_ND.device.type, enabled=False):
        taps, gap, groups = conv.kernel_size[0], conv.kernel_size[0] // 2, conv.groups
        block = max(BLOCK, 1 << (2 * taps - 1).bit_length())
        hop = block - taps + 1
        # On the line, a gap stands before the first utterance and after each.
        utterance_N = torch.arange(len(frames)).repeat_interleave(torch.tensor(frames))
        places_N = torch.arange(len(hidden_ND)) + gap * (utterance_N + 1)
        total = gap + len(hidden_ND) + gap * len(frames)
        blocks = -(-total // hop)
        line_LD = hidden_ND.new_zeros((blocks * hop + taps - 1, hidden_ND.shape[1]), dtype=torch.float32)
        line_LD = line_LD.index_copy(0, places_N, hidden_ND.float())
        spectrum_WDQ = _Spectrum.apply(line_LD.unfold(0, block, hop), block)
        spectrum_GQWC = spectrum_WDQ.unflatten(1, (groups, -1)).permute(1, 3, 0, 2)
        kernel_DCQ = _Spectrum.apply(conv.weight.float(), block)
        kernel_GQCC = kernel_DCQ.unflatten(0, (groups, -1)).conj().permute(0, 3, 2, 1)
        product_WDQ = (spectrum_GQWC @ kernel_GQCC).permute(2, 0, 3, 1).flatten(1, 2)
        output_LD = torch.fft.irfft(product_WDQ, n=block)[:, :, :hop].transpose(1, 2).flatten(0, 1)
        output_ND = output_LD[places_N - gap]
        return output_ND if conv.bias is None else output_ND + conv.bias


class _Spectrum(torch.autograd.Function):
    """``torch.fft.rfft`` over the last dimension, continued with zeros to ``length``, an even number.

    Its gradient is one real transform; PyTorch's own is a complex one of twice the size.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, length: int) -> Tensor:
        """Frequencies (..., length / 2 + 1)."""
        ctx.kept, ctx.length = values.shape[-1], length
        return torch.fft.rfft(values, n=length)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """The adjoint: an inverse transform counts all frequencies but the first and the last twice."""
        once = gradient * 0.5
        once[..., 0] *= 2
        once[..., -1] *= 2
        return torch.fft.irfft(once, n=ctx.length, norm="forward")[..., : ctx.kept], None
