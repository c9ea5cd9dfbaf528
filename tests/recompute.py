"""A report's numbers computed again from `scores/*.tsv` and `probes.tsv`, without code of sermtl.

``python tests/recompute.py exp/report/CORPUS`` compares in results.json and in RESULTS.md every cell that follows from
the utterances' outcomes: rates with their intervals, calibration, confusion matrices, differences and all tests of
them, and the accuracies of speaker classifiers. The columns that it does not compare are listed: numbers of papers and
settings, and what comes from single embeddings, histories and audits, which are not in the folder. Numbers in the
summary's sentences, the words alone, and those of pictures are not compared either.
"""

from __future__ import annotations

import csv
import functools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize, stats
from sklearn.metrics import accuracy_score, f1_score, log_loss, recall_score

RATES = ("WA", "UA", "macro F1", "WER", "CER")
MARGIN, FEWEST, BINS = 0.01, 5, 15
Rows = list[dict[str, str]]
Student = tuple[float, float, float] | tuple[float]
"""Value, and where there are enough units its standard error and degrees of freedom."""


def labelled(rows: Rows) -> list[list[str]]:
    """References and hypotheses of the utterances that have an emotion."""
    return [[row[key] for row in rows if row["ref"]] for key in ("ref", "hyp")]


def rate(name: str, rows: Rows) -> float | None:
    """A rate of some utterances; None of none."""
    if name in ("WER", "CER"):
        whole, wrong = ("words", "errors") if name == "WER" else ("chars", "char_errors")
        total = sum(int(row[whole]) for row in rows)
        return sum(int(row[wrong]) for row in rows) / total if total else None
    references, hypotheses = labelled(rows)
    if not references:
        return None
    if name == "WA":
        return float(accuracy_score(references, hypotheses))
    if name == "macro F1":
        classes = sorted({*references, *hypotheses})
        return float(f1_score(references, hypotheses, labels=classes, average="macro", zero_division=0))
    classes = sorted(set(references))
    return float(recall_score(references, hypotheses, labels=classes, average="macro", zero_division=0))


def of_class(name: str, label: str, rows: Rows) -> float | None:
    """Recall or F1 of a class; None of a class that is never tested (nor predicted, for F1)."""
    references, hypotheses = labelled(rows)
    if label not in references and (name == "recall" or label not in hypotheses):
        return None
    score = {"recall": recall_score, "f1": f1_score}[name]
    return float(score(references, hypotheses, labels=[label], average=None, zero_division=0)[0])


def units(rows: Rows) -> tuple[dict[str, str], str]:
    """Utterance -> independent unit, and the unit's name.

    Joined are speakers of one session, and those tested in the same folds where one is tested in several.
    """
    folds: dict[str, set[str]] = {}
    for row in rows:
        folds.setdefault(row["spk"], set()).add(row["fold"])
    label = {spk: spk for spk in folds}
    while True:
        before = dict(label)
        for key in ("session", "fold"):
            joined: dict[str, list[str]] = {}
            for row in rows:
                spk = row["spk"]
                if spk != "unknown" and row.get(key) and (key == "session" or len(folds[spk]) > 1):
                    joined.setdefault(row[key], []).append(spk)
            for speakers in joined.values():
                least = min(label[spk] for spk in speakers)
                label |= dict.fromkeys(speakers, least)
        if label == before:
            break
    size = len(set(label.values()))
    sessions = len({row.get("session", "") for row in rows})
    name = "speaker" if size == len(label) else "session" if size == sessions else "speaker group"
    return {row["utt"]: label[row["spk"]] for row in rows}, name


def student(value: Callable[[list], float | None], rows: list[tuple[str, int, Any]]) -> Student | None:
    """A value of rows (unit, seed, data), with the jackknife's error over units plus that over seeds."""
    whole = value([data for *_, data in rows])
    if whole is None or len({unit for unit, *_ in rows}) < FEWEST:
        return None if whole is None else (whole,)
    parts = []
    for position in (0, 1):
        names = {row[position] for row in rows}
        if len(names) > 1:
            left = [value([row[2] for row in rows if row[position] != name]) for name in names]
            if None in left:
                return (whole,)
            df = len(names) - 1
            parts.append((df / len(names) * sum((one - np.mean(left)) ** 2 for one in left), df))
    variance = sum(part for part, _ in parts)
    if variance < 1e-18:
        return (whole,)
    return whole, float(np.sqrt(variance)), float(variance**2 / sum(part**2 / df for part, df in parts))


