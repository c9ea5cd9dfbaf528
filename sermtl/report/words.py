"""The sentences of the report's summary: what can be concluded from the numbers."""

from __future__ import annotations

from collections.abc import Sequence

from sermtl.report import paper
from sermtl.report.compare import Results
from sermtl.report.document import show
from sermtl.report.families import Family, Setting
from sermtl.report.speaker import PROBES, Knowledge, adversary_tested
from sermtl.score.metrics import RATES
from sermtl.score.result_files import UNTRAINED, plural

LEVEL = 0.05


def findings(results: Results, known: Sequence[Knowledge]) -> list[str]:
    """The summary of a family, a sentence or two an item."""
    family = results.family
    dependent = f" ({family.dependent.upper()})" if family.dependent else ""
    lines = [f"Protocol {family.protocol}{dependent}, {_scores(results)}"]
    if results.comparisons:
        lines += [_tests(results), detectable(results)]
    lines += _speakers(family, known)
    mark = f"{family.label.strip()} " if family.label else ""
    return [mark + line for line in lines]


def detectable(results: Results) -> str:
    """The smallest differences that this corpus can show, for each compared setting."""
    comparisons = [c for c in results.comparisons if c.second.beta] or results.comparisons
    n = comparisons[0].mcnemar[0].n
    differing = [100 * comparison.differing for comparison in comparisons]
    seeds = max(len(comparison.second.seeds) for comparison in comparisons)
    span = f"{differing[0]:.1f} %" if len(differing) == 1 else f"{min(differing):.1f} to {max(differing):.1f} %"
    each = "; ".join(
        f"{c.second.name}: {_points(c.detectable_by_mcnemar)} and {_points(c.detectable['wa'])}" for c in comparisons
    )
    known = [d for c in comparisons for d in (c.detectable_by_mcnemar, c.detectable["wa"]) if d is not None]
    verdict = "can" if min(known, default=1.0) <= paper.GAIN else "cannot"
    return (
        "Smallest detectable differences in WA (power 80 %, two-sided at .05, before Holm's correction), by McNemar's "
        f"exact test of one seed and by a paired t test over {plural(comparisons[0].folds, 'fold')} "
        f"({'mean of ' if seeds > 1 else ''}{plural(seeds, 'seed')}): {each}. Exactly one of two "
        f"compared trainings (same seed) is right on {span} of the {n} test utterances. The paper's gain, "
        f"{100 * paper.GAIN:.1f} points (two or three of {paper.UTTERANCES} utterances), {verdict} be detected here."
    )


def _points(difference: float | None) -> str:
    return "none" if difference is None else f"{100 * difference:.1f} points"


def _scores(results: Results) -> str:
    """Size and rates of beta 0, or of the first setting where beta 0 was not run."""
    shown = results.family.find(0.0) or results.family.settings[0]
    made = shown.first
    folds = f"{made.coverage} folds" if made.missing_folds else plural(len(made.folds), "fold")
    where = f"{folds}, {len(made.utts)} test utterances, {plural(len(shown.seeds), 'seed')}"
    by_speaker = results.estimates[shown]["speaker"]
    marks = {"wer": ""} if results.family.untrained else dict.fromkeys(RATES, "")
    parts = [f"{RATES[rate]} {show(by_speaker[rate])}{marks.get(rate, UNTRAINED)}" for rate in ("wa", "ua", "wer")]
    few = by_speaker["wa"].low is None
    note = "too few speakers for intervals by speaker" if few else "95 % intervals, resampled by speaker"
    return f"{where}: {shown.name} has {', '.join(parts)} ({note})."


def _tests(results: Results) -> str:
    comparisons = results.comparisons
    total = sum(len(c.rates) for c in comparisons)
    found = [(c, rate) for c in comparisons for rate in c.rates if c.p_holm[rate] < LEVEL]
    smallest = 2 / 2 ** comparisons[0].folds
    if found:
        named = "; ".join(f"{c.name}: {RATES[rate]} {show(c.difference['speaker'][rate])}" for c, rate in found)
        are = "is" if len(found) == 1 else "are"
        return (
            f"{len(found)} of {total} differences from β 0 {are} significant at .05 after Holm's correction: {named}."
        )
    text = f"None of {total} differences from β 0 is significant at .05 after Holm's correction; "
    top = max(comparisons, key=lambda c: abs(c.difference["speaker"]["wa"].value or 0.0))
    text += f"the largest in WA is {show(top.difference['speaker']['wa'])} ({top.name})."
    if smallest * total > LEVEL:
        text += (
            f" With {plural(comparisons[0].folds, 'fold')} the permutation test cannot give p below {smallest:.3g}, so "
            f"no difference can be significant among {total} tests."
        )
    return text


def _speakers(family: Family, known: Sequence[Knowledge]) -> list[str]:
    """What the probes find with the largest reversed beta, compared with beta 0, and what the speaker head shows."""
    rows: dict[Setting | None, Knowledge] = {row.setting: row for row in known}
    base, strongest = rows.get(family.find(0.0)), rows.get(family.most_reversed)
    if base is None or strongest is None:
        return []
    changes = {kind: strongest.outcomes["held_out", kind].minus(base.outcomes["held_out", kind]) for kind in PROBES}
    if any(change.value is None for change in changes.values()):
        return []
    sides = {((change.low or 0) > 0) - ((change.high or 0) < 0) for change in changes.values()}
    verdict = "Not all intervals lie on the same side of 0: no change is shown."
    if sides in ({1}, {-1}):
        verdict = f"All intervals lie {'above' if 1 in sides else 'below'} 0."
    each = "; ".join(f"{PROBES[kind]} {show(change)}" for kind, change in changes.items())
    lines = [
        f"Accuracy of speaker probes on utterances of training speakers that fitted nothing, {strongest.setting.name} "
        f"minus β 0: {each}. {verdict}"
    ]
    if not adversary_tested(family, strongest.setting, known):
        lines.append("The adversary is not tested: with β 0 the speaker head does not lie above chance.")
    return lines
