"""The sentences of the report's summary: what can be concluded from the numbers."""

from collections.abc import Mapping

import numpy as np

from sermtl.report import paper
from sermtl.report.compare import MARGIN, Setting
from sermtl.report.document import show
from sermtl.report.families import Family
from sermtl.report.speaker import PROBES, Knowledge, adversary_tested
from sermtl.score.metrics import RATES
from sermtl.score.result_files import UNTRAINED, plural

LEVEL = 0.05


def findings(family: Family, known: Mapping[Setting, Knowledge]) -> list[str]:
    """The summary of a family, a sentence or two an item."""
    dependent = f" ({family.dependent.upper()})" if family.dependent else ""
    lines = [f"Protocol {family.protocol}{dependent}, {_scores(family)}"]
    if family.comparisons:
        lines += [_tests(family), detectable(family)]
    lines += _speakers(family, known)
    mark = f"{family.label.strip()} " if family.label else ""
    return [mark + line for line in lines]


def detectable(family: Family) -> str:
    """The smallest differences that this corpus can show, for each compared setting."""
    comparisons = [c for c in family.comparisons if c.second.beta] or family.comparisons
    tested = int((comparisons[0].first.first.ref >= 0).sum())
    least = {c.second.name: c.detectable("wa") for c in comparisons}
    points = {name: "none" if value is None else f"{100 * value:.1f} points" for name, value in least.items()}
    each = (f"{c.second.name}: {points[c.second.name]} ({100 * c.disagreement['wa']:.1f} %)" for c in comparisons)
    text = (
        "Smallest detectable differences in WA (power 80 %, two-sided at .05, before Holm's correction) by the t test; "
        f"in parentheses the share of the {tested} test utterances on which exactly one of two "
        f"compared trainings (same seed) is right, which no difference can exceed: {'; '.join(each)}."
    )
    gains = [
        f"{'can' if (least[c.second.name] or 1.0) <= paper.GAIN else 'cannot'} be detected here with {c.second.name}"
        for c in comparisons
        if c.second.beta and c.second.method == "reverse"
    ]
    gain = f" The paper's gain, {100 * paper.GAIN:.1f} points (two or three of {paper.UTTERANCES} utterances), "
    return text + (f"{gain}{', and '.join(gains)}." if gains else "")


def _scores(family: Family) -> str:
    """Size and rates of beta 0, or of the first setting where beta 0 was not run."""
    shown = family.find(0.0) or family.settings[0]
    made = shown.first
    folds = f"{made.coverage} folds" if made.missing_folds else plural(len(made.folds), "fold")
    where = f"{folds}, {len(made.utts)} test utterances, {plural(len(shown.seeds), 'seed')}"
    marks = {"wer": ""} if family.untrained else dict.fromkeys(RATES, "")
    parts = [f"{RATES[rate]} {show(shown.estimates[rate])}{marks.get(rate, UNTRAINED)}" for rate in ("wa", "ua", "wer")]
    over = f"{made.unit}s{' and seeds' * (len(shown.seeds) > 1)}"
    return f"{where}: {shown.name} has {', '.join(parts)} (95 % intervals over {over})."


def _tests(family: Family) -> str:
    comparisons, unit = family.comparisons, family.settings[0].first.unit
    keys = [(c, rate) for c in comparisons for rate in c.rates]
    if all(np.isnan(c.p_holm[rate]) for c, rate in keys):
        first = comparisons[0]
        return f"No difference from {family.base_name} is tested: {show(first.difference('wa'))} ({first.name})."
    found = [(c, rate) for c, rate in keys if c.p_holm[rate] < LEVEL]
    named = "; ".join(f"{c.name}: {RATES[rate]} {show(c.difference(rate))}" for c, rate in found)
    text = (
        f"{len(found) or 'None'} of {len(keys)} differences from {family.base_name} "
        f"{'is' if len(found) < 2 else 'are'} significant "
        f"at .05 after Holm's correction (t test over {unit}s and seeds){': ' * bool(found)}{named}."
    )
    equal = [(c, rate) for c, rate in keys if c.equivalent[rate] < LEVEL]
    named = "; ".join(f"{c.name}: {RATES[rate]}" for c, rate in equal)
    return text + (
        f" Equivalence within {plural(round(100 * MARGIN), 'point')} (two one-sided tests, Holm's correction) is shown "
        f"for {len(equal) or 'none'} of them{': ' * bool(equal)}{named}. "
        "A difference with neither result may be there or not."
    )


def _speakers(family: Family, known: Mapping[Setting, Knowledge]) -> list[str]:
    """What the probes find with each of the strongest settings, and whether the adversary can be believed."""
    base, lines = family.find(0.0), []
    for setting in family.strongest if base else []:
        outcomes = [known[one].outcomes for one in (setting, base) if one]
        changes = {kind: outcomes[0]["held_out", kind].minus(outcomes[1]["held_out", kind]) for kind in PROBES}
        if any(change.value is None for change in changes.values()):
            continue
        sides = {((change.low or 0) > 0) - ((change.high or 0) < 0) for change in changes.values()}
        verdict = "Not all intervals lie on the same side of 0: no change is shown."
        if sides in ({1}, {-1}):
            verdict = f"All intervals lie {'above' if 1 in sides else 'below'} 0."
        each = "; ".join(f"{PROBES[kind]} {show(change)}" for kind, change in changes.items())
        lines.append(
            f"Accuracy of speaker probes on utterances of training speakers that fitted nothing, {setting.name} "
            f"minus {family.base_name}: {each}. {verdict}"
        )
        if setting.beta and not adversary_tested(family, setting, known):
            lines.append("The adversary is not tested: with β 0 the speaker head does not lie above chance.")
    return lines
