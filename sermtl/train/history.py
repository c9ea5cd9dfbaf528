"""What each epoch measured: ``history.jsonl``, TensorBoard, and the log line."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sermtl.config import TrainConfig
from sermtl.data.dataset import FoldDataset
from sermtl.fileio.files import write_text
from sermtl.score.metrics import first

log = logging.getLogger(__name__)
WARNINGS = "warnings.txt"
EXPLOSION = 10.0
"""Times the best earlier epoch's loss from which on a loss has exploded."""


def write_history(path: Path, records: list[dict[str, Any]]) -> None:
    """Write one JSON object per epoch, all epochs each time, so that a resumed training repeats none."""
    write_text(path, "".join(f"{json.dumps(record, allow_nan=False)}\n" for record in records))


def tensorboard(directory: Path, records: list[dict[str, Any]]) -> Any:
    """A writer of TensorBoard scalars, begun again with the given records so that none appears twice."""
    from torch.utils.tensorboard import SummaryWriter

    for old in directory.glob("events.out.tfevents.*"):
        old.unlink()
    writer = SummaryWriter(str(directory))
    for record in records:
        add_scalars(writer, record)
    return writer


def add_scalars(writer: Any, record: dict[str, Any]) -> None:
    """Add one epoch."""
    for part, values in record.items():
        for name, value in values.items() if isinstance(values, dict) else ():
            if isinstance(value, (int, float)):
                writer.add_scalar(f"{name}/{part}", value, record["epoch"])
    writer.add_scalar("learning_rate", record["lr"], record["epoch"])
    writer.flush()


def summary(record: dict[str, Any]) -> str:
    """An epoch in one line for the log."""
    parts = []
    for part in ("train", "dev", "monitor_test"):
        shown = ("loss", "loss_ser", "loss_asr", "loss_sid", "wa", "ua", "wer", "acc_sid")
        numbers = [f"{name} {record[part][name]:.3f}" for name in shown if record.get(part, {}).get(name) is not None]
        parts += [f"{part}: {' '.join(numbers)}"] if numbers else []
    return "; ".join(parts)


def write_warnings(exp: Path, history: Sequence[Mapping[str, Any]], dead: Sequence[str]) -> None:
    """Log and write ``warnings.txt``, for reports: exploded losses of any epoch, then ``dead`` heads, a line each."""
    for message in dead:
        log.warning("%s", message)
    messages = [message for end in range(1, len(history) + 1) for message in exploded(history[:end])]
    write_text(exp / WARNINGS, "".join(f"{message}\n" for message in [*messages, *dead]))


def exploded(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """A warning where the last epoch's training loss is many times that of the best epoch before it."""
    *before, last = [record["train"].get("loss") for record in history]
    best = min((loss for loss in before if loss is not None), default=None)
    if best is None or (last is not None and last <= EXPLOSION * best):
        return []
    size = "no finite one" if last is None else f"{last:.3g}"
    return [f"the loss has exploded: {size} in epoch {len(history)}, {best:.3g} at best; try a smaller learning_rate"]


def dead_heads(history: Sequence[Mapping[str, Any]], classes: int, speakers: int, alpha: float) -> list[str]:
    """A warning for each task whose training accuracy was at chance in every one of three or more epochs."""
    if len(history) < 3:
        return []

    def known(name: str) -> list[float]:
        return [record["train"][name] for record in history if record["train"].get(name) is not None]

    found = []
    for head, name, rate, count in (("emotion", "ua", "UA", classes), ("speaker", "acc_sid", "accuracy", speakers)):
        best = max(known(name), default=1.0)
        if count > 1 and best < min(1.5 / count, 1 / count + 0.05):
            found.append(f"the {head} head stayed at chance: {rate} {best:.3f} at best, for {count} classes")
    best = min(known("wer"), default=0.0)
    if alpha and best >= 1:
        found.append(f"the CTC head learnt no word: WER {best:.3f} at best")
    return found


def without_ctc(train: FoldDataset, alpha: float) -> list[str]:
    """A sentence on the training utterances that have no CTC term (at their own speed), where CTC is trained."""
    frames = train.front_end.geometry.frames
    kinds = {
        "without a transcript": [e.utterance for e in train.examples if not e.tokens],
        "with one too long for their frames": [e.utterance for e in train.examples if e.ctc_frames > frames(e.length)],
    }
    found = [f"{len(utts)} {why} ({first(utts)})" for why, utts in kinds.items() if utts]
    return [f"training utterances that do not count in the CTC loss: {'; '.join(found)}"] if alpha and found else []


def is_finished(exp: Path, config: TrainConfig) -> bool:
    """Whether a fold's training reached its last epoch: ``history.jsonl`` has a line for each."""
    history = exp / "history.jsonl"
    return history.is_file() and len(history.read_text(encoding="utf-8").splitlines()) >= config.epochs
