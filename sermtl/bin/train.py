"""Stage 3: train one fold, from its checkpoint if there is one.

    python -m sermtl.bin.train --config conf/mini.yaml --set beta=1 --data data/mini \\
        --folds_dir data/mini/folds/speaker --dump dump/mini --tokens dump/mini/tokens/speaker --exp exp/T --folds 01F

With --ngpu 2 or more, or --num_nodes, this starts a process for each GPU by torchrun.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from sermtl.data import fold_job
from sermtl.data.fold_data import refuse_cut_arks
from sermtl.data.fold_job import from_torchrun
from sermtl.errors import UserError, command
from sermtl.fileio import lock
from sermtl.fileio.files import write_text
from sermtl.model.geometry import check_feats_type
from sermtl.model.trained_model import save_description
from sermtl.model.upstreams.load import load_upstream
from sermtl.seeding import derive_seed
from sermtl.train import history
from sermtl.train.launch import launch
from sermtl.train.processes import Ranks, exit_with
from sermtl.train.settings_file import FILES, LABELS, STOPPED, choose_precision, resolved_settings, write_config_once
from sermtl.train.setup import build, log_summary, make_sets, read_by_training, resolve, train_stamp
from sermtl.train.trainer import Interrupted, Trainer

log = logging.getLogger("sermtl.bin.train")


@command
def main() -> int:
    """Train one fold."""
    args = parse()
    processes = max(1, args.ngpu)
    if processes * args.num_nodes > 1 and not from_torchrun("WORLD_SIZE", 0):
        fold_job.check_gpus(args.ngpu)
        return launch("sermtl.bin.train", sys.argv[1:], processes, args.num_nodes, STOPPED)
    device = fold_job.set_up(args)
    ranks = Ranks.join(device)
    paths, config, fold = resolve(args)
    precision = ranks.from_first(choose_precision(config, paths.exp, device))
    if ranks.first:
        write_config_once(paths.exp, resolved_settings(paths, config, fold) | {"computed_in": precision})
    made = train_stamp(paths, fold)
    if ranks.from_first(not made.changed() and history.is_finished(paths.exp, config)):
        log.info("nothing changed: %s is trained already (%d epochs)", paths.exp, config.epochs)
        return 0
    refuse_cut_arks(read_by_training(fold))
    if ranks.first:
        lock.hold(paths.exp)
        fold_job.log_also_to(paths.exp / "train.log")
        write_text(args.exp / LABELS, "".join(f"{label}\n" for label in fold.labels))

    if config.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # PyTorch refuses to be deterministic without
        torch.use_deterministic_algorithms(True)
    torch.manual_seed(derive_seed(config.seed, "weights"))
    upstream = load_upstream(config.upstream)
    check_feats_type(config.upstream, config.feats_type, upstream.input_bands)
    trained = build(config, fold, upstream)
    trained.model.bf16 = precision == "bf16"
    upstream.lay_out(config.layout, device)
    if ranks.first:
        save_description(paths.exp, trained, paths.tokens)
    trainer = Trainer(trained, config, make_sets(paths.data, config, fold, trained), paths.exp, device, ranks)
    log_summary(config, fold, trainer)
    signal.signal(signal.SIGTERM, trainer.stop_soon)
    try:
        trainer.run()
    except Interrupted:
        log.warning("stopped by SIGTERM after saving %s; the same command goes on from there", paths.exp)
        return STOPPED
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"{error}: killed, or out of memory? The same command goes on from the last checkpoint; "
            "--train_args '--set num_workers=0' does without such processes"
        ) from error
    if ranks.first:
        made.finish(path for name in FILES if (path := paths.exp / name).is_file())
    log.info("finished: %s", paths.exp / "model.safetensors")
    return 0


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, or given words in its place."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="training settings (YAML)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings to override")
    parser.add_argument("--num_nodes", type=int, default=1, help="nodes of this job")
    fold_job.add_arguments(parser)
    return parser.parse_args(words)


if __name__ == "__main__":
    exit_with(main)
