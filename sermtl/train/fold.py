"""One fold trained: what there is of it is kept, the rest is done."""

from __future__ import annotations

import logging
import os
import signal

import torch

from sermtl.config import TrainConfig
from sermtl.data import fold_job
from sermtl.data.fold_data import refuse_cut_arks
from sermtl.data.fold_job import FoldPaths
from sermtl.errors import UserError
from sermtl.fileio import lock
from sermtl.fileio.files import write_text
from sermtl.model.trained_model import save_description
from sermtl.model.upstreams.load import load_upstream
from sermtl.seeding import derive_seed
from sermtl.train import history, setup
from sermtl.train.pooled_statistics import fit_before
from sermtl.train.processes import Ranks
from sermtl.train.settings_file import FILES, LABELS, STOPPED, choose_precision, resolved_settings, write_config_once
from sermtl.train.trainer import Interrupted, Trainer

log = logging.getLogger(__name__)


def train_fold(paths: FoldPaths, config: TrainConfig, device: torch.device, ranks: Ranks) -> int:
    """Train one fold; gives the exit status."""
    fold = setup.load_checked(paths, config)
    precision = ranks.from_first(choose_precision(config, paths.exp, device))
    if ranks.first:
        write_config_once(paths.exp, resolved_settings(paths, config, fold) | {"computed_in": precision})
    made = setup.train_stamp(paths, fold)
    if ranks.from_first(not made.changed() and history.is_finished(paths.exp, config)):
        log.info("nothing changed: %s is trained already (%d epochs)", paths.exp, config.epochs)
        return 0
    refuse_cut_arks(setup.read_by_training(fold))
    if ranks.first:
        lock.hold(paths.exp)
        write_text(paths.exp.parent / LABELS, "".join(f"{label}\n" for label in fold.labels))
    with fold_job.also_logged_to(paths.exp / "train.log", ranks.first):
        if config.deterministic:
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # PyTorch refuses to be deterministic without
            torch.use_deterministic_algorithms(True)
        torch.manual_seed(derive_seed(config.seed, "weights"))
        trained = setup.build(config, fold, load_upstream(config.upstream))
        trained.model.bf16 = precision == "bf16"
        trained.model.upstream.lay_out(config.layout, device)
        if config.compile:
            trained.model.upstream.compile_layers()
        sets = setup.make_sets(paths.data, config, fold, trained)
        fit_before(trained, config, sets, device)
        if ranks.first:
            save_description(paths.exp, trained, paths.tokens)
        trainer = Trainer(trained, config, sets, paths.exp, device, ranks)
        setup.log_summary(config, fold, trainer)
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
