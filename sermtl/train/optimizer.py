"""AdamW and its learning rate as a function of the update's number."""

from __future__ import annotations

import math

import torch
from torch import nn

from sermtl.config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; weight decay on matrices only, not on biases and norms."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    betas = (config.adam_betas[0], config.adam_betas[1])
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=config.adam_eps, fused=True)


def learning_rate(update: int, total: int, config: TrainConfig) -> float:
    """Rate of update ``update`` (from 0) of ``total``: linear warm-up to the peak, then decay to 0."""
    warmup = round(config.warmup_ratio * total)
    if update < warmup:
        return config.learning_rate * (update + 1) / warmup
    remaining = (total - update) / max(1, total - warmup)
    if config.lr_schedule == "cosine":
        remaining = 0.5 * (1.0 + math.cos(math.pi * (1.0 - remaining)))
    return config.learning_rate * remaining
