"""Uncertainty of the scores: intervals, paired tests, effect sizes, and the smallest differences that can be detected.

Everything starts from additive counts per utterance (`additive_counts`), because WA, UA and WER are ratios
of sums: resampling and swapping act on the sums, and thousands of replicates become one matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import optimize, stats
from statsmodels.stats import contingency_tables
from statsmodels.stats.power import tt_solve_power

EXACT_FOLDS = 20
"""Up to this number of folds all 2^F sign flips are tried; beyond, 100,000 random ones."""


def additive_counts(
    references: np.ndarray, hypotheses: np.ndarray, words: np.ndarray, errors: np.ndarray, classes: int
) -> np.ndarray:
    """Per utterance what adds up to WA, UA and WER.

    Args:
        references: (N,) class index, -1 where the utterance has no emotion.
        hypotheses: (N,) class index.
        words: (N,) reference words.
        errors: (N,) word errors; ignored where ``words`` is 0.
        classes: C.

    Returns:
        (N, 2C + 2) float32: one-hot reference, one-hot reference where it was hit, words, errors.
    """
    counts = np.zeros((len(references), 2 * classes + 2), dtype=np.float32)
    labelled = np.flatnonzero(references >= 0)
    counts[labelled, references[labelled]] = 1
    hit = labelled[references[labelled] == hypotheses[labelled]]
    counts[hit, classes + references[hit]] = 1
    counts[:, -2] = words
    counts[:, -1] = np.where(words > 0, errors, 0)
    return counts


def rates(sums: np.ndarray) -> dict[str, np.ndarray]:
    """WA, UA and WER of summed `additive_counts`.

    Args:
        sums: (..., 2C + 2).

    Returns:
        Name -> (...) float64; NaN where there is nothing to divide by. UA is over the classes present.
    """
    sums = np.asarray(sums, dtype=np.float64)
    classes = (sums.shape[-1] - 2) // 2
    total, hits = sums[..., :classes], sums[..., classes : 2 * classes]
    with np.errstate(divide="ignore", invalid="ignore"):
        recall = np.where(total > 0, hits / total, 0.0)
        return {
            "wa": hits.sum(-1) / total.sum(-1),
            "ua": recall.sum(-1) / (total > 0).sum(-1),
            "wer": sums[..., -1] / sums[..., -2],
        }


def bootstrap(counts: np.ndarray, units: np.ndarray, replicates: int = 2000, seed: int = 0) -> np.ndarray:
    """Sums of counts over units drawn with replacement.

    Args:
        counts: (N, K) additive counts.
        units: (N,) what is drawn: the index of each utterance's speaker, or ``arange(N)``.
        replicates: R.
        seed: Equal seeds draw the same units, so that systems can be compared replicate by replicate.

    Returns:
        (R, K) float64.
    """
    _, index = np.unique(units, return_inverse=True)
    size = int(index.max()) + 1 if len(index) else 0
    per_unit = np.zeros((size, counts.shape[1]), dtype=np.float32)
    np.add.at(per_unit, index, counts)
    random, sums = np.random.default_rng(seed), np.zeros((replicates, counts.shape[1]))
    step = max(1, 500_000 // max(size, 1))  # a block of weights stays in the processor's cache
    for start in range(0, replicates if size else 0, step):
        rows = min(step, replicates - start)
        drawn = random.integers(size, size=(rows, size)) + size * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size)
        sums[start : start + rows] = weights.astype(np.float32) @ per_unit
    return sums


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float] | None:
    """Percentile interval of bootstrap replicates (undefined ones left out); None where none is defined."""
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar test: its p, 1 where the systems never differ.

    Args:
        only_first: Utterances that only the first system has right.
        only_second: Utterances that only the second has right.
    """
    return float(contingency_tables.mcnemar([[0, only_first], [only_second, 0]], exact=True).pvalue)


