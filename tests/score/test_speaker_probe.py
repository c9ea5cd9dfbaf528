"""The probe, verification and the plane on embeddings whose answer is known."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from make_scores import make_data, make_embeddings
from sklearn.metrics.pairwise import cosine_similarity

from sermtl.errors import UserError
from sermtl.fileio.ark import read_matrix
from sermtl.score import speaker_probe
from sermtl.score.speaker_probe import probe_fold

SPEAKERS = [f"s{number % 6}" for number in range(120)]
ALIKE = ["neu"] * 120


def clouds(separation, seed=0, dim=16):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(6, dim)) * separation
    return np.stack([centres[int(name[1])] for name in SPEAKERS]) + random.normal(size=(120, dim))


def test_the_probe_finds_speakers_that_are_there_and_none_where_there_are_none():
    there, absent = (speaker_probe.speaker_probe(clouds(apart), SPEAKERS, ALIKE) for apart in (3.0, 0.0))
    assert there["acc"] > 0.95 and there["n"] == 120 and there["speakers"] == 6
    assert min(absent["permuted"]) <= absent["correct"] <= max(absent["permuted"])
    assert absent["chance"] == pytest.approx(1 / 6, abs=0.03)
    assert there["chance"] == pytest.approx(1 / 6, abs=0.03)


@pytest.mark.parametrize("seed", range(3))
def test_embeddings_that_cluster_by_emotion_only_land_on_chance(seed):
    random = np.random.default_rng(seed)
    speakers = [f"s{number % 9}" for number in range(27)]
    emotions = [str(name) for name in random.choice(["ang", "hap", "neu", "sad"], 27)]
    centres = {name: 6 * random.normal(size=64) for name in ("ang", "hap", "neu", "sad")}
    values = np.stack([centres[name] for name in emotions]) + random.normal(size=(27, 64))
    found = speaker_probe.speaker_probe(values, speakers, emotions)
    assert found["chance"] < 3 / 27  # the share of the most frequent speaker
    assert min(found["permuted"]) <= found["correct"] <= max(found["permuted"])
    values += np.stack([4 * np.random.default_rng([9, int(name[1])]).normal(size=64) for name in speakers])
    assert speaker_probe.speaker_probe(values, speakers, emotions)["correct"] > max(found["permuted"])


def test_what_emotion_predicts_of_the_speaker_is_in_the_chance():
    emotions = ["ang" if name in ("s0", "s1", "s2") else "sad" for name in SPEAKERS]
    values = np.random.default_rng(0).normal(size=(120, 8))
    values[:, 0] += [8 if emotion == "ang" else 0 for emotion in emotions]
    found = speaker_probe.speaker_probe(values, SPEAKERS, emotions)
    assert found["chance"] == pytest.approx(1 / 3, abs=0.05)
    assert min(found["permuted"]) <= found["correct"] <= max(found["permuted"])


def test_the_probe_is_the_same_each_time():
    first, second = (speaker_probe.speaker_probe(clouds(0.3), SPEAKERS, ALIKE) for _ in range(2))
    assert first == second


def test_a_speaker_with_one_utterance_is_left_out_of_the_probe():
    found = speaker_probe.speaker_probe(clouds(3.0), ["alone", *SPEAKERS[1:]], ALIKE)
    assert found["left_out"] == 1 and found["n"] == 119


def test_speakers_with_few_utterances_cost_the_others_no_parts():
    names = ["s0"] * 2 + ["s1"] * 30 + ["s2"] * 30
    centres = np.random.default_rng(1).normal(size=(3, 16)) * 3
    values = np.stack([centres[int(name[1])] for name in names]) + np.random.default_rng(2).normal(size=(62, 16))
    with warnings.catch_warnings(record=True) as caught:
        found = speaker_probe.speaker_probe(values, names, ["neu"] * 62)
    assert found["n"] == 62 and found["correct"] >= 61 and not caught  # one of two is enough to know the other


def test_a_probe_needs_two_speakers():
    found = speaker_probe.speaker_probe(clouds(1.0)[:4], ["s0"] * 4, ALIKE[:4])
    assert found["acc"] is None and "two speakers" in found["reason"]


@pytest.mark.parametrize("seed", range(4))
def test_at_the_eer_misses_and_false_alarms_are_equally_frequent(seed):
    random = np.random.default_rng(seed)
    targets, impostors = random.normal(1, 1, 300), random.normal(0, 1, 500)
    rates = np.array([[(targets < at).mean(), (impostors >= at).mean()] for at in np.concatenate([targets, impostors])])
    found = speaker_probe.equal_error_rate(targets, impostors)
    assert rates.min(axis=1).max() - 1e-9 <= found <= rates.max(axis=1).min() + 1e-9


def test_eer_of_clear_and_hopeless_cases():
    assert speaker_probe.equal_error_rate(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 0
    assert speaker_probe.equal_error_rate(np.array([0.0, 0.0]), np.array([1.0, 1.0])) == 1
    assert speaker_probe.equal_error_rate(np.ones(5), np.ones(9)) == 0.5


def test_verification_counts_every_pair_once():
    found = speaker_probe.verification_eer(clouds(3.0), SPEAKERS)
    assert found["same"] == 6 * 20 * 19 / 2
    assert found["same"] + found["different"] == 120 * 119 / 2
    assert found["eer"] < 0.1
    assert speaker_probe.verification_eer(clouds(0.0), SPEAKERS)["eer"] == pytest.approx(0.5, abs=0.05)


def test_one_unseen_speaker_cannot_be_verified():
    found = speaker_probe.verification_eer(clouds(1.0)[:5], ["s0"] * 5)
    assert found["eer"] is None and "no impostors" in found["reason"]


def test_one_unseen_speaker_is_distinguished_from_held_out_utterances():
    values, names = clouds(3.0), np.array(SPEAKERS)
    found = speaker_probe.verification_eer(values[names == "s0"], ["s0"] * 20, values[names != "s0"])
    assert (found["same"], found["different"], found["against"]) == (20 * 19 / 2, 20 * 100, "held_out")
    cosines = cosine_similarity(values)
    own = cosines[np.ix_(names == "s0", names == "s0")][np.triu_indices(20, 1)]
    other = cosines[np.ix_(names == "s0", names != "s0")].ravel()
    assert found["eer"] == pytest.approx(speaker_probe.equal_error_rate(own, other)) and found["eer"] < 0.1


def test_the_plane_holds_the_two_largest_variances():
    values = clouds(1.0)
    points, shares = speaker_probe.principal_plane(values)
    variances = np.linalg.eigvalsh(np.cov(values.T))
    assert np.cov(points.T) == pytest.approx(np.diag(variances[:-3:-1]), abs=1e-8)
    assert shares == pytest.approx(variances[:-3:-1] / variances.sum())


def test_the_plane_of_equal_embeddings_is_a_point():
    points, shares = speaker_probe.principal_plane(np.ones((3, 4)))
    assert (points == 0).all() and (shares == 0).all()


def test_embeddings_are_read_in_the_order_asked_for(tmp_path):
    (tmp_path / "emb.scp").write_text("u1 a.ark:1\nu2 a.ark:2\n")
    vectors = {"1": np.array([1.0, 2.0]), "2": np.array([[3.0, 4.0]])}
    found = speaker_probe.embeddings(tmp_path, ["u2", "u1"], lambda location: vectors[location[-1]])
    assert found.tolist() == [[3, 4], [1, 2]]


def fold_with_embeddings(root, dev):
    data = make_data(root, 4, 80, dev=dev)
    make_embeddings(data, root / "exp/T/01F", spread=3.0)
    return root / "exp/T/01F", data, data / "folds/speaker/01F"


def test_a_fold_is_probed_on_its_dev_part(tmp_path):
    found = probe_fold(*fold_with_embeddings(tmp_path, dev=6), read_matrix)
    assert found["utterances"] == "dev"
    assert (found["probe"]["n"], found["probe"]["speakers"], found["training_speakers"]) == (18, 3, 3)
    assert found["probe"]["acc"] > 0.9 and found["probe"]["chance"] < 0.6
    assert found["head"]["n"] == 18 and found["head"]["acc"] < 0.7  # that head guesses
    assert found["verification"]["eer"] < 0.1 and found["verification"]["different"] == 20 * 18


def test_without_dev_there_is_nothing_to_probe(tmp_path):
    found = probe_fold(*fold_with_embeddings(tmp_path, dev=0), read_matrix)
    assert found["probe"]["acc"] is None and "--dev_ratio" in found["probe"]["reason"]


def test_test_utterances_of_training_speakers_are_held_out_too(tmp_path):
    exp, data, lists = fold_with_embeddings(tmp_path, dev=0)
    test = (lists / "test").read_text().split()
    speakers = dict(line.split() for line in (data / "utt2spk").open())
    others = [utt for utt in speakers if speakers[utt] != "01F"]
    (lists / "train").write_text("\n".join(sorted(others + test[:1])) + "\n")
    (lists / "test").write_text("\n".join(test[1:]) + "\n")
    found = probe_fold(exp, data, lists, read_matrix)
    assert found["utterances"] == "test" and found["probe"]["acc"] is None  # one speaker only
    assert found["head"]["n"] == len(test) - 1
    assert found["verification"]["reason"] == "every test speaker was trained on"


def test_a_missing_embedding_is_named(tmp_path):
    exp, data, lists = fold_with_embeddings(tmp_path, dev=6)
    scp = exp / "decode_dev/emb.scp"
    first, *rest = scp.read_text().splitlines(keepends=True)
    scp.write_text("".join(rest))
    with pytest.raises(UserError, match=f"lacks 1 utterances: {first.split()[0]}"):
        probe_fold(exp, data, lists, read_matrix)
