"""Stage 4: decode the test list of one fold, and its dev list where it has one.

    python -m sermtl.bin.decode --config conf/decode.yaml --data data/mini \\
        --folds_dir data/mini/folds/speaker --dump dump/mini --tokens dump/mini/tokens/speaker --exp exp/T --folds 01F
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from sermtl import job
from sermtl.ark import write_ark
from sermtl.config import DecodeConfig, TrainConfig, load_config, read_yaml
from sermtl.datadir import write_table
from sermtl.decode import Decoded, decode
from sermtl.errors import UserError, command
from sermtl.files import atomic_write, sha256
from sermtl.fold_data import load_fold
from sermtl.model_dir import load_model

log = logging.getLogger("sermtl.bin.decode")
CODE_VERSION = 1
"""Raised when the same model would give other files."""
STAMP = "stamp.json"
FILES = ("utt2emo", "emo_post", "text", "utt2spk", "emb.scp", "emb.ark")


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
    unperturbed = replace(config, speed_perturb=())
    fold = load_fold(paths.data, paths.fold_dir, paths.dump, paths.tokens, unperturbed)
    if fold.digest != read_yaml(paths.exp / "config.yaml").get("inputs"):
        raise UserError(f"{paths.exp} was trained on other lists or data than there are now; rerun ./run.sh --stage 3")
    stamp = {"model": sha256(paths.exp / "model.safetensors"), "inputs": fold.digest, "code": CODE_VERSION}
    for part in ("test", "dev"):
        directory = paths.exp / f"decode_{part}"
        if not fold.examples[part]:
            continue
        if read_stamp(directory) == stamp:
            log.info("%s: decoded already with this model", directory)
            continue
        started = time.monotonic()
        dataset = job.evaluation_set(trained.front_end, config, fold, part)
        decoded = sorted(decode(trained, dataset, decode_config.batch_size, device), key=lambda d: d.utterance.encode())
        write_decoded(directory, decoded, trained.labels, stamp)
        log.info("%s: %d utterances in %.1f s", directory, len(decoded), time.monotonic() - started)
    return 0


def training_config(exp: Path) -> TrainConfig:
    """The settings that a fold was trained with, from its ``config.yaml``."""
    known = {field.name for field in fields(TrainConfig)}
    saved = read_yaml(exp / "config.yaml")
    values: Any = {key: tuple(v) if isinstance(v, list) else v for key, v in saved.items() if key in known}
    return TrainConfig(**values)


def write_decoded(directory: Path, decoded: list[Decoded], labels: list[str], stamp: dict[str, Any]) -> None:
    """Write the files of ``decode_test/`` or ``decode_dev/``; ``stamp.json`` comes last and marks them whole."""
    (directory / STAMP).unlink(missing_ok=True)
    with write_ark(directory / "emb.ark") as writer:
        for item in decoded:
            writer.write_array(item.utterance, item.embedding_D)
    write_table(directory / "emb.scp", writer.scp)
    posteriors = {item.utterance: " ".join(f"{p:.6f}" for p in item.posteriors_C) for item in decoded}
    write_table(directory / "emo_post", posteriors)
    write_table(directory / "text", {item.utterance: item.text for item in decoded})
    write_table(directory / "utt2spk", {item.utterance: item.speaker for item in decoded})
    write_table(directory / "utt2emo", {item.utterance: labels[item.posteriors_C.argmax()] for item in decoded})
    with atomic_write(directory / STAMP) as file:
        json.dump(stamp, file)


def read_stamp(directory: Path) -> Any:
    """What a directory was decoded with; None where it is not whole."""
    if not all((directory / name).is_file() for name in FILES):
        return None
    try:
        return json.loads((directory / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


if __name__ == "__main__":
    sys.exit(main())
