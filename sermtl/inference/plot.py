"""A recording as a picture: waveform, posteriors over time, transcript."""

import textwrap
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from sermtl.audio.resample import SAMPLE_RATE, as_floats
from sermtl.audio.stream import audio_blocks
from sermtl.errors import UserError
from sermtl.fileio.files import atomic_write
from sermtl.inference.inputs import Item
from sermtl.inference.predict import Speech2Emotion
from sermtl.inference.windows import Result, Segment

COLUMNS = 1200


def envelope(blocks: Iterable[np.ndarray], seconds: float) -> np.ndarray:
    """Lowest and highest sample (`COLUMNS`, 2) in [-1, 1] of each of equal stretches of a stream of samples."""
    ends = np.zeros((COLUMNS, 2))
    total, at = max(1, round(seconds * SAMPLE_RATE)), 0
    for block_S in map(as_floats, blocks):
        if not len(block_S):
            continue
        column_S = np.minimum((at + np.arange(len(block_S))) * COLUMNS // total, COLUMNS - 1)
        starts = np.flatnonzero(np.diff(column_S, prepend=-1))
        rows = column_S[starts]
        ends[rows, 0] = np.minimum(ends[rows, 0], np.minimum.reduceat(block_S, starts))
        ends[rows, 1] = np.maximum(ends[rows, 1], np.maximum.reduceat(block_S, starts))
        at += len(block_S)
    return ends


def plot_targets(target: Path | None, items: list[Item]) -> list[Path | None]:
    """Which picture each recording gets: ``--plot`` itself if it ends in ``.png``, else a file in that folder.

    `UserError` where it has another ending, or is one picture for several recordings.
    """
    if target is None:
        return [None] * len(items)
    if target.suffix and not target.is_dir():
        if target.suffix.lower() != ".png":
            raise UserError(f"--plot {target}: pictures are PNG; give a name that ends in .png, or a folder")
        if len(items) > 1:
            raise UserError(f"--plot {target}: there are {len(items)} recordings; name a folder for their pictures")
        return [target]
    names: dict[Path, None] = {}
    for item in items:
        stem = (item.utterance or Path(item.path).stem).replace("/", "_")
        name, number = target / f"{stem}.png", 2
        while name in names:
            name, number = target / f"{stem}-{number}.png", number + 1
        names[name] = None
    return list(names)


def draw(model: Speech2Emotion, item: Item, result: Result, target: Path) -> None:
    """Write a PNG of a recording; one that was read in one piece is read again in short windows for the posteriors."""
    from matplotlib import color_sequences
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here: most predictions draw nothing
    from matplotlib.figure import Figure

    note, timeline = "in windows", result.timeline
    if not timeline:
        window = max(0.5, result.seconds / 4)
        note = f"in windows of {window:.1f} s; the whole recording: {result.emotion}"
        _, again = next(iter(model.files([item.path], window, window / 5)))
        if isinstance(again, UserError):
            raise again
        timeline = again.timeline or (Segment(0.0, result.seconds, result.emotion, result.scores),)
    figure = Figure(figsize=(10, 5.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    wave, posteriors, words = figure.subplots(3, 1, height_ratios=[3, 4, 1.3])
    # Names and transcripts are shown as they are: `$` begins no formula.
    title = item.utterance or Path(item.path).name
    figure.suptitle(f"{title}: {result.emotion} ({result.scores[result.emotion]:.2f})", parse_math=False)
    envelope_X2 = envelope(audio_blocks(item.path), result.seconds)
    times = np.linspace(0, result.seconds, COLUMNS)
    wave.fill_between(times, envelope_X2[:, 0], envelope_X2[:, 1], color="#444444", linewidth=0)
    wave.set(xlim=(0, result.seconds), ylim=(-1, 1), ylabel="amplitude", xticklabels=[])
    colours = color_sequences["petroff10"]  # distinct for colour-blind readers too
    edges = [part.start for part in timeline] + [result.seconds]
    for number, label in enumerate(result.scores):
        heights = [part.scores[label] for part in timeline]
        posteriors.step(
            edges, [*heights, heights[-1]], where="post", label=label, linewidth=1.8,
            color=colours[number % len(colours)], linestyle=("-", "--", "-.", ":")[number % 4],
        )  # fmt: skip
    posteriors.set(xlim=(0, result.seconds), ylim=(0, 1.02), ylabel="posterior", xlabel=f"seconds ({note})")
    posteriors.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    words.axis("off")
    text = textwrap.shorten(result.text, 400, placeholder=" …") or "(no words)"
    words.text(0, 1, textwrap.fill(text, 110), va="top", fontsize=9, parse_math=False)
    with atomic_write(target, "wb") as file:
        figure.savefig(file, format="png")
