"""The tables of scores: the paper's II and III, all settings, comparisons, and the details."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from sermtl.fileio.files import load_json
from sermtl.fileio.text_table import plural
from sermtl.report import paper
from sermtl.report.compare import LEAST_POSTERIOR, MARGIN, Setting, holm
from sermtl.report.document import Cell, P, Share, Table
from sermtl.report.families import Family
from sermtl.score import metrics, statistics
from sermtl.score.metrics import RATES
from sermtl.score.result_files import UNTRAINED

WEIGHTS = "layer_weights.json"
"""Of a fold, written by training: head -> hidden state -> learned share."""
INTERVALS = (
    "Intervals: Student's t with jackknife errors over the named units plus those over seeds (with one seed, "
    "differences between trainings are not in the interval); those of WA, UA and recall on the logit scale."
)


def heading(family: Family) -> str:
    """What stands beside the name of a rate with an interval."""
    return f"[95 % by {family.settings[0].first.unit}]"


def table_2(family: Family) -> Table:
    """The paper's Table II: emotion accuracy against beta, gradient reversed."""
    rows = [(family.find(beta, "reverse"), [f"{beta:g}", printed]) for beta, printed in paper.TABLE_2.items()]
    head, cells = _measured(family, rows, "wa", "ua")
    caption, names = "Table II. Emotion accuracy, gradient reversed.", ["β", f"accuracy, {paper.COLUMN}"]
    return family.table("table-2", caption, [*names, *head], cells, f"Paper: {paper.CITE}. {INTERVALS}")


def table_3(family: Family) -> Table:
    """The paper's Table III: WER, emotion and speaker accuracy by direction and beta."""
    rows = [(family.find(beta, grl), [f"{grl} {beta:g}", *given]) for (grl, beta), given in paper.TABLE_3.items()]
    head, cells = _measured(family, rows, "wer", "wa")
    for row, (setting, _) in zip(cells, rows, strict=True):
        row.insert(6, speaker_accuracy(setting)["acc"])
    names = [f"{what}, {paper.COLUMN}" for what in ("WER", "emotion accuracy", "speaker accuracy")]
    reasons = {speaker_accuracy(setting).get("reason") for setting in family.settings} - {None}
    note = INTERVALS + (f" Speaker accuracy undefined: {sorted(map(str, reasons))[0]}." if reasons else "")
    head = ["gradient, β", *names, *head[:2], "speaker accuracy", *head[2:]]
    return family.table("table-3", "Table III. WER, emotion and speaker accuracy on the test folds.", head, cells, note)


def ablation(family: Family) -> list[Table]:
    """With and without the ASR loss, beta 0; nothing where alpha 0 was not run."""
    without = family.find(0.0, alpha=0.0)
    if without is None or family.alpha == 0:
        return []
    rows = [(family.find(0.0), [f"{family.alpha:g}", *paper.ABLATION[True]]), (without, ["0", *paper.ABLATION[False]])]
    head, cells = _measured(family, rows, "wa", "ua", "wer")
    names = [f"{what}, {paper.ABLATION_COLUMN}" for what in ("accuracy", "WER")]
    caption = "Multi-task ablation: β 0 with and without the ASR loss."
    note = f"Published numbers: {paper.ABLATION_CITE}. With α 0 the token head is not trained. {INTERVALS}"
    return [family.table("ablation", caption, ["α", *names, *head], cells, note)]


def all_settings(family: Family) -> Table:
    """Every setting with its rates, and how much they move from seed to seed."""
    head, cells = _measured(family, [(setting, [setting.name]) for setting in family.settings], "wa", "ua", "wer")
    for row, setting in zip(cells, family.settings, strict=True):
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
    return family.table("settings", "All settings, counts summed over folds and seeds.", names, cells, note)


def comparisons(family: Family) -> Table:
    """Differences from beta 0 with their tests."""
    rows: list[list[Cell]] = []
    for c in family.comparisons:
        for rate in c.rates:
            parts, tests = c.parts[rate], [c.measured[rate].p(), c.p_holm[rate], c.equivalent[rate]]
            row: list[Cell] = [c.name, RATES[rate], c.difference(rate), *map(P, tests), c.detectable(rate)]
            units = f"{plural(len(parts), c.first.first.unit)}, {plural(len(c.second.seeds), 'seed')}"
            ties = f"{(abs(parts) < 1e-12).sum()} of {len(parts)}"
            rows.append([*row, P(statistics.sign_flip(parts)), ties, units])
    margin = plural(round(100 * MARGIN), "point")
    head = ["comparison", "rate", f"difference {heading(family)}", "p, t test", "p, Holm"]
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
    return family.table(
        "comparisons", f"Differences from {family.base_name} on the same utterances and seeds.", head, rows, note
    )