def sign_flip(contributions: Sequence[float] | np.ndarray, draws: int = 100_000, seed: int = 0) -> float:
    """Permutation test that swaps the two systems within folds.

    Args:
        contributions: (F,) what each fold adds to the difference of the pooled rates.
        draws: Random flips where there are more than `EXACT_FOLDS` folds (the identity is one more).
        seed: Of those draws.

    Returns:
        Two-sided p: the share of flips whose sum is at least as far from 0 as the observed one. Exact up
        to `EXACT_FOLDS` folds, where it cannot fall below 2 / 2^F.
    """
    values = np.asarray(contributions, dtype=np.float64)
    values = values[values != 0]  # flipping a zero changes nothing
    reach = abs(values.sum()) - 1e-9 * np.abs(values).sum()
    if len(values) > EXACT_FOLDS:
        random = np.random.default_rng(seed)
        extreme = 1
        for start in range(0, draws, 1000):
            signs = random.choice([-1.0, 1.0], size=(min(1000, draws - start), len(values)))
            extreme += int((np.abs(signs @ values) >= reach).sum())
        return extreme / (draws + 1)
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return float((np.abs(sums) >= reach).mean())


def contributions(first: np.ndarray, second: np.ndarray, folds: np.ndarray) -> dict[str, np.ndarray]:
    """What each fold adds to the difference of pooled WA, UA and WER, second system minus first.

    Both systems have the same references, so that every rate is linear in what they got right or wrong and
    the parts of all folds add up to the difference.

    Args:
        first: (N, 2C + 2) additive counts.
        second: (N, 2C + 2) additive counts of the same utterances.
        folds: (N,) fold of each utterance.

    Returns:
        Name -> (F,), folds in the order of ``np.unique``.
    """
    _, index = np.unique(folds, return_inverse=True)
    delta = np.zeros((int(index.max()) + 1, first.shape[1]))
    np.add.at(delta, index, second.astype(np.float64) - first)
    classes = (first.shape[1] - 2) // 2
    total = first[:, :classes].sum(0, dtype=np.float64)
    hits, present = delta[:, classes : 2 * classes], total > 0
    words = first[:, -2].sum(dtype=np.float64)
    return {
        "wa": hits.sum(1) / max(total.sum(), 1),
        "ua": (hits[:, present] / total[present]).sum(1) / max(present.sum(), 1),
        "wer": delta[:, -1] / max(words, 1),
    }


def cohens_dz(differences: Sequence[float] | np.ndarray) -> float | None:
    """Mean over standard deviation of paired differences; None where they do not vary."""
    values = np.asarray(differences, dtype=np.float64)
    deviation = values.std(ddof=1) if len(values) > 1 else 0.0
    return float(values.mean() / deviation) if deviation > 0 else None


def detectable_by_mcnemar(utterances: int, differing: float, level: float = 0.05, power: float = 0.8) -> float | None:
    """Smallest difference of accuracies that the exact McNemar test (`mcnemar`) shows with this power.

    statsmodels has no power of this test; the normal approximation calls smaller differences detectable.

    Args:
        utterances: n, tested by both systems.
        differing: q, the share of utterances on which exactly one of them is right.
        level: Two-sided level of the test.
        power: Chance to see the difference.

    Returns:
        d between 0 and q; None where not even one-sided disagreement would be seen so often.
    """
    if differing <= 0:
        return None
    spread = 8 * np.sqrt(utterances * differing) + 20
    least, most = utterances * differing - spread, utterances * differing + spread
    counts = np.arange(max(0, int(least)), min(utterances, int(most)) + 1)
    chances = stats.binom.pmf(counts, utterances, differing)
    critical = stats.binom.ppf(level / 2, counts, 0.5)  # the test's p is at most the level up to here
    critical = np.where(stats.binom.cdf(critical, counts, 0.5) > level / 2, critical - 1, critical)

    def lacking(d: float) -> float:
        share = (1 + d / differing) / 2
        seen = stats.binom.cdf(critical, counts, share) + stats.binom.sf(counts - critical - 1, counts, share)
        return power - float((chances * seen).sum())

    return None if lacking(differing) > 0 else float(optimize.brentq(lacking, 0, differing))


def detectable_over_folds(
    differences: Sequence[float] | np.ndarray, level: float = 0.05, power: float = 0.8
) -> float | None:
    """Smallest mean difference that a paired t test over folds shows with this power.

    Args:
        differences: (F,) difference of each fold; only their spread matters.
        level: Two-sided level of the test.
        power: Chance to see the difference.

    Returns:
        The difference in the unit of ``differences``; None with fewer than two folds or no spread.
    """
    deviation = np.std(differences, ddof=1) if len(differences) > 1 else 0.0
    if deviation == 0:
        return None
    return float(deviation * tt_solve_power(nobs=len(differences), alpha=level, power=power))
