"""Statistics against scipy, enumeration and simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats as oracle
from statsmodels.stats.power import tt_solve_power

from sermtl.score import statistics

CLASSES = 3


def sums_of(random, units, seeds, n=30, skill=0.7):
    """(U, K, W) additive counts of random outcomes of the same ``n`` utterances of each unit."""
    sums = np.zeros((units, seeds, 2 * CLASSES + 2))
    for unit in range(units):
        ref, words = random.integers(CLASSES, size=n), random.integers(0, 9, size=n)
        for seed in range(seeds):
            hyp = np.where(random.random(n) < skill, ref, random.integers(CLASSES, size=n))
            counts = statistics.additive_counts(ref, hyp, words, random.binomial(words, 0.3), CLASSES)
            sums[unit, seed] = counts.sum(0)
    return sums


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


def test_one_seed_is_the_jackknife_over_units():
    counts = sums_of(np.random.default_rng(1), units=12, seeds=1)
    found = statistics.jackknife(counts, statistics.rates)
    for rate, measured in found.items():
        left = [float(statistics.rates(np.delete(counts, unit, 0).sum((0, 1)))[rate]) for unit in range(12)]
        assert measured.value == pytest.approx(float(statistics.rates(counts.sum((0, 1)))[rate]))
        assert measured.error == pytest.approx(np.sqrt(11 / 12 * np.sum((left - np.mean(left)) ** 2)))
        assert measured.df == pytest.approx(11)


def test_of_units_of_equal_size_it_is_students_t_of_their_rates():
    rates = np.random.default_rng(2).uniform(0.4, 0.9, size=10).round(2)
    sums = np.zeros((10, 1, 4))  # one class of 100 utterances a unit
    sums[:, 0, 0], sums[:, 0, 1] = 100, 100 * rates
    wa = statistics.jackknife(sums, statistics.rates)["wa"]
    test = oracle.ttest_1samp(rates, 0)
    assert wa.interval() == pytest.approx(test.confidence_interval(0.95)) and wa.p() == pytest.approx(test.pvalue)
    upper = oracle.ttest_1samp(rates, 0.9, alternative="less").pvalue
    assert wa.equivalence(0.9) == pytest.approx(upper)
    assert wa.detectable() == pytest.approx(rates.std(ddof=1) * tt_solve_power(nobs=10, alpha=0.05, power=0.8))


def test_the_interval_of_a_share_is_that_of_its_logit():
    near = statistics.Measured(0.96, 0.02, 9)
    ends = [np.log(0.96 / 0.04) + sign * oracle.t.ppf(0.975, 9) * 0.02 / (0.96 * 0.04) for sign in (-1, 1)]
    assert near.interval(share=True) == pytest.approx([1 / (1 + np.exp(-end)) for end in ends])
    assert near.interval()[1] > 1 > near.interval(share=True)[1]
    middle = statistics.Measured(0.5, 0.01, 9)
    assert middle.interval(share=True) == pytest.approx(middle.interval(), abs=1e-4)
    assert np.isnan(statistics.Measured(0.9, np.nan, np.nan).interval(share=True)).all()


def test_seeds_that_differ_widen_the_interval_and_lower_the_degrees_of_freedom():
    counts = sums_of(np.random.default_rng(3), units=10, seeds=3)
    agreeing = np.repeat(counts.mean(1, keepdims=True), 3, axis=1)
    differing = agreeing.copy()
    differing[:, 0, 3:6] *= 0.8  # one seed has a fifth fewer hits
    same, other = (statistics.jackknife(sums, statistics.rates)["wa"] for sums in (agreeing, differing))
    assert same.df == pytest.approx(9) and other.df < 3 and other.error > 2 * same.error


def test_under_five_units_and_without_variation_there_is_neither_interval_nor_test():
    few = statistics.jackknife(sums_of(np.random.default_rng(4), units=4, seeds=3), statistics.rates)["wa"]
    alike = statistics.jackknife(np.ones((10, 2, 4)), statistics.rates)["wa"]
    for measured in (few, alike):
        assert measured.value > 0
        assert np.isnan([*measured.interval(), measured.p(), measured.equivalence(0.01), measured.detectable()]).all()


def test_speakers_of_a_session_or_of_shared_folds_are_one_cluster():
    spk = np.array(["a", "b", "c", "d"] * 2)
    none, each = np.full(8, ""), np.char.add("f", spk)
    assert statistics.clusters(spk, each, none).tolist() == [0, 1, 2, 3] * 2
    assert statistics.clusters(spk, each, np.array(["s1", "s1", "s2", "s2"] * 2)).tolist() == [0, 0, 1, 1] * 2
    paper = np.array(["aF", "aF", "cF", "cF", "aM", "aM", "cM", "cM"])  # two speakers share two folds
    assert statistics.clusters(spk, paper, none).tolist() == [0, 0, 1, 1] * 2
    groups = np.array(["f1", "f1", "f2", "f2"] * 2)  # each speaker in one fold
    assert statistics.clusters(spk, groups, none).tolist() == [0, 1, 2, 3] * 2
    random = np.array(["f1", "f2", "f1", "f2", "f2", "f1", "f2", "f1"])
    assert set(statistics.clusters(spk, random, none)) == {0}
    unknown = np.where(spk == "b", "unknown", spk)
    assert statistics.clusters(unknown, np.where(spk == "b", random, each), none).tolist() == [0, 3, 1, 2] * 2


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


def test_many_units_are_sampled_and_agree_with_the_normal_approximation():
    differences = np.random.default_rng(6).normal(0.35, 1, size=40)
    z = differences.sum() / np.sqrt((differences**2).sum())
    assert statistics.sign_flip(differences) == pytest.approx(2 * oracle.norm.sf(abs(z)), abs=0.01)
    assert 0 < statistics.sign_flip(np.full(30, 0.01)) < 1e-4


def test_contributions_add_up_to_the_difference_of_the_pooled_rates():
    first, second = (sums_of(np.random.default_rng(seed), units=10, seeds=1)[:, 0] for seed in (7, 8))
    second[:, [0, 1, 2, 6]] = first[:, [0, 1, 2, 6]]  # the same references
    before, after = statistics.rates(first.sum(0)), statistics.rates(second.sum(0))
    for name, parts in statistics.contributions(first, second).items():
        assert parts.shape == (10,)
        assert parts.sum() == pytest.approx(float(after[name] - before[name]), abs=1e-6)
        assert statistics.contributions(second, first)[name] == pytest.approx(-parts)


def test_the_interval_covers_what_it_says_at_ten_speakers():
    """An interval by resampling ten speakers covers .89."""
    random, covered, target = np.random.default_rng(13), 0, 0.7
    for _ in range(1000):
        sums = np.zeros((10, 1, 4))
        sums[:, 0, 0] = random.poisson(34, size=10) + 1
        sums[:, 0, 1] = sums[:, 0, 0] * random.normal(target, 0.08, size=10)
        low, high = statistics.jackknife(sums, statistics.rates)["wa"].interval()
        covered += low <= target <= high
    assert 0.93 < covered / 1000 < 0.97
