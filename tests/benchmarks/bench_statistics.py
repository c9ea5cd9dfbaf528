"""Coverage of the report's intervals and type I error of its tests, simulated; prints the tables of docs/statistics.md.

python tests/benchmarks/bench_statistics.py
python tests/benchmarks/bench_statistics.py --only probes

Speakers, seeds, trainings (a speaker's fold with a seed) and utterances are drawn anew for each simulated experiment,
from a probit model of four classes whose true rates are known in closed form. WA is .76, speakers have about 34
utterances, and differ from each other with a standard deviation of 8 points.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from unittest import mock

import numpy as np
from scipy import stats
from scipy.optimize import brentq

from sermtl.report.compare import MARGIN, Comparison, holm
from sermtl.report.families import Family, group
from sermtl.report.load import Experiment
from sermtl.report.speaker import Outcome
from sermtl.score import speaker_probe, statistics

SHARES = np.array([0.4, 0.3, 0.2, 0.1])
MEANS = np.array([0.9, 0.8, 0.5, 0.4])
"""Of the latent normal of each class; an utterance is recognised where it is above 0."""
SPEAKER, TRAINING, AGREEMENT = 0.25, 0.1, 0.85
"""Deviations of speakers and of trainings, and the share of an utterance's noise that all trainings have in common."""
ERRORS, ERROR_SPEAKER = -0.7, 0.2
UTTERANCES, MANY = 34, 340
EASY = 1.05
"""Shift of the latent normal that makes WA .95."""
PROBED, PROBE, UTTERANCE = 5, 0.3, 0.7
"""Dev utterances of a speaker, which are the same in all folds; mean of a probe's latent, deviation of utterances."""
LEVEL = 0.05
RATES = ("wa", "ua", "wer")
METHODS = ("percentile bootstrap", "BCa bootstrap", "bootstrap-t", "jackknife and t", "jackknife and t, logit")
TESTS = (*(f"{test}, {rate}" for test in ("t test", "swapped") for rate in RATES), "McNemar")
SETTINGS = [("reverse", beta, 0.1) for beta in (0.0, 0.1, 1.0)]
SETTINGS += [("forward", 0.1, 0.1), ("forward", 1.0, 0.1), ("reverse", 0.0, 0.0)]
"""Direction, beta and alpha of the paper's settings, of which the report makes 14 tests."""


class Drawn(NamedTuple):
    """Some systems on the same utterances."""

    sums: np.ndarray
    """(S, U, K, W) additive counts."""
    right: np.ndarray
    """(S, K, N) bool."""
    errors: np.ndarray
    """(S, K, N) word errors."""
    unit: np.ndarray
    """(N,), as are classes and reference words."""
    classes: np.ndarray
    words: np.ndarray


def draw(
    random: np.random.Generator,
    units: int,
    seeds: int,
    seed_effect: float,
    shifts: Sequence[float] = (0.0, 0.0),
    more_errors: float = 0.0,
    utterances: int = UTTERANCES,
) -> Drawn:
    """One experiment; each system's latent normal is higher by its shift, and the last one's of word errors."""
    systems = len(shifts)
    sizes = random.poisson(utterances * np.exp(0.3 * random.standard_normal(units) - 0.045)) + 1
    unit = np.repeat(np.arange(units), sizes)
    n = len(unit)
    classes = random.choice(4, size=n, p=SHARES)
    latent = MEANS[classes] + SPEAKER * random.standard_normal(units)[unit] + np.array(shifts)[:, None, None]
    latent = latent + seed_effect * random.standard_normal((systems, seeds, 1))
    latent = latent + TRAINING * random.standard_normal((systems, seeds, units))[..., unit]
    noise = np.sqrt(1 - AGREEMENT) * random.standard_normal((systems, seeds, n))
    right = latent + np.sqrt(AGREEMENT) * random.standard_normal(n) + noise > 0
    words = random.integers(3, 13, size=n)
    wrong = np.zeros((systems, seeds, 1)) + ERRORS + ERROR_SPEAKER * random.standard_normal(units)[unit]
    wrong[-1] += more_errors
    if seed_effect:
        wrong += seed_effect * random.standard_normal((systems, seeds, 1))
    errors = random.binomial(words, stats.norm.cdf(wrong))
    sums = np.zeros((systems, units, seeds, 10))
    for system in range(systems):
        for seed in range(seeds):
            hypotheses = np.where(right[system, seed], classes, (classes + 1) % 4)
            counts = statistics.additive_counts(classes, hypotheses, words, errors[system, seed], 4)
            sums[system, :, seed] = np.add.reduceat(counts, np.cumsum(sizes) - sizes)
    return Drawn(sums, right, errors, unit, classes, words)


