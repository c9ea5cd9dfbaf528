"""Comparison of settings with beta 0 on the same utterances and seeds: intervals, tests, effect sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_effectsize

from sermtl.report.document import Estimate
from sermtl.report.families import Family, Setting, differences
from sermtl.score import statistics

REPLICATES = 2000
UNITS = ("speaker", "utterance")
FEWEST_UNITS = 3
"""With fewer speakers there is no interval by speaker."""


@dataclass
class McNemar:
    """Two trainings of one seed, utterance by utterance."""

    seed: int
    n: int
    only_first: int
    only_second: int
    p: float
    p_holm: float = 1.0


@dataclass
class Comparison:
    """A setting against its baseline, over the seeds that both have."""

    first: Setting
    """The baseline with the paired seeds only."""
    second: Setting
    difference: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    """Unit of resampling -> rate -> second minus first."""
    p: dict[str, float] = field(default_factory=dict)
    p_holm: dict[str, float] = field(default_factory=dict)
    dz: dict[str, float | None] = field(default_factory=dict)
    detectable: dict[str, float | None] = field(default_factory=dict)
    """Rate -> smallest difference that a paired t test over folds shows with 80 % power."""
    mcnemar: list[McNemar] = field(default_factory=list)
    folds: int = 0

    @property
    def name(self) -> str:
        """The two settings."""
        return f"{self.second.name} − {self.first.name}"

    @property
    def rates(self) -> tuple[str, ...]:
        """The compared rates: WER only where both settings were trained with the CTC loss."""
        reads = self.first.first.reads and self.second.first.reads
        return ("wa", "ua", "wer") if reads else ("wa", "ua")

    @property
    def differing(self) -> float:
        """Share of utterances on which exactly one of the two is right, mean over seeds."""
        return float(np.mean([(test.only_first + test.only_second) / test.n for test in self.mcnemar]))

    @property
    def detectable_by_mcnemar(self) -> float | None:
        """Smallest difference of WA that McNemar's test of one seed shows with 80 % power."""
        return statistics.detectable_by_mcnemar(self.mcnemar[0].n, self.differing)

    @property
    def h(self) -> float:
        """Cohen's h of the two accuracies, second minus first (.2 is called small, .5 medium, .8 large)."""
        return float(proportion_effectsize(self.second.pooled["wa"], self.first.pooled["wa"]))


@dataclass
class Results:
    """All that is computed for a family."""

    family: Family
    estimates: dict[Setting, dict[str, dict[str, Estimate]]]
    """Setting -> unit of resampling -> rate -> estimate."""
    comparisons: list[Comparison]
    refused: list[str]
    """Pairs that were not compared, and what differs."""


def analyse(family: Family) -> Results:
    """Intervals of all settings, and their comparisons with beta 0 where they may be paired."""
    comparisons, refused = pair(family)
    for comparison in comparisons:
        _test(comparison)
    _correct(comparisons)
    settings = list(family.settings)
    settings += [s for c in comparisons for s in (c.first, c.second) if s not in settings]
    estimates: dict[Setting, dict[str, dict[str, Estimate]]] = {setting: {} for setting in settings}
    for unit in UNITS:
        drawn = _replicates(settings, unit)
        for setting in settings:
            estimates[setting][unit] = {rate: _estimate(v, drawn[setting][rate]) for rate, v in setting.pooled.items()}
        for comparison in comparisons:
            first, second = comparison.first.pooled, comparison.second.pooled
            one, other = drawn[comparison.first], drawn[comparison.second]
            comparison.difference[unit] = {
                rate: _estimate(second[rate] - first[rate], other[rate] - one[rate], signed=True) for rate in first
            }
    return Results(family, estimates, comparisons, refused)


