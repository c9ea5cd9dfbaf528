"""The report as data: sections of paragraphs, tables and figures, which HTML, Markdown and CSV are made from."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

NUMBER = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?")


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, or with the reason why it has none."""

    value: float | None
    low: float | None = None
    high: float | None = None
    signed: bool = False
    why: str = ""


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
    """A heading and its contents, in order."""

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
    probes: list[list[Cell]]
    """Of each classifier of speakers: family, setting, speakers, classifier, seed, speaker, hits, tests."""

    def tables(self) -> list[Table]:
        """All tables in order."""
        return [item for section in self.sections for item in section.items if isinstance(item, Table)]


def show(cell: Cell) -> str:
    """A cell as people read it: three digits, an interval in brackets, a dash where there is no number."""
    if isinstance(cell, Share):
        return f"{cell.count} ({100 * cell.count / cell.whole:.0f} %)" if cell.whole else f"{cell.count}"
    value = raw(cell)
    if not isinstance(value, float):
        return "–" if value is None else f"{value}"
    if isinstance(cell, P):
        return "< .001" if value < 0.001 else f"{value:.3f}"
    ends = (cell.low, cell.high) if isinstance(cell, Estimate) else (None,)
    sign = "+" if isinstance(cell, Estimate) and cell.signed else ""
    text, *interval = (f"{number:{sign}.3f}".replace("-", "\u2212") for number in (value, *ends) if number is not None)
    why = f" ({cell.why})" if isinstance(cell, Estimate) and cell.why else ""
    return f"{text} [{', '.join(interval)}]" if interval else text + why


def raw(cell: Cell) -> Any:
    """A cell's own number or text, unrounded; None where it has none."""
    value = cell.value if isinstance(cell, Estimate | P) else cell.count if isinstance(cell, Share) else cell
    return None if isinstance(value, float) and not math.isfinite(value) else value


def flat(table: Table) -> tuple[list[str], list[list[Any]]]:
    """Head and rows of the CSV: unrounded, an interval's ends in two more columns."""
    head: list[str] = []
    columns: list[list[Any]] = []
    for name, cells in zip(table.head, zip(*table.rows, strict=True), strict=True):
        head.append(name)
        columns.append([raw(cell) for cell in cells])
        if any(isinstance(cell, Estimate) for cell in cells):
            head += [f"{name} low", f"{name} high"]
            columns += [[getattr(cell, end, None) for cell in cells] for end in ("low", "high")]
    return head, [list(row) for row in zip(*columns, strict=True)]


def is_number(cell: Cell) -> bool:
    """Whether a cell is aligned to the right: a number, or text that is one."""
    return not isinstance(cell, str) or bool(NUMBER.fullmatch(cell))
