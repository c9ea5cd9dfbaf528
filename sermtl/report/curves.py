"""What the trainings' ``history.jsonl`` tell: curves over epochs, hours, the speaker head's last loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sermtl.report.families import Setting
from sermtl.report.load import Experiment, read_history

PARTS = {"monitor_test": "test fold (monitoring: it selected nothing)", "dev": "dev part of the fold"}
"""Where a curve may come from, the first that exists."""

Histories = dict[tuple[str, str], list[dict[str, Any]]]
"""(tag, fold) -> epochs."""


def read_histories(experiments: Sequence[Experiment]) -> Histories:
    """Every fold's history; folds without one have no epochs."""
    return {
        (made.tag, fold): read_history(made.path / fold / "history.jsonl")
        for made in experiments
        for fold in made.scores["folds"]
    }


def curves(settings: Sequence[Setting], histories: Histories, part: str, rate: str) -> dict[str, np.ndarray]:
    """A rate over epochs.

    Args:
        settings: Those to show.
        histories: See `read_histories`.
        part: ``monitor_test`` or ``dev``.
        rate: ``wa`` or ``wer``.

    Returns:
        Setting's name -> (folds, epochs), mean over seeds, NaN where nothing was logged; settings without
        a value, and of word errors those that do not read, are absent.
    """
    found = {}
    for setting in settings:
        if rate == "wer" and not setting.first.reads:
            continue
        folds = setting.first.scores["folds"]
        logs = [[histories[made.tag, fold] for made in setting.experiments] for fold in folds]
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


def hours(made: Experiment, histories: Histories) -> float | None:
    """Training time of an experiment's folds together; None where no history tells it."""
    return _over_folds(made, histories, lambda log: sum(_seconds(record) for record in log) / 3600, sum)


def epochs(made: Experiment, histories: Histories) -> int | None:
    """Epochs of its shortest fold."""
    return _over_folds(made, histories, lambda log: int(log[-1]["epoch"]), min)


def last(setting: Setting, histories: Histories, part: str, key: str) -> float | None:
    """Mean over folds and seeds of a value of the last epoch."""
    values = [
        value
        for made in setting.experiments
        for fold in made.scores["folds"]
        if (log := histories[made.tag, fold]) and (value := _get(log[-1], part, key)) is not None
    ]
    return float(np.mean(values)) if values else None


def _over_folds(
    made: Experiment, histories: Histories, value: Callable[[Any], Any], merge: Callable[[Any], Any]
) -> Any:
    logs = [log for fold in made.scores["folds"] if (log := histories[made.tag, fold])]
    return merge([value(log) for log in logs]) if logs else None


def _seconds(record: dict[str, Any]) -> float:
    value = record.get("seconds")
    return float(value) if isinstance(value, (int, float)) else 0.0


def _get(record: dict[str, Any], part: str, key: str) -> float | None:
    values = record.get(part)
    value = values.get(key) if isinstance(values, dict) else None
    return float(value) if isinstance(value, (int, float)) else None
