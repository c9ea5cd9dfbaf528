"""The probe, verification and the plane on embeddings whose answer is known."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from make_scores import make_data, make_embeddings
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import KNeighborsClassifier

from sermtl.data.dataset import Example
from sermtl.errors import UserError
from sermtl.fileio.tables import read_list, read_table, write_list, write_table
from sermtl.inference.decode import enrolment
from sermtl.score import speaker_probe
from sermtl.score.speaker_probe import probe_fold

SPEAKERS = [f"s{number % 6}" for number in range(120)]
UTTS = [f"u{number:03d}" for number in range(120)]


@pytest.fixture(autouse=True)
def few_shuffles(monkeypatch):
    monkeypatch.setattr(speaker_probe, "SHUFFLES", 6)


def clouds(separation, seed=0, dim=16):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(6, dim)) * separation
    return np.stack([centres[int(name[1])] for name in SPEAKERS]) + random.normal(size=(120, dim))


def probed(values, speakers=SPEAKERS, emotions=None):
    """Accuracy of each probe, and its accuracies with shuffled speakers."""
    utts = UTTS[: len(speakers)]
    emotion_of = dict(zip(utts, emotions or ["neu"] * len(utts), strict=True))
    found = speaker_probe.speaker_probe(utts, values, dict(zip(utts, speakers, strict=True)), emotion_of)
    assert all(len(splits) == speaker_probe.SPLITS for splits in found["hits"].values())
    digits = {kind: "".join(splits) for kind, splits in found["hits"].items()}
    accuracy = {kind: d.count("1") / (len(d) - d.count("-")) for kind, d in digits.items()}
    return accuracy, {kind: [right / n for right, n in pairs] for kind, pairs in found["chance"].items()}


def at_chance(accuracy, chance):
    return abs(accuracy - np.mean(chance)) < 3 * np.std(chance, ddof=1)


def test_every_probe_finds_speakers_that_are_there_and_none_where_there_are_none():
    there, absent = (probed(clouds(apart)) for apart in (3.0, 0.0))
    for kind in speaker_probe.KINDS:
        assert there[0][kind] > 0.95 and np.mean(there[1][kind]) == pytest.approx(1 / 6, abs=0.04)
        assert len(absent[1][kind]) == 6 and at_chance(absent[0][kind], absent[1][kind])


def test_embeddings_that_cluster_by_emotion_only_land_on_chance():
    random = np.random.default_rng(2)
    speakers = [f"s{number % 9}" for number in range(54)]
    emotions = [str(name) for name in random.choice(["ang", "hap", "neu", "sad"], 54)]
    centres = {name: 6 * random.normal(size=32) for name in ("ang", "hap", "neu", "sad")}
    values = np.stack([centres[name] for name in emotions]) + random.normal(size=(54, 32))
    accuracy, chance = probed(values, speakers, emotions)
    assert all(at_chance(accuracy[kind], chance[kind]) for kind in speaker_probe.KINDS)
    values += np.stack([4 * np.random.default_rng([9, int(name[1])]).normal(size=32) for name in speakers])
    accuracy, chance = probed(values, speakers, emotions)
    assert all(accuracy[kind] > max(chance[kind]) for kind in speaker_probe.KINDS)


def test_what_emotion_predicts_of_the_speaker_is_in_the_chance():
    emotions = ["ang" if name in ("s0", "s1", "s2") else "sad" for name in SPEAKERS]
    values = np.random.default_rng(0).normal(size=(120, 8))
    values[:, 0] += [8 if emotion == "ang" else 0 for emotion in emotions]
    accuracy, chance = probed(values, SPEAKERS, emotions)
    assert np.mean(chance["linear"]) == pytest.approx(1 / 3, abs=0.05)
    assert at_chance(accuracy["linear"], chance["linear"])


def test_a_perceptron_finds_speakers_that_no_line_separates():
    quadrant = np.random.default_rng(0).choice([-1.0, 1.0], size=(120, 2))
    speakers = ["same" if a == b else "other" for a, b in quadrant]
    values = 3 * quadrant + np.random.default_rng(1).normal(size=(120, 2))
    digits = speaker_probe.recognised(values, speakers, 0)
    accuracy = {kind: found.count("1") / 120 for kind, found in digits.items()}
    assert accuracy["mlp"] > 0.9 and accuracy["nearest"] > 0.9 and accuracy["linear"] < 0.7


def test_the_penalty_is_chosen_within_the_fitted_side():
    """Noise in 300 dimensions needs a stronger penalty than clear speakers do."""
    values = np.hstack([clouds(1.0, dim=2), np.random.default_rng(5).normal(size=(120, 300))])
    names, rows = np.array(SPEAKERS), np.arange(120) < 90
    tested = values[rows], names[rows], values[~rows], names[~rows]
    model = speaker_probe.probes(0)["linear"]
    speaker_probe.hits({"linear": model}, *tested)
    assert np.unique(model.C_).size == 1 and model.C_[0] in model.Cs_ and len(model.Cs_) > 3
    large = np.hstack([clouds(3.0, dim=2), np.zeros((120, 2))])
    strong = speaker_probe.probes(0)["linear"]
    speaker_probe.hits({"linear": strong}, large[rows], names[rows], large[~rows], names[~rows])
    assert strong.C_[0] > model.C_[0]


def test_the_probes_are_the_same_each_time_and_splits_differ():
    first, second = (speaker_probe.recognised(clouds(0.3), SPEAKERS, 1) for _ in range(2))
    assert first == second != speaker_probe.recognised(clouds(0.3), SPEAKERS, 2)


def test_a_speaker_with_one_utterance_is_left_out_of_the_probe():
    found = speaker_probe.recognised(clouds(3.0), ["alone", *SPEAKERS[1:]], 0)
    assert all(digits[0] == "-" and digits.count("-") == 1 for digits in found.values())


def test_speakers_with_few_utterances_cost_the_others_no_parts():
    names = ["s0"] * 2 + ["s1"] * 30 + ["s2"] * 30
    centres = np.random.default_rng(1).normal(size=(3, 16)) * 3
    values = np.stack([centres[int(name[1])] for name in names]) + np.random.default_rng(2).normal(size=(62, 16))
    with warnings.catch_warnings(record=True) as caught:
        found = speaker_probe.recognised(values, names, 0)
    assert min(digits.count("1") for digits in found.values()) >= 60 and not caught  # one of two is enough
    pairs = speaker_probe.recognised(clouds(9.0)[:12], SPEAKERS[:12], 0)
    assert pairs["nearest"].count("1") >= 11 and "-" not in pairs["linear"]


def test_a_probe_needs_two_speakers():
    found = speaker_probe.speaker_probe(UTTS[:4], clouds(1.0)[:4], dict.fromkeys(UTTS, "s0"), {})
    assert list(found) == ["reason"] and "two speakers" in found["reason"]


def test_chance_is_as_wide_as_folds_that_test_the_same_utterances_make_it(tmp_path):
    """Ten folds with nearly the same dev list and vectors are one sample: so wide is what shuffles reach in all."""
    data = make_data(tmp_path, 10, 400, dev=12)
    spk = read_table(data / "utt2spk")
    vector = {utt: np.random.default_rng([3, *utt.encode()]).normal(size=4) for utt in spk}
    counts = []
    for fold in sorted(set(spk.values())):
        for part in ("dev", "test"):
            utts = read_list(data / "folds/speaker" / fold / part)
            write_table(tmp_path / "exp" / fold / f"decode_{part}/emb.scp", {utt: f"a.ark:{utt}" for utt in utts})
            write_table(tmp_path / "exp" / fold / f"decode_{part}/utt2spk", dict.fromkeys(utts, "01F"))
        (tmp_path / "exp" / fold / "config.yaml").write_text("spk_norm: grl\n")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(speaker_probe, "SHUFFLES", 20)
            patch.setattr(speaker_probe, "KINDS", ("nearest",))
            patch.setattr(speaker_probe, "probes", lambda seed, chance=False: {"nearest": KNeighborsClassifier(1)})
            patch.setattr(speaker_probe, "read_own_scp", read_table)
            patch.setattr(speaker_probe, "read_matrix", lambda location: vector[location.partition(":")[2]])
            found = probe_fold(tmp_path / "exp" / fold, data, data / "folds/speaker" / fold)
        counts.append(np.array(found["held_out"]["chance"]["nearest"], float))
    of_fold = np.std([rates[:, 0] / rates[:, 1] for rates in counts], axis=1).mean()
    pooled = np.sum(counts, axis=0)
    # Independent shuffles in each fold would leave a third: one over the root of ten.
    assert np.std(pooled[:, 0] / pooled[:, 1]) > 0.5 * of_fold
    assert pooled[:, 0].sum() / pooled[:, 1].sum() == pytest.approx(1 / 9, abs=0.03)


def test_of_many_utterances_the_same_few_are_probed_in_their_order(monkeypatch):
    monkeypatch.setattr(speaker_probe, "MOST", 5)
    names = [f"u{number}" for number in range(20)]
    kept = speaker_probe.few(names)
    assert len(kept) == 5 and kept == [name for name in names if name in kept]
    assert set(speaker_probe.few(names[::-1])) == set(kept) and speaker_probe.few(kept[:2]) == kept[:2]


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


def test_embeddings_are_read_in_the_order_asked_for(tmp_path, monkeypatch):
    (tmp_path / "emb.scp").write_text("u1 a.ark:1\nu2 a.ark:2\n")
    vectors = {"1": np.array([1.0, 2.0]), "2": np.array([[3.0, 4.0]])}
    monkeypatch.setattr(speaker_probe, "read_matrix", lambda location: vectors[location[-1]])
    found = speaker_probe.embeddings(tmp_path, ["u2", "u1"])
    assert found.tolist() == [[3, 4], [1, 2]]


def fold_with_embeddings(root, dev):
    data = make_data(root, 4, 80, dev=dev)
    make_embeddings(data, root / "exp/T/01F", spread=3.0)
    return root / "exp/T/01F", data, data / "folds/speaker/01F"


def rate(part, kind):
    return part["hits"][kind][0].count("1") / len(part["utts"])


def test_the_speaker_head_is_that_of_the_decoded_model_and_not_of_the_last_epoch(tmp_path):
    exp, data, lists = fold_with_embeddings(tmp_path, dev=6)
    utts = read_list(lists / "dev")
    write_table(exp / "decode_dev/utt2spk", dict.fromkeys(utts, "02F"))
    (exp / "history.jsonl").write_text('{"epoch": 1, "dev": {"acc_sid": 1.0, "loss_sid": 0.0}}\n')
    held_out = probe_fold(exp, data, lists)["held_out"]
    assert held_out["hits"]["head"] == ["".join(str(int(name == "02F")) for name in held_out["speakers"])]
    assert 0 < rate(held_out, "head") < 1


def test_a_fold_is_probed_on_its_dev_part(tmp_path):
    found = probe_fold(*fold_with_embeddings(tmp_path, dev=6))
    held_out = found["held_out"]
    assert (len(held_out["utts"]), len(set(held_out["speakers"]))) == (18, 3)
    assert rate(held_out, "linear") > 0.9 and rate(held_out, "head") < 0.7  # that head guesses
    assert found["unseen"] == {"reason": "a fold tests fewer than two unseen speakers"}
    assert found["verification"]["eer"] < 0.1 and found["verification"]["different"] == 20 * 18
    assert "refit" not in held_out["hits"] and "decode_train" in held_out["reason"]


def test_a_refit_needs_the_training_list_and_is_never_made_behind_an_eraser(tmp_path):
    exp, data, lists = fold_with_embeddings(tmp_path, dev=6)
    make_embeddings(data, exp, spread=3.0, parts=("train",))
    (exp / "config.yaml").write_text("spk_norm: erase+standardise\n")
    found = probe_fold(exp, data, lists)["held_out"]
    assert "refit" not in found["hits"] and "eraser" in found["reason"]
    (exp / "config.yaml").write_text("spk_norm: grl\n")
    found = probe_fold(exp, data, lists)["held_out"]
    assert rate(found, "refit") > 0.9 and "reason" not in found


def test_without_dev_there_is_nothing_to_probe(tmp_path):
    found = probe_fold(*fold_with_embeddings(tmp_path, dev=0))
    assert "hits" not in found["held_out"] and "--dev_ratio" in found["held_out"]["reason"]


def test_test_utterances_are_held_out_or_of_unseen_speakers(tmp_path):
    exp, data, lists = fold_with_embeddings(tmp_path, dev=0)
    spk = read_table(data / "utt2spk")
    own = {name: [utt for utt in spk if spk[utt] == name] for name in ("01F", "01M", "02F", "02M")}
    write_list(lists / "train", own["01F"][:3] + own["01M"][:3])
    write_list(lists / "test", own["01F"][3:] + own["01M"][3:] + own["02F"] + own["02M"])
    make_embeddings(data, exp, spread=3.0)
    found = probe_fold(exp, data, lists)
    assert [len(found[part]["utts"]) for part in ("held_out", "unseen")] == [34, 40]
    assert set(found["unseen"]["speakers"]) == {"02F", "02M"} and rate(found["unseen"], "linear") > 0.9
    assert found["verification"]["against"] == "unseen"
    # With each fold's own speakers shuffled, nothing is left out of the test list.
    assert all(n == 40 for _, n in found["unseen"]["chance"]["linear"])

    # Utterances that enrolled their speaker are not the probe's.
    (exp / "config.yaml").write_text("spk_norm: standardise\nenrol: half\n")
    unseen = probe_fold(exp, data, lists)["unseen"]
    for name in ("02F", "02M"):
        examples = {utt: Example(utt, "", 0, name, emotion=0) for utt in own[name]}
        probed = [utt for utt in unseen["utts"] if utt in examples]
        assert len(probed) == 10
        for utt in probed:
            others = [example for other, example in examples.items() if other != utt]
            assert set(enrolment(examples[utt], others, "half")) == set(own[name]) - set(probed)
    (exp / "config.yaml").write_text("spk_norm: standardise\nenrol: all\n")
    found = probe_fold(exp, data, lists)
    assert "give --enrol half" in found["unseen"]["reason"] and found["verification"]["eer"] is None


def test_a_missing_embedding_is_named(tmp_path):
    exp, data, lists = fold_with_embeddings(tmp_path, dev=6)
    scp = exp / "decode_dev/emb.scp"
    first, *rest = scp.read_text().splitlines(keepends=True)
    scp.write_text("".join(rest))
    with pytest.raises(UserError, match=f"lacks 1 utterances: {first.split()[0]}"):
        probe_fold(exp, data, lists)