def mcnemar(family: Family) -> Table:
    """McNemar's test of each pair of trainings with one seed."""
    rows: list[list[Cell]] = []
    tests: list[float] = []
    for c in family.comparisons:
        for one, other in zip(c.first.experiments, c.second.experiments, strict=True):
            only_first, only_second = int((one.right & ~other.right).sum()), int((other.right & ~one.right).sum())
            odds = only_second / only_first if only_first else None
            rows.append([c.name, one.seed, int((one.ref >= 0).sum()), only_first, only_second, odds])
            tests.append(statistics.mcnemar(only_first, only_second))
    rows = [[*row, P(p), P(corrected)] for row, p, corrected in zip(rows, tests, holm(tests), strict=True)]
    head = ["comparison", "seed", "utterances", "only baseline right", "only setting right"]
    head += ["odds ratio", "p, McNemar", "p, Holm"]
    note = (
        "The test assumes independent utterances, which those of one speaker are not. Holm's correction is over all "
        f"{len(rows)} tests of this table. They compare trainings: other seeds of the same settings may differ."
    )
    caption = "Emotion: exact McNemar test of each pair of trainings with one seed."
    return family.table("mcnemar", caption, head, rows, note)


def by_group(family: Family, what: str, groups: Sequence[str]) -> list[Table]:
    """A table a rate: folds, speakers or styles (``what``) in rows, settings in columns."""
    column = {"speaker": "spk"}.get(what, what)
    masks = [[getattr(setting.first, column) == group for setting in family.settings] for group in groups]
    found = [[setting.rates(mask) for setting, mask in zip(family.settings, row, strict=True)] for row in masks]
    pooled = [setting.rates() for setting in family.settings]
    first = family.settings[0].first
    lowered = [bool(first.untrained[row[0]].any()) for row in masks]
    tables = []
    for rate, title in RATES.items():
        mark = "" if rate in ("wer", "cer") else UNTRAINED
        rows: list[list[Cell]] = [
            [group + mark * low, max(int(mask.sum()) for mask in row), *(scores[rate] for scores in of_group)]
            for group, low, row, of_group in zip(groups, lowered, masks, found, strict=True)
        ]
        if what == "fold":
            means = [metrics.mean([scores[rate] for scores in column]) for column in zip(*found, strict=True)]
            rows.append(["mean over folds" + mark * any(lowered), None, *means])
        rows.append(["pooled" + mark * any(lowered), len(first.utts), *(scores[rate] for scores in pooled)])
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
        return setting.estimate(found[key], 1.0)
    return setting.rates(setting.first.ref == index)[key] if key in ("wer", "cer") else setting.rates()[key][index]


def confusions(family: Family) -> list[Table]:
    """A confusion matrix a setting: counts over folds and seeds, with row shares."""
    tables = []
    for number, setting in enumerate(family.settings, 1):
        scores = setting.rates()
        labels = scores["labels"]
        rows: list[list[Cell]] = [
            [label, *(Share(count, sum(counts)) for count in counts), sum(counts)]
            for label, counts in zip(labels, scores["confusion"], strict=True)
        ]
        seeds = f"seed{'s' if len(setting.seeds) > 1 else ''} {' '.join(map(str, setting.seeds))}"
        caption = f"Confusion, {setting.name}: rows are references; {seeds}."
        tables.append(family.table(f"confusion-{number}", caption, ["reference", *labels, "all"], rows))
    return tables


def layer_weights(family: Family) -> list[Table]:
    """Learned weights of each hidden state by head, means over folds and seeds; nothing where no states are mixed."""
    rows: list[list[Cell]] = []
    numbers: list[str] = []
    for setting in family.settings:
        by_head: dict[str, list[dict[str, float]]] = {}
        for made in setting.experiments:
            for path in (made.path / fold / WEIGHTS for fold in made.folds):
                for head, shares in (load_json(path) if path.is_file() else {}).items():
                    by_head.setdefault(head, []).append(shares)
        for head, found in by_head.items():
            numbers = numbers or list(found[0])
            rows.append([setting.name, head, *(float(np.mean([s[n] for s in found if n in s])) for n in numbers)])
    names = ["setting", "head", *(f"state {number}" for number in numbers)]
    note = "Softmax weights, means over folds and seeds; state 0 enters the first layer."
    caption = "Learned weights of the hidden states."
    return [family.table("layer-weights", caption, names, rows, note)] if rows else []


def speaker_accuracy(setting: Setting | None) -> dict[str, Any]:
    """The speaker head's accuracy on the test folds, pooled over seeds, or why it does not exist."""
    if setting is None:
        return {"acc": None}
    parts = [made.scores["spk"] for made in setting.experiments]
    undefined = next((part["reason"] for part in parts if part["acc"] is None), None)
    return {"acc": None, "reason": undefined} if undefined else metrics.pool_speakers(parts)


def _measured(
    family: Family, rows: Iterable[tuple[Setting | None, list[Any]]], *rates: str
) -> tuple[list[str], list[list[Any]]]:
    """Head and rows: given cells, ``rates`` with intervals, folds, seeds, utterances; dashes for what was not run."""
    cells = []
    for setting, given in rows:
        if setting is None:
            cells.append([*given, *[None] * len(rates), "not run", None, None])
            continue
        found = [setting.estimates[rate] for rate in rates]
        cells.append([*given, *found, setting.first.coverage, len(setting.seeds), int((setting.first.ref >= 0).sum())])
    head = [f"{RATES[rate]} {heading(family)}" for rate in rates]
    return [*head, "folds", "seeds", "utterances"], cells
