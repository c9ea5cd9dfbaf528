"""Stage 4: decode the test list of a fold, its dev list if it is not empty, and its training list if that is asked for.

    python -m sermtl.bin.decode --config conf/decode.yaml --data data/mini \\
        --folds_dir data/mini/folds/speaker --dump dump/mini --tokens dump/mini/tokens/speaker --exp exp/T --folds 01F
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from sermtl.config import DecodeConfig, load_config, read_yaml
from sermtl.data import fold_data, fold_job
from sermtl.data.fold_data import load_fold, refuse_cut_arks
from sermtl.data.names import stored_entry
from sermtl.errors import UserError, command
from sermtl.fileio import lock
from sermtl.fileio.stamp import NAME, refuse_damaged
from sermtl.inference.decode import FILES, decode, decode_stamp, training_config, write_decoded
from sermtl.model.trained_model import load_model
from sermtl.train import history

log = logging.getLogger("sermtl.bin.decode")


@command
def main() -> int:
    """Decode one fold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="decoding settings (YAML)")
    fold_job.add_arguments(parser)
    args = parser.parse_args()
    device = fold_job.set_up(args)
    config = load_config(DecodeConfig, args.config)
    for paths in fold_job.own_folds(args):
        decode_fold(paths, config, device)
    return 0


def decode_fold(paths: fold_job.FoldPaths, decode_config: DecodeConfig, device: torch.device) -> None:
    """Decode one fold."""
    refuse_damaged(paths.exp / NAME, "rerun ./run.sh --stage 3, which makes it again from the checkpoint")
    trained = load_model(paths.exp, device)
    config = training_config(paths.exp)
    if not history.is_finished(paths.exp, config):
        raise UserError(f"{paths.exp} is not trained to its last epoch, {config.epochs}; rerun ./run.sh --stage 3")
    unperturbed = replace(config, speed_perturb=())
    trained.model.upstream.lay_out(config.layout, device)
    settings = read_yaml(paths.exp / "config.yaml")
    dumped = settings["dump"]
    fold = load_fold(paths.data, paths.fold_dir, paths.dump, paths.tokens, unperturbed, dumped)
    if fold.digest != settings.get("inputs"):
        raise UserError(f"{paths.exp} was trained on other lists or data than there are now; rerun ./run.sh --stage 3")
    for part in ("test", "dev", "train"):
        directory = paths.exp / f"decode_{part}"
        wanted = part != "train" or decode_config.decode_train or directory.is_dir()
        if not (wanted and fold.examples[part]):
            continue
        made = decode_stamp(paths, part, dumped)
        if not made.changed():
            log.info("nothing changed: %s", directory)
            continue
        lock.hold(paths.exp)
        started = time.monotonic()
        refuse_cut_arks(fold.examples[part])
        front_end = trained.front_end
        if config.feats_type == "stored":
            front_end, trained.model.upstream.entry = front_end.stored(), stored_entry(config)
        dataset = fold_data.evaluation_set(front_end, config, fold, part)
        decoded = sorted(decode(trained, dataset, decode_config.batch_size, device), key=lambda d: d.utterance.encode())
        made.begin()
        write_decoded(directory, decoded, trained.labels)
        made.finish(directory / name for name in FILES)
        log.info("%s: %d utterances in %.1f s", directory, len(decoded), time.monotonic() - started)


if __name__ == "__main__":
    sys.exit(main())
