"""Sentences that say what the numbers allow to conclude."""

from __future__ import annotations

from collections.abc import Sequence

from sermtl.report import paper
from sermtl.report.compare import Comparison, Results
from sermtl.report.document import P, show
from sermtl.report.families import Setting
from sermtl.report.speaker import Knowledge
from sermtl.score import statistics
from sermtl.score.result_files import plural

LEVEL = 0.05
RATES = {"wa": "WA", "ua": "UA", "wer": "WER"}


def findings(results: Results, known: Sequence[Knowledge]) -> list[str]:
    """What a hurried reader should take home of a family."""
    family = results.family
    dependent = " (SPEAKER-DEPENDENT)" if family.speaker_dependent else ""
    told = [f"Protocol {family.protocol}{dependent}, {_where(results)}: {_scores(results)}"]
    if results.comparisons:
        told += [_tests(results), detectable(results)]
    told += _speakers(known)
    mark = f"{family.label.strip()} " if family.label else ""
    return [mark + sentence for sentence in told]


def detectable(results: Results) -> str:
    """What difference this corpus could have shown at all, for each compared setting."""
    comparisons = [c for c in results.comparisons if c.second.beta] or results.comparisons
    n = comparisons[0].mcnemar[0].n
    differing = [100 * comparison.differing for comparison in comparisons]
    seeds = max(len(comparison.second.seeds) for comparison in comparisons)
    span = f"{differing[0]:.1f} %" if len(differing) == 1 else f"{min(differing):.1f} to {max(differing):.1f} %"
    each = "; ".join(
        f"{c.second.name}: {_points(c.detectable_by_mcnemar)} and {_points(c.detectable['wa'])}" for c in comparisons
    )
    known = [d for c in comparisons for d in (c.detectable_by_mcnemar, c.detectable["wa"]) if d is not None]
    verdict = "could" if min(known, default=1.0) <= paper.GAIN else "could not"
    return (
        f"What could have been seen at all: a training disagrees with that of β 0 and its seed on {span} of the {n} "
        "test utterances (exactly one of the two is right). The smallest differences in WA that are seen four times in "
        "five at .05, before Holm's correction, by McNemar's exact test of one seed and by a paired t test over "
        f"{comparisons[0].folds} folds ({'mean of ' if seeds > 1 else ''}{plural(seeds, 'seed')}): {each}. A gain "
        f"like the paper's ({100 * paper.GAIN:.1f} points, two or three of its {paper.UTTERANCES} utterances) "
        f"{verdict} have been seen here."
    )


def _points(difference: float | None) -> str:
    return "none" if difference is None else f"{100 * difference:.1f} points"


def _where(results: Results) -> str:
    shown = _shown(results)
    made = shown.first
    folds, missing = len(made.scores["folds"]), len(made.scores.get("missing_folds", []))
    count = f"{folds} of {folds + missing} folds" if missing else plural(folds, "fold")
    return f"{count}, {len(made.utts)} test utterances, {plural(len(shown.seeds), 'seed')}"


def _shown(results: Results) -> Setting:
    return results.family.find(0.0) or results.family.settings[0]


def _scores(results: Results) -> str:
    shown = _shown(results)
    by_speaker = results.estimates[shown]["speaker"]
    parts = [f"{RATES[rate]} {show(by_speaker[rate])}" for rate in ("wa", "ua", "wer")]
    told = "95 % intervals, resampled by speaker"
    if by_speaker["wa"].low is None:
        told = "too few speakers for intervals by speaker"
    return f"{shown.name} has {', '.join(parts)} ({told})."


def _tests(results: Results) -> str:
    comparisons = results.comparisons
    total = sum(len(c.rates) for c in comparisons)
    found = [(c, rate) for c in comparisons for rate in c.rates if c.p_holm[rate] < LEVEL]
    smallest = 2 / 2 ** comparisons[0].folds
    if found:
        named = "; ".join(f"{c.name}: {RATES[rate]} {_difference(c, rate)}" for c, rate in found)
        are = "is" if len(found) == 1 else "are"
        return (
            f"{len(found)} of {total} differences from β 0 {are} significant at .05 after Holm's correction: {named}."
        )
    text = f"None of {total} differences from β 0 is significant at .05 after Holm's correction; "
    text += f"the largest in WA is {_largest(comparisons)}."
    if smallest * total > LEVEL:
        text += (
            f" With {plural(comparisons[0].folds, 'fold')} the permutation test cannot give p below {smallest:.3g}, so "
            f"with {total} tests none could have been."
        )
    return text


def _largest(comparisons: Sequence[Comparison]) -> str:
    top = max(comparisons, key=lambda c: abs(c.difference["speaker"]["wa"].value or 0.0))
    return f"{_difference(top, 'wa')} ({top.name})"


def _difference(comparison: Comparison, rate: str) -> str:
    return show(comparison.difference["speaker"][rate])


def _speakers(known: Sequence[Knowledge]) -> list[str]:
    base = next((row for row in known if row.name == "β 0" and row.probe is not None), None)
    others = [row for row in known if row.name.startswith("reverse") and row.probe is not None and "α" not in row.name]
    if base is None or not others or base.probe is None:
        return []
    strongest = max(others, key=lambda row: float(row.name.split()[1]))
    if strongest.probe is None or strongest.chance is None:
        return []
    moved = strongest.probe - base.probe
    folds = sorted(base.by_fold.keys() & strongest.by_fold.keys())
    p = statistics.sign_flip([strongest.by_fold[fold] - base.by_fold[fold] for fold in folds])
    verdict = f"{'easier' if moved > 0 else 'harder'} to find than without normalisation"
    if p >= LEVEL:
        verdict = "neither easier nor harder to find than without normalisation, as far as these folds can show"
    heads = ""
    if base.head is not None and strongest.head is not None:
        heads = f" The model's own head went from {base.head:.2f} to {strongest.head:.2f} on the same utterances."
    return [
        f"A probe fitted anew finds the speaker in {base.probe:.2f} of held-out utterances with β 0 and in "
        f"{strongest.probe:.2f} with {strongest.name} (chance {strongest.chance:.2f}): the speaker is {verdict} "
        f"(p {show(P(p))}, {plural(len(folds), 'fold')} swapped).{heads}"
    ]
