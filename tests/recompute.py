"""A report's numbers computed again from its `scores/*.tsv`, by scikit-learn and scipy, sharing no code with sermtl.

``python tests/recompute.py docs/results/emodb`` compares in results.json and in RESULTS.md every cell that follows from
the utterances' outcomes: rates, their means and deviations, confusion matrices, differences and the p values of both
tests. Intervals are random draws, and embeddings and histories are not in the folder: those cells are not compared.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, recall_score

RATES = ("WA", "UA", "macro F1", "WER", "CER")
Rows = list[dict[str, str]]


def rate(name: str, rows: Rows) -> float | None:
    """A rate of some utterances; None of none."""
    if name in ("WER", "CER"):
        whole, wrong = ("words", "errors") if name == "WER" else ("chars", "char_errors")
        total = sum(int(row[whole]) for row in rows)
        return sum(int(row[wrong]) for row in rows) / total if total else None
    references, hypotheses = [[row[key] for row in rows if row["ref"]] for key in ("ref", "hyp")]
    if not references:
        return None
    if name == "WA":
        return float(accuracy_score(references, hypotheses))
    score = f1_score if name == "macro F1" else recall_score
    return float(score(references, hypotheses, labels=sorted(set(references)), average="macro", zero_division=0))


def of_class(name: str, label: str, rows: Rows) -> float:
    """Recall or F1 of a class."""
    score = {"recall": recall_score, "f1": f1_score}[name]
    references, hypotheses = [[row[key] for row in rows if row["ref"]] for key in ("ref", "hyp")]
    return float(score(references, hypotheses, labels=[label], average=None, zero_division=0)[0])


def swapped(parts: list[float]) -> float:
    """p of the exact permutation test over folds."""
    found = stats.permutation_test(
        (np.array(parts),), np.sum, permutation_type="samples", n_resamples=np.inf, vectorized=False
    )
    return float(found.pvalue)


class Page:
    """A report's folder, read back."""

    def __init__(self, folder: Path):
        content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        self.tables, self.made = content["tables"], content["experiments"]
        self.captions = {name: table["caption"] for name, table in self.tables.items()}
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
        """What a cell must be, in a tuple; None where the utterances' outcomes do not tell."""
        protocol, _, kind = table.partition("-")
        name = head.split(" [")[0]
        if table == "run-experiments":
            return (rate(head, self.rows[row[0]]),) if head in RATES else None
        if kind in ("table-2", "table-3", "ablation", "settings"):
            setting = row[0]
            if kind == "table-2":
                setting = "β 0" if setting == "0" else f"reverse {setting}"
            if kind == "ablation":
                setting = "β 0, α 0" if setting == "0" else "β 0"
            if head == "WA std over seeds":
                seeds = [rate("WA", self.rows[tag]) for tag in self.tags(protocol, setting).values()]
                return (float(np.std(seeds, ddof=1)),) if len(seeds) > 1 else None
            return (rate(name, self.of(protocol, setting)),) if name in RATES else None
        if kind in ("comparisons", "mcnemar"):
            return self.compared(protocol, kind, row, head)
        if kind.startswith("confusion-"):
            setting = self.captions[table].split(", ", 1)[1].split(": rows")[0]
            kept = [r for r in self.of(protocol, setting) if r["ref"] == row[0]]
            return None if head == "reference" else (sum(head in (r["hyp"], "all") for r in kept),)
        grouped = re.fullmatch(r"(fold|speaker|style|class)-(wa|ua|macro-f1|wer|cer|recall|f1)", kind)
        if grouped and head not in (grouped[1], "n"):
            group, name = grouped.groups()
            rows = self.of(protocol, head)
            if name in ("recall", "f1"):
                return (of_class(name, row[0], rows),)
            key = {"speaker": "spk", "class": "ref"}.get(group, group)
            name = {"macro-f1": "macro F1"}.get(name, name.upper())
            if row[0] == "mean over folds":
                folds = [
                    rate(name, [r for r in rows if r["fold"] == fold]) for fold in sorted({r["fold"] for r in rows})
                ]
                return (None if None in folds else float(np.mean(folds)),)
            return (rate(name, [r for r in rows if row[0] in (r[key], "pooled")]),)
        return None

    def compared(self, protocol: str, kind: str, row: list[Any], head: str) -> tuple[float | None] | None:
        """A cell of the tables of differences and of McNemar's tests."""
        tags = [self.tags(protocol, setting) for setting in reversed(row[0].split(" − "))]
        seeds = sorted(tags[0].keys() & tags[1].keys()) if kind == "comparisons" else [row[1]]
        first, second = ([r for seed in seeds for r in self.rows[of[seed]]] for of in tags)
        if kind == "mcnemar":
            right = [
                (a["ref"] == a["hyp"], b["ref"] == b["hyp"]) for a, b in zip(first, second, strict=True) if a["ref"]
            ]
            only = right.count((True, False)), right.count((False, True))
            test = stats.binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0
            known = {"utterances": len(right), "only baseline right": only[0], "only setting right": only[1]}
            return (float((known | {"p, McNemar": test})[head]),) if head in known or head == "p, McNemar" else None
        if head.startswith("difference"):
            one, other = rate(row[1], first), rate(row[1], second)
            return (None if one is None or other is None else other - one,)
        if head != "p, folds swapped":
            return None
        folds = sorted({r["fold"] for r in first})
        if row[1] == "UA":  # each class's hits of a fold over its size in all folds
            sizes = {label: sum(r["ref"] == label for r in first) for label in {r["ref"] for r in first} - {""}}
            value = lambda rows: sum((r["ref"] == r["hyp"]) / sizes[r["ref"]] for r in rows if r["ref"])  # noqa: E731
        elif row[1] == "WA":
            value = lambda rows: sum(r["ref"] == r["hyp"] for r in rows if r["ref"])  # noqa: E731
        else:
            value = lambda rows: sum(int(r["errors"]) for r in rows)  # noqa: E731
        parts = [[value([r for r in rows if r["fold"] == fold]) for fold in folds] for rows in (first, second)]
        return (swapped([b - a for a, b in zip(*parts, strict=True)]),)


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
                text = re.split(r" [\[(]", shown[narrow.index(head)].replace("−", "-"))[0]
                same = cell is None and text == "–" if value is None else abs((cell or 0.0) - value) < 1e-9
                if same and value is not None:
                    same = value < 0.001 if text == "< .001" else abs(float(text) - value) <= 0.00051
                if not same:
                    wrong.append(f"{name}, {row[0]}, {head}: {cell} and {text}, but {value}")
    return compared, wrong


if __name__ == "__main__":
    counts, differing = compare(Path(sys.argv[1]))
    print(*(f"{name}: {count} cells" for name, count in counts.items()), *differing, sep="\n")
    print(f"{sum(counts.values())} cells compared, {len(differing)} differ")
    sys.exit(bool(differing) or not counts)
