"""What a training begins with: its settings and fold, the untrained model, its sets, and its stamp."""

from __future__ import annotations

import argparse
import logging
import platform
from collections.abc import Iterator
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import torch

from sermtl.config import TrainConfig, load_config
from sermtl.data import fold_data, fold_job
from sermtl.data.dataset import Example, FoldDataset, feature_stats
from sermtl.data.fold_data import FoldData, load_fold
from sermtl.data.stored_features import dump_name
from sermtl.errors import UserError
from sermtl.fileio.ark import DUMP_DIGESTS
from sermtl.fileio.stamp import NAME, Stamp, inputs
from sermtl.fileio.tables import PARTS, read_table
from sermtl.model.front_end import FrontEnd
from sermtl.model.multitask import MultiTaskModel
from sermtl.model.trained_model import TrainedModel
from sermtl.model.upstreams.wav2vec2 import Upstream
from sermtl.train.loader import Sets
from sermtl.train.settings_file import CODE_VERSION
from sermtl.train.trainer import Trainer

log = logging.getLogger(__name__)


def resolve(args: argparse.Namespace) -> tuple[fold_job.FoldPaths, TrainConfig, FoldData]:
    """Where a training reads and writes, what it is set to, and its fold.

    Raises:
        UserError: The settings or the fold's inputs are wrong, or do not fit each other.
    """
    paths = fold_job.fold_paths(args)
    config = load_config(TrainConfig, args.config, args.set)
    fold = load_fold(paths.data, paths.fold_dir, paths.dump, paths.tokens, config, dump_name(config))
    check_fold(config, fold, paths.fold_dir)
    return paths, config, fold


def train_stamp(paths: fold_job.FoldPaths, fold: FoldData) -> Stamp:
    """The stamp of a trained fold; its settings are in ``config.yaml``."""
    roots = {"data": paths.data, "fold": paths.fold_dir, "tokens": paths.tokens, "dump": paths.dump}
    tables = (*(f"data:{name}" for name in ("text", "utt2spk", "utt2emo")), *(f"fold:{part}" for part in PARTS))
    dumped = f"dump:{fold.dump.relative_to(paths.dump)}/{DUMP_DIGESTS}"
    names = inputs(roots, *tables, "tokens:tokens.txt", "tokens:bpe.model", dumped)
    return Stamp(paths.exp / NAME, CODE_VERSION, {}, names)


def read_by_training(fold: FoldData) -> Iterator[Example]:
    """All that a training reads."""
    return chain(*(fold.examples[part] for part in PARTS), *(copies.values() for copies in fold.perturbed.values()))


def check_fold(config: TrainConfig, fold: FoldData, fold_dir: Path) -> None:
    """Refuse settings that this fold cannot be trained with."""
    if config.alpha and not any(example.tokens for example in fold.examples["train"]):
        raise UserError(
            f"{fold_dir}/train has no transcript, so the CTC loss has no target, but alpha is {config.alpha:g}; "
            "give --alpha 0"
        )
    if config.select == "best" and not any(example.emotion >= 0 for example in fold.examples["dev"]):
        raise UserError(
            f"select: best needs a dev set, and {fold_dir}/dev has no utterance with an emotion; "
            "rerun stage 1 with --dev_ratio 0.1"
        )


def build(config: TrainConfig, fold: FoldData, upstream: Upstream) -> TrainedModel:
    """The untrained model with its front end."""
    model = MultiTaskModel(upstream, len(fold.labels), len(fold.tokenizer.tokens), len(fold.speakers))
    mean_F = std_F = None
    if config.feats_type == "fbank" and config.cmvn == "global":
        mean_F, std_F = feature_stats(fold.examples["train"])
    front_end = FrontEnd(
        config.feats_type, upstream.normalize, config.cmvn, upstream.geometry, mean_F, std_F, config.norm_vars
    )
    if config.feats_type == "conv":
        front_end = front_end.stored()
    return TrainedModel(model, front_end, fold.labels, fold.speakers, fold.tokenizer)


def make_sets(data: Path, config: TrainConfig, fold: FoldData, trained: TrainedModel) -> Sets:
    """The training set with its augmentation, and the sets scored after each epoch."""
    examples = fold.examples["train"]
    statistics = fold_data.speaker_statistics(config, fold, examples)
    masking = trained.model.upstream.masking
    train = FoldDataset(examples, trained.front_end, config, masking, fold.perturbed, statistics)
    evaluated = {}
    if fold.examples["dev"]:
        evaluated["dev"] = fold_data.evaluation_set(trained.front_end, config, fold, "dev")
    if config.monitor_test:
        evaluated["monitor_test"] = fold_data.evaluation_set(trained.front_end, config, fold, "test")
    return Sets(train, evaluated, read_table(data / "text"))


def log_summary(config: TrainConfig, fold: FoldData, trainer: Trainer) -> None:
    """What is trained, on what, with which versions."""
    versions = " ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "kaldiio"))
    on_gpu = trainer.device.type == "cuda"
    machine = torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} CPU threads"
    if trainer.ranks.world > 1:
        machine = f"{trainer.ranks.world} processes, each {machine}"
    log.info("Python %s, %s, on %s (%s)", platform.python_version(), versions, platform.node(), machine)
    sizes = ", ".join(f"{part} {len(fold.examples[part])}" for part in fold.examples)
    log.info("utterances: %s; classes: %s; speakers: %d", sizes, " ".join(fold.labels), len(fold.speakers))
    if any(example.speaker >= 0 for example in fold.examples["test"]):
        log.info("speaker-dependent: test speakers are trained on too")
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    log.info("upstream %s; %d parameters, bf16 %s", config.upstream, parameters, trainer.model.bf16)
    log.info("%d parameters are trained", sum(parameter.numel() for parameter in trainer.parameters))
