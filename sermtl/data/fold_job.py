"""What the training and decoding programs share: their paths, device, log and front end."""

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from sermtl.errors import UserError
from sermtl.model.precision import use_whole_float32

log = logging.getLogger(__name__)
LOG_FORMAT = "%(asctime)s (%(filename)s:%(lineno)d:%(funcName)s) %(message)s"
LOG_DATE = "%Y-%m-%dT%H:%M:%S"
PATHS = {
    "data": "data directory, e.g. data/mini",
    "folds_dir": "a protocol's folds, e.g. data/mini/folds/speaker",
    "dump": "parent of the dump directories, e.g. dump/mini",
    "tokens": "parent of the folds' token lists, e.g. dump/mini/tokens/speaker",
    "exp": "directory of the experiment, e.g. exp/<tag>",
}


@dataclass(frozen=True)
class FoldPaths:
    """Where one fold's job reads and writes."""

    data: Path
    fold_dir: Path
    dump: Path
    tokens: Path
    exp: Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the paths of an experiment, the fold's choice, ``--ngpu`` and ``--num_threads``."""
    for name, text in PATHS.items():
        parser.add_argument(f"--{name}", type=Path, required=True, help=text)
    parser.add_argument("--folds", nargs="+", required=True, metavar="FOLD", help="fold names")
    parser.add_argument("--job", type=int, default=1, help="which job this is, from 1")
    parser.add_argument("--jobs", type=int, default=0, help="jobs that share --folds (default: one for each fold)")
    parser.add_argument("--ngpu", type=int, default=0, help="GPUs of this job on each of its hosts")
    parser.add_argument("--num_threads", type=int, default=1, help="CPU threads of this job")


def own_folds(args: argparse.Namespace) -> list[FoldPaths]:
    """The paths of the job's own folds: one, or each ``--jobs``-th; `UserError` where there is no such job."""
    jobs = args.jobs or len(args.folds)
    if not 1 <= args.job <= jobs:
        raise UserError(f"--job {args.job}: there are {jobs} jobs")
    return [
        FoldPaths(args.data, args.folds_dir / fold, args.dump, args.tokens / fold, args.exp / fold)
        for fold in args.folds[args.job - 1 :: jobs]
    ]


def set_up(args: argparse.Namespace) -> torch.device:
    """Start the log, set the threads, and choose the device.

    Of several processes that torchrun has started, the first logs, and each has a GPU and its part of the threads.
    """
    level = logging.ERROR if from_torchrun("RANK", 0) else logging.INFO
    logging.basicConfig(stream=sys.stdout, level=level, format=LOG_FORMAT, datefmt=LOG_DATE)
    torch.set_num_threads(max(1, args.num_threads // from_torchrun("LOCAL_WORLD_SIZE", 1)))
    check_gpus(args.ngpu)
    if not args.ngpu:
        return torch.device("cpu")
    use_whole_float32()
    torch.cuda.set_device(from_torchrun("LOCAL_RANK", 0))
    return torch.device("cuda", torch.cuda.current_device())


def check_gpus(wanted: int) -> None:
    """Refuse to begin (`UserError`) without the GPUs that were asked for."""
    seen = torch.cuda.device_count() if wanted else 0
    if seen < wanted:
        raise UserError(
            f"--ngpu {wanted}: PyTorch sees {seen or 'no'} GPU{'s' * (seen > 1)} here; "
            f"use --ngpu {seen}, or a build of PyTorch that fits the driver"
        )


@contextlib.contextmanager
def also_logged_to(path: Path, wanted: bool = True) -> Iterator[None]:
    """Add what is logged meanwhile to a file too: a fold's ``train.log`` over all of its runs."""
    handler = logging.FileHandler(path, encoding="utf-8") if wanted else logging.NullHandler()
    handler.setFormatter(logging.Formatter(LOG_FORMAT, LOG_DATE))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def from_torchrun(name: str, alone: int) -> int:
    """A number that torchrun gave this process; ``alone`` where it was not started by it."""
    return int(os.environ[name]) if dist.is_torchelastic_launched() else alone
