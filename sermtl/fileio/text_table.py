"""Plain tables: aligned text for terminals, Markdown for ``RESULTS.md``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def number(value: float | None, digits: int = 4) -> str:
    """A rate with a fixed number of digits; a dash where it does not exist."""
    return "-" if value is None else f"{value:.{digits}f}"


def aligned(rows: Sequence[Sequence[Any]]) -> str:
    """Rows as columns of text: the first flush left, the others flush right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "".join(line.rstrip() + "\n" for line in lines)


def markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table: the first column flush left, the others flush right."""
    cells = [[_cell(cell) for cell in row] for row in [head, *rows]]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]
    rule = ["-" * width if column == 0 else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    padded = [
        [cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(pairs)]
        for pairs in (list(zip(row, widths, strict=True)) for row in cells)
    ]
    return "".join("| " + " | ".join(row) + " |\n" for row in [padded[0], rule, *padded[1:]])


def confusion_rows(ser: dict[str, Any]) -> list[list[Any]]:
    """A confusion matrix with its head and margins, as rows of a table (rows are references)."""
    labels, counts = ser["labels"], ser["confusion"]
    rows: list[list[Any]] = [["", *labels, "all"]]
    rows += [[label, *row, sum(row)] for label, row in zip(labels, counts, strict=True)]
    columns = [sum(column) for column in zip(*counts, strict=True)]
    return [*rows, ["all", *columns, sum(columns)]]


def class_rows(ser: dict[str, Any]) -> list[list[Any]]:
    """Per-class counts and rates with their head, as rows of a table."""
    rows: list[list[Any]] = [["class", "n", "correct", "recall", "precision", "F1"]]
    for index, label in enumerate(ser["labels"]):
        counts = ser["confusion"][index]
        rates = [number(ser[key][index]) for key in ("recall", "precision", "f1")]
        rows.append([label, sum(counts), counts[index], *rates])
    return rows


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
