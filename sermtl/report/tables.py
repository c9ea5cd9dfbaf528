"""The tables of scores: the paper's II and III, all settings, comparisons, and the details."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sermtl.report import paper
from sermtl.report.compare import Results
from sermtl.report.document import Cell, P, Share, Table
from sermtl.report.families import Family, Setting
from sermtl.score import metrics, statistics

RATES = {"wa": "WA", "ua": "UA", "macro_f1": "macro F1", "wer": "WER", "cer": "CER"}
MEAN = "mean over folds"
BY_SPEAKER = "[95 % by speaker]"
BY_UTTERANCE = "[95 % by utterance]"


def slug(family: Family) -> str:
    """The family's part of file names."""
    return "".join(c if c.isalnum() or c == "." else "-" for c in family.title.lower()).replace("--", "-").strip("-")


def table_2(results: Results) -> Table:
    """The paper's Table II: emotion accuracy against beta, gradient reversed."""
    family, rows = results.family, []
    for beta, printed in paper.TABLE_2.items():
        setting = family.find(beta, "reverse")
        given: list[Cell] = [f"{beta:g}", printed]
        rows.append([*given, *_estimates(results, setting, ("wa", "speaker"), ("wa", "utterance"), ("ua", "speaker"))])
    columns = [f"WA {BY_SPEAKER}", f"WA {BY_UTTERANCE}", f"UA {BY_SPEAKER}", "folds", "seeds", "utterances"]
    caption = f"Table II. Emotion accuracy, gradient reversed. {mark(family)}"
    names = ["β", f"accuracy, {paper.COLUMN}", *columns]
    return Table(f"{slug(family)}-table-2", caption, names, rows, f"Paper: {paper.CITE}.")


def table_3(results: Results) -> Table:
    """The paper's Table III: WER, emotion and speaker accuracy by direction and beta."""
    family, rows = results.family, []
    for (grl, beta), printed in paper.TABLE_3.items():
        setting = family.find(beta, grl)
        ours = _estimates(results, setting, ("wer", "speaker"), ("wa", "speaker"))
        rows.append([f"{grl} {beta:g}", *printed, *ours[:2], speaker_accuracy(setting)["acc"], *ours[2:]])
    names = [f"{what}, {paper.COLUMN}" for what in ("WER", "emotion accuracy", "speaker accuracy")]
    columns = [f"WER {BY_SPEAKER}", f"WA {BY_SPEAKER}", "speaker accuracy", "folds", "seeds", "utterances"]
    reasons = {speaker_accuracy(setting).get("reason") for setting in family.settings} - {None}
    note = f"Speaker accuracy undefined: {sorted(map(str, reasons))[0]}." if reasons else ""
    caption = f"Table III. WER, emotion and speaker accuracy on the test folds. {mark(family)}"
    return Table(f"{slug(family)}-table-3", caption, ["gradient, β", *names, *columns], rows, note)


def ablation(results: Results) -> Table | None:
    """With and without the ASR loss, beta 0; None where alpha 0 was not run."""
    family = results.family
    without = family.find(0.0, alpha=0.0)
    if without is None or family.alpha == 0:
        return None
    rows = []
    for with_asr, setting in ((True, family.find(0.0)), (False, without)):
        accuracy, wer = paper.ABLATION[with_asr]
        alpha = family.alpha if with_asr else 0.0
        ours = _estimates(results, setting, ("wa", "speaker"), ("ua", "speaker"), ("wer", "speaker"))
        rows.append([f"{alpha:g}", accuracy, wer, *ours])
    names = [f"{what}, {paper.ABLATION_COLUMN}" for what in ("accuracy", "WER")]
    columns = [f"WA {BY_SPEAKER}", f"UA {BY_SPEAKER}", f"WER {BY_SPEAKER}", "folds", "seeds", "utterances"]
    caption = f"Multi-task ablation: β 0 with and without the ASR loss. {mark(family)}"
    note = f"Printed numbers: {paper.ABLATION_CITE}. Without the loss the characters are not trained."
    return Table(f"{slug(family)}-ablation", caption, ["α", *names, *columns], rows, note)


def all_settings(results: Results) -> Table:
    """Every setting with its rates, and how much they move from seed to seed."""
    family, rows = results.family, []
    for setting in family.settings:
        scores = setting.rates()
        by_seed = [metrics.ratio(int(made.right.sum()), int((made.ref >= 0).sum())) for made in setting.experiments]
        spread = float(np.std([w for w in by_seed if w is not None], ddof=1)) if len(by_seed) > 1 else None
        wa, ua, wer, *counts = _estimates(results, setting, ("wa", "speaker"), ("ua", "speaker"), ("wer", "speaker"))
        rows.append([setting.name, wa, spread, ua, scores["macro_f1"], wer, scores["cer"], *counts])
    head = ["setting", f"WA {BY_SPEAKER}", "WA std over seeds", f"UA {BY_SPEAKER}", "macro F1"]
    head += [f"WER {BY_SPEAKER}", "CER", "folds", "seeds", "utterances"]
    caption = f"All settings, counts summed over folds and seeds. {mark(family)}"
    return Table(f"{slug(family)}-settings", caption, head, rows)


