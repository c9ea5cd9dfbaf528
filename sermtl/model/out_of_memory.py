"""Computing a batch in smaller parts where it does not fit the memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from sermtl.errors import UserError
from sermtl.model.batch import Batch

log = logging.getLogger(__name__)
T = TypeVar("T")


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
