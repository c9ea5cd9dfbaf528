"""The training loop of one fold, by one process or by several that share each update's utterances."""

from __future__ import annotations

import logging
import math
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from sermtl.config import TrainConfig
from sermtl.data.dataset import FoldDataset
from sermtl.data.sampler import decode_batches, epoch_batches
from sermtl.errors import UserError
from sermtl.fileio.files import sha256
from sermtl.fileio.tables import write_list
from sermtl.model.batch import Batch
from sermtl.model.gradient_reversal import reversal_scale
from sermtl.model.multitask import Output, task_losses
from sermtl.model.out_of_memory import in_parts, is_exhausted, release, smaller
from sermtl.model.trained_model import WEIGHTS, TrainedModel, save_weights
from sermtl.seeding import derive_seed
from sermtl.train.checkpoint import load_checkpoint, save_checkpoint
from sermtl.train.epoch_sums import Tally, plain, sum_losses
from sermtl.train.history import TensorBoard, dead_heads, exploded, summary, write_history, write_warnings
from sermtl.train.optimizer import learning_rate, make_optimizer
from sermtl.train.processes import Ranks

log = logging.getLogger(__name__)
EVALUATION_BATCH = 16
TASKS = ("ser", "asr", "sid")
WORKER_GRACE = 120
"""Seconds after which a loader process that got SIGTERM ends."""


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

    def __init__(
        self,
        trained: TrainedModel,
        config: TrainConfig,
        sets: Sets,
        exp: Path,
        device: torch.device,
        ranks: Ranks | None = None,
    ):
        self.trained, self.config, self.sets, self.exp, self.device = trained, config, sets, exp, device
        self.ranks = ranks or Ranks()
        self.model = trained.model.to(device)
        if config.freeze_feature_encoder and config.feats_type != "fbank":
            self.model.upstream.freeze_feature_encoder()
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = make_optimizer(self.model, config)
        batches = -(-len(sets.train) // config.batch_size)
        self.total_updates = batches * config.epochs
        self.epoch = 0
        self.batch = 0
        self.tally = Tally(len(trained.labels))
        self.history: list[dict[str, Any]] = []
        self.best_ua = -1.0
        self.best_digest = ""
        self.nonfinite: list[str] = []
        self.stopping = False
        self.saved = time.monotonic()
        # Loading may put a damaged file out of the way, which one process must do before the others look.
        with self.ranks.first_alone():
            self.resume()
        if len(set(self.ranks.gather((self.epoch, self.batch)))) > 1:
            raise UserError(f"the hosts of this job see different checkpoints in {exp}; is that folder shared?")
        self.ranks.copy_from_first(self.model)

    def resume(self) -> None:
        """Take up the newest checkpoint, by however many processes it was written."""
        state = load_checkpoint(self.exp)
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.batch, self.best_ua = state["epoch"], state["batch"], state["best_ua"]
        self.history, self.best_digest = state["history"], state["best_digest"]
        self.nonfinite = state["nonfinite"]
        if self.ranks.first:
            self.tally = Tally(len(self.trained.labels), state["tally"])
        log.info("resumed after %d updates of epoch %d of %d", self.batch, self.epoch + 1, self.config.epochs)

    def save(self) -> None:
        """Make the training safe as it stands between two updates; all processes wait until it is."""
        tally = self.total(self.tally)
        with self.ranks.first_alone():
            if self.ranks.first:
                self.write_checkpoint(tally)
        self.saved = time.monotonic()

    def write_checkpoint(self, tally: Tally) -> None:
        """Write ``checkpoint.pth``; ``tally`` is that of all processes."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "batch": self.batch,
            "tally": tally.sums,
            "history": self.history,
            "best_ua": self.best_ua,
            "best_digest": self.best_digest,
            "nonfinite": self.nonfinite,
        }
        save_checkpoint(self.exp, state)

    def stop_soon(self, *_signal: object) -> None:
        """Save after the update that is being computed, and raise `Interrupted` (a handler of SIGTERM).

        One process that is told suffices.
        """
        self.stopping = True

    def run(self) -> None:
        """Train the epochs that are left, and write the model that is to be scored.

        Raises:
            Interrupted: `stop_soon` was called; the checkpoint is written.
            UserError: Too many updates were not finite.
        """
        tensorboard = TensorBoard(self.exp / "tensorboard", self.history) if self.ranks.first else None
        while self.epoch < self.config.epochs:
            started = time.monotonic()
            record: dict[str, Any] = {"epoch": self.epoch + 1, "train": self.train_epoch()}
            for name, dataset in self.sets.evaluated.items():
                record[name] = self.evaluate(dataset)
            record["lr"] = self.optimizer.param_groups[0]["lr"]
            record["updates"] = self.total_updates * (self.epoch + 1) // self.config.epochs
            record["seconds"] = time.monotonic() - started
            self.finish_epoch(plain(record))
            if tensorboard:
                tensorboard.add(self.history[-1])
        if tensorboard:
            tensorboard.close()
        if self.ranks.first:
            self.write_results()

    def write_results(self) -> None:
        """Write what a finished training leaves."""
        if self.config.select == "last":
            save_weights(self.exp, self.model)
        elif not (self.exp / WEIGHTS).is_file() or sha256(self.exp / WEIGHTS) != self.best_digest:
            raise UserError(
                f"{self.exp / WEIGHTS}, the best epoch's weights, is gone or damaged, and checkpoints hold the last "
                f"epoch's; remove {self.exp}/checkpoint*.pth and {self.exp}/history.jsonl to train the fold anew"
            )
        dead = dead_heads(self.history, len(self.trained.labels), len(self.trained.speakers), self.config.alpha)
        for message in dead:
            log.warning("%s", message)
        ends = range(1, len(self.history) + 1)
        write_warnings(self.exp, [message for end in ends for message in exploded(self.history[:end])] + dead)
        # Its last line says that the training is finished, so it comes after the weights.
        write_history(self.exp / "history.jsonl", self.history)

    def finish_epoch(self, record: dict[str, Any]) -> None:
        """Log an epoch and make it safe."""
        self.epoch, self.batch, self.tally = self.epoch + 1, 0, Tally(len(self.trained.labels))
        self.history.append(record)
        seconds, left = record["seconds"], record["seconds"] * (self.config.epochs - self.epoch)
        numbers = (self.epoch, self.config.epochs, seconds, left, summary(record))
        log.info("epoch %d/%d (%.1f s, %.0f s left): %s", *numbers)
        for message in exploded(self.history):
            log.warning("%s", message)
        if self.config.select == "best" and record["dev"]["ua"] > self.best_ua:
            self.best_ua = record["dev"]["ua"]
            if self.ranks.first:
                save_weights(self.exp, self.model)
                self.best_digest = sha256(self.exp / WEIGHTS)
        self.save()
        if self.ranks.first and self.epoch < self.config.epochs:
            write_history(self.exp / "history.jsonl", self.history)
        if self.ranks.any(self.stopping)[0]:
            raise Interrupted

    def train_epoch(self) -> dict[str, Any]:
        """The updates that are left of one pass over the training list; returns the pass's averages."""
        config, train = self.config, self.sets.train
        train.set_epoch(self.epoch)
        batches = epoch_batches(train.lengths, config.batch_size, config.bucket_batches, config.seed, self.epoch)
        left = [(self.parts_of(batch), len(batch)) for batch in batches[self.batch :]]
        loader = iter(self.load(train, [part for parts, _ in left for part in parts]))
        self.model.train()
        for parts, utterances in progress(left, f"epoch {self.epoch + 1}"):
            number = self.epoch * len(batches) + self.batch
            self.update(number, [next(loader) for _ in parts], utterances, self.tally)
            self.batch += 1
            overdue = time.monotonic() - self.saved > 60 * config.save_minutes
            stopping, overdue = self.ranks.any(self.stopping, overdue)
            if stopping and self.batch < len(batches):
                self.save()
                raise Interrupted
            if overdue:
                self.save()
        return self.averages(self.total(self.tally))

    def parts_of(self, batch: list[int]) -> list[list[int]]:
        """A process's own share of an update's utterances, in ``accum_grad`` parts that follow one another."""
        share = self.ranks.share(sorted(batch, key=lambda index: -self.sets.train.examples[index].size))
        size = max(1, -(-len(share) // self.config.accum_grad))
        return [share[i : i + size] for i in range(0, len(share), size)]

    def update(self, update: int, parts: list[Batch], utterances: int, tally: Tally) -> None:
        """One step of the optimiser over ``parts``, which are this process's; skipped where it is not finite.

        Args:
            update: Its number in the training, from 0.
            parts: Batches; there may be none for one of several processes.
            utterances: Number of the update's utterances over all processes.
            tally: Is added to: the losses, by the first process, and what each counts of its own utterances.
        """
        config = self.config
        rate = learning_rate(update, self.total_updates, config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        scale = reversal_scale(config.beta, config.grl, config.grl_schedule, update / max(1, self.total_updates - 1))
        done = None
        while done is None:
            # Dropout is the one draw that depends on how many processes there are: each has its own.
            torch.manual_seed(derive_seed(config.seed, "update", update) + self.ranks.rank)
            try:
                done = self.compute(parts, utterances, scale)
            except RuntimeError as error:
                if not is_exhausted(error):
                    raise
                parts = smaller(parts, error)  # their gradients add up to the same
            if done is None:
                release(self.device)  # only now that the error no longer holds what was computed
        sums, counted = done
        self.ranks.add_gradients(self.parameters)
        measured = self.ranks.add(sums).tolist()
        finite = self.clip_gradients() and all(map(math.isfinite, [*measured[0], *measured[1]]))
        if not finite:
            self.report_nonfinite(tally, self.offenders(parts))
            return
        self.optimizer.step()
        for name, value in counted.sums.items():
            tally.add(name, value)
        if not self.ranks.first:
            return
        tally.add("updates", 1)
        for task, loss, square in zip(TASKS, *measured, strict=True):
            tally.add(f"loss_{task}", loss * utterances)
            tally.add(f"grad_{task}", math.sqrt(square))
        tally.add("utterances", utterances)

    def compute(self, parts: list[Batch], utterances: int, scale: float) -> tuple[torch.Tensor, Tally]:
        """Gradients of the parts, added up in the parameters; losses and squared norms (2, tasks), and counts."""
        counted = Tally(len(self.trained.labels))
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(2, len(TASKS), dtype=torch.float64, device=self.device)
        for host_part in parts:
            part = host_part.to(self.device)
            output = self.model(part, scale)
            losses = task_losses(output, part, utterances)
            (losses["ser"] + self.config.alpha * losses["asr"] + losses["sid"]).backward()
            # Squares of the norms, because those of the parts add up.
            norms = [self.model.gradient_norms[task].square() for task in TASKS]
            sums += torch.stack([*(losses[task].detach() for task in TASKS), *norms]).view_as(sums)
            self.count(counted, output, part)
        return sums, counted

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

    @torch.no_grad()
    def offenders(self, parts: list[Batch]) -> list[str]:
        """The utterances whose losses are not finite by themselves, or all where it takes their gradients to see it."""
        found = []
        for one in (one for part in parts for one in singles(part)):
            losses = task_losses(self.model(one.to(self.device)), one.to(self.device), 1)
            if not all(math.isfinite(loss) for loss in losses.values()):
                found += one.utterances
        return found or [utterance for part in parts for utterance in part.utterances]

    def report_nonfinite(self, tally: Tally, utterances: list[str]) -> None:
        """Count a skipped update; stop where they pass the configured share of an epoch.

        Raises:
            UserError: Too many, with the utterances of the last one.
        """
        if self.ranks.first:
            tally.add("nonfinite", 1)
        names = " ".join(utterance for own in self.ranks.gather(utterances) for utterance in own)
        log.warning("non-finite loss or gradient: update skipped; utterances: %s", names)
        self.nonfinite += names.split()
        batches = self.total_updates // self.config.epochs
        allowed = max(1.0, self.config.max_nonfinite * batches) if self.config.max_nonfinite else 0.0
        skipped = int(self.total(tally).sums["nonfinite"])
        if skipped > allowed:
            listed = self.exp / "nonfinite.txt"
            if self.ranks.first:
                write_list(listed, set(self.nonfinite))
            raise UserError(
                f"{skipped} of {batches} updates of epoch {self.epoch + 1} were not finite "
                f"(max_nonfinite is {self.config.max_nonfinite:g}); the last held {names}; "
                f"try a smaller learning_rate, or look at these utterances: {listed} has all of them"
            )

    def count(self, tally: Tally, output: Output, part: Batch) -> None:
        """Count hits and word errors, and the transcripts that CTC could not use."""
        texts = [self.sets.texts.get(utterance, "") for utterance in part.utterances]
        tally.add_outputs(output, part, texts, self.trained.tokenizer)
        tally.add("no_ctc", int((part.token_lengths_B == 0).sum()))

    def total(self, tally: Tally) -> Tally:
        """The sums of all processes."""
        total = Tally(tally.labels)
        for sums in self.ranks.gather(tally.sums):
            for name, value in sums.items():
                total.add(name, value)
        return total

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
        batches = self.ranks.share(decode_batches(dataset.lengths, EVALUATION_BATCH))
        for host_batch in self.load(dataset, batches):
            for batch, output in in_parts(host_batch.to(self.device), self.model):
                for task, loss in sum_losses(task_losses(output, batch, 1)).items():
                    tally.add(f"loss_{task}", loss)
                tally.add("utterances", len(batch.utterances))
                self.count(tally, output, batch)
        return self.averages(self.total(tally))

    def load(self, dataset: FoldDataset, batches: list[list[int]]) -> DataLoader:
        """A loader of given batches."""
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=dataset.collate,
            num_workers=self.config.num_workers,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=outlive_a_stop,
        )


def outlive_a_stop(_worker: int) -> None:
    """Let a loader process work on after SIGTERM, which queues send to all processes, until the update is saved."""
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(WORKER_GRACE))


def singles(part: Batch) -> list[Batch]:
    """The utterances of a batch, each by itself."""
    halves = part.halves()
    return halves if len(halves) == 1 else [one for half in halves for one in singles(half)]


def progress(batches: list[Any], name: str) -> Iterator[Any]:
    """The batches, with a progress bar where somebody watches."""
    return iter(tqdm(batches, desc=name, leave=False, disable=not sys.stderr.isatty()))


def total_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """Number of parameters, and of those that are trained."""
    sizes: list[tuple[int, bool]] = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)
