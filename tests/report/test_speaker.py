"""What the report says of speaker probes, on outcomes whose truth is known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import expit

from sermtl.report.compare import Setting
from sermtl.report.families import Family
from sermtl.report.speaker import KINDS, PARTS, PROBES, Knowledge, Outcome, mean_of, tables
from sermtl.report.words import _speakers
from sermtl.score import statistics

FOLDS = 10
UTTERANCES = [(f"s{n % 10}-{n}", f"s{n % 10}") for n in range(100)]


def outcome(random, shift=0.0):
    """Hits in ten folds that test nearly the same utterances, some speakers and utterances easier than others."""
    of_speaker = {speaker: random.normal() for _, speaker in UTTERANCES}
    ease = [of_speaker[speaker] + random.normal() + shift for _, speaker in UTTERANCES]
    hits = random.random((FOLDS, len(UTTERANCES))) < expit(ease)
    return Outcome({
        (0, str(fold), utt, speaker): float(hits[fold, n])
        for fold in range(FOLDS) for n, (utt, speaker) in enumerate(UTTERANCES) if speaker != f"s{fold}"
    })  # fmt: skip


def test_where_nothing_differs_the_report_says_so_in_19_of_20_cases():
    """A test over folds that share utterances, as if they were samples, errs in half the cases."""
    random = np.random.default_rng(0)
    excluded, by_folds, covered = [], [], []
    for _ in range(300):
        first, second = outcome(random), outcome(random)
        change = second.minus(first)
        excluded.append(change.low > 0 or change.high < 0)
        means = [np.reshape(list(of.hits.values()), (FOLDS, -1)).mean(1) for of in (first, second)]
        by_folds.append(statistics.sign_flip(np.subtract(*means)) < 0.05)
        interval = first.accuracy
        covered.append(interval.low <= 0.5 <= interval.high)
    assert 0.03 <= np.mean(excluded) <= 0.075
    assert np.mean(by_folds) > 0.4
    assert 0.93 <= np.mean(covered) <= 0.975


def test_an_interval_is_that_of_a_t_test_over_units_and_of_few_units_there_is_none():
    random = np.random.default_rng(1)
    shares = {(0, "1", f"u{n}", f"s{n % 6}"): random.random() for n in range(60)}
    means = np.array(list(shares.values())).reshape(10, 6).mean(0)
    found = mean_of(shares, {})
    whole, half = means.mean(), 2.5706 * means.std(ddof=1) / np.sqrt(6)  # t with 5 degrees of freedom
    low = 1 / (1 + (1 - whole) / whole * np.exp(half / (whole * (1 - whole))))  # on the logit scale
    assert (found.value, found.low) == (pytest.approx(means.mean()), pytest.approx(low, abs=1e-5))
    few = {(*key[:3], f"s{n % 4}"): share for n, (key, share) in enumerate(shares.items())}
    assert mean_of(few, {}).value == pytest.approx(np.mean(list(few.values()))) and mean_of(few, {}).low is None
    assert mean_of({}, {}).value is None
    sessions = {f"s{n}": f"s{n // 2}" for n in range(12)}
    pairs = {(*key[:3], f"s{n % 6}"): share for n, (key, share) in enumerate(shares.items())}
    doubled = {(*key[:3], f"s{n % 6 * 2 + n // 6 % 2}"): share for n, (key, share) in enumerate(shares.items())}
    assert mean_of(doubled, sessions) == mean_of(pairs, {})  # two speakers of a session are one unit
    assert mean_of(doubled, {}).low != mean_of(doubled, sessions).low


def test_seeds_that_differ_widen_the_interval_of_a_probe_as_that_of_a_rate():
    shares = {(seed, "1", f"u{n}", f"s{n % 10}"): float(n < 50 + 30 * seed) for seed in range(2) for n in range(100)}
    wide = mean_of(shares, {})
    sums = np.array([[[10, 5 + 3 * seed] for seed in range(2)] for _ in range(10)], float)
    rate = statistics.jackknife(sums, lambda sums: {"share": sums[..., 1] / sums[..., 0]})["share"]
    assert (wide.value, wide.low, wide.high) == pytest.approx((rate.value, *rate.interval(share=True)))
    rate = statistics.jackknife(sums[:, :1], lambda sums: {"share": sums[..., 1] / sums[..., 0]})["share"]
    one = mean_of({key: share for key, share in shares.items() if key[0] == 0}, {})
    assert one.low == one.high == 0.5 and np.isnan(rate.error)


def known(shift, head, monkeypatch):
    """Sentences and table of reverse 1, whose probes find more by ``shift``; ``head`` shifts the speaker head."""
    settings = [Setting(0.1, beta, "reverse", name=name) for beta, name in ((0.0, "β 0"), (1.0, "reverse 1"))]
    family = Family("speaker", {}, settings, "speaker")
    monkeypatch.setattr(Setting, "first", SimpleNamespace(unit="speaker"))
    monkeypatch.setattr(Family, "mark", "")
    monkeypatch.setattr(Family, "untrained", "")
    monkeypatch.setattr(Family, "shared", "")
    rows = {setting: Knowledge({(part, kind): Outcome() for part in PARTS for kind in KINDS}) for setting in settings}
    for row, more in zip(rows.values(), (0.0, shift), strict=True):
        for kind in PROBES:
            row.outcomes["held_out", kind] = outcome(np.random.default_rng(3), more)
            row.outcomes["held_out", kind].shuffled = np.array([[10.0, 100.0], [12.0, 100.0]])
        row.outcomes["held_out", "head"] = outcome(np.random.default_rng(4), head)
        row.outcomes["held_out", "refit"] = outcome(np.random.default_rng(5))
    return _speakers(family, rows), tables(family, rows)[0].rows


def test_a_change_is_stated_where_all_probes_agree_and_no_adversary_that_never_learned(monkeypatch):
    for shift, verdict in ((2.0, "lie above 0"), (-2.0, "lie below 0"), (0.0, "no change is shown")):
        lines, _ = known(shift, 0.0, monkeypatch)
        assert verdict in lines[0] and all(name in lines[0] for name in PROBES.values())
        assert len(lines) == 1
    lines, rows = known(0.0, -4.0, monkeypatch)
    assert "The adversary is not tested" in lines[1]
    change = {row[2]: row[5] for row in rows if row[0] == "reverse 1"}
    assert [name for name, cell in change.items() if cell == "not tested"] == [KINDS["head"], KINDS["refit"]]
    _, rows = known(0.0, 2.0, monkeypatch)
    assert not any("not tested" in row for row in rows)
