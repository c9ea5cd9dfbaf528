"""A batch of utterances as tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass
class Batch:
    """Inputs and targets; a missing emotion or speaker is -1, a missing transcript has length 0."""

    utterances: list[str]
    inputs: Tensor
    """Waveforms (B, S) or features (B, T, F), continued with zeros."""
    lengths_B: Tensor
    """Own samples or feature frames."""
    emotions_B: Tensor
    speakers_B: Tensor
    tokens_BN: Tensor
    """Token ids, continued with 0."""
    token_lengths_B: Tensor
    time_mask_BT: Tensor | None = None
    """Upstream frames that SpecAugment replaces."""
    feature_mask_BD: Tensor | None = None
    """Hidden channels that SpecAugment sets to 0."""
    frames_B: Tensor | None = None
    """Upstream frames of each, where they are known before the upstream runs."""

    def to(self, device: torch.device) -> Batch:
        """The batch on a device; copies from pinned memory do not wait.

        ``frames_B`` and ``token_lengths_B`` stay on the CPU, where the CTC loss reads them.
        """
        moved = self._each(lambda tensor: tensor.to(device, non_blocking=True))
        return replace(moved, frames_B=self.frames_B, token_lengths_B=self.token_lengths_B)

    def halves(self) -> list[Batch]:
        """Two batches of half the utterances, the first of them first; itself where it has one."""
        count = len(self.utterances)
        if count < 2:
            return [self]
        rows = (slice(0, -(-count // 2)), slice(-(-count // 2), count))
        return [replace(self._each(lambda tensor, r=row: tensor[r]), utterances=self.utterances[row]) for row in rows]  # type: ignore[misc]

    def pin_memory(self) -> Batch:
        """The batch in pinned memory (called by the loader)."""
        return self._each(Tensor.pin_memory)

    def _each(self, function: Callable[[Tensor], Tensor]) -> Batch:
        moved: dict[str, Any] = {name: function(v) for name, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)
