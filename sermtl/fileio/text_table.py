"""Tables as text: columns for terminals, Markdown for ``RESULTS.md``; the first column flush left, the others right."""

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

LAYOUT: dict[str, Any] = {
    "colglobalalign": "right", "colalign": ["left"], "disable_numparse": True, "preserve_whitespace": True,
}  # fmt: skip


def number(value: float | None, digits: int = 4) -> str:
    """A rate with a fixed number of digits; a dash where it does not exist."""
    return "-" if value is None else f"{value:.{digits}f}"


def plural(count: int, noun: str) -> str:
    """``1 fold``, ``2 folds``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def printable(text: str) -> str:
    """Text with tabs, line breaks, the control characters of terminals and undecodable bytes escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def aligned(rows: Sequence[Sequence[Any]]) -> str:
    """Rows as columns of text, without spaces at the ends of lines."""
    return "".join(f"{line.rstrip()}\n" for line in tabulate(rows, tablefmt="plain", **LAYOUT).splitlines())


def markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in [head, *rows]]
    return tabulate(cells[1:], cells[0], tablefmt="pipe", **LAYOUT) + "\n"
