"""Probes of each hidden state, against a plain loop over folds, and their file beside the dump."""

from __future__ import annotations

import json

import numpy as np
import pytest
from make_scores import LABELS, make_data

from sermtl.fileio.ark import read_matrix, write_ark
from sermtl.fileio.tables import read_list, read_table, write_table
from sermtl.score.plain_models import layers_of


@pytest.fixture
def made(tmp_path):
    """A dump of two states: the first tells the speaker, the second the emotion."""
    data = make_data(tmp_path, 4, 80)
    emotions, speakers = read_table(data / "utt2emo"), read_table(data / "utt2spk")
    names, random = sorted(set(speakers.values())), np.random.default_rng(0)
    dump = tmp_path / "dump"
    with write_ark(dump / "1.ark") as writer:
        for utt in emotions:
            vectors_2P = random.normal(size=(2, 6)).astype(np.float32)
            vectors_2P[0, names.index(speakers[utt])] += 6
            vectors_2P[1, LABELS.index(emotions[utt])] += 3
            writer.write_array(utt, vectors_2P)
    write_table(dump / "feats.scp", writer.scp)
    write_table(dump / "utt2digest", dict.fromkeys(emotions, "x"))
    return dump, data


def test_the_emotion_at_each_state_is_that_of_a_plain_loop_over_the_folds(made):
    dump, data = made
    found = layers_of(dump, data, "speaker")
    emotions = read_table(data / "utt2emo")
    vectors = {utt: read_matrix(entry).astype(float) for utt, entry in read_table(dump / "feats.scp").items()}
    for state in (0, 1):
        right = 0
        for fold in read_list(data / "folds/speaker/folds"):
            test = read_list(data / "folds/speaker" / fold / "test")
            train = [utt for utt in emotions if utt not in test]
            train_NP, test_NP = (np.stack([vectors[utt][state] for utt in part]) for part in (train, test))
            mean_P, deviation_P = train_NP.mean(0), train_NP.std(0)
            train_NP, test_NP = (train_NP - mean_P) / deviation_P, (test_NP - mean_P) / deviation_P
            target_NC = np.array([[2.0 * (emotions[utt] == label) - 1 for label in LABELS] for utt in train])
            weight_PC = np.linalg.solve(train_NP.T @ train_NP + 100 * np.eye(6), train_NP.T @ target_NC)
            guesses = [LABELS[best] for best in (test_NP @ weight_PC + target_NC.mean(0)).argmax(1)]
            right += sum(guess == emotions[utt] for guess, utt in zip(guesses, test, strict=True))
        assert found["emotion"][state] == right / 80
    assert found["emotion"][1] > 0.7 > found["emotion"][0]
    assert found["speaker"][0] > 0.9 > found["speaker"][1]
    assert (found["utterances"], found["speakers"]) == (80, 4)


def test_they_are_computed_once_and_again_for_other_folds(made):
    dump, data = made
    file = dump / "layers_speaker.json"
    first = layers_of(dump, data, "speaker")
    file.write_text(json.dumps(dict(first) | {"speakers": 99}))
    assert layers_of(dump, data, "speaker")["speakers"] == 99
    moved = data / "folds/speaker/01F/test"
    moved.write_text("".join(moved.read_text().splitlines(keepends=True)[1:]))
    again = layers_of(dump, data, "speaker")
    assert (again["utterances"], again["speakers"]) == (79, 4)


def test_a_fold_trains_on_its_own_lists_alone_and_unknown_speakers_have_no_curve(made):
    dump, data = made
    root, emotions = data / "folds/speaker", read_table(data / "utt2emo")
    (root / "folds").write_text("01F\n")
    train = (root / "01F/train").read_text().splitlines()
    few = [utt for utt in train if emotions[utt] in ("ang", "hap")]
    (root / "01F/train").write_text("".join(f"{utt}\n" for utt in few[:-10]))
    (root / "01F/dev").write_text("".join(f"{utt}\n" for utt in few[-10:]))
    write_table(data / "utt2spk", {utt: utt for utt in emotions})
    found = layers_of(dump, data, "speaker")
    test = read_list(root / "01F/test")
    share = sum(emotions[utt] in ("ang", "hap") for utt in test) / len(test)
    assert 0.6 * share < found["emotion"][1] <= share and found["utterances"] == len(test) == 20
    assert found["speaker"] == [] and found["speakers"] == 0