def ends(found: Student | None, least: float = -np.inf, most: float = np.inf) -> tuple[float | None, ...]:
    """Value and ends of its 95 % interval, within limits."""
    if found is None or len(found) == 1:
        return (found[0] if found else None, None, None)
    value, scale = found[:2]
    if (least, most) == (0.0, 1.0) and 0 < value < 1:  # a share: on the logit scale
        logit, wide = np.log(value / (1 - value)), stats.t.ppf(0.975, found[2]) * scale / (value * (1 - value))
        return value, *(float(1 / (1 + np.exp(-logit - sign * wide))) for sign in (-1, 1))
    low, high = stats.t.interval(0.95, found[2], loc=value, scale=scale)
    return found[0], max(low, least), min(high, most)


def holm(values: list[float | None]) -> list[float | None]:
    """Corrected p values."""
    known = sorted((p, number) for number, p in enumerate(values) if p is not None)
    adjusted: list[float | None] = [None] * len(values)
    running = 0.0
    for rank, (p, number) in enumerate(known):
        running = max(running, min(1.0, (len(known) - rank) * p))
        adjusted[number] = running
    return adjusted


def power(difference: float, error: float, df: float) -> float:
    """Of the two-sided t test at .05: the square of t has a noncentral F distribution."""
    return float(stats.ncf.sf(stats.t.ppf(0.975, df) ** 2, 1, df, (difference / error) ** 2))


def swapped(parts: list[float]) -> float:
    """p of the permutation test over units: all swaps."""
    sums = np.zeros(1)
    for part in parts:
        sums = np.concatenate([sums + part, sums - part])
    return float((np.abs(sums) >= abs(sum(parts)) - 1e-9).mean())


def calibration(rows: Rows) -> dict[str, float | None]:
    """NLL and expected calibration error of the rows that have posteriors."""
    known = [row for row in rows if row["ref"] and row.get("conf", "nan") != "nan"]
    if not known:
        return {"NLL": None, "ECE": None}
    posteriors = np.maximum([float(row["ref_post"]) for row in known], 5e-7)
    confidence = np.array([float(row["conf"]) for row in known])
    right = np.array([row["ref"] == row["hyp"] for row in known])
    error = 0.0
    for number in range(BINS):
        inside = (confidence > number / BINS) & (confidence <= (number + 1) / BINS)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    both = np.stack([1 - posteriors, posteriors], axis=1)
    return {"NLL": float(log_loss(np.ones(len(known)), both, labels=[0, 1])), "ECE": float(error)}


