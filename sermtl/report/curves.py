"""Values from the trainings' ``history.jsonl``: curves over epochs, hours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sermtl.report.families import Setting
from sermtl.report.load import Experiment

SOURCES = {"monitor_test": "test fold (monitoring: nothing is selected by it)", "dev": "dev part of the fold"}
"""Where a curve may come from, the first that exists."""


def curves(settings: Sequence[Setting], part: str, rate: str) -> dict[str, np.ndarray]:
    """A rate over epochs.

    Args:
        settings: Those to show.
        part: ``monitor_test`` or ``dev``.
        rate: ``wa`` or ``wer``.

    Returns:
        Setting's name -> (folds, epochs), mean over seeds, NaN where nothing was logged. Settings without
        a value are absent, and from WER also those trained without the CTC loss.
    """
    found = {}
    for setting in settings:
        if rate == "wer" and not setting.first.reads:
            continue
        folds = setting.first.folds
        logs = [[made.histories[fold] for made in setting.experiments] for fold in folds]
        epochs = max((record["epoch"] for seeds in logs for log in seeds for record in log), default=0)
        sums, known = np.zeros((len(folds), epochs)), np.zeros((len(folds), epochs))
        for row, seeds in enumerate(logs):
            for record in (record for log in seeds for record in log):
                value = _get(record, part, rate)
                if value is not None:
                    sums[row, record["epoch"] - 1] += value
                    known[row, record["epoch"] - 1] += 1
        if known.any():
            with np.errstate(invalid="ignore"):
                found[setting.name] = sums / np.where(known > 0, known, np.nan)
    return found


def hours(made: Experiment) -> float | None:
    """Training time of an experiment's folds together; None without any history."""
    logs = list(filter(None, made.histories.values()))
    return sum(_number(record.get("seconds")) or 0.0 for log in logs for record in log) / 3600 if logs else None


def epochs(made: Experiment) -> int | None:
    """Epochs of its shortest fold; None without any history."""
    return min((int(log[-1]["epoch"]) for log in made.histories.values() if log), default=None)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _get(record: dict[str, Any], part: str, key: str) -> float | None:
    values = record.get(part)
    return _number(values.get(key)) if isinstance(values, dict) else None
