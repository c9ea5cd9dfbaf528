"""Stage 3: train one fold, from its checkpoint where there is one.

    python -m sermtl.bin.train --config conf/mini.yaml --set beta=1 --data data/mini \\
        --folds_dir data/mini/folds/speaker --dump dump/mini --tokens dump/mini/tokens/speaker --exp exp/T --folds 01F

With --ngpu 2 or more, or --num_nodes, this starts a process for each GPU by torchrun.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import logging
import os
import platform
import signal
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import yaml

from sermtl.config import TrainConfig, as_dict, load_config, read_yaml
from sermtl.data import fold_data, fold_job
from sermtl.data.dataset import Example, FoldDataset, feature_stats
from sermtl.data.fold_data import FoldData, load_fold, refuse_cut_arks
from sermtl.data.fold_job import from_torchrun
from sermtl.data.stored_features import dump_name
from sermtl.errors import UserError, command
from sermtl.fileio import lock
from sermtl.fileio.ark import DUMP_DIGESTS
from sermtl.fileio.files import atomic_write, crc32, sha256
from sermtl.fileio.stamp import NAME, Stamp, inputs, read_stamp
from sermtl.fileio.tables import PARTS, read_table
from sermtl.model.front_end import FrontEnd
from sermtl.model.geometry import find_geometry
from sermtl.model.multitask import MultiTaskModel
from sermtl.model.precision import bf16_pays
from sermtl.model.trained_model import TrainedModel, save_description
from sermtl.model.upstreams.load import hub_commit, load_upstream
from sermtl.model.upstreams.wav2vec2 import Upstream
from sermtl.seeding import derive_seed
from sermtl.train import checkpoint, history
from sermtl.train.launch import launch
from sermtl.train.processes import Ranks, exit_with
from sermtl.train.trainer import Interrupted, Sets, Trainer, total_parameters

log = logging.getLogger("sermtl.bin.train")
CODE_VERSION = 2
"""Raised when the same settings and data would give another model."""
CONFIG, LABELS, COMMIT = "config.yaml", "labels.txt", "upstream_commit"
FILES = (
    CONFIG, "history.jsonl", "warnings.txt", "model.json", "model.safetensors", "tokens/tokens.txt",
    "tokens/bpe.model", f"../{LABELS}",
)  # fmt: skip
STOPPED = 75
"""Exit status after a saved stop (EX_TEMPFAIL): a queue may start the job again."""
HARMLESS = ("save_minutes", "num_workers", "in_memory")
RESUMABLE = ("epochs", *HARMLESS)
"""Settings that a resumed training may change: more epochs (whose learning rates are those of the new total), and what
changes no result."""


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
        with atomic_write(args.exp / LABELS) as file:
            file.writelines(f"{label}\n" for label in fold.labels)

    if config.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # PyTorch refuses to be deterministic without
        torch.use_deterministic_algorithms(True)
    torch.manual_seed(derive_seed(config.seed, "weights"))
    upstream = load_upstream(config.upstream)
    check_input(config, upstream)
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


def resolve(args: argparse.Namespace) -> tuple[fold_job.FoldPaths, TrainConfig, FoldData]:
    """Where a training reads and writes, what it is set to, and its fold.

    Raises:
        UserError: The settings or the fold's inputs are wrong, or do not fit each other.
    """
    paths = fold_job.fold_paths(args)
    config = load_config(TrainConfig, args.config, args.set)
    fold = load_fold(paths.data, paths.fold_dir, paths.dump, paths.tokens, config, dump_name(config))
    check_fold(config, fold, paths.fold_dir)
    if config.alpha and not any(example.tokens for example in fold.examples["train"]):
        log.warning("%s/train has no transcript: training with alpha 0", paths.fold_dir)
        config = replace(config, alpha=0.0)
    return paths, config, fold


def train_stamp(paths: fold_job.FoldPaths, fold: FoldData) -> Stamp:
    """The stamp of a trained fold; its settings are in ``config.yaml``."""
    roots = {"data": paths.data, "fold": paths.fold_dir, "tokens": paths.tokens, "dump": paths.dump}
    tables = (*(f"data:{name}" for name in ("text", "utt2spk", "utt2emo")), *(f"fold:{part}" for part in PARTS))
    names = (
        *tables,
        "tokens:tokens.txt",
        "tokens:bpe.model",
        f"dump:{fold.dump.relative_to(paths.dump)}/{DUMP_DIGESTS}",
    )
    return Stamp(paths.exp / NAME, CODE_VERSION, {}, inputs(roots, *names))


def read_by_training(fold: FoldData) -> Iterator[Example]:
    """All that a training reads."""
    return chain(*(fold.examples[part] for part in PARTS), *(copies.values() for copies in fold.perturbed.values()))


def check_fold(config: TrainConfig, fold: FoldData, fold_dir: Path) -> None:
    """Refuse settings that this fold cannot be trained with."""
    if config.select == "best" and not any(example.emotion >= 0 for example in fold.examples["dev"]):
        raise UserError(
            f"select: best needs a dev set, and {fold_dir}/dev has no utterance with an emotion; "
            "rerun stage 1 with --dev_ratio 0.1"
        )


def check_input(config: TrainConfig, upstream: Upstream) -> None:
    """Refuse an upstream that reads other features than the configured ones."""
    reads = "fbank" if upstream.input_bands else "raw"
    if reads != config.feats_type.replace("conv", "raw"):
        raise UserError(
            f"upstream {config.upstream} reads {reads}, but feats_type is {config.feats_type}; use --feats_type {reads}"
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
    train = FoldDataset(
        examples,
        trained.front_end,
        config,
        trained.model.upstream.masking,
        fold.perturbed,
        fold_data.speaker_statistics(config, fold, examples),
    )
    evaluated = {}
    if fold.examples["dev"]:
        evaluated["dev"] = fold_data.evaluation_set(trained.front_end, config, fold, "dev")
    if config.monitor_test:
        evaluated["monitor_test"] = fold_data.evaluation_set(trained.front_end, config, fold, "test")
    return Sets(train, evaluated, read_table(data / "text"))


def choose_precision(config: TrainConfig, exp: Path, device: torch.device) -> str:
    """What the upstream computes in; `auto` is decided when a training begins, and kept when it goes on elsewhere."""
    if config.precision != "auto":
        return config.precision
    # Models from scratch are small on a CPU, and their sums of few terms gain nothing.
    large = device.type == "cuda" or find_geometry(config.upstream) is None
    here = "bf16" if large and bf16_pays(device) else "float32"
    if not was_trained(exp) or config_is_damaged(exp):
        return here
    kept = read_yaml(exp / "config.yaml")["computed_in"]
    if kept != here:
        log.warning("%s was begun in %s, and goes on so (a new training would take %s here)", exp, kept, here)
    return kept


def resolved_settings(paths: fold_job.FoldPaths, config: TrainConfig, fold: FoldData) -> dict[str, Any]:
    """Everything that decides what the training computes, and where it read."""
    digest = upstream_digest(config.upstream)
    return {
        "corpus": paths.data.name,
        "protocol": paths.fold_dir.parent.name,
        "fold": paths.fold_dir.name,
        "code_version": CODE_VERSION,
        **as_dict(config),
        "upstream_digest": digest,
        COMMIT: hub_commit(config.upstream) if digest is None else None,
        "inputs": fold.digest,
    }


@functools.cache
def upstream_digest(upstream: str) -> str | None:
    """Of what a geometry's file says, or of the settings and weights in a folder; None for a model of the hub."""
    path = find_geometry(upstream)
    if path is not None:
        return hashlib.sha256(repr(sorted(read_yaml(path).items())).encode()).hexdigest()[:16]
    if not Path(upstream).is_dir():
        return None
    files = sorted(file for file in Path(upstream).iterdir() if file.suffix in (".json", ".safetensors", ".bin"))
    return hashlib.sha256("".join(f"{file.name} {sha256(file)}\n" for file in files).encode()).hexdigest()[:16]


