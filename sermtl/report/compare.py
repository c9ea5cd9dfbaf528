"""A setting over its seeds, and the comparison of two on the same utterances and seeds: intervals, tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from statsmodels.stats.multitest import multipletests

from sermtl.report.document import Estimate
from sermtl.report.load import Experiment
from sermtl.score import metrics, statistics
from sermtl.score.statistics import Measured

MARGIN = 0.01
"""Settings whose rates differ by less than this are called equivalent."""
LEAST_POSTERIOR = 5e-7
"""Half the last digit of ``emo_post``."""


@dataclass(eq=False)
class Setting:
    """One way of normalising speakers, with an experiment a seed, all tested on the same utterances."""

    alpha: float
    beta: float
    method: str
    """Direction of the gradient, or ``spk_norm`` where that is another one, with the enrolment."""
    experiments: list[Experiment] = field(default_factory=list)
    set_aside: list[str] = field(default_factory=list)
    """Experiments of this setting that are in none of its numbers, and why."""
    name: str = ""

    @property
    def plain(self) -> bool:
        """Whether nothing is done about the speaker."""
        return self.beta == 0 and self.method in ("reverse", "forward", "none")

    @property
    def first(self) -> Experiment:
        """The first experiment, for what all of them share: labels, folds, test utterances."""
        return self.experiments[0]

    @property
    def seeds(self) -> list[int]:
        """Seeds of its experiments."""
        return [made.seed for made in self.experiments]

    @cached_property
    def counts(self) -> np.ndarray:
        """(N, K, 2C + 2) additive counts of each seed."""
        return np.stack([made.counts for made in self.experiments], axis=1)

    @cached_property
    def sums(self) -> np.ndarray:
        """(U, K, 2C + 2) counts of each cluster and seed."""
        sums = np.zeros((int(self.first.cluster.max()) + 1, *self.counts.shape[1:]))
        np.add.at(sums, self.first.cluster, self.counts)
        return sums

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        """WA, UA and WER."""
        found = statistics.jackknife(self.sums, statistics.rates)
        return {rate: self.estimate(one, np.inf if rate == "wer" else 1.0) for rate, one in found.items()}

    def estimate(self, found: Measured, most: float | None = None) -> Estimate:
        """A number with its interval, or why it has none; ``most`` is a rate's largest value, None a difference's."""
        signed = most is None
        if not np.isfinite(found.value):
            return Estimate(None, signed=signed)
        if not np.isfinite(found.error):
            few = self.first.cluster.max() + 1 < statistics.FEWEST_UNITS
            why = f"fewer than {statistics.FEWEST_UNITS} {self.first.unit}s" if few else "too little variation"
            return Estimate(found.value, signed=signed, why=why)
        low, high = found.interval(share=most == 1.0)
        if most is not None:
            low, high = np.clip((low, high), 0.0, most).tolist()
        return Estimate(found.value, low, high, signed)

    @cached_property
    def calibration(self) -> tuple[np.ndarray, np.ndarray]:
        """Bins of `metrics.reliability`, and losses of the utterances that have posteriors, in nats."""
        known = [(made, (made.ref >= 0) & np.isfinite(made.posteriors[:, 0])) for made in self.experiments]
        parts = np.concatenate([np.column_stack([made.posteriors, made.right])[rows] for made, rows in known])
        return metrics.reliability(parts[:, 0], parts[:, 2]), -np.log(np.maximum(parts[:, 1], LEAST_POSTERIOR))

    def rates(self, rows: np.ndarray | slice = slice(None)) -> dict[str, Any]:
        """Counts and rates of some of the N test utterances, summed over seeds."""
        confusion = np.sum([made.confusion(rows) for made in self.experiments], axis=0)
        edits = np.sum([made.edits[rows].sum(axis=0) for made in self.experiments], axis=0)
        words, errors, chars, char_errors = edits.tolist()
        asr = {"wer": metrics.ratio(errors, words), "cer": metrics.ratio(char_errors, chars)}
        return metrics.emotion_scores(confusion, self.first.labels) | asr

    def curve(self, part: str, rate: str) -> np.ndarray:
        """(folds, epochs) a rate in the logs' ``part``, mean over seeds; NaN where nothing was logged."""
        logs = [[made.histories[fold] for made in self.experiments] for fold in self.first.folds]
        epochs = max((record["epoch"] for seeds in logs for log in seeds for record in log), default=0)
        values = np.full((len(logs), len(self.seeds), epochs), np.nan)
        for row, seed in np.ndindex(values.shape[:2]):
            for record in logs[row][seed]:
                logged = record[part].get(rate) if isinstance(record.get(part), dict) else None
                if isinstance(logged, (int, float)):
                    values[row, seed, record["epoch"] - 1] = logged
        known = np.isfinite(values).sum(axis=1)
        return np.nansum(values, axis=1) / np.where(known, known, np.nan)


@dataclass(eq=False)
class Comparison:
    """A setting against its baseline, over the seeds that both have."""

    first: Setting
    """The baseline with the paired seeds only."""
    second: Setting
    p_holm: dict[str, float] = field(default_factory=dict)
    """Rate -> corrected p of the t test over clusters and seeds."""
    equivalent: dict[str, float] = field(default_factory=dict)
    """Rate -> corrected p of the equivalence test with `MARGIN`."""

    def __post_init__(self) -> None:
        self.name = f"{self.second.name} − {self.first.name}"
        reads = self.first.first.reads and self.second.first.reads
        self.rates = ("wa", "ua", "wer") if reads else ("wa", "ua")
        """The compared ones: WER only where both settings were trained with the CTC loss."""

    @cached_property
    def measured(self) -> dict[str, Measured]:
        """Rate -> second minus first."""

        def difference(sums: np.ndarray) -> Mapping[str, np.ndarray]:
            one, other = map(statistics.rates, np.split(sums, 2, axis=-1))
            return {rate: other[rate] - one[rate] for rate in one}

        return statistics.jackknife(np.concatenate([self.first.sums, self.second.sums], axis=-1), difference)

    def difference(self, rate: str) -> Estimate:
        """Second minus first with its interval."""
        return self.first.estimate(self.measured[rate])

    @cached_property
    def parts(self) -> dict[str, np.ndarray]:
        """Rate -> what each cluster adds to the difference."""
        return statistics.contributions(self.first.sums.sum(1), self.second.sums.sum(1))

    @cached_property
    def disagreement(self) -> dict[str, float]:
        """Rate -> the largest difference that is possible; of WA the utterances on which exactly one is right."""
        whole, apart = self.first.sums.sum((0, 1)), abs(self.second.counts - self.first.counts).sum((0, 1))
        parts = statistics.contributions(whole[None], (whole + apart)[None])
        return {rate: float(part[0]) for rate, part in parts.items()}

    def detectable(self, rate: str) -> float | None:
        """Smallest difference that the t test shows with 80 % power; None where it would exceed `disagreement`."""
        found = self.measured[rate].detectable()
        return found if found <= self.disagreement[rate] else None


def holm(values: Sequence[float]) -> list[float]:
    """Holm's correction of the p values that are not NaN."""
    p = np.array(values)
    if (known := np.isfinite(p)).any():
        p[known] = multipletests(p[known], method="holm")[1]
    return p.tolist()
