"""The training loop of one fold, by one process or by several that share each update's utterances."""

import logging
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from sermtl.config import TrainConfig
from sermtl.data.dataset import FoldDataset, Sets
from sermtl.data.sampler import batches_of_epoch, decode_batches, parts_by_size
from sermtl.errors import UserError
from sermtl.fileio.files import sha256, write_json
from sermtl.fileio.tables import write_list
from sermtl.model.batch import Batch, in_parts, is_exhausted, release, smaller
from sermtl.model.gradient_reversal import reversal_scale
from sermtl.model.multitask import count_targets, task_losses
from sermtl.model.trained_model import WEIGHTS, TrainedModel
from sermtl.seeding import derive_seed
from sermtl.train import history
from sermtl.train.calibration import save_model
from sermtl.train.checkpoint import load_checkpoint, save_checkpoint
from sermtl.train.epoch_sums import EpochSums, Guesses, plain, total_over_processes
from sermtl.train.pooled_statistics import BATCH, fit_after, fit_epoch
from sermtl.train.processes import Ranks
from sermtl.train.update import (
    Computed,
    accumulate_gradients,
    clip_gradients,
    make_optimizer,
    nonfinite_utterances,
    rate_share,
)

log = logging.getLogger(__name__)
STATE = ("epoch", "batch", "history", "best_rate", "best_digest", "nonfinite")
"""What a checkpoint holds beside the model, the optimizer and the sums of the epoch."""
REPEATED = 5.0
"""Seconds of training that may be lost and computed again: an epoch that ends within them writes no checkpoint."""


class Interrupted(Exception):
    """Training was asked to stop, and has saved its state."""


