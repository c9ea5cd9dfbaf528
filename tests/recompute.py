"""WA, UA and WER of a report computed again from its `scores/*.tsv`, by scikit-learn, sharing no code with sermtl.

``python tests/recompute.py docs/results/emodb`` compares every such cell of results.json and of RESULTS.md.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

from sklearn.metrics import accuracy_score, recall_score

RATES = ("WA", "UA", "WER")
Rows = list[dict[str, str]]


def rate(name: str, rows: Rows) -> float | None:
    """WA, UA or WER of some utterances; None of none."""
    if name == "WER":
        words = sum(int(row["words"]) for row in rows)
        return sum(int(row["errors"]) for row in rows) / words if words else None
    references, hypotheses = [[row[key] for row in rows if row["ref"]] for key in ("ref", "hyp")]
    if not references:
        return None
    if name == "WA":
        return float(accuracy_score(references, hypotheses))
    return float(recall_score(references, hypotheses, labels=sorted(set(references)), average="macro", zero_division=0))


class Page:
    """A report's folder, read back."""

    def __init__(self, folder: Path):
        content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        self.tables, self.made = content["tables"], content["experiments"]
        self.rows: dict[str, Rows] = {}
        for tag in self.made:
            with open(folder / "scores" / f"{tag}.tsv", encoding="utf-8", newline="") as file:
                self.rows[tag] = list(csv.DictReader(file, delimiter="\t"))
        text = (folder / "RESULTS.md").read_text(encoding="utf-8")
        blocks = re.findall(r"^\*\*.+\*\*\n\n((?:\|.*\n)+)", text, re.MULTILINE)
        self.printed = [
            [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()[2:]]
            for block in blocks
        ]

    def tags(self, protocol: str, setting: str) -> dict[int, str]:
        """Seed -> experiment of a setting such as ``reverse 0.1`` or ``β 0, α 0``."""
        usual = max(made["settings"]["alpha"] for made in self.made.values())
        found = {}
        for tag, made in self.made.items():
            s = made["settings"]
            name = "β 0" if s["beta"] == 0 else f"{s['grl']} {s['beta']:g}"
            name += "" if s["alpha"] == usual else f", α {s['alpha']:g}"
            if (made["protocol"], name) == (protocol, setting):
                found[s["seed"]] = tag
        return found

    def of(self, protocol: str, setting: str) -> Rows:
        """All test utterances of a setting, seed after seed."""
        return [row for tag in self.tags(protocol, setting).values() for row in self.rows[tag]]

    def expected(self, table: str, row: list[Any], head: str) -> tuple[float | None] | None:
        """What a cell must be, in a tuple; None where it is no WA, UA or WER."""
        protocol, _, kind = table.partition("-")
        name = head.split(" ")[0]
        if table == "run-experiments":
            return (rate(head, self.rows[row[0]]),) if head in RATES else None
        if kind in ("table-2", "table-3", "ablation", "settings"):
            if name not in RATES or "[95 %" not in head:
                return None
            setting = row[0]
            if kind == "table-2":
                setting = "β 0" if setting == "0" else f"reverse {setting}"
            if kind == "ablation":
                setting = "β 0, α 0" if setting == "0" else "β 0"
            return (rate(name, self.of(protocol, setting)),)
        if kind == "comparisons" and name == "difference":
            second, first = row[0].split(" − ")
            tags = self.tags(protocol, first), self.tags(protocol, second)
            both = [[row for seed in tags[0].keys() & tags[1].keys() for row in self.rows[t[seed]]] for t in tags]
            one, other = rate(row[1], both[0]), rate(row[1], both[1])
            return (None if one is None or other is None else other - one,)
        grouped = re.fullmatch(r"(fold|speaker|style|class)-(wa|ua|wer)", kind)
        if grouped and head not in (grouped[1], "n"):
            key = {"speaker": "spk", "class": "ref"}.get(grouped[1], grouped[1])
            rows = [r for r in self.of(protocol, head) if row[0] in (r[key], "pooled")]
            return (rate(grouped[2].upper(), rows),)
        return None


def compare(folder: Path) -> tuple[dict[str, int], list[str]]:
    """Cells compared in each table, and those that differ."""
    page, compared, wrong = Page(folder), {}, []
    for (name, table), printed in zip(page.tables.items(), page.printed, strict=True):
        narrow = [head for head in table["head"] if not head.endswith((" low", " high"))]
        for row, shown in zip(table["rows"], printed, strict=True):
            for head in narrow:
                right = page.expected(name, row, head)
                if right is None:
                    continue
                compared[name] = compared.get(name, 0) + 1
                (value,), cell = right, row[table["head"].index(head)]
                text = shown[narrow.index(head)].replace("−", "-").split(" [")[0]
                same = cell is None and text == "–" if value is None else abs((cell or 0.0) - value) < 1e-12
                if not same or (value is not None and abs(float(text) - value) > 0.00051):
                    wrong.append(f"{name}, {row[0]}, {head}: {cell} and {text}, but {value}")
    return compared, wrong


if __name__ == "__main__":
    counts, differing = compare(Path(sys.argv[1]))
    print(*(f"{name}: {count} cells" for name, count in counts.items()), *differing, sep="\n")
    print(f"{sum(counts.values())} cells compared, {len(differing)} differ")
    sys.exit(bool(differing) or not counts)
