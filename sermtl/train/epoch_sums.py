"""Sums over an epoch's utterances, from which its averages and rates are made."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from sermtl.model.batch import Batch
from sermtl.model.multitask import TASKS, Output, count_targets, texts_of, total_loss
from sermtl.score.metrics import count_edits, mean, ratio
from sermtl.text.tokenizer import Tokenizer
from sermtl.train.processes import Ranks


class Guesses(NamedTuple):
    """What the heads find most probable."""

    emotions_B: Tensor
    speakers_B: Tensor
    frames_B: Tensor
    tokens_BT: Tensor | None

    @classmethod
    def of(cls, output: Output) -> Guesses:
        """On the output's device."""
        tokens_BT = None if output.tokens_BTV is None else output.best_BT
        return cls(output.emotion_BC.argmax(1), output.speaker_BS.argmax(1), output.frames_B, tokens_BT)

    def on_cpu(self) -> Guesses:
        """Copies, which are made while a GPU computes on."""
        return Guesses(*map(to_cpu, self))


def to_cpu(values: Any) -> Any:
    """A copy of a tensor that is made while a GPU computes on; None of None."""
    return None if values is None else values.to("cpu", non_blocking=True)


class EpochSums:
    """Adds up losses, hits and word errors; its state is plain numbers, so a checkpoint can hold it."""

    def __init__(self, labels: int, state: dict[str, float] | None = None):
        self.labels = labels
        self.sums = defaultdict(float, state or {})

    def add_update(self, losses: Sequence[float], squared_norms: Sequence[float]) -> None:
        """Add an update's losses (sums over its utterances) and gradient norms, in the order of the tasks."""
        self.sums["updates"] += 1
        for task, loss, square in zip(TASKS, losses, squared_norms, strict=True):
            self.sums[f"loss_{task}"] += loss
            self.sums[f"grad_{task}"] += math.sqrt(square)

    def add_guesses(self, guesses: Guesses, batch: Batch, texts: Mapping[str, str], tokenizer: Tokenizer) -> None:
        """Count targets, hits of the emotion and speaker heads, and word errors of the greedy transcripts.

        All is on the CPU; ``texts`` has the normalised transcript of each utterance that has one.
        """
        for task, count in zip(TASKS, count_targets([batch]).tolist(), strict=True):
            # Where no states are read for characters, they have no loss, whatever the transcripts.
            self.sums[f"targets_{task}"] += count if task != "asr" or guesses.tokens_BT is not None else 0
        self.sums["no_ctc"] += int((batch.token_lengths_B == 0).sum())
        for truth, guess in zip(batch.emotions_B.tolist(), guesses.emotions_B.tolist(), strict=True):
            if truth >= 0:
                self.sums[f"class{truth}"] += 1
                self.sums[f"hit{truth}"] += truth == guess
        # An unknown speaker is -1, which no guess is.
        self.sums["speaker_hits"] += int((guesses.speakers_B == batch.speakers_B).sum())
        if guesses.tokens_BT is None:
            return
        hypotheses = texts_of(guesses.tokens_BT, guesses.frames_B, tokenizer)
        for utterance, hypothesis in zip(batch.utterances, hypotheses, strict=True):
            if text := texts.get(utterance):
                edits = count_edits(text, hypothesis)
                self.sums["words"] += edits["words"]
                self.sums["word_errors"] += edits["errors"]

    def rates(self) -> dict[str, float | None]:
        """WA, UA, WER and speaker accuracy, None where nothing could be counted."""
        hits, counts = ([self.sums.get(f"{what}{c}", 0) for c in range(self.labels)] for what in ("hit", "class"))
        return {
            "wa": ratio(sum(hits), sum(counts)),
            "ua": mean([ratio(hit, count) for hit, count in zip(hits, counts, strict=True)]),
            "wer": self.ratio("word_errors", "words"),
            "acc_sid": self.ratio("speaker_hits", "targets_sid"),
        }

    def averages(self, alpha: float) -> dict[str, Any]:
        """Means over the utterances with a target (losses) and updates (gradient norms), and rates; None of nothing."""
        losses = {f"loss_{task}": self.ratio(f"loss_{task}", f"targets_{task}") for task in TASKS}
        known = {task: value for task in TASKS if (value := losses[f"loss_{task}"]) is not None}
        gradients = {name: self.ratio(name, "updates") for name in self.sums if name.startswith("grad_")}
        counts = {name: int(self.sums.get(name, 0)) for name in ("no_ctc", "nonfinite")}
        return {"loss": total_loss(known, alpha) if known else None, **losses, **self.rates(), **gradients, **counts}

    def ratio(self, part: str, whole: str) -> float | None:
        """One sum over another; None where the other is 0."""
        return ratio(self.sums.get(part, 0.0), self.sums.get(whole, 0.0))


def total_over_processes(own: EpochSums, ranks: Ranks) -> EpochSums:
    """The sums of all processes."""
    total = EpochSums(own.labels)
    for part in ranks.gather(own):
        for name, value in part.sums.items():
            total.sums[name] += value
    return total


def plain(value: Any) -> Any:
    """A number, or all those of a dictionary, to nine significant digits; None for those that JSON does not have."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if not isinstance(value, float):
        return value
    return float(f"{value:.9g}") if math.isfinite(value) else None
