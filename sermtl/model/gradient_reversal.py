"""Gradient reversal (Ganin et al. 2016), with a scale of either sign."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.scale, None


def scale_gradient(values: Tensor, scale: float) -> Tensor:
    """``values`` unchanged; their gradient times ``scale`` (negative: reversed; 0: none comes through)."""
    return _ScaleGradient.apply(values, scale)


def reversal_scale(beta: float, grl: str, schedule: str, progress: float) -> float:
    """The factor of the speaker head's gradient at the encoder.

    Args:
        beta: Its size, 0 or more.
        grl: ``reverse`` (negative) or ``forward`` (positive).
        schedule: ``constant``, or ``dann``: 2 / (1 + exp(-10 p)) - 1 (Ganin et al. 2016, section 5.2.2).
        progress: p, from 0 at the first update to 1 at the last.
    """
    ramp = 2.0 / (1.0 + math.exp(-10.0 * progress)) - 1.0 if schedule == "dann" else 1.0
    return beta * ramp * (-1.0 if grl == "reverse" else 1.0)
