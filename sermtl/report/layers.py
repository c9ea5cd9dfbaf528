"""Inside a frozen encoder: what each hidden state tells of emotion and speaker, and the weights that were learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sermtl.errors import UserError
from sermtl.fileio.files import load_json
from sermtl.report.document import Cell, Table
from sermtl.report.families import Family
from sermtl.score.layer_probe import layers_of

WEIGHTS = "layer_weights.json"
"""Of a fold, written by training: head -> hidden state -> learned share."""


def pooled_dump(family: Family) -> str | None:
    """The dump of means of each hidden state that the family was trained on; None where it was another."""
    settings = family.settings[0].first.settings
    pooled = settings.get("feats_type") == "stored" and settings.get("freeze") == "all"
    means = pooled and not settings.get("alpha") and settings.get("pooling") == "mean"
    return settings.get("dump") if means else None


def probes(family: Family, dump: Path, data: Path, read: Callable[[str], np.ndarray]) -> Mapping[str, Any] | str | None:
    """See `layers_of`; why there is none; or None where the family has no such dump."""
    name = pooled_dump(family)
    if name is None:
        return None
    try:
        return layers_of(dump / name, data, family.protocol, read)
    except (OSError, KeyError, ValueError, UserError) as error:
        return f"{dump / name} cannot be read ({error}); ./run.sh --stage 2 makes it again"


def weights(family: Family) -> Table | None:
    """Learned weights of each hidden state by head, means over folds and seeds; None where nothing is mixed."""
    rows: list[list[Cell]] = []
    numbers: list[str] = []
    for setting in family.settings:
        by_head: dict[str, list[dict[str, float]]] = {}
        for made in setting.experiments:
            for fold in made.folds:
                path = made.path / fold / WEIGHTS
                for head, shares in (load_json(path) if path.is_file() else {}).items():
                    by_head.setdefault(head, []).append(shares)
        for head, found in by_head.items():
            numbers = numbers or list(found[0])
            rows.append([setting.name, head, *(float(np.mean([s[n] for s in found if n in s])) for n in numbers)])
    if not rows:
        return None
    head = ["setting", "head", *(f"state {number}" for number in numbers)]
    note = "Softmax weights, means over folds and seeds; state 0 enters the first layer."
    return family.table("layer-weights", "Learned weights of the hidden states.", head, rows, note)
