"""AdamW and its learning rate as a function of the update's number."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from sermtl.config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; weight decay on matrices only, not on biases and norms."""
    groups: list[dict[str, Any]] = []
    for upstream in (True, False):
        parameters = [
            parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and name.startswith("upstream.") == upstream
        ]
        peak = config.learning_rate if upstream or not config.head_learning_rate else config.head_learning_rate
        for matrices, decay in ((True, config.weight_decay), (False, 0.0)):
            chosen = [parameter for parameter in parameters if (parameter.ndim > 1) == matrices]
            if chosen:
                groups.append({"params": chosen, "weight_decay": decay, "peak": peak})
    betas = (config.adam_betas[0], config.adam_betas[1])
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=config.adam_eps, fused=True)


def rate_share(update: int, total: int, config: TrainConfig) -> float:
    """Share of the peak at update ``update`` (from 0) of ``total``: linear warm-up to 1, then as the schedule says.

    Update ``total``, which would follow the last, has 0.
    """
    warmup = round(config.warmup_ratio * total)
    if update < warmup:
        return (update + 1) / warmup
    if config.lr_schedule == "constant":
        return 1.0
    remaining = (total - update) / max(1, total - warmup)
    if config.lr_schedule == "cosine":
        remaining = 0.5 * (1.0 + math.cos(math.pi * (1.0 - remaining)))
    return remaining
