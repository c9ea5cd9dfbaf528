"""One fold by several processes: the same training as by one, and no process waits for another that has ended."""

from __future__ import annotations

import functools
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import check_same, records, small_corpus_without_dropout, statuses, train_together, words
from small_corpus import SmallCorpus, run_program

from sermtl.bin import train as program
from sermtl.data.dataset import FoldDataset
from sermtl.train.processes import STOPPED
from sermtl.train.trainer import Trainer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> SmallCorpus:
    return small_corpus_without_dropout(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def alone(corpus: SmallCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    exp = tmp_path_factory.mktemp("alone")
    assert run_program(program.main, *words(corpus, exp, monitor_test=True)) == 0
    return exp


@pytest.mark.parametrize("world", [2, 3])
def test_the_loss_curve_is_that_of_one_process(corpus: SmallCorpus, alone: Path, tmp_path: Path, world: int) -> None:
    assert statuses(train_together(world, words(corpus, tmp_path, monitor_test=True))) == [0] * world
    check_same(tmp_path, alone)


# What happens in one process, in the third update or so


def signal_in(method: str, call: int, number: int, who: int, rank: int) -> None:
    """Have process ``who`` signal itself when a trainer's method is called for the ``call``-th time."""
    real, calls = getattr(Trainer, method), []

    def signalled(self: Trainer, *args: Any) -> Any:
        calls.append(args)
        if len(calls) == call and rank == who:
            os.kill(os.getpid(), number)
        return real(self, *args)

    setattr(Trainer, method, signalled)


def raise_in_update(rank: int) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("this process's own error")

    if rank == 1:
        Trainer.count_updates = fail  # type: ignore[method-assign]


def spoil(rank: int) -> None:
    """Make one utterance no number, whoever reads it."""
    real = FoldDataset.__getitem__

    def spoilt(self: FoldDataset, index: int) -> Any:
        example, features, *masks = real(self, index)
        bad = example.utterance == "s1-03" and self.config is not None
        return example, np.full_like(features, np.nan) if bad else features, *masks

    FoldDataset.__getitem__ = spoilt  # type: ignore[method-assign]


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize(("method", "call"), [("update", 6), ("evaluate", 2)])
def test_sigterm_saves_and_another_number_goes_on(
    corpus: SmallCorpus, alone: Path, tmp_path: Path, first: int, then: int, method: str, call: int
) -> None:
    given = words(corpus, tmp_path, monitor_test=True, save_minutes=0.0)
    stop = functools.partial(signal_in, method, call, signal.SIGTERM, first - 1)
    assert statuses(train_together(first, given, stop)) == [STOPPED] * first
    assert not (tmp_path / "s0" / "model.safetensors").exists()
    assert statuses(train_together(then, given)) == [0] * then
    check_same(tmp_path, alone)
    log = (tmp_path / "s0" / "train.log").read_text()
    assert [log.count(f"epoch {epoch}/3") for epoch in (1, 2, 3)] == [1, 1, 1]
    assert log.count("resumed after") == 1
    assert len(list((tmp_path / "s0" / "tensorboard").iterdir())) == 1


def test_a_killed_process_ends_the_others(corpus: SmallCorpus, tmp_path: Path) -> None:
    kill = functools.partial(signal_in, "update", 3, signal.SIGKILL, 1)
    assert statuses(train_together(3, words(corpus, tmp_path), kill)) == [3, -9, 3]


def test_an_error_in_one_process_ends_the_others(corpus: SmallCorpus, tmp_path: Path) -> None:
    assert statuses(train_together(2, words(corpus, tmp_path), raise_in_update)) == [3, 1]
    # Of the first, before the training begins: other settings than the folder's.
    assert statuses(train_together(2, words(corpus, tmp_path, epochs=1))) == [0, 0]
    assert statuses(train_together(2, words(corpus, tmp_path, epochs=1, beta=1.0))) == [2, 3]
    assert statuses(train_together(2, words(corpus, tmp_path, epochs=1))) == [0, 0]


def test_an_update_that_one_process_cannot_use_is_skipped_by_all(
    corpus: SmallCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert statuses(train_together(2, words(corpus, tmp_path / "two"), spoil)) == [0, 0]
    monkeypatch.setattr(FoldDataset, "__getitem__", FoldDataset.__getitem__)
    spoil(0)
    assert run_program(program.main, *words(corpus, tmp_path / "one")) == 0
    check_same(tmp_path / "two", tmp_path / "one")
    assert [record["train"]["nonfinite"] for record in records(tmp_path / "two")] == [1, 1, 1]
    log = (tmp_path / "two" / "s0" / "train.log").read_text()
    assert log.count("s1-03") == 3
