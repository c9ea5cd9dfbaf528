"""Coverage of the report's intervals and type I error of its tests, simulated; prints the tables of docs/statistics.md.

python tests/benchmarks/bench_statistics.py

Speakers, seeds, trainings (a speaker's fold with a seed) and utterances are drawn anew for each simulated experiment,
from a probit model of four classes whose true rates are known in closed form. WA is .76, speakers have about 34
utterances, and differ from each other with a standard deviation of 8 points.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

from sermtl.report.compare import MARGIN
from sermtl.score import statistics

SHARES = np.array([0.4, 0.3, 0.2, 0.1])
MEANS = np.array([0.9, 0.8, 0.5, 0.4])
"""Of the latent normal of each class; an utterance is recognised where it is above 0."""
SPEAKER, TRAINING, AGREEMENT = 0.25, 0.1, 0.85
"""Deviations of speakers and of trainings, and the share of an utterance's noise that all trainings have in common."""
ERRORS, ERROR_SPEAKER = -0.7, 0.2
UTTERANCES = 34
LEVEL = 0.05
TESTS = ("t test", "Holm, 10 t tests", "swapped", "McNemar", "equivalence")


class Drawn(NamedTuple):
    """Two systems on the same utterances."""

    sums: np.ndarray
    """(2, U, K, W) additive counts."""
    right: np.ndarray
    """(2, K, N) bool."""


def draw(random: np.random.Generator, units: int, seeds: int, seed_effect: float, shift: float = 0.0) -> Drawn:
    """One experiment; the second system's latent normal is higher by ``shift``."""
    sizes = random.poisson(UTTERANCES * np.exp(0.3 * random.standard_normal(units) - 0.045)) + 1
    unit = np.repeat(np.arange(units), sizes)
    n = len(unit)
    classes = random.choice(4, size=n, p=SHARES)
    latent = MEANS[classes] + SPEAKER * random.standard_normal(units)[unit] + np.array([0, shift])[:, None, None]
    latent = latent + seed_effect * random.standard_normal((2, seeds, 1))
    latent = latent + TRAINING * random.standard_normal((2, seeds, units))[..., unit]
    noise = np.sqrt(1 - AGREEMENT) * random.standard_normal((2, seeds, n))
    right = latent + np.sqrt(AGREEMENT) * random.standard_normal(n) + noise > 0
    words = random.integers(3, 13, size=n)
    chance = stats.norm.cdf(ERRORS + ERROR_SPEAKER * random.standard_normal(units))[unit]
    errors = random.binomial(words, chance, size=(2, seeds, n))
    sums = np.zeros((2, units, seeds, 10))
    for system in range(2):
        for seed in range(seeds):
            hypotheses = np.where(right[system, seed], classes, (classes + 1) % 4)
            counts = statistics.additive_counts(classes, hypotheses, words, errors[system, seed], 4)
            sums[system, :, seed] = np.add.reduceat(counts, np.cumsum(sizes) - sizes)
    return Drawn(sums, right)


def truth(seed_effect: float, shift: float = 0.0) -> dict[str, float]:
    """The rates of all speakers and trainings that could be drawn."""
    deviation = np.sqrt(1 + SPEAKER**2 + TRAINING**2 + seed_effect**2)
    recall = stats.norm.cdf((MEANS + shift) / deviation)
    wer = stats.norm.cdf(ERRORS / np.sqrt(1 + ERROR_SPEAKER**2))
    return {"wa": SHARES @ recall, "ua": recall.mean(), "wer": float(wer), "recall": recall[-1]}


def rates(sums: np.ndarray) -> Mapping[str, np.ndarray]:
    """What has intervals in the report; the recall is the rarest class's."""
    return statistics.rates(sums) | {"recall": statistics.recalls(sums)[..., -1]}


def difference(sums: np.ndarray) -> Mapping[str, np.ndarray]:
    """Of WA, second half of the counts minus first."""
    first, second = (statistics.rates(half)["wa"] for half in np.split(sums, 2, axis=-1))
    return {"difference": second - first}


