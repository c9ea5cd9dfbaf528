"""The report as data: sections of paragraphs, tables and figures, which HTML, Markdown and CSV are made from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval (None where there is none)."""

    value: float | None
    low: float | None = None
    high: float | None = None
    signed: bool = False


@dataclass(frozen=True)
class P:
    """A p value."""

    value: float | None


@dataclass(frozen=True)
class Share:
    """A count and its share of its row."""

    count: int
    whole: int


Cell = str | int | float | None | Estimate | P | Share


@dataclass(frozen=True)
class Table:
    """Rows of cells under a head; ``name`` is the CSV's."""

    name: str
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A picture written as ``images/<name>.png`` and ``.svg``."""

    name: str
    caption: str
    alt: str


@dataclass
class Section:
    """A heading with what stands under it, in order."""

    title: str
    level: int = 2
    items: list[str | Table | Figure] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """Identifier for links."""
        return "".join(c if c.isalnum() else "-" for c in self.title.lower()).strip("-")


@dataclass
class Document:
    """The whole report."""

    title: str
    head: list[str]
    """Environment lines, Markdown list items."""
    warnings: list[str]
    findings: list[str]
    sections: list[Section]

    def tables(self) -> list[Table]:
        """All tables in order."""
        return [item for section in self.sections for item in section.items if isinstance(item, Table)]


def show(cell: Cell) -> str:
    """A cell as people read it: three digits, an interval in brackets, a dash where there is no number."""
    if isinstance(cell, Estimate):
        sign = "+" if cell.signed else ""
        if _undefined(cell.value):
            return "–"
        text = _minus(f"{cell.value:{sign}.3f}")
        if cell.low is None or cell.high is None:
            return text
        return f"{text} [{_minus(f'{cell.low:{sign}.3f}')}, {_minus(f'{cell.high:{sign}.3f}')}]"
    if isinstance(cell, P):
        if _undefined(cell.value):
            return "–"
        return "< .001" if cell.value is not None and cell.value < 0.001 else f"{cell.value:.3f}"
    if isinstance(cell, Share):
        return f"{cell.count} ({100 * cell.count / cell.whole:.0f} %)" if cell.whole else f"{cell.count}"
    if isinstance(cell, float) or cell is None:
        return "–" if _undefined(cell) else _minus(f"{cell:.3f}")
    return f"{cell}"


def raw(cell: Cell) -> Any:
    """A cell's own number or text, unrounded; None where it has none."""
    if isinstance(cell, Estimate | P):
        return None if _undefined(cell.value) else cell.value
    if isinstance(cell, Share):
        return cell.count
    return None if isinstance(cell, float) and _undefined(cell) else cell


def flat(table: Table) -> tuple[list[str], list[list[Any]]]:
    """Head and rows of the CSV: unrounded, an interval's ends in two more columns."""
    wide = [any(isinstance(row[c], Estimate) for row in table.rows) for c in range(len(table.head))]
    head: list[str] = []
    for name, split in zip(table.head, wide, strict=True):
        head += [name, f"{name} low", f"{name} high"] if split else [name]
    rows = []
    for row in table.rows:
        flattened: list[Any] = []
        for cell, split in zip(row, wide, strict=True):
            flattened.append(raw(cell))
            if split:
                ends = (cell.low, cell.high) if isinstance(cell, Estimate) else (None, None)
                flattened += ends
        rows.append(flattened)
    return head, rows


def is_number(cell: Cell) -> bool:
    """Whether a cell stands flush right: a number, or text that is one."""
    if not isinstance(cell, str):
        return True
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _undefined(value: float | None) -> bool:
    return value is None or not math.isfinite(value)


def _minus(text: str) -> str:
    return text.replace("-", "\u2212")
