"""The report's figures: drawn without a display, saved as PNG and SVG.

Colours are Okabe and Ito's, which colour-blind readers can distinguish; line style and marker repeat the
distinction for print in grey.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sermtl.fileio.files import atomic_write
from sermtl.report.document import Estimate
from sermtl.report.document import Figure as Picture

COLOURS = ("#000000", "#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#009E73", "#CC79A7", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":")
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "sermtl",
}


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write ``<name>.png`` and ``<name>.svg``; equal figures give equal files."""
    for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        with matplotlib.rc_context(STYLE), atomic_write(folder / f"{name}.{suffix}", "wb") as file:
            figure.savefig(file, format=suffix, dpi=160, bbox_inches="tight", metadata=metadata)


@dataclass(frozen=True)
class Sources:
    """Where the report reads and draws."""

    data: Path
    images: Path
    dump: Path
    """Parent of the corpus's dumps."""

    def draw(self, drawing: Figure, slug: str, name: str, caption: str) -> Picture:
        """Save a picture; the caption's first sentence is its alternative text."""
        name = f"{slug}-{name}"
        save(drawing, self.images, name)
        return Picture(name, caption, caption.split(". ")[0].rstrip(".") + ".")


def look(index: int) -> dict[str, Any]:
    """Colour, line style and marker of the index-th setting."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[(index + index // len(COLOURS)) % len(MARKERS)],
        "linestyle": LINES[index // 2 % len(LINES)],
    }


@contextlib.contextmanager
def _plot(
    size: tuple[float, float], xlabel: str, ylabel: str = "", entries: int = 0, below: float = 0.16
) -> Iterator[tuple[Figure, Axes]]:
    """One plot in the report's style, with a legend of so many entries so far below it."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size)
        axes = figure.add_subplot()
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        yield figure, axes
        if entries:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -below), ncols=min(3, entries))


def against_epoch(curves: Mapping[str, np.ndarray], ylabel: str) -> Figure:
    """A curve a setting, (folds, epochs) with NaN where a fold has no value: mean with a band of one standard error."""
    with _plot((5.8, 3.8), "epoch", ylabel, entries=len(curves)) as (figure, axes):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for index, (name, values) in enumerate(curves.items()):
            known = np.isfinite(values).sum(axis=0)
            shown = known > 0
            mean = np.nansum(values, axis=0)[shown] / known[shown]
            spread = np.nanstd(values[:, shown], axis=0, ddof=0) / np.sqrt(np.maximum(known[shown] - 1, 1))
            epochs = np.flatnonzero(shown) + 1
            style = look(index)
            every = max(1, len(epochs) // 8)
            axes.plot(epochs, mean, label=name, markevery=(index % every, every), markersize=5, **style)
            axes.fill_between(epochs, mean - spread, mean + spread, color=style["color"], alpha=0.15, linewidth=0)
    return figure


def intervals(
    rows: Mapping[str, Sequence[Estimate]], xlabel: str, zero: bool = False, labels: Sequence[str] = ()
) -> Figure:
    """Estimates with their intervals, one or two a row (called ``labels``), the first thick; a line at ``zero``."""
    with _plot((5.2, 0.9 + 0.42 * len(rows)), xlabel, entries=len(labels)) as (figure, axes):
        for y, estimates in enumerate(rows.values()):
            styles = zip(estimates, labels or [""], (COLOURS[1], COLOURS[4]), (3.0, 1.4), strict=False)
            for number, (estimate, label, colour, width) in enumerate(styles):
                at = y + 0.12 * (2 * number + 1 - len(estimates))
                line = [end for end in (estimate.low, estimate.high) if end is not None]
                axes.plot(line, [at] * len(line), color=colour, linewidth=width, label=None if y else label)
                axes.plot(np.nan if estimate.value is None else estimate.value, at, "o", color=colour, markersize=5)
        if zero:
            axes.axvline(0, color="#000000", linewidth=0.8)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)
    return figure