def truth(seed_effect: float, shift: float = 0.0, more_errors: float = 0.0) -> dict[str, float]:
    """The rates of all speakers and trainings that could be drawn."""
    deviation = np.sqrt(1 + SPEAKER**2 + TRAINING**2 + seed_effect**2)
    recall = stats.norm.cdf((MEANS + shift) / deviation)
    wer = stats.norm.cdf((ERRORS + more_errors) / np.sqrt(1 + ERROR_SPEAKER**2 + seed_effect**2))
    return {"wa": float(SHARES @ recall), "ua": float(recall.mean()), "wer": float(wer), "recall": float(recall[-1])}


def rates(sums: np.ndarray) -> Mapping[str, np.ndarray]:
    """What has intervals in the report; the recall is the rarest class's."""
    return statistics.rates(sums) | {"recall": statistics.recalls(sums)[..., -1]}


def differences(first: np.ndarray, second: np.ndarray) -> dict[str, statistics.Measured]:
    """Second minus first of (U, K, W) counts, as the report compares two settings."""
    pair = Comparison.__new__(Comparison)  # without the experiments that the counts are of
    pair.first, pair.second = SimpleNamespace(sums=first), SimpleNamespace(sums=second)  # type: ignore[assignment]
    return pair.measured


def methods(random: np.random.Generator, units: int, draws: int) -> dict[str, float]:
    """Coverage of five kinds of intervals of WA, with one seed."""
    covered = dict.fromkeys(METHODS, 0)
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
        ends["jackknife and t, logit"] = measured.interval(share=True)
        resampled = sums[random.integers(units, size=(999, units))]  # (R, U, W)
        total = resampled.sum(1, keepdims=True)
        error = np.sqrt((units - 1) * np.var(wa(total - resampled), axis=1))
        pivots = (wa(total[:, 0]) - measured.value) / np.maximum(error, 1e-9)
        low, high = np.quantile(pivots, [0.975, 0.025])
        ends["bootstrap-t"] = measured.value - low * measured.error, measured.value - high * measured.error
        for name, (low, high) in ends.items():
            covered[name] += low <= target <= high
    return {name: count / draws for name, count in covered.items()}


def coverage(
    random: np.random.Generator, units: int, seeds: int, seed_effect: float, draws: int, shift: float = 0.0
) -> dict[str, float]:
    """Coverage of the report's intervals of rates, and of differences, which are 0; where there are intervals."""
    target = truth(seed_effect, shift) | dict.fromkeys(names := [f"{rate}, difference" for rate in RATES], 0.0)
    covered: dict[str, list[bool]] = {name: [] for name in target}
    for _ in range(draws):
        sums = draw(random, units, seeds, seed_effect, (shift, shift)).sums
        found = statistics.jackknife(sums[0], rates) | dict(zip(names, differences(*sums).values(), strict=True))
        for name, measured in found.items():
            low, high = measured.interval(name in ("wa", "ua", "recall"))
            if np.isfinite(low):
                covered[name].append(low <= target[name] <= high)
    return {name: float(np.mean(found)) for name, found in covered.items()}


def errors_of_tests(
    random: np.random.Generator, units: int, seeds: int, seed_effect: float, draws: int
) -> dict[str, float]:
    """How often each test finds what is not there, at .05."""
    found = dict.fromkeys(TESTS, 0)
    for _ in range(draws):
        drawn = draw(random, units, seeds, seed_effect)
        measured, parts = differences(*drawn.sums), statistics.contributions(*drawn.sums.sum(2))
        for rate in RATES:
            found[f"t test, {rate}"] += measured[rate].p() <= LEVEL
            found[f"swapped, {rate}"] += statistics.sign_flip(parts[rate]) <= LEVEL
        one, other = drawn.right[:, 0]
        found["McNemar"] += statistics.mcnemar(int((one & ~other).sum()), int((other & ~one).sum())) <= LEVEL
    return {name: count / draws for name, count in found.items()}