def pair(family: Family) -> tuple[list[Comparison], list[str]]:
    """Which settings can be compared with their baseline, on which seeds; and why others cannot."""
    comparisons, refused = [], []
    for setting in family.settings:
        baseline = family.baseline(setting)
        if baseline is None:
            if setting.beta:
                refused.append(f"{setting.name}: there is no β 0 with α {setting.alpha:g} to compare it with")
            continue
        partners = {made.seed: made for made in baseline.experiments}
        seeds = []
        for made in setting.experiments:
            if made.seed not in partners:
                known = " ".join(map(str, baseline.seeds))
                refused.append(f"{made.tag}: no partner with seed {made.seed}; {baseline.name} has seeds {known}")
            elif found := differences(partners[made.seed], made):
                refused.append(f"{made.tag} and {partners[made.seed].tag} differ in {'; '.join(found)}")
            else:
                seeds.append(made.seed)
        if seeds:
            comparisons.append(Comparison(_only(baseline, seeds), _only(setting, seeds)))
    return comparisons, refused


def _only(setting: Setting, seeds: Sequence[int]) -> Setting:
    """The setting with some of its seeds."""
    if setting.seeds == list(seeds):
        return setting
    return replace(setting, experiments=[made for made in setting.experiments if made.seed in seeds])


def _test(comparison: Comparison) -> None:
    first, second = comparison.first, comparison.second
    for one, other in zip(first.experiments, second.experiments, strict=True):
        only_first = int((one.right & ~other.right).sum())
        only_second = int((other.right & ~one.right).sum())
        n, p = int((one.ref >= 0).sum()), statistics.mcnemar(only_first, only_second)
        comparison.mcnemar.append(McNemar(one.seed, n, only_first, only_second, p))
    parts = statistics.contributions(first.counts, second.counts, first.first.fold)
    for rate in comparison.rates:
        values = parts[rate]
        comparison.folds = len(values)
        comparison.p[rate] = statistics.sign_flip(values)
        comparison.dz[rate] = statistics.cohens_dz(values)
        comparison.detectable[rate] = statistics.detectable_over_folds(values * len(values))


def _correct(comparisons: Sequence[Comparison]) -> None:
    """Holm over two families: all permutation tests, and all McNemar tests, of the report's family."""
    keys = [(comparison, rate) for comparison in comparisons for rate in comparison.rates]
    adjusted = multipletests([c.p[rate] for c, rate in keys], method="holm")[1].tolist()
    for (comparison, rate), p in zip(keys, adjusted, strict=True):
        comparison.p_holm[rate] = p
    tests = [test for comparison in comparisons for test in comparison.mcnemar]
    for test, p in zip(tests, multipletests([test.p for test in tests], method="holm")[1].tolist(), strict=True):
        test.p_holm = p


def _replicates(settings: Sequence[Setting], unit: str) -> dict[Setting, dict[str, np.ndarray]]:
    """Rates of each setting in the same bootstrap replicates, drawn once for each test set."""
    by_test_set: dict[tuple[bytes, int], list[Setting]] = {}
    for setting in settings:
        key = setting.first.utts.tobytes(), setting.counts.shape[1]
        by_test_set.setdefault(key, []).append(setting)
    drawn: dict[Setting, dict[str, np.ndarray]] = {}
    for (_, width), alike in by_test_set.items():
        made = alike[0].first
        units = made.spk if unit == "speaker" else np.arange(len(made.utts))
        if len(np.unique(units)) < FEWEST_UNITS:
            drawn |= {setting: statistics.rates(np.zeros((1, width))) for setting in alike}
            continue
        sums = statistics.bootstrap(np.hstack([setting.counts for setting in alike]), units, REPLICATES)
        for number, setting in enumerate(alike):
            drawn[setting] = statistics.rates(sums[:, number * width : (number + 1) * width])
    return drawn


def _estimate(value: np.ndarray, replicates: np.ndarray, signed: bool = False) -> Estimate:
    if not np.isfinite(value):
        return Estimate(None, signed=signed)
    low, high = statistics.interval(replicates) or (None, None)
    return Estimate(float(value), low, high, signed)