def comparisons(results: Results) -> Table:
    """Differences from beta 0 with their permutation tests."""
    rows: list[list[Cell]] = []
    for comparison in results.comparisons:
        for rate in comparison.rates:
            by_speaker, by_utterance = (comparison.difference[unit][rate] for unit in ("speaker", "utterance"))
            tests = [P(comparison.p[rate]), P(comparison.p_holm[rate]), comparison.dz[rate]]
            seeds = len(comparison.second.seeds)
            shown = comparison.detectable[rate]
            rows.append(
                [comparison.name, RATES[rate], by_speaker, by_utterance, *tests, shown, comparison.folds, seeds]
            )
    head = ["comparison", "rate", f"difference {BY_SPEAKER}", f"difference {BY_UTTERANCE}", "p, folds swapped"]
    head += ["p, Holm", "d_z over folds", "detectable at 80 %", "folds", "seeds"]
    note = (
        "p: exact permutation test that swaps the two settings within folds (from 100,000 random swaps above "
        f"{statistics.EXACT_FOLDS} folds); Holm's correction is over all {len(rows)} tests of this table. d_z: "
        "mean over standard deviation of the folds' differences. Detectable: by a paired t test over folds, two-sided "
        "at .05."
    )
    caption = f"Differences from β 0 on the same utterances and seeds. {mark(results.family)}"
    return Table(f"{slug(results.family)}-comparisons", caption, head, rows, note)


def mcnemar(results: Results) -> Table:
    """McNemar's test of each pair of trainings with one seed."""
    rows: list[list[Cell]] = []
    for comparison in results.comparisons:
        for test in comparison.mcnemar:
            odds = test.only_second / test.only_first if test.only_first else None
            counts: list[Cell] = [test.n, test.only_first, test.only_second]
            rows.append([comparison.name, test.seed, *counts, odds, P(test.p), P(test.p_holm), comparison.h])
    head = ["comparison", "seed", "utterances", "only baseline right", "only setting right", "odds ratio"]
    head += ["p, McNemar", "p, Holm", "Cohen's h (all seeds)"]
    note = (
        "It takes utterances for independent, which those of one speaker are not. Holm's correction is over all "
        f"{len(rows)} tests of this table."
    )
    caption = f"Emotion, utterance by utterance: exact McNemar test of each pair of trainings. {mark(results.family)}"
    return Table(f"{slug(results.family)}-mcnemar", caption, head, rows, note)


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
    tables = []
    for rate, title in RATES.items():
        rows: list[list[Cell]] = [
            [group, max(numbers), *(scores[rate] for scores in row)]
            for group, numbers, row in zip(groups, counts, found, strict=True)
        ]
        if what == "fold":
            means = [metrics.mean([scores[rate] for scores in column]) for column in zip(*found, strict=True)]
            rows.append([MEAN, None, *means])
        rows.append(["pooled", len(family.settings[0].first.utts), *(scores[rate] for scores in pooled)])
        head = [what, "n", *(setting.name for setting in family.settings)]
        caption = f"{title} per {what}, counts summed over seeds. {mark(family)}"
        tables.append(Table(f"{slug(family)}-{what}-{rate.replace('_', '-')}", caption, head, rows))
    return tables


def by_class(family: Family) -> list[Table]:
    """Recall, F1, WER and CER of each class, settings in columns."""
    settings, first = family.settings, family.settings[0].first
    pooled = [setting.rates() for setting in settings]
    tables = []
    for key, title in {"recall": "Recall", "f1": "F1", "wer": "WER", "cer": "CER"}.items():
        rows: list[list[Cell]] = []
        for index, label in enumerate(first.labels):
            if key in ("recall", "f1"):
                values = [_of(scores, key, label) for scores in pooled]
            else:
                values = [setting.rates(setting.first.ref == index)[key] for setting in settings]
            rows.append([label, int((first.ref == index).sum()), *values])
        head = ["class", "n", *(setting.name for setting in settings)]
        tables.append(Table(f"{slug(family)}-class-{key}", f"{title} per class, pooled. {mark(family)}", head, rows))
    return tables


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
        caption = f"Confusion, {setting.name}: rows are references; {_seeds(setting)}. {mark(family)}"
        name = f"{slug(family)}-confusion-{number + 1}"
        tables.append(Table(name, caption, ["reference", *labels, "all"], rows))
    return tables


def speaker_accuracy(setting: Setting | None) -> dict[str, Any]:
    """The speaker head's accuracy on the test folds, pooled over seeds, or why it does not exist."""
    if setting is None:
        return {"acc": None}
    parts = [made.scores["spk"] for made in setting.experiments]
    undefined = next((part["reason"] for part in parts if part["acc"] is None), None)
    return metrics.undefined_speakers(undefined) if undefined else metrics.pool_speakers(parts)


def _estimates(results: Results, setting: Setting | None, *wanted: tuple[str, str]) -> list[Any]:
    """The estimates of a setting, then its folds, seeds and utterances; dashes where it was not run."""
    if setting is None:
        return [None] * len(wanted) + ["not run", None, None]
    missing, folds = setting.missing_folds, len(setting.first.scores["folds"])
    shown = f"{folds} of {folds + len(missing)}" if missing else str(folds)
    counts = [shown, len(setting.seeds), int((setting.first.ref >= 0).sum())]
    return [results.estimates[setting][unit][rate] for rate, unit in wanted] + counts


def mark(family: Family) -> str:
    """What every caption of a family's tables must say: protocol, speaker-dependent or not, missing folds."""
    marks = [f"Protocol {family.protocol}{', SPEAKER-DEPENDENT' if family.speaker_dependent else ''}."]
    missing = max((setting.missing_folds for setting in family.settings), key=len)
    if missing:
        total = len(set(missing) | set().union(*(setting.first.scores["folds"] for setting in family.settings)))
        marks.append(f"{len(missing)} OF {total} FOLDS MISSING.")
    return " ".join(marks)


def _seeds(setting: Setting) -> str:
    return f"seed{'s' if len(setting.seeds) > 1 else ''} {' '.join(map(str, setting.seeds))}"


def _of(scores: dict[str, Any], key: str, label: str) -> Cell:
    return scores[key][scores["labels"].index(label)] if label in scores["labels"] else None