def equivalence(
    random: np.random.Generator, units: int, seeds: int, seed_effect: float, draws: int
) -> dict[str, float]:
    """How often the equivalence test is significant where the difference is the margin, and where it is 0."""
    start = truth(seed_effect)
    shift_of = {
        rate: brentq(lambda by, rate=rate: truth(seed_effect, by, by)[rate] - start[rate] - MARGIN, 0, 1)
        for rate in RATES
    }
    plans = {"at the margin": (("wa", "wer"), ("ua",)), "at 0": (RATES,)}
    found = {f"{rate} {where}": 0 for where in plans for rate in RATES}
    for _ in range(draws):
        for where, groups in plans.items():
            for names in groups:
                apart = (0.0, shift_of[names[0]]) if where == "at the margin" else (0.0, 0.0)
                more_errors = shift_of["wer"] if where == "at the margin" else 0.0
                sums = draw(random, units, seeds, seed_effect, apart, more_errors, MANY).sums
                measured = differences(*sums)
                for rate in names:
                    found[f"{rate} {where}"] += measured[rate].equivalence(MARGIN) <= LEVEL
    return {name: count / draws for name, count in found.items()}


def family_of(drawn: Drawn) -> Family:
    """The report's family of the paper's settings, which are the systems of ``drawn``."""
    size, labels = len(drawn.unit), ["a", "b", "c", "d"]
    utts, speakers = (
        np.char.mod(form, numbers) for form, numbers in (("u%05d", np.arange(size)), ("s%03d", drawn.unit))
    )
    made = []
    for system, (grl, beta, alpha) in enumerate(SETTINGS):
        for seed in range(drawn.right.shape[1]):
            settings = {"grl": grl, "beta": beta, "alpha": alpha, "seed": seed}
            scores = {"settings": settings, "ser": {"labels": labels}, "folds": [], "protocol": "speaker"}
            hypotheses = np.where(drawn.right[system, seed], drawn.classes, (drawn.classes + 1) % 4)
            edits = np.tile(np.stack([drawn.words, drawn.errors[system, seed]], axis=1), 2) * (alpha > 0)
            names, classes = (utts, speakers, speakers, *2 * [np.full(size, "")]), (drawn.classes, hypotheses)
            made.append(
                Experiment(Path(f"{system}-{seed}"), scores, *names, *classes, edits, np.full((size, 2), np.nan))
            )
    return group(made)[0]


@mock.patch("gc.collect", lambda: 0)  # which statsmodels calls in Holm's correction, and which takes most of the time
def family_errors(
    random: np.random.Generator, units: int, seeds: int, seed_effect: float, draws: int
) -> dict[str, float]:
    """How often any test of the report's table finds what is not there, at .05."""
    found = dict.fromkeys(("t tests", "t tests, Holm", "McNemar", "McNemar, Holm"), 0)
    for _ in range(draws):
        drawn = draw(random, units, seeds, seed_effect, [0.0] * len(SETTINGS))
        family = family_of(drawn)
        pairs = [zip(c.first.experiments, c.second.experiments, strict=True) for c in family.comparisons]
        only = [(one.right & ~other.right, other.right & ~one.right) for pair in pairs for one, other in pair]
        p = [statistics.mcnemar(int(first.sum()), int(second.sum())) for first, second in only]
        found["t tests"] += min(c.measured[rate].p() for c in family.comparisons for rate in c.rates) <= LEVEL
        found["t tests, Holm"] += min(p for c in family.comparisons for p in c.p_holm.values()) <= LEVEL
        found["McNemar"] += min(p) <= LEVEL
        found["McNemar, Holm"] += min(holm(p)) <= LEVEL
    return {name: count / draws for name, count in found.items()}


