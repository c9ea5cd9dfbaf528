"""A `Document` written as one self-contained HTML file, as Markdown, JSON and CSV."""

import base64
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from sermtl.fileio.files import atomic_write, write_json, write_text
from sermtl.fileio.text_table import markdown
from sermtl.report.document import Cell, Document, Figure, Table, flat, is_number, raw, show
from sermtl.report.load import Experiment

TEMPLATE = Path(__file__).with_name("index.html.j2")


def write_report(document: Document, experiments: Sequence[Experiment], out: Path) -> None:
    """Write all forms of the report into ``out``, where its figures are already; remove those of an earlier report."""
    tables = {f"tables/{table.name}.csv": flat(table) for table in document.tables()}
    for name, (head, rows) in tables.items():
        with atomic_write(out / name) as file:
            csv.writer(file, lineterminator="\n").writerows([head, *rows])
    scores = {f"scores/{made.tag}.tsv": as_tsv(made) for made in experiments}
    named: list[list[Cell]] = [["family", "setting", "speakers", "classifier", "seed", "speaker", "hits", "tests"]]
    probes = "".join("\t".join(map(str, row)) + "\n" for row in named + document.probes)
    for name, text in (scores | {"RESULTS.md": as_markdown(document), "probes.tsv": probes}).items():
        write_text(out / name, text)
    write_json(out / "results.json", as_json(document, experiments))
    write_text(out / "index.html", as_html(document, out / "images"))
    figures = [item.name for section in document.sections for item in section.items if isinstance(item, Figure)]
    kept = {*tables, *scores, *(f"images/{name}.{suffix}" for name in figures for suffix in ("png", "svg"))}
    for pattern in ("tables/*.csv", "scores/*.tsv", "images/*.png", "images/*.svg"):
        for path in out.glob(pattern):
            if str(path.relative_to(out)) not in kept:
                path.unlink()


def as_html(document: Document, images: Path) -> str:
    """One page that opens from disk: styles and pictures are inside, nothing is fetched, no script is needed."""

    def embedded(figure: Figure) -> str:
        content = base64.b64encode((images / f"{figure.name}.svg").read_bytes()).decode("ascii")
        return f"data:image/svg+xml;base64,{content}"

    template = jinja2.Template(
        TEMPLATE.read_text(encoding="utf-8"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return template.render(document=document, show=show, raw=raw, is_number=is_number, embedded=embedded)


def as_markdown(document: Document) -> str:
    """The same as the page, with ESPnet's head and the figures linked."""
    parts = [f"# RESULTS: {document.title}\n", "## Environments\n" + "\n".join(document.head) + "\n"]
    if document.warnings:
        parts.append("## Warnings\n\n" + "".join(f"- **{line}**\n" for line in document.warnings))
    parts.append("## Summary\n\n" + "".join(f"- {line}\n" for line in document.findings))
    for section in document.sections:
        parts.append(f"{'#' * section.level} {section.title}\n")
        for item in section.items:
            if isinstance(item, Table):
                note = f"\n{item.note}\n" if item.note else ""
                rows = [[show(cell) for cell in row] for row in item.rows]
                parts.append(f"**{item.caption}**\n\n{markdown(item.head, rows)}{note}")
            elif isinstance(item, Figure):
                parts.append(f"![{item.alt}](images/{item.name}.png)\n\n*{item.caption}*\n")
            else:
                parts.append(f"{item}\n")
    return "\n".join(parts)


def as_json(document: Document, experiments: Sequence[Experiment]) -> dict[str, Any]:
    """Every number of the report, and the pooled scores of the experiments behind them."""
    numbers = [(table, *flat(table)) for table in document.tables()]
    tables = {t.name: {"caption": t.caption, "head": head, "rows": rows} for t, head, rows in numbers}
    kept = ("protocol", "speaker_dependent", "folds", "missing_folds", "settings", "ser", "asr", "spk")
    return {
        "title": document.title,
        "environment": document.head,
        "warnings": document.warnings,
        "findings": document.findings,
        "tables": tables,
        "experiments": {made.tag: {key: made.scores.get(key) for key in kept} for made in experiments},
    }


def as_tsv(made: Experiment) -> str:
    """What every test utterance adds to the numbers, so that anybody can compute them again."""
    names = np.array([*made.labels, ""])  # index -1: no emotion
    columns = (made.utts, made.fold, made.spk, made.session, made.style, names[made.ref], names[made.hyp])
    head = "utt fold spk session style ref hyp words errors chars char_errors conf ref_post"
    rows = [head.split(), *zip(*columns, *made.edits.T, *made.posteriors.T, strict=True)]
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)
