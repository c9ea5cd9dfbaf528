"""One fold trained: its settings and inputs checked, the untrained model and its sets; what there is of it is kept."""

import logging
import os
import platform
import signal
from collections.abc import Iterator
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import torch

from sermtl.config import TrainConfig
from sermtl.data.dataset import Example, FoldDataset, Sets, feature_stats
from sermtl.data.fold_data import FoldData, evaluation_set, load_fold, refuse_cut_arks, speaker_statistics
from sermtl.data.fold_job import FoldPaths, also_logged_to
from sermtl.data.names import dump_name, stored_entry
from sermtl.errors import UserError
from sermtl.fileio.ark import DUMP_DIGESTS
from sermtl.fileio.files import hold, write_text
from sermtl.fileio.stamp import NAME, Stamp, inputs
from sermtl.fileio.tables import PARTS
from sermtl.model.cuda_graphs import use_graphs
from sermtl.model.front_end import FrontEnd
from sermtl.model.geometry import check_feats_type
from sermtl.model.heads import head_settings
from sermtl.model.multitask import MultiTaskModel, balanced_weights
from sermtl.model.trained_model import TrainedModel, save_description
from sermtl.model.upstreams.base import Upstream
from sermtl.model.upstreams.load import load_upstream
from sermtl.seeding import derive_seed
from sermtl.train import history, settings_file
from sermtl.train.pooled_statistics import fit_before, fitted_once
from sermtl.train.processes import STOPPED, Ranks
from sermtl.train.trainer import Interrupted, Trainer

log = logging.getLogger(__name__)


def train_fold(paths: FoldPaths, config: TrainConfig, device: torch.device, ranks: Ranks) -> int:
    """Train one fold; gives the exit status."""
    fold = load_fold(paths.data, paths.fold_dir, paths.dump, paths.tokens, config, dump_name(config))
    check_fold(config, fold, paths.fold_dir)
    precision = ranks.from_first(settings_file.choose_precision(config, paths.exp, device))
    if ranks.first:
        settings = settings_file.resolved_settings(paths, config, fold) | {"computed_in": precision}
        settings_file.write_config_once(paths.exp, settings)
    made = train_stamp(paths, fold)
    if ranks.from_first(not made.changed() and history.is_finished(paths.exp, config)):
        log.info("nothing changed: %s is trained already (%d epochs)", paths.exp, config.epochs)
        return 0
    refuse_cut_arks(read_by_training(fold))
    if ranks.first:
        hold(paths.exp)
        write_text(paths.exp.parent / settings_file.LABELS, "".join(f"{label}\n" for label in fold.labels))
    with also_logged_to(paths.exp / "train.log", ranks.first):
        if config.deterministic:
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # PyTorch refuses to be deterministic without
            torch.use_deterministic_algorithms(True)
        torch.manual_seed(derive_seed(config.seed, "weights"))
        trained = build(config, fold, load_upstream(config.upstream))
        trained.model.bf16 = precision == "bf16"
        trained.model.upstream.lay_out(config.layout, device)
        if config.cuda_graphs:
            use_graphs(trained.model, device)
        sets = make_sets(config, fold, trained)
        fit_before(trained, config, sets, device)
        if ranks.first:
            save_description(paths.exp, trained, paths.tokens)
        trainer = Trainer(trained, config, sets, paths.exp, device, ranks)
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
            made.finish(path for name in settings_file.FILES if (path := paths.exp / name).is_file())
        log.info("finished: %s", paths.exp / "model.safetensors")
    return 0


def train_stamp(paths: FoldPaths, fold: FoldData) -> Stamp:
    """The stamp of a trained fold; its settings are in ``config.yaml``."""
    roots = {"data": paths.data, "fold": paths.fold_dir, "tokens": paths.tokens, "dump": paths.dump}
    names = ["data:text", "data:utt2spk", "data:utt2emo", *(f"fold:{part}" for part in PARTS)]
    names += ["tokens:tokens.txt", "tokens:bpe.model", f"dump:{fold.dump.relative_to(paths.dump)}/{DUMP_DIGESTS}"]
    return Stamp(paths.exp / NAME, settings_file.CODE_VERSION, {}, inputs(roots, *names))