def slug(title: str) -> str:
    """A family's part of the names of tables."""
    return re.sub(r"[^\w.]|_", "-", title.lower()).replace("--", "-").strip("-")


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
        self.probes: dict[tuple[str, ...], Rows] = {}
        if (folder / "probes.tsv").exists():
            with open(folder / "probes.tsv", encoding="utf-8", newline="") as file:
                for probe in csv.DictReader(file, delimiter="\t"):
                    key = (probe["family"], probe["setting"], probe["speakers"], probe["classifier"])
                    self.probes.setdefault(key, []).append(probe)
        listed = self.tables["run-experiments"]
        places = [listed["head"].index(name) for name in ("experiment", "family", "setting", "seed")]
        named = ([row[place] for place in places] for row in listed["rows"])
        self.settings = [(tag.rstrip("†"), slug(title), name, seed) for tag, title, name, seed in named]
        text = (folder / "RESULTS.md").read_text(encoding="utf-8")
        blocks = re.findall(r"^\*\*.+\*\*\n\n((?:\|.*\n)+)", text, re.MULTILINE)
        self.printed = [
            [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()[2:]]
            for block in blocks
        ]

    def tags(self, family: str, setting: str) -> dict[int, str]:
        """Seed -> experiment of a setting such as ``reverse 0.1`` or ``erase``, as the list of experiments names it."""
        return {seed: tag for tag, of, name, seed in self.settings if (of, name) == (family, setting)}

    def probed(self, family: str, row: list[Any], head: str) -> tuple | None:
        """A cell of the table of speaker classifiers, where there are enough units for intervals over these."""
        probes = self.probes.get((family, *row[:3]), [])
        tests = sum(int(probe["tests"]) for probe in probes)
        if head == "tests":
            return (tests,)
        if not tests or not head.startswith("accuracy"):
            return None
        scored = self.rows[next(iter(self.tags(family, row[0]).values()))]
        unit_of = units(scored)[0]
        of = {r["spk"]: unit_of[r["utt"]] for r in scored}
        whole, parts = sum(float(probe["hits"]) for probe in probes) / tests, []
        for group in (lambda probe: of.get(probe["speaker"], probe["speaker"]), lambda probe: probe.get("seed")):
            apart: dict[Any, float] = {}
            for probe in probes:
                apart[group(probe)] = apart.get(group(probe), 0.0) + float(probe["hits"]) - whole * int(probe["tests"])
            if not parts and len(apart) < FEWEST:
                return None
            if (df := len(apart) - 1) > 0:
                parts.append(((df + 1) / df * sum(left**2 for left in apart.values()) / tests**2, df))
        variance = sum(part for part, _ in parts)
        df = variance**2 / sum(part**2 / df for part, df in parts) if variance else np.inf
        return ends((whole, float(np.sqrt(variance)), float(df)), 0.0, 1.0)

    def of(self, protocol: str, setting: str) -> Rows:
        """All test utterances of a setting, seed after seed."""
        return [row for tag in self.tags(protocol, setting).values() for row in self.rows[tag]]

    def estimate(self, protocol: str, setting: str, value: Callable[[Rows], float | None], most: float) -> tuple:
        """A rate of a setting with its interval."""
        tags = self.tags(protocol, setting)
        of = units(self.rows[next(iter(tags.values()))])[0] if tags else {}
        rows = [(of[row["utt"]], seed, row) for seed, tag in tags.items() for row in self.rows[tag]]
        return ends(student(value, rows), 0.0, most) if rows else (None, None, None)

    def expected(self, table: str, row: list[Any], head: str) -> tuple | None:
        """What a cell (and the ends of its interval) must be; None where the utterances' outcomes do not tell."""
        families = [family for _, family, *_ in self.settings if table.startswith(f"{family}-")]
        protocol = max(families, key=len, default="")
        kind = table.removeprefix(f"{protocol}-")
        name, first = head.split(" [")[0], str(row[0]).rstrip("†")
        name = {"emotion accuracy": "WA"}.get(name, name).rstrip("†")
        if table == "run-experiments":
            return (rate(name, self.rows[first]),) if name in RATES else None
        if kind in ("table-2", "table-3", "ablation", "settings"):
            setting = first
            if kind == "table-2":
                setting = "β 0" if setting == "0" else f"reverse {setting}"
            if kind == "ablation":
                setting = "β 0, α 0" if setting == "0" else "β 0"
            tags = self.tags(protocol, setting)
            if head == "WA std over seeds":
                seeds = [rate("WA", self.rows[tag]) for tag in tags.values()]
                return (float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None,)
            if head in ("seeds", "utterances") and tags:
                rows = self.rows[next(iter(tags.values()))]
                return (len(tags) if head == "seeds" else sum(bool(r["ref"]) for r in rows),)
            if head in ("NLL", "ECE"):
                return (calibration(self.of(protocol, setting))[head],)
            if " [" in head and "%" in head:
                return self.estimate(protocol, setting, lambda rows: rate(name, rows), np.inf if name == "WER" else 1.0)
            return (rate(name, self.of(protocol, setting)),) if name in RATES and ", " not in head else None
        if kind == "speakers":
            return self.probed(protocol, row, head)
        if kind == "comparisons":
            return self.compared(table, protocol, row, head)
        if kind == "mcnemar":
            return self.mcnemar(table, protocol, row, head)
        if kind.startswith("confusion-"):
            setting = self.captions[table].split(", ", 1)[1].split(": rows")[0]
            kept = [r for r in self.of(protocol, setting) if r["ref"] == first]
            return None if head == "reference" else (sum(head in (r["hyp"], "all") for r in kept),)
        grouped = re.fullmatch(r"(fold|speaker|style|class)-(wa|ua|macro-f1|wer|cer|recall|f1)", kind)
        if grouped and head != grouped[1]:
            group, of = grouped.groups()
            key = {"speaker": "spk", "class": "ref"}.get(group, group)
            if head == "n":
                made = [self.rows[tag] for tag, family, *_ in self.settings if family == protocol]
                counts = [sum(first in (r[key], "pooled") for r in rows) for rows in made]
                return None if first == "mean over folds" else (max(counts),)
            setting = name
            rows = self.of(protocol, setting)
            if of == "recall":
                return self.estimate(protocol, setting, lambda rows: of_class("recall", first, rows), 1.0)
            if of == "f1":
                return (of_class(of, first, rows),)
            of = {"macro-f1": "macro F1"}.get(of, of.upper())
            if first == "mean over folds":
                folds = [rate(of, [r for r in rows if r["fold"] == fold]) for fold in sorted({r["fold"] for r in rows})]
                known = [value for value in folds if value is not None]
                return (float(np.mean(known)) if known else None,)
            return (rate(of, [r for r in rows if first in (r[key], "pooled")]),)
        return None

    @functools.cache  # noqa: B019
    def pairs(self, protocol: str, comparison: str) -> tuple[list[tuple[str, int, Any]], str]:
        """Unit, seed and both outcomes of every utterance; and the units' name."""
        first, second = (self.tags(protocol, setting) for setting in reversed(comparison.split(" − ")))
        of, name = units(self.rows[next(iter(first.values()))])
        seeds = sorted(first.keys() & second.keys())
        rows = [(seed, *pair) for seed in seeds for pair in zip(*(self.rows[t[seed]] for t in (first, second)))]  # noqa: B905
        return [(of[one["utt"]], seed, (one, other)) for seed, one, other in rows], name

    @functools.cache  # noqa: B019
    def difference(self, protocol: str, comparison: str, name: str) -> Student | None:
        """Second minus first."""

        def value(pairs: list) -> float | None:
            one, other = (rate(name, list(rows)) for rows in zip(*pairs, strict=True))
            return None if one is None or other is None else other - one

        return student(value, self.pairs(protocol, comparison)[0])

    def compared(self, table: str, protocol: str, row: list[Any], head: str) -> tuple | None:
        """A cell of the table of differences."""
        found = self.difference(protocol, row[0], row[1])
        if head.startswith("difference"):
            return ends(found)
        rows, unit = self.pairs(protocol, row[0])
        tested = found is not None and len(found) == 3
        if "Holm" in head:
            all_p = [self.p(protocol, *other[:2], "equivalent" in head) for other in self.tables[table]["rows"]]
            return (holm(all_p)[self.tables[table]["rows"].index(row)],)
        if head == "p, t test":
            return (self.p(protocol, row[0], row[1], False),)
        names = sorted({name for name, *_ in rows})
        if head == "units":
            seeds = len({seed for _, seed, _ in rows})
            counted = [f"{n} {word}{'' if n == 1 else 's'}" for n, word in ((len(names), unit), (seeds, "seed"))]
            return (", ".join(counted),)
        if head == "detectable at 80 %":
            if not tested:
                return (None,)
            _, error, df = found
            least = optimize.brentq(lambda d: power(d, error, df) - 0.8, 1e-3 * error, 40 * error, xtol=1e-13)
            return (least if least <= self.apart(row[1], [data for *_, data in rows]) else None,)
        if head not in ("p, swapped", "p, folds swapped", "ties"):
            return None
        parts = dict.fromkeys(names, 0.0)
        sizes = {label: sum(a["ref"] == label for *_, (a, _) in rows) for label in {a["ref"] for *_, (a, _) in rows}}
        for name, _, (a, b) in rows:
            if row[1] == "WER":
                parts[name] += int(b["errors"]) - int(a["errors"])
            elif a["ref"]:
                parts[name] += ((b["ref"] == b["hyp"]) - (a["ref"] == a["hyp"])) / (
                    sizes[a["ref"]] if row[1] == "UA" else 1
                )
        if head == "ties":
            return (f"{sum(abs(part) < 1e-9 for part in parts.values())} of {len(parts)}",)
        return (swapped(list(parts.values())),)

    def p(self, protocol: str, comparison: str, name: str, equivalent: bool) -> float | None:
        """Of the t test, or the larger one of the two one-sided tests."""
        found = self.difference(protocol, comparison, name)
        if found is None or len(found) == 1:
            return None
        value, error, df = found
        below, above = stats.t.cdf((value - MARGIN) / error, df), stats.t.sf((value + MARGIN) / error, df)
        return float(max(below, above) if equivalent else 2 * stats.t.sf(abs(value / error), df))

    @staticmethod
    def apart(name: str, pairs: list) -> float:
        """The largest difference that two systems can have which differ on these utterances."""
        if name == "WER":
            return sum(abs(int(b["errors"]) - int(a["errors"])) for a, b in pairs) / sum(
                int(a["words"]) for a, _ in pairs
            )
        groups: dict[str, list[bool]] = {}
        for a, b in pairs:
            if a["ref"]:
                key = a["ref"] if name == "UA" else ""
                groups.setdefault(key, []).append((a["ref"] == a["hyp"]) != (b["ref"] == b["hyp"]))
        return float(np.mean([np.mean(values) for values in groups.values()])) + 1e-12

    def mcnemar(self, table: str, protocol: str, row: list[Any], head: str) -> tuple | None:
        """A cell of the table of McNemar's tests."""

        def only(other: list[Any]) -> list[int]:
            pairs = [data for _, seed, data in self.pairs(protocol, other[0])[0] if seed == other[1] and data[0]["ref"]]
            right = [(a["ref"] == a["hyp"], b["ref"] == b["hyp"]) for a, b in pairs]
            return [right.count((True, False)), right.count((False, True)), len(right)]

        def p(other: list[Any]) -> float:
            first, second, _ = only(other)
            return float(stats.binomtest(first, first + second).pvalue) if first + second else 1.0

        first, second, n = only(row)
        if head == "p, Holm":
            return (holm([p(other) for other in self.tables[table]["rows"]])[self.tables[table]["rows"].index(row)],)
        counts = {"utterances": n, "only baseline right": first, "only setting right": second, "p, McNemar": p(row)}
        if head == "odds ratio":
            return (second / first if first else None,)
        return (counts[head],) if head in counts else None