def probes(
    random: np.random.Generator, speakers: int, joined: int, seeds: int, seed_effect: float, draws: int
) -> dict[str, float]:
    """Coverage of the report's intervals of a speaker probe, and of the difference of two, which is 0.

    Each fold tests the same utterances of all speakers but one. Deviations are those of emotions; a session's speakers
    have the session's too, and a fold's tests the training's.
    """
    variance = 1 + SPEAKER**2 * (2 if joined > 1 else 1) + UTTERANCE**2 + 2 * TRAINING**2 + seed_effect**2
    target, covered = float(stats.norm.cdf(PROBE / np.sqrt(variance))), {"accuracy": 0, "difference": 0}
    names = [f"s{number:02d}" for number in range(speakers)]
    units = {name: names[number // joined * joined] for number, name in enumerate(names)}
    keys = [
        (seed, fold, f"{name}-{number}", name)
        for seed in range(seeds) for fold in names for name in names for number in range(PROBED)
    ]  # fmt: skip
    tested = [fold != name for _, fold, _, name in keys]
    kept = [key for key, held_out in zip(keys, tested, strict=True) if held_out]
    for _ in range(draws):
        ease = SPEAKER * random.standard_normal(speakers)
        ease += SPEAKER * np.repeat(random.standard_normal(speakers), joined)[:speakers] if joined > 1 else 0
        latent = PROBE + ease[:, None] + UTTERANCE * random.standard_normal((speakers, PROBED))
        outcomes = []
        for _ in range(2):
            of_seed = latent + seed_effect * random.standard_normal((seeds, 1, 1, 1))
            of_seed = of_seed + TRAINING * random.standard_normal((seeds, speakers, 1, 1))
            of_seed = of_seed + TRAINING * random.standard_normal((seeds, 1, speakers, 1))
            hits = random.binomial(speaker_probe.SPLITS, stats.norm.cdf(of_seed)) / speaker_probe.SPLITS
            outcomes.append(Outcome(dict(zip(kept, hits.ravel()[tested].tolist(), strict=True)), units=units))
        for name, found, right in (
            ("accuracy", outcomes[0].accuracy, target),
            ("difference", outcomes[1].minus(outcomes[0]), 0.0),
        ):
            covered[name] += found.low <= right <= found.high  # type: ignore[operator]
    return {name: count / draws for name, count in covered.items()}


def print_table(head: list[str], rows: Iterable[list[object]]) -> None:
    """Markdown."""
    print("", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", sep="\n")
    for row in rows:
        cells = [f"{cell:.3f}".removeprefix("0") if isinstance(cell, float) else str(cell) for cell in row]
        print(f"| {' | '.join(cells)} |", flush=True)


HEAD = ["speakers", "seeds", "deviation of seeds"]
PLANS = [(units, seeds, effect) for units in (5, 10, 24) for seeds in (1, 2, 3, 5) for effect in (0.0, 0.1)]
PLANS = [plan for plan in PLANS if plan[1] > 1 or not plan[2]]
FEW = [plan for plan in PLANS if plan[1:] in ((1, 0.0), (3, 0.1), (5, 0.1))]
JOINED = [(speakers, joined, *plan[1:]) for speakers, joined in ((5, 1), (10, 1), (24, 1), (10, 2)) for plan in FEW[:3]]
PARTS = {
    "methods": (1000, HEAD[:1], [(5,), (10,), (24,)], methods),
    "coverage": (400, HEAD, PLANS, coverage),
    "high": (400, HEAD, FEW, lambda *plan: coverage(*plan, shift=EASY)),
    "errors": (300, HEAD, PLANS, errors_of_tests),
    "equivalence": (150, HEAD, [(24, 1, 0.0), (24, 5, 0.0), (24, 5, 0.1), (60, 5, 0.0), (60, 5, 0.1)], equivalence),
    "family": (200, HEAD, FEW[3:], family_errors),
    "probes": (200, [HEAD[0], "in a session", *HEAD[1:]], JOINED, probes),
}
"""Simulated experiments a row, head, rows and function of each table."""


def main() -> None:
    """Print all tables, or some."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="tables")
    parser.add_argument("--draws", type=int, help="simulated experiments a row, instead of the table's own number")
    args = parser.parse_args()
    for number, (name, (draws, head, plans, function)) in enumerate(PARTS.items()):
        if name in args.only:
            random = np.random.default_rng(number)
            made = [(plan, function(random, *plan, args.draws or draws)) for plan in plans]
            print_table([*head, *made[0][1]], ([*plan, *found.values()] for plan, found in made))


if __name__ == "__main__":
    main()
