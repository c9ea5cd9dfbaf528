"""The training loop of one fold."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from sermtl.batch import Batch
from sermtl.checkpoint import load_checkpoint, save_checkpoint
from sermtl.config import TrainConfig
from sermtl.dataset import FoldDataset
from sermtl.errors import UserError
from sermtl.grl import reversal_scale
from sermtl.history import TensorBoard, summary, write_history
from sermtl.model import Output, task_losses
from sermtl.model_dir import TrainedModel, save_weights
from sermtl.optim import learning_rate, make_optimizer
from sermtl.sampler import decode_batches, epoch_batches
from sermtl.seeding import derive_seed
from sermtl.tally import Tally, plain, sum_losses

log = logging.getLogger(__name__)
EVALUATION_BATCH = 16


@dataclass(frozen=True)
class Sets:
    """Training examples, and the sets that are scored after each epoch, by their name in the history."""

    train: FoldDataset
    evaluated: Mapping[str, FoldDataset]
    texts: Mapping[str, str]
    """Utterance -> normalised transcript."""


class Interrupted(Exception):
    """Training was asked to stop, and has saved its state."""


class Trainer:
    """Trains a model to its last epoch, from the newest checkpoint in ``exp`` where there is one."""

    def __init__(self, trained: TrainedModel, config: TrainConfig, sets: Sets, exp: Path, device: torch.device):
        self.trained, self.config, self.sets, self.exp, self.device = trained, config, sets, exp, device
        self.model = trained.model.to(device)
        if config.freeze_feature_encoder and config.feats_type == "raw":
            self.model.upstream.freeze_feature_encoder()
        self.optimizer = make_optimizer(self.model, config)
        batches = -(-len(sets.train) // config.batch_size)
        self.total_updates = batches * config.epochs
        self.epoch = 0
        self.batch = 0
        self.tally = Tally(len(trained.labels))
        self.history: list[dict[str, Any]] = []
        self.best_ua = -1.0
        self.stopping = False
        self.resume()

    def resume(self) -> None:
        """Take up the newest checkpoint."""
        state = load_checkpoint(self.exp)
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.batch, self.best_ua = state["epoch"], state["batch"], state["best_ua"]
        self.history = state["history"]
        self.tally = Tally(len(self.trained.labels), state["tally"])
        log.info("resumed after %d updates of epoch %d of %d", self.batch, self.epoch + 1, self.config.epochs)

    def save(self) -> None:
        """Make the training safe as it stands between two updates."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "batch": self.batch,
            "tally": self.tally.sums,
            "history": self.history,
            "best_ua": self.best_ua,
        }
        save_checkpoint(self.exp, state)
        self.saved = time.monotonic()

    def stop_soon(self, *_signal: object) -> None:
        """Save after the update that is being computed, and raise `Interrupted` (a handler of SIGTERM)."""
        self.stopping = True

    def run(self) -> None:
        """Train the epochs that are left, and write the model that is to be scored.

        Raises:
            Interrupted: `stop_soon` was called; the checkpoint is written.
            UserError: Too many updates were not finite.
        """
        self.saved = time.monotonic()
        tensorboard = TensorBoard(self.exp / "tensorboard", self.history)
        while self.epoch < self.config.epochs:
            started = time.monotonic()
            record: dict[str, Any] = {"epoch": self.epoch + 1, "train": self.train_epoch()}
            for name, dataset in self.sets.evaluated.items():
                record[name] = self.evaluate(dataset)
            record["lr"] = self.optimizer.param_groups[0]["lr"]
            record["updates"] = self.total_updates * (self.epoch + 1) // self.config.epochs
            record["seconds"] = time.monotonic() - started
            self.finish_epoch(plain(record))
            tensorboard.add(self.history[-1])
        tensorboard.close()
        if self.config.select == "last":
            save_weights(self.exp, self.model)
        # Its last line says that the training is finished, so it comes after the weights.
        write_history(self.exp / "history.jsonl", self.history)

    def finish_epoch(self, record: dict[str, Any]) -> None:
        """Log an epoch and make it safe."""
        self.epoch, self.batch, self.tally = self.epoch + 1, 0, Tally(len(self.trained.labels))
        self.history.append(record)
        seconds, left = record["seconds"], record["seconds"] * (self.config.epochs - self.epoch)
        numbers = (self.epoch, self.config.epochs, seconds, left, summary(record))
        log.info("epoch %d/%d (%.1f s, %.0f s left): %s", *numbers)
        if self.config.select == "best" and record["dev"]["ua"] > self.best_ua:
            self.best_ua = record["dev"]["ua"]
            save_weights(self.exp, self.model)
        self.save()
        if self.epoch < self.config.epochs:
            write_history(self.exp / "history.jsonl", self.history)
        if self.stopping:
            raise Interrupted

    def train_epoch(self) -> dict[str, Any]:
        """The updates that are left of one pass over the training list; returns the pass's averages."""
        config, train = self.config, self.sets.train
        train.set_epoch(self.epoch)
        batches = epoch_batches(train.lengths, config.batch_size, config.bucket_batches, config.seed, self.epoch)
        left = [self.parts_of(batch) for batch in batches[self.batch :]]
        loader = iter(self.load(train, [part for parts in left for part in parts]))
        self.model.train()
        for parts in progress(left, f"epoch {self.epoch + 1}"):
            self.update(self.epoch * len(batches) + self.batch, [next(loader) for _ in parts], self.tally)
            self.batch += 1
            if self.stopping and self.batch < len(batches):
                self.save()
                raise Interrupted
            if time.monotonic() - self.saved > 60 * config.save_minutes:
                self.save()
        return self.averages(self.tally)

    def parts_of(self, batch: list[int]) -> list[list[int]]:
        """An update's utterances in the ``accum_grad`` parts that go through the model one after the other."""
        size = -(-len(batch) // self.config.accum_grad)
        ordered = sorted(batch, key=lambda index: -self.sets.train.examples[index].length)
        return [ordered[i : i + size] for i in range(0, len(ordered), size)]

    def update(self, update: int, parts: list[Batch], tally: Tally) -> None:
        """One step of the optimiser over the utterances of ``parts``; skipped where it is not finite."""
        config = self.config
        torch.manual_seed(derive_seed(config.seed, "update", update))
        rate = learning_rate(update, self.total_updates, config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        scale = reversal_scale(config.beta, config.grl, config.grl_schedule, update / max(1, self.total_updates - 1))
        utterances = sum(len(part.utterances) for part in parts)
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        for host_part in parts:
            part = host_part.to(self.device)
            output = self.model(part, scale)
            losses = task_losses(output, part, utterances)
            (losses["ser"] + config.alpha * losses["asr"] + losses["sid"]).backward()
            measured = {f"loss_{task}": loss for task, loss in losses.items()}
            # Squares, because those of the parts add up.
            measured |= {f"grad_{task}": norm.square() for task, norm in self.model.gradient_norms.items()}
            for name, value in sum_losses(measured).items():
                sums[name] = sums.get(name, 0.0) + value
            self.count(tally, output, part)
        finite = self.clip_gradients() and all(map(math.isfinite, sums.values()))
        if not finite:
            self.report_nonfinite(tally, [utterance for part in parts for utterance in part.utterances])
            return
        self.optimizer.step()
        tally.add("updates", 1)
        for name, value in sums.items():
            tally.add(name, value * utterances if name.startswith("loss") else math.sqrt(value))
        tally.add("utterances", utterances)

    def clip_gradients(self) -> bool:
        """Clip the gradient's norm; returns whether it is finite.

        The speaker head is clipped by itself: in a common norm its gradient would scale the encoder's, which must not
        feel the speaker labels where beta is 0.
        """
        head = list(self.model.speaker_head.parameters())
        inside = {id(parameter) for parameter in head}
        rest = [parameter for parameter in self.model.parameters() if id(parameter) not in inside]
        largest = self.config.grad_clip or float("inf")
        norms = [torch.nn.utils.clip_grad_norm_(parameters, largest) for parameters in (rest, head)]
        return bool(torch.isfinite(torch.stack(norms)).all())

    def report_nonfinite(self, tally: Tally, utterances: list[str]) -> None:
        """Count a skipped update; stop where they pass the configured share of an epoch.

        Raises:
            UserError: Too many, with the utterances of the last one.
        """
        tally.add("nonfinite", 1)
        log.warning("non-finite loss or gradient: update skipped; utterances: %s", " ".join(utterances))
        batches = self.total_updates // self.config.epochs
        allowed = max(1.0, self.config.max_nonfinite * batches) if self.config.max_nonfinite else 0.0
        if tally.sums["nonfinite"] > allowed:
            raise UserError(
                f"{int(tally.sums['nonfinite'])} of {batches} updates of epoch {self.epoch + 1} were not finite "
                f"(max_nonfinite is {self.config.max_nonfinite:g}); the last held {' '.join(utterances)}; "
                "try a smaller learning_rate, or look at these utterances"
            )

    def count(self, tally: Tally, output: Output, part: Batch) -> None:
        """Count hits and word errors, and the transcripts that CTC could not use."""
        texts = [self.sets.texts.get(utterance, "") for utterance in part.utterances]
        tally.add_outputs(output, part, texts, self.trained.tokenizer)
        tally.add("no_ctc", int((part.token_lengths_B == 0).sum()))

    def averages(self, tally: Tally) -> dict[str, Any]:
        """Means over an epoch's utterances (losses) and updates (gradient norms), and rates; None of nothing."""
        sums = tally.sums
        weights = {"loss_ser": 1.0, "loss_asr": self.config.alpha, "loss_sid": self.config.beta}
        losses = {name: tally.ratio(name, "utterances") for name in weights}
        if not sums.get("speakers"):
            losses["loss_sid"] = None  # of speakers that the head does not know there is no loss
        known = [weights[name] * value for name, value in losses.items() if value is not None]
        total = sum(known) if known else None
        gradients = {name: tally.ratio(name, "updates") for name in sums if name.startswith("grad_")}
        counts = {"no_ctc": int(sums.get("no_ctc", 0)), "nonfinite": int(sums.get("nonfinite", 0))}
        return {"loss": total, **losses, **tally.rates(), **gradients, **counts}

    @torch.no_grad()
    def evaluate(self, dataset: FoldDataset) -> dict[str, Any]:
        """Losses and rates of a set, without dropout or augmentation."""
        self.model.eval()
        tally = Tally(len(self.trained.labels))
        for host_batch in self.load(dataset, decode_batches(dataset.lengths, EVALUATION_BATCH)):
            batch = host_batch.to(self.device)
            output = self.model(batch)
            for task, loss in sum_losses(task_losses(output, batch, 1)).items():
                tally.add(f"loss_{task}", loss)
            tally.add("utterances", len(batch.utterances))
            self.count(tally, output, batch)
        return self.averages(tally)

    def load(self, dataset: FoldDataset, batches: list[list[int]]) -> DataLoader:
        """A loader of given batches."""
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=dataset.collate,
            num_workers=self.config.num_workers,
            pin_memory=self.device.type == "cuda",
        )


def progress(batches: list[Any], name: str) -> Iterator[Any]:
    """The batches, with a progress bar where somebody watches."""
    return iter(tqdm(batches, desc=name, leave=False, disable=not sys.stderr.isatty()))


def total_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """Number of parameters, and of those that are trained."""
    sizes: list[tuple[int, bool]] = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)