def methods(random: np.random.Generator, units: int, draws: int) -> dict[str, float]:
    """Coverage of four kinds of intervals of WA, with one seed."""
    covered = dict.fromkeys(("percentile bootstrap", "BCa bootstrap", "bootstrap-t", "jackknife and t"), 0)
    target = truth(0.0)["wa"]
    wa = lambda sums: sums[..., 4:8].sum(-1) / sums[..., :4].sum(-1)  # noqa: E731
    ratio = lambda hits, all_, axis: hits.sum(axis) / all_.sum(axis)  # noqa: E731
    for _ in range(draws):
        sums = draw(random, units, 1, 0.0).sums[0, :, 0]
        samples, ends = (sums[:, 4:8].sum(1), sums[:, :4].sum(1)), {}
        for name in ("percentile", "BCa"):
            found = stats.bootstrap(samples, ratio, paired=True, n_resamples=999, method=name, rng=random)
            ends[f"{name} bootstrap"] = found.confidence_interval
        measured = statistics.jackknife(sums[:, None], statistics.rates)["wa"]
        ends["jackknife and t"] = measured.interval()
        resampled = sums[random.integers(units, size=(999, units))]  # (R, U, W)
        total = resampled.sum(1, keepdims=True)
        error = np.sqrt((units - 1) * np.var(wa(total - resampled), axis=1))
        pivots = (wa(total[:, 0]) - measured.value) / np.maximum(error, 1e-9)
        low, high = np.quantile(pivots, [0.975, 0.025])
        ends["bootstrap-t"] = measured.value - low * measured.error, measured.value - high * measured.error
        for name, (low, high) in ends.items():
            covered[name] += low <= target <= high
    return {name: count / draws for name, count in covered.items()}


def coverage(random: np.random.Generator, units: int, seeds: int, seed_effect: float, draws: int) -> dict[str, float]:
    """Coverage of the report's intervals."""
    target, covered = truth(seed_effect) | {"difference": 0.0}, dict.fromkeys([*truth(0.0), "difference"], 0)
    for _ in range(draws):
        sums = draw(random, units, seeds, seed_effect).sums
        found = statistics.jackknife(sums[0], rates) | statistics.jackknife(np.concatenate(sums, axis=-1), difference)
        for name, measured in found.items():
            low, high = measured.interval()
            covered[name] += low <= target[name] <= high
    return {name: count / draws for name, count in covered.items()}


def shift_of(seed_effect: float) -> float:
    """The shift that makes the difference of WA equal to the margin of equivalence."""
    from scipy.optimize import brentq

    start = truth(seed_effect)["wa"]
    return float(brentq(lambda shift: truth(seed_effect, shift)["wa"] - start - MARGIN, 0, 1))


def errors_of_tests(
    random: np.random.Generator, units: int, seeds: int, seed_effect: float, draws: int
) -> dict[str, float]:
    """How often each test finds what is not there, at .05."""
    found = dict.fromkeys(TESTS, 0)
    shift, p = shift_of(seed_effect), []
    for _ in range(draws):
        drawn = draw(random, units, seeds, seed_effect)
        measured = statistics.jackknife(np.concatenate(drawn.sums, axis=-1), difference)["difference"]
        p.append(measured.p())
        parts = statistics.contributions(*drawn.sums.sum(2))["wa"]
        found["swapped"] += statistics.sign_flip(parts) <= LEVEL
        one, other = drawn.right[:, 0]
        found["McNemar"] += statistics.mcnemar(int((one & ~other).sum()), int((other & ~one).sum())) <= LEVEL
        moved = draw(random, units, seeds, seed_effect, shift).sums
        apart = statistics.jackknife(np.concatenate(moved, axis=-1), difference)["difference"]
        found["equivalence"] += apart.equivalence(MARGIN) <= LEVEL
    shares = {name: count / draws for name, count in found.items()}
    shares["t test"] = float(np.mean(np.array(p) <= LEVEL))
    # Of ten independent tests Holm's first step decides whether there is any error.
    shares["Holm, 10 t tests"] = 1 - (1 - float(np.mean(np.array(p) <= LEVEL / 10))) ** 10
    return shares


def print_table(head: list[str], rows: Iterable[list[object]]) -> None:
    """Markdown."""
    print("", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", sep="\n")
    for row in rows:
        cells = [f"{cell:.3f}".removeprefix("0") if isinstance(cell, float) else str(cell) for cell in row]
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", type=int, default=1000, help="simulated experiments a row of the first table")
    parser.add_argument("--coverage", type=int, default=1000, help="of the second")
    parser.add_argument("--errors", type=int, default=400, help="of the third")
    args = parser.parse_args()
    random = np.random.default_rng(0)
    made = {units: methods(random, units, args.methods) for units in (5, 10, 24)}
    print_table(["speakers", *made[5]], [[units, *found.values()] for units, found in made.items()])
    plans = [(units, seeds, effect) for units in (5, 10, 24) for seeds in (1, 2, 3, 5) for effect in (0.0, 0.1)]
    plans = [plan for plan in plans if plan[1] > 1 or not plan[2]]
    head = ["speakers", "seeds", "deviation of seeds"]
    rates_of = [*truth(0.0), "difference"]
    print_table([*head, *rates_of], ([*plan, *coverage(random, *plan, args.coverage).values()] for plan in plans))
    random = np.random.default_rng(1)
    print_table([*head, *TESTS], ([*plan, *errors_of_tests(random, *plan, args.errors).values()] for plan in plans))


if __name__ == "__main__":
    main()
