"""What a training reads, in batches; its loader processes go on after SIGTERM until the training is saved."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass

from torch.utils.data import DataLoader

from sermtl.data.dataset import FoldDataset

WORKER_GRACE = 120
"""Seconds after which a loader process that got SIGTERM ends."""


@dataclass(frozen=True)
class Sets:
    """Training examples, and the sets that are scored after each epoch, by their name in the history."""

    train: FoldDataset
    evaluated: Mapping[str, FoldDataset]
    texts: Mapping[str, str]
    """Utterance -> normalised transcript."""


def batch_loader(dataset: FoldDataset, batches: list[list[int]], num_workers: int, pin_memory: bool) -> DataLoader:
    """A loader of given batches of indices."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=dataset.collate,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=_outlive_a_stop,
    )


def _outlive_a_stop(_worker: int) -> None:
    """Go on after SIGTERM, which queues send to all processes of a job, until the update is saved."""
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(WORKER_GRACE))
