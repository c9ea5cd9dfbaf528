"""The tables of scores: the paper's II and III, all settings, comparisons, and the details."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sermtl.fileio.text_table import plural
from sermtl.report import paper
from sermtl.report.compare import MARGIN, Results, estimate, holm
from sermtl.report.document import Cell, P, Share, Table
from sermtl.report.families import LEAST_POSTERIOR, Family, Setting
from sermtl.score import metrics, statistics
from sermtl.score.metrics import RATES
from sermtl.score.result_files import UNTRAINED

MEAN = "mean over folds"
INTERVALS = (
    "Intervals: Student's t with jackknife errors over the named units plus those over seeds (with one seed, "
    "differences between trainings are not in the interval)."
)


def heading(family: Family) -> str:
    """What stands beside the name of a rate with an interval."""
    return f"[95 % by {family.settings[0].first.unit}]"


def table_2(results: Results) -> Table:
    """The paper's Table II: emotion accuracy against beta, gradient reversed."""
    rows = [(results.family.find(beta, "reverse"), [f"{beta:g}", printed]) for beta, printed in paper.TABLE_2.items()]
    head, cells = _measured(results, rows, "wa", "ua")
    caption, names = "Table II. Emotion accuracy, gradient reversed.", ["β", f"accuracy, {paper.COLUMN}"]
    return results.family.table("table-2", caption, [*names, *head], cells, f"Paper: {paper.CITE}. {INTERVALS}")


def table_3(results: Results) -> Table:
    """The paper's Table III: WER, emotion and speaker accuracy by direction and beta."""
    family = results.family
    rows = [(family.find(beta, grl), [f"{grl} {beta:g}", *given]) for (grl, beta), given in paper.TABLE_3.items()]
    head, cells = _measured(results, rows, "wer", "wa")
    for row, (setting, _) in zip(cells, rows, strict=True):
        row.insert(6, speaker_accuracy(setting)["acc"])
    names = [f"{what}, {paper.COLUMN}" for what in ("WER", "emotion accuracy", "speaker accuracy")]
    reasons = {speaker_accuracy(setting).get("reason") for setting in family.settings} - {None}
    note = INTERVALS + (f" Speaker accuracy undefined: {sorted(map(str, reasons))[0]}." if reasons else "")
    head = ["gradient, β", *names, *head[:2], "speaker accuracy", *head[2:]]
    return family.table("table-3", "Table III. WER, emotion and speaker accuracy on the test folds.", head, cells, note)


def ablation(results: Results) -> Table | None:
    """With and without the ASR loss, beta 0; None where alpha 0 was not run."""
    family = results.family
    without = family.find(0.0, alpha=0.0)
    if without is None or family.alpha == 0:
        return None
    rows = [(family.find(0.0), [f"{family.alpha:g}", *paper.ABLATION[True]]), (without, ["0", *paper.ABLATION[False]])]
    head, cells = _measured(results, rows, "wa", "ua", "wer")
    names = [f"{what}, {paper.ABLATION_COLUMN}" for what in ("accuracy", "WER")]
    caption = "Multi-task ablation: β 0 with and without the ASR loss."
    note = f"Published numbers: {paper.ABLATION_CITE}. With α 0 the token head is not trained. {INTERVALS}"
    return family.table("ablation", caption, ["α", *names, *head], cells, note)


def all_settings(results: Results) -> Table:
    """Every setting with its rates, and how much they move from seed to seed."""
    rows: list[tuple[Setting | None, list[Any]]] = [(setting, [setting.name]) for setting in results.family.settings]
    head, cells = _measured(results, rows, "wa", "ua", "wer")
    for row, setting in zip(cells, results.family.settings, strict=True):
        scores = setting.rates()
        by_seed = [metrics.ratio(int(made.right.sum()), int((made.ref >= 0).sum())) for made in setting.experiments]
        spread = float(np.std([w for w in by_seed if w is not None], ddof=1)) if len(by_seed) > 1 else None
        bins, losses = setting.calibration
        error = metrics.ratio(np.abs(bins[:, 1] - bins[:, 2]).sum(), bins[:, 0].sum())
        calibration = [float(losses.mean()) if len(losses) else None, error]
        row[2:5] = [spread, row[2], scores["macro_f1"], row[3], scores["cer"], *calibration, row[4]]
    names = ["setting", head[0], "WA std over seeds", head[1], "macro F1", head[2], "CER", "NLL", "ECE", *head[3:]]
    note = (
        f"{INTERVALS} NLL: mean negative log posterior of the reference class, in nats (a stored posterior of 0 counts "
        f"as {LEAST_POSTERIOR:g}). ECE: mean distance between confidence (posterior of the predicted class) and share "
        f"of correct utterances over {metrics.BINS} bins of equal width."
    )
    return results.family.table("settings", "All settings, counts summed over folds and seeds.", names, cells, note)


