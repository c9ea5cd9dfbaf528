"""Predictions as lines: a table for people, JSON and TSV for programs, and merged segments as TSV."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sermtl.fileio.files import atomic_write
from sermtl.inference.inputs import Item
from sermtl.inference.windows import Result, Segment

WIDEST_PATH = 48
"""Longer paths keep their ends in the table."""
LONGEST_TEXT = 300
"""Characters of a transcript that the table shows; `--json` and `--tsv` give all."""


class Lines:
    """How results are printed.

    Args:
        labels: Class names in the order of the columns.
        items: What is printed, for the width of its first column.
        spread: Whether there are several models, whose spread is shown.
    """

    head: str | None = None

    def __init__(self, labels: Sequence[str], items: Sequence[Item], spread: bool) -> None:
        self.labels, self.spread = list(labels), spread
        self.width = min(WIDEST_PATH, max(len(item.path) for item in items))

    def line(self, item: Item, result: Result) -> str:
        """One result, without a newline at its end."""
        raise NotImplementedError


class JsonLines(Lines):
    """An object a line: path, emotion, scores, text, seconds; with windows segments, with several models spread."""

    def line(self, item: Item, result: Result) -> str:
        """One object."""
        values: dict[str, Any] = {
            "path": item.path,
            "emotion": result.emotion,
            "scores": rounded(result.scores),
            "text": result.text,
            "seconds": round(result.seconds, 4),
        }
        if item.utterance:
            values["utt"] = item.utterance
        if result.spread is not None:
            values["spread"] = rounded(result.spread)
        if result.segments:
            values["segments"] = [
                {"start": round(s.start, 3), "end": round(s.end, 3), "emotion": s.emotion, "scores": rounded(s.scores)}
                for s in result.segments
            ]
        return json.dumps(values, ensure_ascii=False)


class TsvLines(Lines):
    """Columns path, emotion, seconds, a posterior a class (and its spread), text."""

    @property
    def head(self) -> str:  # type: ignore[override]
        """The names of the columns."""
        spread = [f"{label}_sd" for label in self.labels] if self.spread else []
        return "\t".join(map(cell, ["path", "emotion", "seconds", *self.labels, *spread, "text"]))

    def line(self, item: Item, result: Result) -> str:
        """One row."""
        numbers = [f"{result.scores[label]:.6f}" for label in self.labels]
        if result.spread is not None:
            numbers += [f"{result.spread[label]:.6f}" for label in self.labels]
        return "\t".join(map(cell, [item.path, result.emotion, f"{result.seconds:.4f}", *numbers, result.text]))


class TableLines(Lines):
    """Aligned columns; with several models ``.812±.035``; segments under their recording."""

    @property
    def head(self) -> str:  # type: ignore[override]
        """The names of the columns."""
        columns = "  ".join(f"{label:>{self._column(label)}}" for label in self.labels)
        return cell(f"{'path':<{self.width}}  {'emotion':<{self._names}}  {columns}  {'seconds':>9}  text")

    @property
    def _names(self) -> int:
        return max(7, *map(len, self.labels))

    def _column(self, label: str) -> int:
        return max(len(label), 9 if self.spread else 5)

    def line(self, item: Item, result: Result) -> str:
        """One row, and one a segment."""
        path = cell(item.path if len(item.path) <= self.width else "…" + item.path[1 - self.width :])
        text = result.text if len(result.text) <= LONGEST_TEXT else result.text[: LONGEST_TEXT - 1] + "…"
        rows = [
            f"{path:<{self.width}}  {result.emotion:<{self._names}}  {self._scores(result.scores, result.spread)}  "
            f"{result.seconds:9.2f}  {text}".rstrip()
        ]
        for segment in result.segments:
            span = f"  {clock(segment.start)} to {clock(segment.end)}"
            rows.append(f"{span:<{self.width}}  {segment.emotion:<{self._names}}  {self._scores(segment.scores)}")
        return "\n".join(map(cell, rows))

    def _scores(self, scores: dict[str, float], spread: dict[str, float] | None = None) -> str:
        cells = []
        for label in self.labels:
            text = f"{scores[label]:.3f}".removeprefix("0")
            if spread is not None:
                text += f"±{spread[label]:.3f}".replace("±0", "±")
            cells.append(f"{text:>{self._column(label)}}")
        return "  ".join(cells)


def segment_lines(item: Item, result: Result, labels: Sequence[str]) -> list[str]:
    """Merged segments as rows ``path start end emotion posteriors``; a recording in one piece is one."""
    segments = result.segments or (Segment(0.0, result.seconds, result.emotion, result.scores),)
    return [
        "\t".join(
            [cell(item.path), f"{s.start:.3f}", f"{s.end:.3f}", cell(s.emotion)]
            + [f"{s.scores[label]:.6f}" for label in labels]
        )
        for s in segments
    ]


def write_timeline(path: Path, rows: Sequence[str], labels: Sequence[str]) -> None:
    """Write the rows of `segment_lines` below their head."""
    with atomic_write(path) as file:
        file.writelines(f"{row}\n" for row in ["\t".join(["path", "start", "end", "emotion", *labels]), *rows])


def print_line(line: str) -> None:
    """Print a result; where nobody reads them any more, the program ends as others do that SIGPIPE kills."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what its buffer still holds
        sys.exit(128 + signal.SIGPIPE)


def cell(text: str) -> str:
    """Text without the characters that end a cell or a line, and without those that steer a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def clock(seconds: float) -> str:
    """Seconds as ``h:mm:ss.s``, hours only where there are some."""
    tenths = round(seconds * 10)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:{minutes:02d}" if hours else f"{minutes}") + f":{tenths // 10:02d}.{tenths % 10}"


def rounded(scores: dict[str, float]) -> dict[str, float]:
    """Six digits after the point."""
    return {label: round(value, 6) for label, value in scores.items()}
