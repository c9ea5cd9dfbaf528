"""Trainings by several processes on this machine's CPU, as torchrun starts them but forked from one that has torch."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_corpus import RAW_GEOMETRY, SmallCorpus, make_small_corpus, run_program

# A fork of this process would not do: autograd has run in it.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["sermtl.bin.train", "torch.utils.tensorboard", "transformers.models.wav2vec2.modeling_wav2vec2"]
)


# Without dropout, whose draws are each process's own; SpecAugment stays.
DROPOUTS = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "final_dropout")
SETTINGS = {"epochs": 3, "batch_size": 5, "accum_grad": 2, "bucket_batches": 2, "alpha": 0.2, "weight_decay": 0.01}


def small_corpus_without_dropout(folder: Path) -> SmallCorpus:
    """Of its 16 training utterances an epoch's last update has one, so that two of three processes have none."""
    corpus = make_small_corpus(folder, speakers=3, each=8)
    geometry = RAW_GEOMETRY | dict.fromkeys(DROPOUTS, 0.0)
    (corpus.root / "raw_geometry.yaml").write_text(yaml.safe_dump(geometry))
    return corpus


def words(corpus: SmallCorpus, exp: Path, **settings: object) -> list[object]:
    return ["--config", corpus.config(**(SETTINGS | settings)), *corpus.arguments(exp)]


def records(exp: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (exp / "s0" / "history.jsonl").read_text().splitlines()]


def numbers(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """An epoch's numbers by their path, without the seconds."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        flat |= numbers(value, f"{key}.") if isinstance(value, dict) else {prefix + key: value}
    flat.pop("seconds", None)
    return flat


def check_same(exp: Path, alone: Path) -> None:
    for got, wanted in zip(records(exp), records(alone), strict=True):
        wanted = {name: v if v is None else pytest.approx(v, rel=1e-4, abs=1e-6) for name, v in numbers(wanted).items()}
        assert numbers(got) == wanted
    ours, theirs = (load_file(folder / "s0" / "model.safetensors") for folder in (exp, alone))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-4, msg=name)


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