def comparisons(results: Results) -> Table:
    """Differences from beta 0 with their tests."""
    rows: list[list[Cell]] = []
    for c in results.comparisons:
        for rate in c.rates:
            tests = [P(c.measured[rate].p()), P(c.p_holm[rate]), P(c.equivalent[rate]), c.detectable(rate)]
            ties = f"{(abs(c.parts[rate]) < 1e-12).sum()} of {len(c.parts[rate])}"
            units = f"{plural(len(c.parts[rate]), c.first.first.unit)}, {plural(len(c.second.seeds), 'seed')}"
            swapped = P(statistics.sign_flip(c.parts[rate]))
            rows.append([c.name, RATES[rate], c.difference[rate], *tests, swapped, ties, units])
    margin = plural(round(100 * MARGIN), "point")
    head = ["comparison", "rate", f"difference {heading(results.family)}", "p, t test", "p, Holm"]
    head += [f"p, equivalent within {margin}, Holm", "detectable at 80 %", "p, swapped", "ties", "units"]
    note = (
        f"{INTERVALS} p, t test: of the same errors. Equivalent: two one-sided t tests; a small p shows that the "
        f"difference is less than {margin}. A large p in one of these columns shows neither equality nor a difference. "
        f"Holm's correction is over all {len(rows)} tests of a column. Detectable: smallest difference that the t "
        "test finds with power 80 %, two-sided at .05; none where it exceeds the largest difference that is possible "
        "when the outcomes differ as little as here. p, swapped: permutation test that swaps the two settings within "
        f"units (exact up to {statistics.EXACT_UNITS} units), for these trainings only. Ties: units in which the two "
        "settings are equal; swapping these changes nothing."
    )
    return results.family.table(
        "comparisons", "Differences from β 0 on the same utterances and seeds.", head, rows, note
    )


def mcnemar(results: Results) -> Table:
    """McNemar's test of each pair of trainings with one seed."""
    tests = [(comparison.name, test) for comparison in results.comparisons for test in comparison.mcnemar]
    rows: list[list[Cell]] = []
    for (name, test), p in zip(tests, holm([test.p for _, test in tests]), strict=True):
        odds = test.only_second / test.only_first if test.only_first else None
        rows.append([name, test.seed, test.n, test.only_first, test.only_second, odds, P(test.p), P(p)])
    head = ["comparison", "seed", "utterances", "only baseline right", "only setting right"]
    head += ["odds ratio", "p, McNemar", "p, Holm"]
    note = (
        "The test assumes independent utterances, which those of one speaker are not. Holm's correction is over all "
        f"{len(rows)} tests of this table."
    )
    caption = "Emotion: exact McNemar test of each pair of trainings with one seed."
    return results.family.table("mcnemar", caption, head, rows, note)


def by_group(
    family: Family, what: str, groups: Sequence[str], member: Callable[[Setting, str], np.ndarray]
) -> list[Table]:
    """A table a rate: groups in rows, settings in columns.

    Args:
        family: Whose settings.
        what: Name of the groups: fold, speaker, style.
        groups: Their names.
        member: Mask (N,) of the utterances of a group.
    """
    found = [[setting.rates(member(setting, group)) for setting in family.settings] for group in groups]
    counts = [[int(member(setting, group).sum()) for setting in family.settings] for group in groups]
    pooled = [setting.rates() for setting in family.settings]
    first = family.settings[0].first
    lowered = {group for group in groups if first.untrained[member(family.settings[0], group)].any()}
    tables = []
    for rate, title in RATES.items():
        mark = "" if rate in ("wer", "cer") else UNTRAINED
        rows: list[list[Cell]] = [
            [group + mark * (group in lowered), max(numbers), *(scores[rate] for scores in row)]
            for group, numbers, row in zip(groups, counts, found, strict=True)
        ]
        if what == "fold":
            means = [metrics.mean([scores[rate] for scores in column]) for column in zip(*found, strict=True)]
            rows.append([MEAN + mark * bool(lowered), None, *means])
        rows.append(["pooled" + mark * bool(lowered), len(first.utts), *(scores[rate] for scores in pooled)])
        head = [what, "n", *(setting.name for setting in family.settings)]
        caption = f"{title} per {what}, counts summed over seeds."
        tables.append(family.table(f"{what}-{rate.replace('_', '-')}", caption, head, rows))
    return tables


