"""Uncertainty of the scores: intervals, paired tests, and the smallest differences that can be detected.

Everything starts from additive counts per utterance (`additive_counts`), because WA, UA and WER are ratios
of sums: leaving out and swapping act on the sums.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from statsmodels.stats import contingency_tables
from statsmodels.stats.power import tt_solve_power

from sermtl.fileio.tables import UNKNOWN

FEWEST_UNITS = 5
"""With fewer units (speakers, sessions) there is no interval and no test over them."""
EXACT_UNITS = 14
"""Up to this number U of units all 2^U sign flips are tried; beyond, as many random ones as for this number."""


def additive_counts(
    references: np.ndarray, hypotheses: np.ndarray, words: np.ndarray, errors: np.ndarray, classes: int
) -> np.ndarray:
    """(N, 2C + 2) float32 that add up to WA, UA and WER: one-hot reference, the same where it was hit, words, errors.

    ``references`` and ``hypotheses`` are (N,) indices of C ``classes``, a reference -1 where the utterance has no
    emotion; ``words`` and ``errors`` are (N,) reference words and word errors, these ignored where ``words`` is 0.
    """
    one_hot = references[:, None] == np.arange(classes)
    hit = one_hot & (references == hypotheses)[:, None]
    return np.column_stack([one_hot, hit, words, np.where(words > 0, errors, 0)]).astype(np.float32)


def rates(sums: np.ndarray) -> dict[str, np.ndarray]:
    """WA, UA (over the classes present) and WER, (...) float64, of sums (..., 2C + 2); NaN where one has no value."""
    sums = np.asarray(sums, dtype=np.float64)
    classes, recall = (sums.shape[-1] - 2) // 2, recalls(sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "wa": sums[..., classes:-2].sum(-1) / sums[..., :classes].sum(-1),
            "ua": np.nansum(recall, -1) / np.isfinite(recall).sum(-1),
            "wer": sums[..., -1] / sums[..., -2],
        }


def recalls(sums: np.ndarray) -> np.ndarray:
    """(..., C) recall of each class from sums (..., 2C + 2); NaN where a class has no utterance."""
    classes = (sums.shape[-1] - 2) // 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums, dtype=np.float64)[..., classes:-2] / sums[..., :classes]


@dataclass(frozen=True)
class Measured:
    """A number with its standard error; where that is NaN, so are the ends of the interval and all p values."""

    value: float
    error: float
    df: float

    def interval(self, share: bool = False) -> tuple[float, float]:
        """Two-sided 95 % interval by Student's t; of a ``share``, which is skewed near 0 and 1, on the logit scale."""
        if share and 0 < self.value < 1:
            scale = self.error / (self.value * (1 - self.value))  # the delta method
            ends = special.expit(stats.t.interval(0.95, self.df, loc=special.logit(self.value), scale=scale))
            return float(ends[0]), float(ends[1])
        return stats.t.interval(0.95, self.df, loc=self.value, scale=self.error)

    def p(self) -> float:
        """Two-sided p of the hypothesis that the true value is 0."""
        return float(2 * stats.t.sf(abs(self.value) / self.error, self.df))

    def equivalence(self, margin: float) -> float:
        """P of a true value that is ``margin`` or more from 0: two one-sided t tests (Schuirmann, 1987)."""
        return float(stats.t.sf((margin - abs(self.value)) / self.error, self.df))

    def detectable(self) -> float:
        """Smallest true value for which p is at most .05 with a power of 80 %."""
        size = self.df + 1
        found = tt_solve_power(nobs=size, alpha=0.05, power=0.8) if np.isfinite(size) else np.nan
        return float(self.error * np.sqrt(size) * found)


def jackknife(sums: np.ndarray, statistic: Callable[[np.ndarray], Mapping[str, np.ndarray]]) -> dict[str, Measured]:
    """Rates of (U, K, W) counts with the standard errors that come from the drawing of both U units and K seeds.

    The variance is the jackknife's over units plus that over seeds, with Satterthwaite's degrees of freedom. The
    variation of single cells counts twice: with few seeds, leaving it out would cover less (docs/statistics.md). The
    error is NaN under `FEWEST_UNITS` units, and where nothing varies. ``statistic`` gives rates of sums (..., W).
    """
    whole = statistic(sums.sum((0, 1)))
    variance, spread = np.zeros((2, len(whole)))
    for drawn in (sums.sum(1), sums.sum(0)) if len(sums) >= FEWEST_UNITS else ():
        if df := len(drawn) - 1:
            part = df * np.var(list(statistic(drawn.sum(0) - drawn).values()), axis=1)
            variance, spread = variance + part, spread + part**2 / df
    variance[~(variance > 1e-18)] = np.nan  # nothing varies, or it is undefined without one of the units
    columns = zip(whole.values(), variance**0.5, variance**2 / spread, strict=True)
    return {name: Measured(*map(float, column)) for name, column in zip(whole, columns, strict=True)}


def clusters(speakers: np.ndarray, folds: np.ndarray, sessions: np.ndarray) -> np.ndarray:
    """Groups of utterances whose outcomes can be called independent of those of other groups.

    Speakers of one session are one group, and speakers that are tested in the same folds where a speaker is tested in
    several (they share the models). Unknown speakers join nothing. All (N,): names of speakers, folds and sessions
    (empty where unknown), and the number of the group, from 0.
    """
    names, codes = np.unique(speakers, return_inverse=True)
    several = np.array([len(np.unique(folds[codes == code])) > 1 for code in range(len(names))], dtype=bool)[codes]
    size, links = len(names), [np.zeros((2, 0), dtype=np.int64)]
    for values, joined in ((folds, several), (sessions, sessions != "")):
        joined = joined & (speakers != UNKNOWN)
        groups, ends = np.unique(values[joined], return_inverse=True)
        links.append(np.stack([codes[joined], size + ends]))
        size += len(groups)
    rows, columns = np.hstack(links)
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(size, size))
    return np.unique(connected_components(graph, directed=False)[1][codes], return_inverse=True)[1]


def mcnemar(only_first: int, only_second: int) -> float:
    """P of the exact two-sided McNemar test, from the utterances that only one of two systems has right."""
    return float(contingency_tables.mcnemar([[0, only_first], [only_second, 0]], exact=True).pvalue)


def sign_flip(contributions: Sequence[float] | np.ndarray) -> float:
    """P of the two-sided permutation test that swaps the two systems within units.

    It is the share of flips of (U,) `contributions` whose sum is at least as far from 0 as the observed one: exact up
    to `EXACT_UNITS` units, where it cannot fall below 2 / 2^U.
    """
    values = np.asarray(contributions, dtype=np.float64)
    if len(values) <= EXACT_UNITS:
        flipped = np.arange(2 ** len(values))[:, None] >> np.arange(len(values)) & 1
    else:
        flipped = np.random.default_rng(0).integers(2, size=(2**EXACT_UNITS, len(values)), dtype=np.int8)
        flipped[0] = 0
    reach = abs(values.sum()) - 1e-9 * np.abs(values).sum()
    return float((np.abs((1 - 2 * flipped) @ values) >= reach).mean())


def contributions(first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
    """Name -> (U,) what each unit adds to the difference of pooled WA, UA and WER, second system minus first.

    Both systems, (U, 2C + 2) additive counts of each unit, have the same references, so that every rate is linear in
    what they got right or wrong and the parts of all units add up to the difference.
    """
    whole = first.sum(0)
    before, after = rates(whole), rates(whole + second - first)
    return {name: after[name] - before[name] for name in before}
