"""Statistics against scipy, enumeration and simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats as oracle

from sermtl.score import statistics

CLASSES = 3


def system(random, n=200, skill=0.7):
    """Outcomes of two systems on the same utterances, as additive counts, with speakers and folds."""
    ref = random.integers(CLASSES, size=n)
    words = random.integers(0, 9, size=n)
    made = []
    for _ in range(2):
        hyp = np.where(random.random(n) < skill, ref, random.integers(CLASSES, size=n))
        made.append(statistics.additive_counts(ref, hyp, words, random.binomial(words, 0.3), CLASSES))
    return ref, made, np.arange(n) % 10


def test_rates_are_those_of_the_counts():
    ref, hyp = np.array([0, 0, 1, 1, 2, -1]), np.array([0, 1, 1, 1, 0, 2])
    counts = statistics.additive_counts(ref, hyp, np.array([4, 0, 2, 2, 2, 0]), np.array([1, 9, 0, 2, 1, 3]), CLASSES)
    rates = statistics.rates(counts.sum(0))
    assert rates["wa"] == 3 / 5
    assert rates["ua"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert rates["wer"] == 4 / 10


def test_ua_of_a_replicate_is_over_the_classes_that_it_drew():
    assert statistics.rates(np.array([2, 0, 0, 1, 0, 0, 0, 0]))["ua"] == 0.5
    assert np.isnan(statistics.rates(np.zeros(8))["ua"])


def test_bootstrap_by_utterance_agrees_with_scipy():
    random = np.random.default_rng(1)
    _, (counts, _), _ = system(random)
    ours = statistics.interval(statistics.rates(statistics.bootstrap(counts, np.arange(200), 4000))["ua"])
    index = np.arange(200)
    theirs = oracle.bootstrap(
        (index,), lambda rows: float(statistics.rates(counts[rows].sum(0))["ua"]), vectorized=False,
        n_resamples=4000, method="percentile", rng=np.random.default_rng(2),
    ).confidence_interval  # fmt: skip
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.008)


def test_bootstrap_by_speaker_agrees_with_scipy_on_speaker_sums():
    random = np.random.default_rng(3)
    _, (counts, _), speakers = system(random)
    ours = statistics.interval(statistics.rates(statistics.bootstrap(counts, speakers, 4000))["wer"])
    errors, words = (np.bincount(speakers, counts[:, column]) for column in (-1, -2))
    theirs = oracle.bootstrap(
        (errors, words), lambda e, w, axis: e.sum(axis) / w.sum(axis), paired=True, vectorized=True,
        n_resamples=4000, method="percentile", rng=np.random.default_rng(4),
    ).confidence_interval  # fmt: skip
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.006)


def test_equal_seeds_draw_equal_units():
    _, (first, second), speakers = system(np.random.default_rng(5))
    both = statistics.bootstrap(np.hstack([first, second]), speakers, 50, seed=9)
    assert (both[:, : first.shape[1]] == statistics.bootstrap(first, speakers, 50, seed=9)).all()
    assert (both[:, first.shape[1] :] == statistics.bootstrap(second, speakers, 50, seed=9)).all()
    assert (statistics.bootstrap(first, speakers, 50, seed=8) != both[:, : first.shape[1]]).any()


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (5, 5), (3, 11), (40, 21), (0, 9)])
def test_mcnemar_is_the_binomial_tail_doubled(b, c):
    tail = sum(oracle.binom.pmf(k, b + c, 0.5) for k in range(min(b, c) + 1))
    assert statistics.mcnemar(b, c) == pytest.approx(min(1.0, 2 * tail))


@pytest.mark.parametrize("seed", range(5))
def test_sign_flip_agrees_with_scipy_and_with_enumeration(seed):
    differences = np.random.default_rng(seed).normal(0.3, 1, size=8)
    exact = oracle.permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=np.inf, vectorized=False
    ).pvalue
    flips = [abs(np.dot(signs, differences)) for signs in itertools.product([-1, 1], repeat=8)]
    enumerated = np.mean(np.array(flips) >= abs(differences.sum()) - 1e-12)
    assert statistics.sign_flip(differences) == pytest.approx(exact) == pytest.approx(enumerated)


def test_sign_flip_with_ties_and_zeros():
    assert statistics.sign_flip([0.0, 0.0]) == 1.0
    assert statistics.sign_flip([1.0, 1.0, 1.0, 0.0]) == 0.25
    assert statistics.sign_flip([0.1, 0.1, -0.1, -0.1]) == 1.0


def test_many_folds_are_sampled_and_agree_with_the_normal_approximation():
    differences = np.random.default_rng(6).normal(0.35, 1, size=40)
    z = differences.sum() / np.sqrt((differences**2).sum())
    assert statistics.sign_flip(differences) == pytest.approx(2 * oracle.norm.sf(abs(z)), abs=0.01)
    assert statistics.sign_flip(np.full(30, 0.01)) == pytest.approx(1 / 100_001)


def test_contributions_add_up_to_the_difference_of_the_pooled_rates():
    _, (first, second), folds = system(np.random.default_rng(7))
    before, after = statistics.rates(first.sum(0)), statistics.rates(second.sum(0))
    for name, parts in statistics.contributions(first, second, folds).items():
        assert parts.shape == (10,)
        assert parts.sum() == pytest.approx(float(after[name] - before[name]), abs=1e-6)


def test_swapping_a_fold_flips_its_contribution():
    _, (first, second), folds = system(np.random.default_rng(8))
    swapped = np.where((folds == 3)[:, None], second, first), np.where((folds == 3)[:, None], first, second)
    for name, parts in statistics.contributions(first, second, folds).items():
        assert statistics.contributions(*swapped, folds)[name][3] == pytest.approx(-parts[3])


def test_the_detectable_difference_is_seen_four_times_in_five():
    random, n, differing = np.random.default_rng(10), 500, 0.2
    d = statistics.detectable_by_mcnemar(n, differing)
    both = random.multinomial(n, [(differing + d) / 2, (differing - d) / 2, 1 - differing], size=4000)
    # the asymptotic test, for which Connor's formula is made; the exact one is a little more careful
    b, c = both[:, 0], both[:, 1]
    seen = (np.abs(b - c) / np.sqrt(b + c) > oracle.norm.ppf(0.975)).mean()
    assert seen == pytest.approx(0.8, abs=0.03)


def test_the_detectable_difference_over_folds_is_seen_four_times_in_five():
    random = np.random.default_rng(11)
    folds = random.normal(size=10)
    folds = (folds - folds.mean()) / folds.std(ddof=1) * 0.03
    d = statistics.detectable_over_folds(folds)
    samples = random.normal(d, 0.03, size=(4000, 10))
    assert (oracle.ttest_1samp(samples, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.03)


def test_what_cannot_be_detected_is_none():
    assert statistics.detectable_by_mcnemar(20, 0.05) is None  # one differing utterance
    assert statistics.detectable_by_mcnemar(100, 0.0) is None
    assert statistics.detectable_over_folds([0.1]) is None
    assert statistics.detectable_over_folds([0.1, 0.1]) is None


def test_more_utterances_show_smaller_differences():
    shown = [statistics.detectable_by_mcnemar(n, 0.15) for n in (339, 507, 5531)]
    assert shown == sorted(shown, reverse=True)
    assert 0.01 < shown[2] < 0.02 < shown[1] < shown[0] < 0.07


def test_effect_sizes():
    assert statistics.cohens_dz([1, 2, 3]) == 2.0 and statistics.cohens_dz([1, 1]) is None


def test_two_folds_have_a_detectable_difference_too() -> None:
    """scipy's noncentral t with one degree of freedom is NaN at some shifts."""
    random = np.random.default_rng(12)
    d = statistics.detectable_over_folds([0.04, -0.04])
    samples = random.normal(d, np.std([0.04, -0.04], ddof=1), size=(4000, 2))
    assert (oracle.ttest_1samp(samples, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.03)
