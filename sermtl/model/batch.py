"""A batch of utterances as tensors, and computing it in smaller parts where it does not fit the memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from sermtl.errors import UserError

log = logging.getLogger(__name__)
T = TypeVar("T")


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


def is_exhausted(error: RuntimeError) -> bool:
    """Whether an error means that the memory is used up; PyTorch has no class of errors for a CPU's memory."""
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


def smaller(parts: list[Batch], error: RuntimeError) -> list[Batch]:
    """Parts that did not fit the memory, cut in two.

    Raises:
        UserError: They hold an utterance each already; the message names the longest.
    """
    largest = max(parts, key=lambda part: part.inputs.numel())
    names = " ".join(largest.utterances)
    if all(len(part.utterances) == 1 for part in parts):
        raise UserError(
            f"out of memory with the utterance {names} alone ({int(largest.lengths_B[0])} inputs): {error}; "
            "use a machine with more memory, precision=bf16, or leave such utterances out"
        ) from error
    log.warning("out of memory with %s: computed again in smaller parts", names)
    return [half for part in parts for half in part.halves()]


def in_parts(batch: Batch, compute: Callable[[Batch], T]) -> Iterator[tuple[Batch, T]]:
    """A batch and what is computed of it, in parts where the whole does not fit the memory.

    Raises:
        UserError: A single utterance does not fit.
    """
    parts = [batch]
    while parts:
        part, result = parts.pop(0), None
        try:
            result = compute(part)
        except RuntimeError as error:
            if not is_exhausted(error):
                raise
            parts = smaller([part], error) + parts
        if result is not None:
            yield part, result
        else:  # the error no longer holds what was computed
            release(part.inputs.device)


def release(device: torch.device) -> None:
    """Give memory that nothing holds any more back to a GPU."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
