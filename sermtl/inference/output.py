"""Predictions as lines: a table for people, JSON and TSV for programs, and merged segments as TSV."""

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from sermtl.fileio.files import write_text
from sermtl.fileio.text_table import printable
from sermtl.inference.inputs import Item
from sermtl.inference.windows import Result, Segment

WIDEST_PATH = 48
"""Of longer paths the table shows the end."""
LONGEST_TEXT = 300
"""Characters of a transcript that the table shows; `--json` and `--tsv` give all."""


Form = tuple[str, Callable[[Item, Result], str]]
"""A head line, empty where there is none, and the function that gives a result's line without a newline at its end."""


def json_lines(labels: Sequence[str], items: Sequence[Item], spread: bool) -> Form:
    """An object a line: path, emotion, scores, text, seconds; with windows segments, with several models spread."""

    def line(item: Item, result: Result) -> str:
        values = {
            "path": item.path,
            "emotion": result.emotion,
            "scores": rounded(result.scores),
            "text": result.text,
            "seconds": round(result.seconds, 4),
        }
        segments = [
            {"start": round(s.start, 3), "end": round(s.end, 3), "emotion": s.emotion, "scores": rounded(s.scores)}
            for s in result.segments
        ]
        extra = {"utt": item.utterance, "spread": rounded(result.spread or {}), "segments": segments}
        return json.dumps(values | {key: value for key, value in extra.items() if value}, ensure_ascii=False)

    return "", line


def tsv_lines(labels: Sequence[str], items: Sequence[Item], spread: bool) -> Form:
    """Columns path, emotion, seconds, a posterior a class (with several models also its spread), text."""

    def line(item: Item, result: Result) -> str:
        numbers = [f"{value:.6f}" for values in (result.scores, result.spread or {}) for value in values.values()]
        return _row([item.path, result.emotion, f"{result.seconds:.4f}", *numbers, result.text])

    deviations = [f"{label}_sd" for label in labels] if spread else []
    return _row(["path", "emotion", "seconds", *labels, *deviations, "text"]), line


def table_lines(labels: Sequence[str], items: Sequence[Item], spread: bool) -> Form:
    """Columns aligned for all ``items``; with several models ``.812±.035``; segments under their recording."""
    first, second = min(WIDEST_PATH, max(len(item.path) for item in items)), max(7, *map(len, labels))
    columns = {label: max(len(label), 9 if spread else 5) for label in labels}

    def posteriors(scores: dict[str, float], deviations: dict[str, float] | None = None) -> str:
        cells = []
        for label, width in columns.items():
            text = f"{scores[label]:.3f}".removeprefix("0")
            if deviations is not None:
                text += f"±{deviations[label]:.3f}".replace("±0", "±")
            cells.append(f"{text:>{width}}")
        return "  ".join(cells)

    def line(item: Item, result: Result) -> str:
        path = printable(item.path if len(item.path) <= first else "…" + item.path[1 - first :])
        text = result.text if len(result.text) <= LONGEST_TEXT else result.text[: LONGEST_TEXT - 1] + "…"
        scores = posteriors(result.scores, result.spread)
        rows = [f"{path:<{first}}  {result.emotion:<{second}}  {scores}  {result.seconds:9.2f}  {text}".rstrip()]
        for segment in result.segments:
            span = f"  {clock(segment.start)} to {clock(segment.end)}"
            rows.append(f"{span:<{first}}  {segment.emotion:<{second}}  {posteriors(segment.scores)}")
        return "\n".join(map(printable, rows))

    names = "  ".join(f"{label:>{width}}" for label, width in columns.items())
    return printable(f"{'path':<{first}}  {'emotion':<{second}}  {names}  {'seconds':>9}  text"), line


def segment_lines(item: Item, result: Result) -> list[str]:
    """Merged segments as rows ``path start end emotion posteriors``; a recording in one piece is one."""
    segments = result.segments or (Segment(0.0, result.seconds, result.emotion, result.scores),)
    return [
        _row([item.path, f"{s.start:.3f}", f"{s.end:.3f}", s.emotion, *(f"{p:.6f}" for p in s.scores.values())])
        for s in segments
    ]


def write_timeline(path: Path, rows: Sequence[str], labels: Sequence[str]) -> None:
    """Write the rows of `segment_lines` below their head."""
    write_text(path, "".join(f"{row}\n" for row in [_row(["path", "start", "end", "emotion", *labels]), *rows]))


def _row(values: Sequence[str]) -> str:
    return "\t".join(map(printable, values))


def print_line(line: str) -> None:
    """Print a result; exit with the status of SIGPIPE where the reader has closed the pipe."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what its buffer still holds
        sys.exit(128 + signal.SIGPIPE)


def clock(seconds: float) -> str:
    """Seconds as ``h:mm:ss.s``, hours only where there are some."""
    tenths = round(seconds * 10)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:{minutes:02d}" if hours else f"{minutes}") + f":{tenths // 10:02d}.{tenths % 10}"


def rounded(scores: dict[str, float]) -> dict[str, float]:
    """Six digits after the point."""
    return {label: round(value, 6) for label, value in scores.items()}
