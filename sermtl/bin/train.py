"""Stage 3: train one fold, from its checkpoint if there is one.

    python -m sermtl.bin.train --config conf/mini.yaml --set beta=1 --data data/mini \\
        --folds_dir data/mini/folds/speaker --dump dump/mini --tokens dump/mini/tokens/speaker --exp exp/T --folds 01F

With --ngpu 2 or more, or --num_nodes, this starts a process for each GPU by torchrun.
"""

import argparse
import signal
import sys
from pathlib import Path

from sermtl.config import TrainConfig, load_config
from sermtl.data import fold_job
from sermtl.data.fold_job import from_torchrun
from sermtl.errors import UserError, command
from sermtl.train.fold import train_fold
from sermtl.train.launch import launch
from sermtl.train.processes import STOPPED, Ranks, exit_with


@command
def main() -> int:
    """Train the folds of this job."""
    args = parse()
    processes = max(1, args.ngpu)
    if processes * args.num_nodes > 1 and not from_torchrun("WORLD_SIZE", 0):
        fold_job.check_gpus(args.ngpu)
        return launch("sermtl.bin.train", sys.argv[1:], processes, args.num_nodes)
    device = fold_job.set_up(args)
    ranks = Ranks.join(device)
    config = load_config(TrainConfig, args.config, args.set)
    folds, failed = fold_job.own_folds(args), 0
    for paths in folds:
        try:
            status = train_fold(paths, config, device, ranks)
        except UserError as error:
            if len(folds) == 1:
                raise
            print(f"error: {paths.exp}: {error}", file=sys.stderr)  # the job's other folds do not suffer for it
            failed = status = error.status
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # until the next fold's trainer is there to save something
        if status == STOPPED:
            return status
    return failed


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="training settings (YAML)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings to override")
    parser.add_argument("--num_nodes", type=int, default=1, help="nodes of this job")
    fold_job.add_arguments(parser)
    return parser.parse_args()


if __name__ == "__main__":
    exit_with(main)