def compare(folder: Path) -> tuple[dict[str, int], list[str], list[str]]:
    """Cells compared in each table, those that differ, and the columns that are not compared."""
    page, compared, wrong = Page(folder), {}, []
    skipped: dict[str, dict[str, None]] = {}
    for (name, table), printed in zip(page.tables.items(), page.printed, strict=True):
        narrow = [head for head in table["head"] if not head.endswith((" low", " high"))]
        for row, shown in zip(table["rows"], printed, strict=True):
            for head in narrow:
                right = page.expected(name, row, head)
                if right is None:
                    if head != narrow[0] and re.match(r"-?[\d.]+\b", str(row[table["head"].index(head)])):
                        skipped.setdefault(name, {})[head] = None
                    continue
                texts = re.split(r" [\[(]|, |\]", shown[narrow.index(head)].replace("−", "-"))
                for value, end, text in zip(right, ("", " low", " high"), texts, strict=False):
                    compared[name] = compared.get(name, 0) + 1
                    cell = row[table["head"].index(head + end)] if head + end in table["head"] else None
                    if isinstance(value, str):
                        same = value == cell == shown[narrow.index(head)]
                    elif value is None or isinstance(cell, str):
                        same = cell is None and (bool(end) or text == "–")
                    else:
                        same = cell is not None and abs(cell - value) < 1e-6 * max(1, abs(value))
                        same &= value < 0.001 if text == "< .001" else abs(float(text) - value) <= 0.00051
                    if not same:
                        wrong.append(f"{name}, {row[0]}, {head}{end}: {cell} and {text}, but {value}")
    return compared, wrong, [f"{name}: {', '.join(heads)}" for name, heads in skipped.items()]


if __name__ == "__main__":
    counts, differing, columns = compare(Path(sys.argv[1]))
    print("not compared (numbers that the outcomes do not tell):", *columns, sep="\n  ")
    print(*(f"{name}: {count} cells" for name, count in counts.items()), *differing, sep="\n")
    print(f"{sum(counts.values())} cells compared, {len(differing)} differ")
    sys.exit(bool(differing) or not counts)
