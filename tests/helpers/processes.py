"""Trainings by several processes on this machine's CPU, as torchrun starts them but forked from one that has torch."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

from small_corpus import run_program

# A fork of this process would not do: autograd has run in it.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["sermtl.bin.train", "torch.utils.tensorboard", "transformers.models.wav2vec2.modeling_wav2vec2"]
)


def train_together(
    world: int, words: list[object], change: Callable[[Any], None] | None = None
) -> list[multiprocessing.process.BaseProcess]:
    """Start the training program in ``world`` processes; ``change`` is called in each before, with its rank."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    processes = [CONTEXT.Process(target=_train, args=(rank, world, port, words, change)) for rank in range(world)]
    for process in processes:
        process.start()
    return list(processes)


def statuses(processes: list[multiprocessing.process.BaseProcess], seconds: float = 60) -> list[int | None]:
    """Wait until they end; None stands for one that did not."""
    for process in processes:
        process.join(seconds)
    ends = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return ends


def _train(rank: int, world: int, port: int, words: list[object], change: Callable[[Any], None] | None) -> None:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ.update({name: str(number) for name, number in numbers.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", TORCHELASTIC_RUN_ID="test")
    from sermtl.bin import train as program

    if change is not None:
        change(rank)
    raise SystemExit(run_program(program.main, *words))
