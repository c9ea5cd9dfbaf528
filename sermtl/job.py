"""What the training and decoding programs share: their paths, device, log and front end."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from sermtl.config import TrainConfig
from sermtl.dataset import Example, FoldDataset, FrontEnd, feature_stats
from sermtl.errors import UserError
from sermtl.fold_data import FoldData

PATHS = {
    "data": "data directory, e.g. data/mini",
    "fold_dir": "directory of the fold's lists, e.g. data/mini/folds/speaker/01F",
    "dump": "parent of the dump directories, e.g. dump/mini",
    "tokens": "directory of the fold's tokens.txt",
    "exp": "directory of the fold's experiment, e.g. exp/<tag>/01F",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the paths of a fold, ``--ngpu`` and ``--num_threads``."""
    for name, text in PATHS.items():
        parser.add_argument(f"--{name}", type=Path, required=True, help=text)
    parser.add_argument("--ngpu", type=int, default=0, choices=[0, 1], help="GPUs of this job")
    parser.add_argument("--num_threads", type=int, default=1, help="CPU threads of this job")


def set_up(args: argparse.Namespace) -> torch.device:
    """Start the log, set the threads, and choose the device.

    Raises:
        UserError: A GPU was asked for and none is usable.
    """
    logging.basicConfig(
        stream=sys.stdout,
        level=logging.INFO,
        format="%(asctime)s (%(filename)s:%(lineno)d:%(funcName)s) %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    torch.set_num_threads(args.num_threads)
    if args.ngpu and not torch.cuda.is_available():
        raise UserError("--ngpu 1: PyTorch sees no GPU here; use --ngpu 0, or a build of PyTorch that fits the driver")
    return torch.device("cuda" if args.ngpu else "cpu")


def speaker_statistics(
    config: TrainConfig, fold: FoldData, examples: Sequence[Example]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and deviation of each speaker's own unlabelled features, where ``cmvn: speaker`` asks for them."""
    if config.feats_type != "fbank" or config.cmvn != "speaker":
        return {}
    names = {example.speaker_name for example in examples}
    return {name: feature_stats(fold.speaker_entries[name]) for name in sorted(names)}


def evaluation_set(front_end: FrontEnd, config: TrainConfig, fold: FoldData, part: str) -> FoldDataset:
    """A fold's list without augmentation."""
    examples = fold.examples[part]
    return FoldDataset(examples, front_end, speaker_stats=speaker_statistics(config, fold, examples))