def by_class(family: Family) -> list[Table]:
    """Recall, F1, WER and CER of each class, settings in columns; recall with intervals."""
    first, tables = family.settings[0].first, []
    for key, title in {"recall": "Recall", "f1": "F1", "wer": "WER", "cer": "CER"}.items():
        rows: list[list[Cell]] = [
            [label, int((first.ref == index).sum()), *(_of_class(setting, label, key) for setting in family.settings)]
            for index, label in enumerate(first.labels)
        ]
        for index in np.unique(first.ref[first.untrained]) if key in ("recall", "f1") else ():
            rows[index][0] = f"{rows[index][0]}{UNTRAINED}"
        by, note = (f" {heading(family)}", INTERVALS) if key == "recall" else ("", "")
        head = ["class", "n", *(setting.name + by for setting in family.settings)]
        tables.append(family.table(f"class-{key}", f"{title} per class, pooled.", head, rows, note))
    return tables


def _of_class(setting: Setting, label: str, key: str) -> Cell:
    """A rate of one class; None where the setting does not have the class."""
    if label not in setting.first.labels:
        return None
    index = setting.first.labels.index(label)
    if key == "recall":
        found = statistics.jackknife(setting.sums, lambda sums: {key: statistics.recalls(sums)[..., index]})
        return estimate(found[key], setting.first, 1.0)
    return setting.rates(setting.first.ref == index)[key] if key in ("wer", "cer") else setting.rates()[key][index]


def confusions(family: Family) -> list[Table]:
    """A confusion matrix a setting: counts over folds and seeds, with row shares."""
    tables = []
    for number, setting in enumerate(family.settings):
        scores = setting.rates()
        labels = scores["labels"]
        rows: list[list[Cell]] = [
            [label, *(Share(count, sum(counts)) for count in counts), sum(counts)]
            for label, counts in zip(labels, scores["confusion"], strict=True)
        ]
        seeds = f"seed{'s' if len(setting.seeds) > 1 else ''} {' '.join(map(str, setting.seeds))}"
        caption = f"Confusion, {setting.name}: rows are references; {seeds}."
        tables.append(family.table(f"confusion-{number + 1}", caption, ["reference", *labels, "all"], rows))
    return tables


def speaker_accuracy(setting: Setting | None) -> dict[str, Any]:
    """The speaker head's accuracy on the test folds, pooled over seeds, or why it does not exist."""
    if setting is None:
        return {"acc": None}
    parts = [made.scores["spk"] for made in setting.experiments]
    undefined = next((part["reason"] for part in parts if part["acc"] is None), None)
    return {"acc": None, "reason": undefined} if undefined else metrics.pool_speakers(parts)


def _measured(
    results: Results, rows: Sequence[tuple[Setting | None, list[Any]]], *rates: str
) -> tuple[list[str], list[list[Any]]]:
    """Head and cells of estimates with folds, seeds and utterances; dashes for a setting that was not run.

    Args:
        results: Of the settings.
        rows: A row's setting and its first cells.
        rates: Of each estimate.
    """
    cells = []
    for setting, given in rows:
        if setting is None:
            cells.append([*given, *[None] * len(rates), "not run", None, None])
            continue
        found = [results.estimates[setting][rate] for rate in rates]
        cells.append([*given, *found, setting.first.coverage, len(setting.seeds), int((setting.first.ref >= 0).sum())])
    head = [f"{RATES[rate]} {heading(results.family)}" for rate in rates]
    return [*head, "folds", "seeds", "utterances"], cells
