"""A padded batch: its own frames, and convolutions and norms over them as an encoder of padded utterances needs them.

Shape suffixes: B batch, T frames, C channels.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

BF16_CHANNELS = 32
"""Of a convolution's group, from which it may run in bf16 on a CPU: with AMX, PyTorch 2.13 (oneDNN) gives wrong values
for many kernels of 4 taps and more over 2 to 28 channels."""


def own_frames(frames_B: Tensor, total: int) -> Tensor:
    """Mask (B, T), True on each utterance's own frames."""
    return torch.arange(total, device=frames_B.device)[None] < frames_B[:, None]


def is_padded(frames_B: Tensor, total: int) -> bool:
    """Whether a batch must be taken to hold padding; a GPU is not waited for to find that it has none."""
    return frames_B.device.type != "cpu" or bool((frames_B < total).any())


def cut(padded_BT: Tensor, lengths_B: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Windows of (B, T, ...) as rows, those of an utterance one after the other, and their own lengths (R,)."""
    count = -(-padded_BT.shape[1] // window)
    more = padded_BT.new_zeros(len(padded_BT), count * window - padded_BT.shape[1], *padded_BT.shape[2:])
    lengths_BW = (lengths_B[:, None] - torch.arange(count, device=lengths_B.device) * window).clamp(0, window)
    kept_BW = lengths_BW > 0
    return torch.cat([padded_BT, more], 1).unflatten(1, (count, window))[kept_BW], lengths_BW[kept_BW]


def join(rows_RT: Tensor, lengths_B: Tensor, window: int) -> Tensor:
    """The rows of `cut`, or what was made of each, as whole utterances of these lengths again."""
    wholes = [part.flatten(0, 1) for part in rows_RT.split((-(-lengths_B // window)).tolist())]
    return nn.utils.rnn.pad_sequence(wholes, batch_first=True)[:, : int(lengths_B.max())]


@contextmanager
def enough_bits(hidden_BCT: Tensor, channels: int) -> Iterator[Tensor]:
    """The input of a convolution with ``channels`` channels a group, outside autocast where bf16 gives wrong values."""
    if torch.is_autocast_enabled("cpu") and hidden_BCT.device.type == "cpu" and 1 < channels < BF16_CHANNELS:
        with torch.autocast("cpu", enabled=False):
            yield hidden_BCT.float()
    else:
        yield hidden_BCT


def convolve_channels_last(hidden_BCT: Tensor, conv: nn.Conv1d, weight: Tensor | None = None) -> Tensor:
    """``conv`` (with another ``weight`` where one is given), with the channels of (B, C, T) side by side in memory.

    Layer normalisation and activation then read memory in order, and a CPU takes half the time or less for the
    convolutions of small encoders and for the grouped one of positions.
    """
    kernel = (conv.weight if weight is None else weight)[:, :, None].contiguous(memory_format=torch.channels_last)
    stride, padding = (1, conv.stride[0]), (0, int(conv.padding[0]))
    with enough_bits(hidden_BCT, kernel.shape[1]) as input_BCT:
        columns = input_BCT[:, :, None].contiguous(memory_format=torch.channels_last)
        return nn.functional.conv2d(columns, kernel, conv.bias, stride, padding, groups=conv.groups)[:, :, 0]


def masked_group_norm(hidden_BCT: Tensor, frames_B: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Group normalisation with one channel a group, its mean and variance over own frames only.

    Equal to ``norm`` on each utterance alone; positions beyond the own frames hold no meaning.
    """
    own_B1T = own_frames(frames_B, hidden_BCT.shape[2])[:, None]
    values = hidden_BCT.float()
    count_B11 = frames_B[:, None, None].to(values.dtype)
    mean_BC1 = (values * own_B1T).sum(2, keepdim=True) / count_B11
    centred = (values - mean_BC1) * own_B1T
    variance_BC1 = centred.square().sum(2, keepdim=True) / count_B11
    scaled = centred * torch.rsqrt(variance_BC1 + norm.eps)
    return (scaled * norm.weight[:, None] + norm.bias[:, None]).to(hidden_BCT.dtype)


def convolve_by_device(conv: nn.Conv1d, hidden_BCT: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What ``nn.Conv1d._conv_forward`` gives, by what the device is good at."""
    if hidden_BCT.device.type == "cpu":
        return convolve_channels_last(hidden_BCT, conv, weight)
    return nn.Conv1d._conv_forward(conv, hidden_BCT, weight, bias)