@dataclass(eq=False, repr=False)
class Trainer:
    """Trains a model to its last epoch, from the newest checkpoint in ``exp`` where there is one."""

    trained: TrainedModel
    config: TrainConfig
    sets: Sets
    exp: Path
    device: torch.device
    ranks: Ranks = field(default_factory=Ranks)

    def __post_init__(self) -> None:
        """Begin, or go on."""
        self.model = self.trained.model.to(self.device)
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer: Any = make_optimizer(self.model, self.config)
        self.epoch_updates = self.config.updates or -(-len(self.sets.train) // self.config.batch_size)
        self.total_updates = self.epoch_updates * self.config.epochs
        self.epoch = self.batch = 0
        self.epoch_sums = EpochSums(len(self.trained.labels))
        self.history: list[dict[str, Any]] = []
        self.best_rate, self.best_digest = -1.0, ""
        self.nonfinite: list[str] = []
        self.unread: list[Computed] = []
        """Updates whose results were not counted yet."""
        self.stopping = False
        self.saved = time.monotonic()
        # Loading may rename a damaged file, which one process must do before the others load.
        with self.ranks.first_alone():
            self.resume()
        if len(set(self.ranks.gather((self.epoch, self.batch)))) > 1:
            raise UserError(f"the hosts of this job see different checkpoints in {self.exp}; is that folder shared?")
        self.ranks.copy_from_first(self.model)

    def resume(self) -> None:
        """Load the newest checkpoint; any number of processes may have written it."""
        state = load_checkpoint(self.exp)
        if state is None:
            return
        self.model.load_state_dict(state["model"], strict=False)  # what is frozen is not in it
        self.optimizer.load_state_dict(state["optimizer"])
        for name in STATE:
            setattr(self, name, state[name])
        if self.ranks.first:
            self.epoch_sums = EpochSums(len(self.trained.labels), state["tally"])
        log.info("resumed after %d updates of epoch %d of %d", self.batch, self.epoch + 1, self.config.epochs)

    def save(self) -> None:
        """Write a checkpoint between two updates; all processes wait until it is written."""
        epoch_sums = self.counted()
        with self.ranks.first_alone():
            if self.ranks.first:
                state = {name: getattr(self, name) for name in STATE} | {"tally": dict(epoch_sums.sums)}
                frozen = {name for name, value in self.model.named_parameters() if not value.requires_grad}
                learned = {name: value for name, value in self.model.state_dict().items() if name not in frozen}
                state |= {"model": learned, "optimizer": self.optimizer.state_dict()}
                save_checkpoint(self.exp, state)
        self.saved = time.monotonic()

    def stop_soon(self, *_signal: object) -> None:
        """Save after this update, and raise `Interrupted` (a handler of SIGTERM, which one process may get alone)."""
        self.stopping = True

    def run(self) -> None:
        """Train the epochs that are left, and write the model that is to be scored.

        `Interrupted` after `stop_soon`, when the checkpoint is written; `UserError` for too many non-finite updates.
        """
        tensorboard = history.tensorboard(self.exp / "tensorboard", self.history) if self.ranks.first else None
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
                history.add_scalars(tensorboard, self.history[-1])
        if tensorboard:
            tensorboard.close()
        if self.ranks.first:
            self.write_results()

    def write_results(self) -> None:
        """Write what a finished training leaves."""
        if self.config.select == "last":
            fit_after(self.trained, self.config, self.sets, self.device)
            save_model(self.exp, self.model, self.config, self.sets, self.device)
        elif not (self.exp / WEIGHTS).is_file() or sha256(self.exp / WEIGHTS) != self.best_digest:
            raise UserError(
                f"{self.exp / WEIGHTS}, the best epoch's weights, is gone or damaged, and checkpoints hold the last "
                f"epoch's; remove {self.exp}/checkpoint*.pth and {self.exp}/history.jsonl to train the fold again"
            )
        # Nothing depends on a speaker head over a frozen encoder whose gradient nothing gets.
        speakers = 0 if self.config.freeze == "all" and not self.config.beta else len(self.trained.speakers)
        dead = history.dead_heads(self.history, len(self.trained.labels), speakers, self.config.alpha)
        history.write_warnings(self.exp, self.history, dead + history.without_ctc(self.sets.train, self.config.alpha))
        if shares := self.model.mixed():
            write_json(self.exp / "layer_weights.json", shares)
        # Its last line says that the training is finished, so it comes after the weights.
        history.write_history(self.exp / "history.jsonl", self.history)

    def finish_epoch(self, record: dict[str, Any]) -> None:
        """Log an epoch and save it."""
        self.epoch, self.batch, self.epoch_sums = self.epoch + 1, 0, EpochSums(len(self.trained.labels))
        self.history.append(record)
        seconds, left = record["seconds"], record["seconds"] * (self.config.epochs - self.epoch)
        text = history.summary(record)
        log.info(f"epoch {self.epoch}/{self.config.epochs} ({seconds:.1f} s, {left:.0f} s left): {text}")
        for message in history.exploded(self.history):
            log.warning("%s", message)
        if self.config.select == "best" and record["dev"][self.config.select_by] > self.best_rate:
            self.best_rate = record["dev"][self.config.select_by]
            if self.ranks.first:
                save_model(self.exp, self.model, self.config, self.sets, self.device)
                self.best_digest = sha256(self.exp / WEIGHTS)
        stopping, overdue = self.ranks.any(self.stopping, time.monotonic() - self.saved > REPEATED)
        if stopping or overdue or self.epoch == self.config.epochs:
            self.save()
            if self.ranks.first and self.epoch < self.config.epochs:
                history.write_history(self.exp / "history.jsonl", self.history)
        if stopping:
            raise Interrupted

    def train_epoch(self) -> dict[str, Any]:
        """The updates that are left of one pass over the training list; returns the pass's averages."""
        config, train = self.config, self.sets.train
        train.set_epoch(self.epoch)
        if not self.batch:
            fit_epoch(self.trained, config, self.sets, self.device)
        batches = batches_of_epoch(train.examples, config, self.epoch, self.epoch_updates)
        left = [self.parts_of(batch) for batch in batches[self.batch :]]
        loader = iter(self.load(train, [part for parts in left for part in parts]))
        self.model.train()
        for parts in tqdm(left, f"epoch {self.epoch + 1}", leave=False, disable=not sys.stderr.isatty()):
            number = self.epoch * len(batches) + self.batch
            self.update(number, [next(loader) for _ in parts])
            self.batch += 1
            overdue = time.monotonic() - self.saved > 60 * config.save_minutes
            stopping, overdue = self.ranks.any(self.stopping, overdue)
            if stopping and self.batch < len(batches):
                self.save()
                raise Interrupted
            if overdue:
                self.save()
        return self.counted().averages(self.config.alpha)

    def counted(self) -> EpochSums:
        """The sums of the epoch's updates until now, of all processes."""
        self.count_updates()
        return total_over_processes(self.epoch_sums, self.ranks)

    def parts_of(self, batch: list[int]) -> list[list[int]]:
        """A process's own share of an update's utterances, in ``accum_grad`` parts or, by `parts_by_size`, more."""
        train = self.sets.train
        share = self.ranks.share(sorted(batch, key=lambda index: -train.lengths[index]))
        most, upstream = -(-len(share) // self.config.accum_grad), self.model.upstream
        padded = upstream.entry == "audio" or not upstream.packed
        return parts_by_size(share, train.lengths, most, train.typical_length, padded)

    def update(self, update: int, parts: list[Batch]) -> None:
        """One step of the optimiser over ``parts``, which are this process's; skipped where it is not finite.

        What is read of the device is the update before, so that a GPU does not wait for the next one. Updates are
        numbered from 0; there may be no parts for one of several processes.
        """
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = rate_share(update, self.total_updates, config) * group["peak"]
        scale = reversal_scale(config.beta, config.grl, config.grl_schedule, update / max(1, self.total_updates - 1))
        targets = self.ranks.add(count_targets(parts))
        done = None
        while done is None:
            # Dropout is the one draw that depends on how many processes there are: each has its own.
            seed = derive_seed(config.seed, "update", update) + self.ranks.rank
            (torch if self.device.type == "cuda" else torch.default_generator).manual_seed(seed)  # the first is slower
            try:
                self.optimizer.zero_grad(set_to_none=True)
                on_device = (part.to(self.device) for part in parts)
                done = accumulate_gradients(self.model, on_device, targets, scale, config.alpha)
            except RuntimeError as error:
                if not is_exhausted(error):
                    raise
                parts = smaller(parts, error)  # their gradients add up to the same
            if done is None:
                release(self.device)  # only now that the error no longer holds what was computed
        self.ranks.add_gradients(self.parameters)
        sums = self.ranks.add(done[0])
        finite = clip_gradients(self.parameters, self.model.speaker_head, config.grad_clip) & sums.isfinite().all()
        self.model.speaker_head.follow(self.ranks.add, finite)
        self.optimizer.found_inf = (~finite).float()  # where it is 1, the step leaves weights and moments as they are
        self.optimizer.step()
        self.unread.append(Computed(parts, sums, finite, done[1]))
        self.count_updates(1)

    def count_updates(self, left: int = 0) -> None:
        """Add what updates computed to the sums of the epoch, of all but the ``left`` newest."""
        while len(self.unread) > left:
            computed = self.unread.pop(0)
            computed.wait()
            if not computed.finite:
                on_device = (part.to(self.device) for part in computed.parts)
                self.report_nonfinite(nonfinite_utterances(self.model, on_device))
                continue
            for guesses, part in zip(computed.guesses, computed.parts, strict=True):
                self.epoch_sums.add_guesses(guesses, part, self.sets.texts, self.trained.tokenizer)
            if self.ranks.first:
                self.epoch_sums.add_update(*computed.sums.tolist())

    def report_nonfinite(self, utterances: list[str]) -> None:
        """Count a skipped update; `UserError` where they pass the configured share of an epoch."""
        if self.ranks.first:
            self.epoch_sums.sums["nonfinite"] += 1
        names = " ".join(utterance for own in self.ranks.gather(utterances) for utterance in own)
        log.warning("non-finite loss or gradient: update skipped; utterances: %s", names)
        self.nonfinite += names.split()
        share, batches = self.config.max_nonfinite, self.epoch_updates
        skipped = int(total_over_processes(self.epoch_sums, self.ranks).sums["nonfinite"])
        if skipped > (max(1.0, share * batches) if share else 0.0):
            listed = self.exp / "nonfinite.txt"
            if self.ranks.first:
                write_list(listed, set(self.nonfinite))
            raise UserError(
                f"{skipped} of {batches} updates of epoch {self.epoch + 1} were not finite "
                f"(max_nonfinite is {share:g}); the last held {names}; "
                f"try a smaller learning_rate, or look at these utterances: {listed} has all of them"
            )

    @torch.no_grad()
    def evaluate(self, dataset: FoldDataset) -> dict[str, Any]:
        """Losses and rates of a set, without dropout or augmentation."""
        self.model.eval()
        epoch_sums = EpochSums(len(self.trained.labels))
        batches = self.ranks.share(decode_batches(dataset.lengths, BATCH))
        for host_batch in self.load(dataset, batches):
            for batch, output in in_parts(host_batch.to(self.device), self.model):
                losses = task_losses(output, batch)
                guesses, on_cpu = Guesses.of(output).on_cpu(), batch.to(torch.device("cpu"))
                values = torch.stack([loss.float() for loss in losses.values()]).tolist()  # waits for all copies
                for task, loss in zip(losses, values, strict=True):
                    epoch_sums.sums[f"loss_{task}"] += loss
                epoch_sums.add_guesses(guesses, on_cpu, self.sets.texts, self.trained.tokenizer)
        return total_over_processes(epoch_sums, self.ranks).averages(self.config.alpha)

    def load(self, dataset: FoldDataset, batches: list[list[int]]) -> DataLoader:
        """A loader of given batches."""
        workers = self.config.num_workers * (self.model.upstream.entry != "pooled")  # whose vectors are in memory
        return dataset.loader(batches, workers, self.device.type == "cuda")
