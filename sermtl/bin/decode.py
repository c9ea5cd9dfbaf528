"""Stage 4: decode the test list of one fold.

    python -m sermtl.bin.decode --config conf/decode.yaml --data data/mini \\
        --folds_dir data/mini/folds/speaker --dump dump/mini --tokens dump/mini/tokens/speaker --exp exp/T --folds 01F
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from sermtl import job
from sermtl.ark import write_ark
from sermtl.config import DecodeConfig, TrainConfig, load_config, read_yaml
from sermtl.datadir import write_table
from sermtl.decode import Decoded, decode
from sermtl.errors import UserError, command
from sermtl.files import sha256
from sermtl.fold_data import load_fold
from sermtl.model_dir import load_model

log = logging.getLogger("sermtl.bin.decode")


@command
def main() -> int:
    """Decode one fold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="decoding settings (YAML)")
    job.add_arguments(parser)
    args = parser.parse_args()
    device = job.set_up(args)
    paths = job.fold_paths(args)

    decode_config = load_config(DecodeConfig, args.config)
    trained = load_model(paths.exp, device)
    config = training_config(paths.exp)
    if not job.is_finished(paths.exp, config):
        raise UserError(f"{paths.exp} is not trained to its last epoch, {config.epochs}; rerun ./run.sh --stage 3")
    fold = load_fold(paths.data, paths.fold_dir, paths.dump, paths.tokens, config)
    if fold.digest != read_yaml(paths.exp / "config.yaml").get("inputs"):
        raise UserError(f"{paths.exp} was trained on other lists or data than there are now; rerun ./run.sh --stage 3")
    dataset = job.evaluation_set(trained.front_end, config, fold, "test")
    started = time.monotonic()
    decoded = sorted(decode(trained, dataset, decode_config.batch_size, device), key=lambda d: d.utterance.encode())
    write_decoded(paths.exp / "decode_test", decoded, trained.labels)
    seconds = time.monotonic() - started
    log.info(
        "decoded %d utterances in %.1f s (model %s)",
        len(decoded),
        seconds,
        sha256(paths.exp / "model.safetensors")[:12],
    )
    return 0


def training_config(exp: Path) -> TrainConfig:
    """The settings that a fold was trained with, from its ``config.yaml``."""
    known = {field.name for field in fields(TrainConfig)}
    saved = read_yaml(exp / "config.yaml")
    values: Any = {key: tuple(v) if isinstance(v, list) else v for key, v in saved.items() if key in known}
    return TrainConfig(**values)


def write_decoded(directory: Path, decoded: list[Decoded], labels: list[str]) -> None:
    """Write the files of ``decode_test/``; ``utt2emo``, which scoring asks for first, comes last."""
    with write_ark(directory / "emb.ark") as writer:
        for item in decoded:
            writer.write_array(item.utterance, item.embedding_D)
    write_table(directory / "emb.scp", writer.scp)
    posteriors = {item.utterance: " ".join(f"{p:.6f}" for p in item.posteriors_C) for item in decoded}
    write_table(directory / "emo_post", posteriors)
    write_table(directory / "text", {item.utterance: item.text for item in decoded})
    write_table(directory / "utt2spk", {item.utterance: item.speaker for item in decoded})
    write_table(directory / "utt2emo", {item.utterance: labels[item.posteriors_C.argmax()] for item in decoded})


if __name__ == "__main__":
    sys.exit(main())
