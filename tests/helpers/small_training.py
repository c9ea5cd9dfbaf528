"""Trainings of the small corpus in this process, as the program makes them, and what they leave."""

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file
from small_corpus import make_small_corpus, run_program

from sermtl.bin import train as program
from sermtl.config import TrainConfig, load_config
from sermtl.data.fold_data import load_fold
from sermtl.model.upstreams.load import load_upstream
from sermtl.train.fold import build, make_sets
from sermtl.train.trainer import Trainer

CPU = torch.device("cpu")
EVERYTHING_RANDOM = {
    "speed_perturb": [0.9, 1.0], "bucket_batches": 2, "accum_grad": 2, "batch_size": 4, "grl_schedule": "dann",
    "lr_schedule": "cosine", "epochs": 4, "alpha": 0.2, "weight_decay": 0.01,
}  # fmt: skip


def make_training_corpus(folder):
    """The small corpus with a dev list and copies at another speed."""
    corpus = make_small_corpus(folder, dev_ratio=0.2)
    corpus.dump_audio("raw", speed=0.9)
    return corpus


def train(corpus, exp, feats_type="raw", fold="s0", **settings):
    return run_program(program.main, "--config", corpus.config(feats_type, **settings), *corpus.arguments(exp, fold))


def make_trainer(corpus, exp, feats_type="raw", **settings):
    """A trainer as the program makes it."""
    config = load_config(TrainConfig, corpus.config(feats_type, **settings))
    fold = load_fold(corpus.data, corpus.folds_dir / "s0", corpus.dump, corpus.tokens / "s0", config)
    torch.manual_seed(config.seed)
    trained = build(config, fold, load_upstream(config.upstream))
    exp.mkdir(exist_ok=True)
    return Trainer(trained, config, make_sets(config, fold, trained), exp, CPU)


def weights(exp, fold="s0"):
    return load_file(exp / fold / "model.safetensors")


def records(exp, fold="s0"):
    """The history, as strict JSON, without the seconds."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    lines = (exp / fold / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line, parse_constant=refuse).items() if k != "seconds"} for line in lines]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def contents(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


class Killed(BaseException):
    """What no handler of the program catches."""


def kill_in(monkeypatch, method, call, how="after"):
    """Die in a call of a trainer's method; ``how``: before it, after it, or by SIGTERM during it."""
    real, calls = getattr(Trainer, method), []

    def deadly(self, *args):
        calls.append(args)
        if len(calls) == call and how == "before":
            raise Killed
        if len(calls) == call and how == "sigterm":
            os.kill(os.getpid(), signal.SIGTERM)
        result = real(self, *args)
        if len(calls) == call and how == "after":
            raise Killed
        return result

    monkeypatch.setattr(Trainer, method, deadly)


def train_killed(corpus, exp, method, call, how="after", **settings):
    """Begin a training that dies as `kill_in` has it."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_in(patch, method, call, how)
        train(corpus, exp, **settings)