def read_by_training(fold: FoldData) -> Iterator[Example]:
    """All that a training reads."""
    return chain(*(fold.examples[part] for part in PARTS), *(copies.values() for copies in fold.perturbed.values()))


def check_fold(config: TrainConfig, fold: FoldData, fold_dir: Path) -> None:
    """Refuse settings that this fold cannot be trained with."""
    if config.alpha and not any(example.tokens for example in fold.examples["train"]):
        raise UserError(
            f"{fold_dir}/train has no transcript, so the CTC loss has no target, but alpha is {config.alpha:g}; "
            "give --alpha 0"
        )
    if config.beta and not any(example.speaker >= 0 for example in fold.examples["train"]):
        raise UserError(
            f"{fold_dir}/train has no known speaker, so the speaker head has no target, but beta is {config.beta:g}; "
            "give --beta 0"
        )
    if config.select == "best" and "erase" in config.spk_norm and not fitted_once(config):
        raise UserError("spk_norm erase is fitted after the last epoch of a trained encoder: give select: last")
    if config.spk_norm not in ("none", "grl") and len(fold.speakers) < 2:
        raise UserError(
            f"{fold_dir}/train has one known speaker, but spk_norm {config.spk_norm} compares speakers; "
            "give --spk_norm none"
        )
    needs_dev = "select: best" if config.select == "best" else "calibrate: true" if config.calibrate else ""
    if needs_dev and not any(example.emotion >= 0 for example in fold.examples["dev"]):
        raise UserError(
            f"{needs_dev} needs a dev set, and {fold_dir}/dev has no utterance with an emotion; "
            "rerun stage 1 with --dev_ratio 0.1, or --dev_speakers 1"
        )


def build(config: TrainConfig, fold: FoldData, upstream: Upstream) -> TrainedModel:
    """The untrained model with its front end."""
    check_feats_type(config.upstream, config.feats_type, upstream.input_bands)
    settings = head_settings(config, upstream.total_layers)
    if config.final_dropout != "auto":
        upstream.final_dropout = float(config.final_dropout)
    sizes = (len(fold.labels), len(fold.tokenizer.tokens), len(fold.speakers))
    model = MultiTaskModel(upstream, settings, *sizes)
    if config.class_weights == "balanced":
        model.class_weights_C = balanced_weights([example.emotion for example in fold.examples["train"]], sizes[0])
    upstream.freeze(int(config.freeze) if config.freeze.isdecimal() else config.freeze)
    mean_F = std_F = None
    if config.feats_type == "fbank" and config.cmvn == "global":
        mean_F, std_F = feature_stats(fold.examples["train"])
    front_end = FrontEnd(
        config.feats_type, upstream.normalize, config.cmvn, upstream.geometry, mean_F, std_F, config.norm_vars
    )
    if config.feats_type == "stored":
        front_end, upstream.entry = front_end.stored(), stored_entry(config)
    return TrainedModel(model, front_end, fold.labels, fold.speakers, fold.tokenizer)


def make_sets(config: TrainConfig, fold: FoldData, trained: TrainedModel) -> Sets:
    """The training set with its augmentation, and the sets scored after each epoch."""
    examples, front_end = fold.examples["train"], trained.front_end
    statistics, masking = speaker_statistics(config, fold, examples), trained.model.upstream.masking
    scored = {"dev": "dev"} if fold.examples["dev"] else {}
    scored |= {"monitor_test": "test"} if config.monitor_test else {}
    return Sets(
        FoldDataset(examples, front_end, config, masking, fold.perturbed, statistics),
        {name: evaluation_set(front_end, config, fold, part) for name, part in scored.items()},
        fold.texts,
    )


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
    for message in history.without_ctc(trainer.sets.train, config.alpha):
        print(f"warning: {message}", flush=True)
    upstream = trainer.model.upstream
    if upstream.window and upstream.entry == "audio":
        cut = upstream.count_cut(example.length for example in read_by_training(fold))
        log.info("%d utterances are longer than the upstream takes at once: encoded in windows without overlap", cut)
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    log.info("upstream %s; %d parameters, bf16 %s", config.upstream, parameters, trainer.model.bf16)
    log.info("%d parameters are trained", sum(parameter.numel() for parameter in trainer.parameters))
