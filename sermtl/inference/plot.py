"""A recording as a picture: waveform, posteriors over time, transcript."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sermtl.audio.resample import SAMPLE_RATE
from sermtl.fileio.files import atomic_write
from sermtl.inference.predict import Result

COLUMNS = 1200
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000")
"""Okabe and Ito's, told apart by colour-blind readers too."""
STYLES = ("-", "--", "-.", ":")


def envelope(blocks: Iterable[np.ndarray], seconds: float, columns: int = COLUMNS) -> np.ndarray:
    """Lowest and highest sample (columns, 2) in [-1, 1] of each of equal stretches of a stream of int16 samples."""
    ends = np.zeros((columns, 2))
    total, at = max(1, round(seconds * SAMPLE_RATE)), 0
    for block_S in blocks:
        if not len(block_S):
            continue
        column_S = np.minimum((at + np.arange(len(block_S))) * columns // total, columns - 1)
        starts = np.flatnonzero(np.diff(column_S, prepend=-1))
        rows = column_S[starts]
        ends[rows, 0] = np.minimum(ends[rows, 0], np.minimum.reduceat(block_S, starts) / 32768)
        ends[rows, 1] = np.maximum(ends[rows, 1], np.maximum.reduceat(block_S, starts) / 32768)
        at += len(block_S)
    return ends


def plot(path: Path, title: str, result: Result, envelope_X2: np.ndarray, note: str) -> None:
    """Write a PNG.

    Args:
        path: The picture.
        title: The recording's name.
        result: What was heard, with its timeline.
        envelope_X2: Of `envelope`.
        note: How the posteriors over time were made.
    """
    figure = Figure(figsize=(10, 5.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    wave, posteriors, words = figure.subplots(3, 1, height_ratios=[3, 4, 1.3])
    # Names and transcripts are shown as they are: `$` begins no formula.
    figure.suptitle(f"{title}: {result.emotion} ({result.scores[result.emotion]:.2f})", parse_math=False)
    times = np.linspace(0, result.seconds, len(envelope_X2))
    wave.fill_between(times, envelope_X2[:, 0], envelope_X2[:, 1], color="#444444", linewidth=0)
    wave.set(xlim=(0, result.seconds), ylim=(-1, 1), ylabel="amplitude", xticklabels=[])
    edges = [part.start for part in result.timeline] + [result.seconds]
    for number, label in enumerate(result.scores):
        heights = [part.scores[label] for part in result.timeline]
        posteriors.step(
            edges, [*heights, heights[-1]], where="post", label=label, linewidth=1.8,
            color=COLOURS[number % len(COLOURS)], linestyle=STYLES[number % len(STYLES)],
        )  # fmt: skip
    posteriors.set(xlim=(0, result.seconds), ylim=(0, 1.02), ylabel="posterior", xlabel=f"seconds ({note})")
    posteriors.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    words.axis("off")
    text = textwrap.shorten(result.text, 400, placeholder=" …") or "(no words)"
    words.text(0, 1, textwrap.fill(text, 110), va="top", fontsize=9, parse_math=False)
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png")