def was_trained(exp: Path) -> bool:
    """Whether something was trained with the settings in ``config.yaml``."""
    results = (checkpoint.NAME, checkpoint.PREVIOUS, "model.safetensors")
    return (exp / "config.yaml").is_file() and any((exp / name).exists() for name in results)


def finished_config(exp: Path) -> str:
    """Checksum of ``config.yaml`` at the end of the training; empty before."""
    stamp = read_stamp(exp / NAME) or {"outputs": {}}
    return stamp["outputs"].get(CONFIG, [0, ""])[1]


def config_is_damaged(exp: Path) -> bool:
    """Whether ``config.yaml`` is not as it was at the end of the training."""
    wanted = finished_config(exp)
    return bool(wanted) and not ((exp / CONFIG).is_file() and crc32(exp / CONFIG) == wanted)


def write_config_once(exp: Path, settings: dict[str, Any]) -> None:
    """Write ``config.yaml``, or check that it says the same where something was trained with it.

    Raises:
        UserError: The directory was trained with other settings; the message lists them.
    """
    path = exp / CONFIG
    if was_trained(exp) and not config_is_damaged(exp):
        commits = [read_yaml(path).get(COMMIT), settings.get(COMMIT)]
        if None in commits:  # what is not known is not compared, and not forgotten
            settings = settings | {COMMIT: commits[0]}
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    finished_with_these = f"{zlib.crc32(text.encode()):08x}" == finished_config(exp)
    if config_is_damaged(exp) and not finished_with_these:
        raise UserError(
            f"{path} is missing or damaged, and these are not the settings that it had: run with those to have it "
            f"written again, or remove {exp} to train anew"
        )
    if was_trained(exp) and not finished_with_these:
        old = read_yaml(path)
        differences = [
            f"  {key}: {old.get(key)!r} there, {value!r} now"
            for key, value in settings.items()
            if old.get(key) != value and not (key in RESUMABLE and (key != "epochs" or old.get(key, 0) <= value))
        ]
        if differences:
            raise UserError(
                f"{exp} was trained with other settings; remove it to train anew, or give another --tag:\n"
                + "\n".join(differences)
            )
        unlike = {key for key, value in settings.items() if old.get(key) != value}
        if not unlike or (finished_config(exp) and unlike <= set(HARMLESS)):
            return
    if not path.is_file() or path.read_bytes() != text.encode():
        if not finished_with_these:
            lock.hold(exp)  # whoever trains it now does so with what is written there
            (exp / NAME).unlink(missing_ok=True)  # more epochs: it is not finished any more
        with atomic_write(path) as file:
            file.write(text)


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
    parameters, learned = total_parameters(trainer.model)
    log.info("upstream %s; %d parameters, bf16 %s", config.upstream, parameters, trainer.model.bf16)
    log.info("%d parameters are trained", learned)


if __name__ == "__main__":
    exit_with(main)
