"""``config.yaml`` of a fold: the settings that it was trained with, written once and compared on every rerun."""

import logging
import zlib
from pathlib import Path
from typing import Any

import torch
import yaml

from sermtl.config import TrainConfig, as_dict, read_yaml
from sermtl.data.fold_data import FoldData
from sermtl.data.fold_job import FoldPaths
from sermtl.data.names import dump_name, hub_snapshot, upstream_digest
from sermtl.errors import UserError
from sermtl.fileio.files import crc32, hold, write_text
from sermtl.fileio.stamp import NAME, read_stamp
from sermtl.model.geometry import find_geometry
from sermtl.model.precision import has_bf16
from sermtl.train import checkpoint

log = logging.getLogger(__name__)

CODE_VERSION = 4
"""Raised when the same settings and data would give another model."""
CONFIG, LABELS = "config.yaml", "labels.txt"
FILES = (
    CONFIG, "history.jsonl", "warnings.txt", "layer_weights.json", "model.json", "model.safetensors",
    "tokens/tokens.txt", "tokens/bpe.model", f"../{LABELS}",
)  # fmt: skip
HARMLESS = ("save_minutes", "num_workers", "in_memory")
RESUMABLE = ("epochs", *HARMLESS)
"""Settings that a resumed training may change: more epochs (whose learning rates are those of the new total), and what
changes no result."""


def choose_precision(config: TrainConfig, exp: Path, device: torch.device) -> str:
    """What the upstream computes in: ``float32`` or ``bf16``, the same for all folds of an experiment.

    ``auto`` is decided by a fixed rule when the first fold begins: bf16 where the device has instructions for it,
    except for models from scratch on a CPU, which are small. Later folds and resumed ones keep what ``config.yaml``
    of the first says.
    """
    if config.precision != "auto":
        return config.precision
    large = device.type == "cuda" or find_geometry(config.upstream) is None
    here = "bf16" if large and has_bf16(device) else "float32"
    for fold in [exp, *sorted(path.parent for path in exp.parent.glob(f"*/{CONFIG}"))]:
        if was_trained(fold) and not config_is_damaged(fold) and (kept := read_yaml(fold / CONFIG).get("computed_in")):
            if kept != here:
                log.warning("computing in %s, as %s (a new experiment would take %s on this machine)", kept, fold, here)
            return kept
    return here


def resolved_settings(paths: FoldPaths, config: TrainConfig, fold: FoldData) -> dict[str, Any]:
    """Everything that decides what the training computes, and where it read."""
    digest = upstream_digest(config.upstream)
    return {
        "corpus": paths.data.name,
        "protocol": paths.fold_dir.parent.name,
        "fold": paths.fold_dir.name,
        "code_version": CODE_VERSION,
        **as_dict(config),
        "upstream_digest": digest,
        "upstream_commit": hub_snapshot(config.upstream).name if digest is None else None,
        "dump": dump_name(config),
        "inputs": fold.digest,
    }


def was_trained(exp: Path) -> bool:
    """Whether something was trained with the settings in ``config.yaml``."""
    results = (checkpoint.NAME, checkpoint.PREVIOUS, "model.safetensors")
    return (exp / CONFIG).is_file() and any((exp / name).exists() for name in results)


def finished_config(exp: Path) -> str:
    """Checksum of ``config.yaml`` at the end of the training; empty before."""
    stamp = read_stamp(exp / NAME) or {"outputs": {}}
    return stamp["outputs"].get(CONFIG, [0, ""])[1]


def config_is_damaged(exp: Path) -> bool:
    """Whether ``config.yaml`` is not as it was at the end of the training."""
    wanted = finished_config(exp)
    return bool(wanted) and not ((exp / CONFIG).is_file() and crc32(exp / CONFIG) == wanted)


def write_config_once(exp: Path, settings: dict[str, Any]) -> None:
    """Write ``config.yaml``; `UserError` with what differs where something was trained with other settings."""
    path = exp / CONFIG
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    finished = finished_config(exp)
    finished_with_these = f"{zlib.crc32(text.encode()):08x}" == finished
    if config_is_damaged(exp) and not finished_with_these:
        raise UserError(
            f"{path} is missing or damaged, and these are not the settings that it had: run with those to have it "
            f"written again, or remove {exp} to train again"
        )
    if was_trained(exp) and not finished_with_these:
        old = as_dict(TrainConfig()) | read_yaml(path)  # a setting that is newer had its default
        unlike = {key: value for key, value in settings.items() if old.get(key) != value}
        differences = [
            f"  {key}: {old.get(key)!r} there, {value!r} now" for key, value in unlike.items()
            if key not in RESUMABLE or (key == "epochs" and old.get(key, 0) > value)
        ]  # fmt: skip
        if differences:
            raise UserError(
                f"{exp} was trained with other settings; remove it to train again, or give another --tag:\n"
                + "\n".join(differences)
            )
        if not unlike or (finished and unlike.keys() <= set(HARMLESS)):
            return
    if not path.is_file() or path.read_bytes() != text.encode():
        if not finished_with_these:
            hold(exp)  # whoever trains it now does so with what is written there
            (exp / NAME).unlink(missing_ok=True)  # more epochs: it is not finished any more
        write_text(path, text)
