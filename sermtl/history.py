"""What each epoch measured: ``history.jsonl``, TensorBoard, and the log line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sermtl.files import atomic_write


def write_history(path: Path, records: list[dict[str, Any]]) -> None:
    """Write one JSON object an epoch, all of them anew, so that a resumed training repeats none."""
    with atomic_write(path) as file:
        for record in records:
            file.write(json.dumps(record, allow_nan=False) + "\n")


class TensorBoard:
    """The epochs' numbers as TensorBoard scalars; begins anew with the records there are, so none is there twice."""

    def __init__(self, directory: Path, records: list[dict[str, Any]]):
        from torch.utils.tensorboard import SummaryWriter

        for old in directory.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = SummaryWriter(str(directory))
        for record in records:
            self.add(record)

    def add(self, record: dict[str, Any]) -> None:
        """Add one epoch."""
        for part, values in record.items():
            for name, value in values.items() if isinstance(values, dict) else ():
                if isinstance(value, (int, float)):
                    self._writer.add_scalar(f"{name}/{part}", value, record["epoch"])
        self._writer.add_scalar("learning_rate", record["lr"], record["epoch"])
        self._writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


def summary(record: dict[str, Any]) -> str:
    """An epoch in one line for the log."""
    parts = []
    for part in ("train", "dev", "monitor_test"):
        if part in record:
            shown = ("loss", "loss_ser", "loss_asr", "loss_sid", "wa", "ua", "wer", "acc_sid")
            values = record[part]
            numbers = [f"{name} {values[name]:.3f}" for name in shown if values.get(name) is not None]
            parts.append(f"{part}: {' '.join(numbers)}")
    return "; ".join(parts)
