"""Comparison of settings with beta 0 on the same utterances and seeds: intervals, tests, equivalence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from statsmodels.stats.multitest import multipletests

from sermtl.report.document import Estimate
from sermtl.report.families import Family, Setting, differences
from sermtl.report.load import Experiment
from sermtl.score import statistics
from sermtl.score.statistics import Measured

MARGIN = 0.01
"""Settings whose rates differ by less than this are called equivalent."""


class McNemar(NamedTuple):
    """Two trainings of one seed, utterance by utterance."""

    seed: int
    n: int
    only_first: int
    only_second: int
    p: float


@dataclass
class Comparison:
    """A setting against its baseline, over the seeds that both have."""

    first: Setting
    """The baseline with the paired seeds only."""
    second: Setting
    measured: dict[str, Measured] = field(default_factory=dict)
    """Rate -> second minus first."""
    difference: dict[str, Estimate] = field(default_factory=dict)
    """The same with intervals."""
    p_holm: dict[str, float] = field(default_factory=dict)
    """Rate -> corrected p of the t test over clusters and seeds."""
    equivalent: dict[str, float] = field(default_factory=dict)
    """Rate -> corrected p of the equivalence test with `MARGIN`."""
    parts: dict[str, np.ndarray] = field(default_factory=dict)
    """Rate -> what each cluster adds to the difference."""
    mcnemar: list[McNemar] = field(default_factory=list)

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
    def disagreement(self) -> dict[str, float]:
        """Rate -> the largest difference that is possible; of WA the utterances on which exactly one is right."""
        whole, apart = self.first.sums.sum((0, 1)), abs(self.second.counts - self.first.counts).sum((0, 1))
        parts = statistics.contributions(whole[None], (whole + apart)[None])
        return {rate: float(part[0]) for rate, part in parts.items()}

    def detectable(self, rate: str) -> float | None:
        """Smallest difference that the t test shows with 80 % power; None where it would exceed `disagreement`."""
        found = self.measured[rate].detectable()
        return found if found <= self.disagreement[rate] else None


@dataclass
class Results:
    """All that is computed for a family."""

    family: Family
    estimates: dict[Setting, dict[str, Estimate]]
    """Setting -> rate -> estimate."""
    comparisons: list[Comparison]
    refused: list[str]
    """Pairs that were not compared, and what differs."""


def analyse(family: Family) -> Results:
    """Intervals of all settings, and their comparisons with beta 0 where they may be paired."""
    comparisons, refused = pair(family)
    for comparison in comparisons:
        _test(comparison)
    _correct(comparisons)
    estimates = {
        setting: {
            rate: estimate(found, setting.first, np.inf if rate == "wer" else 1.0)
            for rate, found in statistics.jackknife(setting.sums, statistics.rates).items()
        }
        for setting in family.settings
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
            one, other = ([made for made in s.experiments if made.seed in seeds] for s in (baseline, setting))
            comparisons.append(Comparison(replace(baseline, experiments=one), replace(setting, experiments=other)))
    return comparisons, refused


def _difference(sums: np.ndarray) -> Mapping[str, np.ndarray]:
    """Rates of the second half of the counts minus those of the first."""
    one, other = map(statistics.rates, np.split(sums, 2, axis=-1))
    return {rate: other[rate] - one[rate] for rate in one}


def _test(comparison: Comparison) -> None:
    first, second = comparison.first, comparison.second
    for one, other in zip(first.experiments, second.experiments, strict=True):
        only_first = int((one.right & ~other.right).sum())
        only_second = int((other.right & ~one.right).sum())
        n, p = int((one.ref >= 0).sum()), statistics.mcnemar(only_first, only_second)
        comparison.mcnemar.append(McNemar(one.seed, n, only_first, only_second, p))
    comparison.measured = statistics.jackknife(np.concatenate([first.sums, second.sums], axis=-1), _difference)
    comparison.difference = {rate: estimate(found, first.first) for rate, found in comparison.measured.items()}
    comparison.parts = statistics.contributions(first.sums.sum(1), second.sums.sum(1))


def _correct(comparisons: Sequence[Comparison]) -> None:
    """Holm over two families: all t tests, and all equivalence tests, of the report's family."""
    keys = [(c, rate) for c in comparisons for rate in c.rates]
    tests = holm([c.measured[rate].p() for c, rate in keys])
    equivalence = holm([c.measured[rate].equivalence(MARGIN) for c, rate in keys])
    for (comparison, rate), p, equivalent in zip(keys, tests, equivalence, strict=True):
        comparison.p_holm[rate], comparison.equivalent[rate] = p, equivalent


def holm(values: Sequence[float]) -> list[float]:
    """Holm's correction of the p values that are not NaN."""
    p = np.array(values)
    if (known := np.isfinite(p)).any():
        p[known] = multipletests(p[known], method="holm")[1]
    return p.tolist()


def estimate(found: Measured, made: Experiment, most: float | None = None) -> Estimate:
    """A number with its interval, or with the reason why there is none.

    Args:
        found: The number.
        made: An experiment, for the clusters.
        most: The largest value of a rate; None of a difference.
    """
    signed = most is None
    if not np.isfinite(found.value):
        return Estimate(None, signed=signed)
    if not np.isfinite(found.error):
        few = made.cluster.max() + 1 < statistics.FEWEST_UNITS
        why = f"fewer than {statistics.FEWEST_UNITS} {made.unit}s" if few else "too little variation"
        return Estimate(found.value, signed=signed, why=why)
    low, high = found.interval() if most is None else np.clip(found.interval(), 0.0, most).tolist()
    return Estimate(found.value, low, high, signed)