@matplotlib.rc_context(STYLE | {"axes.grid": False})
def confusions(matrices: Mapping[str, np.ndarray], labels: Sequence[str]) -> Figure:
    """Confusion matrices side by side: colour is the share of the row, the number in the cell the count."""
    columns = min(2, len(matrices))
    rows = -(-len(matrices) // columns)
    size = 0.5 * len(labels) + 0.9
    figure = Figure(figsize=(columns * size, rows * size + 0.2), layout="constrained")
    for index, (name, counts) in enumerate(matrices.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
        for (row, column), share in np.ndenumerate(shares):
            colour = "#000000" if share > 0.55 else "#ffffff"
            text = f"{counts[row, column]}\n{100 * share:.0f} %"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
        axes.set_xticks(range(len(labels)), labels, fontsize=8)
        axes.set_yticks(range(len(labels)), labels, fontsize=8)
        axes.set_title(name, fontsize=9)
        axes.set_ylabel("reference" if index % columns == 0 else "", fontsize=8)
        axes.set_xlabel("hypothesis" if index >= len(matrices) - columns else "", fontsize=8)
    return figure


def by_fold(
    values: Mapping[str, Sequence[float | None]], folds: Sequence[str], ylabel: str, xlabel: str = "fold"
) -> Figure:
    """One column a fold, or what else is on the x axis, one marker a setting."""
    below = 0.16 + 0.07 * max(name.count("\n") for name in folds)
    with _plot((5.8, 3.6), xlabel, ylabel, entries=len(values), below=below) as (figure, axes):
        width = 0.7 / max(len(values), 1)
        for index, (name, row) in enumerate(values.items()):
            x = np.arange(len(folds)) - 0.35 + (index + 0.5) * width
            style = look(index) | {"linestyle": "none"}
            axes.plot(x, [np.nan if value is None else value for value in row], label=name, markersize=5, **style)
        axes.set_xticks(range(len(folds)), folds, rotation=0 if len(folds) <= 12 else 90)
        axes.grid(axis="x", visible=False)
    return figure


def points(places: Mapping[str, tuple[Estimate, Estimate]], xlabel: str, ylabel: str, line: float | None) -> Figure:
    """A point a name at its two estimates, with both intervals, and a vertical line."""
    with _plot((5.8, 4.2), xlabel, ylabel, entries=len(places)) as (figure, axes):
        for index, (name, pair) in enumerate(places.items()):
            x, y = ([np.nan if end is None else end for end in (e.value, e.low, e.high)] for e in pair)
            axes.plot(x[:1], y[:1], label=name, markersize=6, **look(index) | {"linestyle": "none"})
            for line_x, line_y in ((x[1:], [y[0]] * 2), ([x[0]] * 2, y[1:])):
                axes.plot(line_x, line_y, color=look(index)["color"], linewidth=0.8)
        if line is not None:
            axes.axvline(line, color="#000000", linewidth=0.8, linestyle=":")
    return figure


def lines(curves: Mapping[str, tuple[Any, Any]], xlabel: str, ylabel: str, diagonal: bool = False) -> Figure:
    """Curves of shares between 0 and 1, from their x and y values; the ``diagonal`` is where both are equal."""
    with _plot((5.8, 3.4), xlabel, ylabel, entries=len(curves)) as (figure, axes):
        for index, (name, (x, y)) in enumerate(curves.items()):
            axes.plot(x, y, label=name, markersize=5, **look(index))
        if diagonal:
            axes.plot([0, 1], [0, 1], color="#000000", linewidth=0.8)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(0, 1.02)
    return figure


@matplotlib.rc_context(STYLE | {"axes.grid": False})
def planes(clouds: Sequence[tuple[str, np.ndarray, Sequence[str], Sequence[str]]]) -> Figure:
    """Rows of title, (N, 2) embeddings, N speakers, N emotions: coloured by speaker on the left, by emotion beside."""
    figure = Figure(figsize=(6.6, 2.7 * len(clouds)), layout="constrained")
    for row, (title, points, *named) in enumerate(clouds):
        for column, (what, names) in enumerate(zip(("speaker", "emotion"), named, strict=True)):
            axes = figure.add_subplot(len(clouds), 2, 2 * row + column + 1)
            classes = sorted(set(names))
            for index, name in enumerate(classes):
                chosen = points[np.array([other == name for other in names])]
                marker, colour = MARKERS[index % len(MARKERS)], COLOURS[(index + index // len(COLOURS)) % len(COLOURS)]
                axes.plot(*chosen.T, marker, color=colour, markersize=4, alpha=0.7, label=name, rasterized=True)
            axes.set_xticks([])
            axes.set_yticks([])
            if len(classes) <= 16:
                axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9, handletextpad=0.1)
            axes.set_title(f"{title}, by {what}", fontsize=9)
    return figure
