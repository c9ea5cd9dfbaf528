"""Erasing and standardising speakers, against closed forms, loops and an independent implementation."""

import numpy as np
import pytest
import torch
from concept_erasure import LeaceFitter
from sklearn.feature_selection import f_classif
from sklearn.linear_model import LogisticRegression

from sermtl.model.gradient_reversal import SpeakerHead
from sermtl.model.heads import HeadSettings, UtteranceVector
from sermtl.model.speaker_norm import SpeakerNorm, fit_eraser, spread_ratio


def drawn(count, states=2, width=6, speakers=4, seed=0):
    """Pooled states that differ between speakers, in dimensions that are correlated."""
    random = np.random.default_rng(seed)
    speakers_U = random.integers(0, speakers, count)
    speakers_U[:speakers] = range(speakers)
    means = random.normal(0, 3, (speakers, states, width))
    mixing = random.normal(0, 1, (width, width))
    noise = random.normal(0, 1, (count, states, width)) @ mixing
    return torch.from_numpy(means[speakers_U] + noise + 5.0), torch.from_numpy(speakers_U)


def erased_by(fitted, vectors_UP):
    mean_P, out_PR, in_RP = fitted
    return vectors_UP - (vectors_UP - mean_P) @ in_RP.T @ out_PR.T


def cross_covariance(vectors_UP, speakers_U):
    indicators = torch.nn.functional.one_hot(speakers_U).double()
    return (vectors_UP - vectors_UP.mean(0)).T @ (indicators - indicators.mean(0)) / len(vectors_UP)


def test_of_many_utterances_the_eraser_is_that_of_concept_erasure():
    vectors_UnP, speakers_U = drawn(20_000)
    vectors_UP = vectors_UnP[:, 0]
    theirs = LeaceFitter.fit(vectors_UP, torch.nn.functional.one_hot(speakers_U), shrinkage=False).eraser
    ours_UP = erased_by(fit_eraser(vectors_UP, speakers_U, 3), vectors_UP)
    change = (theirs(vectors_UP) - vectors_UP).square().mean().sqrt()
    assert float(change) > 1.0
    assert float((ours_UP - theirs(vectors_UP)).square().mean().sqrt()) < 0.01 * float(change)


@pytest.mark.parametrize("count", [9, 60, 400])  # the first: fewer than dimensions
def test_nothing_linear_of_the_speakers_is_left_where_it_was_fitted(count):
    vectors_UnP, speakers_U = drawn(count, width=12)
    vectors_UP = vectors_UnP[:, 0]
    fitted = fit_eraser(vectors_UP, speakers_U, 3)
    assert cross_covariance(vectors_UP, speakers_U).abs().max() > 0.1
    left_UP = erased_by(fitted, vectors_UP)
    assert cross_covariance(left_UP, speakers_U).abs().max() < 1e-8
    torch.testing.assert_close(left_UP.mean(0), vectors_UP.mean(0))
    if count == 400:
        probe = LogisticRegression(C=1e4, max_iter=2000).fit(left_UP, speakers_U)
        assert probe.score(left_UP, speakers_U) <= float(speakers_U.bincount().max()) / count + 0.01
        assert LogisticRegression(max_iter=2000).fit(vectors_UP, speakers_U).score(vectors_UP, speakers_U) > 0.9


def vector_of(method, statistics="mean", shrink=0.0, **more):
    torch.manual_seed(0)
    settings = HeadSettings((0, 1), (), 3, spk_norm=method, spk_statistics=statistics, spk_shrink=shrink, **more)
    vector = UtteranceVector(settings, 6, 4).double()
    torch.nn.init.normal_(vector.mix.scores_n)
    return vector


def test_speakers_are_erased_for_any_mix_and_projection():
    pooled_UnP, speakers_U = drawn(300)
    vector = vector_of("erase")
    with torch.no_grad():
        before = cross_covariance(vector(pooled_UnP), speakers_U).abs().max()
        vector.speaker_norm.fit(pooled_UnP, speakers_U)
        after = cross_covariance(vector(pooled_UnP), speakers_U).abs().max()
    assert before > 0.1 and after < 1e-8


@pytest.mark.parametrize("statistics", ["mean", "mean_std"])
def test_a_group_is_standardised_by_its_own_statistics_drawn_to_the_corpus(statistics):
    pooled_UnP, speakers_U = drawn(40)
    norm = SpeakerNorm("standardise", 2, 6, 4, statistics, 5.0).double()
    norm.fit(pooled_UnP, speakers_U)
    corpus = pooled_UnP.mean(0), pooled_UnP.std(0, correction=0)
    members_KU = torch.stack([speakers_U == 2, torch.zeros(40, dtype=torch.bool)])
    means_KnP, stds_KnP = norm.estimate(pooled_UnP, members_KU)
    own_UnP = pooled_UnP[speakers_U == 2]
    ratio_nP = spread_ratio(pooled_UnP, speakers_U == torch.arange(4)[:, None])
    share = len(own_UnP) / (len(own_UnP) + 5.0 * ratio_nP)
    mean_nP = share * own_UnP.mean(0) + (1 - share) * corpus[0]
    variance_nP = share * own_UnP.var(0, correction=0) + (1 - share) * corpus[1] ** 2
    std_nP = variance_nP.sqrt() if statistics == "mean_std" else corpus[1]
    torch.testing.assert_close((means_KnP[0], stds_KnP[0]), (mean_nP, std_nP))
    torch.testing.assert_close((means_KnP[1], stds_KnP[1]), corpus)
    known, other = pooled_UnP[:2], torch.tensor([2, -1])
    ours = norm.standardise(known, other)
    torch.testing.assert_close(ours[0], (known[0] - mean_nP) / std_nP)
    torch.testing.assert_close(ours[1], (known[1] - corpus[0]) / corpus[1])
    torch.testing.assert_close(norm.standardise(known, None), (known - corpus[0]) / corpus[1])


