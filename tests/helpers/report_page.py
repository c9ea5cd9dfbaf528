"""The report run and read back, for its tests."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sermtl.bin import report as program


def run_report(root: Path, corpus: str = "toy") -> int:
    """Exit status of the report over ``root/exp`` into ``root/out``."""
    arguments = ["--exp", root / "exp", "--data", root / "data/toy", "--dump", root / "dump"]
    arguments += ["--corpus", corpus, "--out", root / "out"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["report", *map(str, arguments)])
        return program.main()


def no_picture(figure, folder, name):
    """Instead of drawing, which takes most of a report's time."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in ("png", "svg"):
        (folder / f"{name}.{suffix}").write_text("<svg/>")


class Tables(HTMLParser):
    """An independent reader of the page's tables: id -> rows of cell texts, the head first."""

    def __init__(self, page: str):
        super().__init__()
        self.found: dict[str, list[list[str]]] = {}
        self.cell: list[str] | None = None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.rows = self.found.setdefault(dict(attributes)["id"], [])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.cell = []

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append("".join(self.cell))
            self.cell = None

    def handle_data(self, data):
        if self.cell is not None:
            self.cell.append(data)


def page_of(root: Path) -> str:
    return (root / "out/index.html").read_text()