def test_k_is_the_ratio_of_variances_that_analysis_of_variance_estimates():
    torch.manual_seed(1)
    speakers_U = torch.arange(30).repeat_interleave(20)
    pooled_UnP = torch.randn(600, 1, 3, dtype=torch.float64)
    pooled_UnP[:, 0] *= torch.tensor([1.0, 2.0, 3.0])
    pooled_UnP[:, 0] += torch.randn(30, 3, dtype=torch.float64)[speakers_U] * torch.tensor([2.0, 1.0, 0.0])
    ratio_P = spread_ratio(pooled_UnP, speakers_U == torch.arange(30)[:, None])[0]
    f_P, _ = f_classif(pooled_UnP[:, 0], speakers_U)  # F = 1 + 20 / ratio, for 20 utterances of each speaker
    torch.testing.assert_close(ratio_P[:2], torch.from_numpy(20 / (f_P[:2] - 1)))
    assert 0.1 < ratio_P[0] < 0.5 and 2 < ratio_P[1] < 8 and 20 < ratio_P[2] <= 1000
    assert spread_ratio(torch.ones(4, 1, 1).double(), torch.eye(2).repeat(1, 2) > 0).tolist() == [[0.0]]


def test_behind_an_eraser_k_is_what_it_is_without():
    pooled_UnP, speakers_U = drawn(200)
    alone, behind = (SpeakerNorm(f"{first}standardise", 2, 6, 4, "mean", 1.0).double() for first in ("", "erase+"))
    for norm in (alone, behind):
        norm.fit(pooled_UnP, speakers_U)
    torch.testing.assert_close(behind.shrink_nP, alone.shrink_nP)
    assert (alone.shrink_nP < 100).any()


def test_without_shrinkage_speakers_have_the_same_mean():
    pooled_UnP, speakers_U = drawn(200)
    vector = vector_of("erase+standardise")
    with torch.no_grad():
        vector.speaker_norm.fit(pooled_UnP, speakers_U)
        vectors_UM = vector(pooled_UnP, speakers_U)
    means = torch.stack([vectors_UM[speakers_U == s].mean(0) for s in range(4)])
    assert vectors_UM.std() > 0.1
    torch.testing.assert_close(means, means[:1].expand_as(means))


@pytest.mark.parametrize("method", ["none", "grl"])
def test_other_methods_leave_vectors_as_they_are(method):
    pooled_UnP, speakers_U = drawn(20)
    plain, vector = vector_of("none"), vector_of(method)
    assert torch.equal(plain(pooled_UnP), vector(pooled_UnP, speakers_U))


def test_the_speaker_head_follows_the_moments_of_what_it_reads():
    torch.manual_seed(0)
    head, whole = SpeakerHead(3, 2).train(), []
    updates = [torch.randn(8, 3) * torch.tensor([1.0, 5.0, 0.1]) + 20.0 for _ in range(50)]
    for update in updates:
        head.begin_update()
        for part in (update[:3], update[3:]):
            head(part)
        head.follow(lambda seen: seen, torch.tensor(True))
        whole.append(update)
    values = torch.cat(whole)
    torch.testing.assert_close(head.mean_M, values.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(head.variance_M, values.var(0, correction=0), rtol=1e-3, atol=1e-3)
    kept = {name: value.clone() for name, value in head.state_dict().items()}
    head.begin_update()
    head(torch.full((2, 3), float("nan")))
    head.follow(lambda seen: seen, torch.tensor(False))
    head.eval()(torch.full((2, 3), 100.0))
    assert all(torch.equal(value, kept[name]) for name, value in head.state_dict().items())
    logits_BS = torch.nn.functional.linear(
        (values[:2] - head.mean_M) / (head.variance_M + 1e-3).sqrt(), head.weight, head.bias
    )
    torch.testing.assert_close(head(values[:2]), logits_BS)


def test_a_speaker_head_with_a_hidden_layer_learns_what_no_linear_one_can():
    torch.manual_seed(0)
    vectors_UM = torch.randn(400, 2)
    speakers_U = (vectors_UM[:, 0] * vectors_UM[:, 1] > 0).long()
    accuracy = {}
    for kind in ("linear", "mlp"):
        head = SpeakerHead(2, 2, kind)
        optimizer = torch.optim.Adam(head.parameters(), 1e-2)
        for _ in range(200):
            optimizer.zero_grad()
            head.begin_update()
            torch.nn.functional.cross_entropy(head(vectors_UM), speakers_U).backward()
            optimizer.step()
            head.follow(lambda seen: seen, torch.tensor(True))
        accuracy[kind] = float((head.eval()(vectors_UM).argmax(1) == speakers_U).float().mean())
    assert accuracy["linear"] < 0.65 and accuracy["mlp"] > 0.95
