"""Trainings of corpora whose speakers are unknown, all or some, from folds to scores."""

import json
import math

import pytest
from small_corpus import make_small_corpus, run_program
from small_training import records, train

from sermtl.bin import decode, folds, score, tokens
from sermtl.fileio.tables import read_table, write_table


@pytest.fixture(params=["some", "all"])
def corpus(request, tmp_path):
    """The small corpus in two random folds, where the speaker of some or all utterances is the utterance."""
    corpus = make_small_corpus(tmp_path / "corpus")
    corpus.protocol, corpus.unknown = "random2", request.param
    speakers = read_table(corpus.data / "utt2spk")
    alone = {utt: utt for utt in speakers if request.param == "all" or utt.startswith("s0")}
    write_table(corpus.data / "utt2spk", speakers | alone)
    assert run_program(folds.main, "--data", corpus.data, "--protocol", "random2") == 0
    words = ["--data", corpus.data, "--folds_dir", corpus.folds_dir, "--folds", "1 2", "--out", corpus.tokens]
    assert run_program(tokens.main, *words) == 0
    return corpus


def test_emotion_and_characters_learn_and_the_speaker_head_where_it_can(corpus, tmp_path, recipe, capsys):
    exp, some = tmp_path / "exp", corpus.unknown == "some"
    if not some:
        assert train(corpus, exp, fold="1", epochs=1) == 2
        assert "no known speaker" in (err := capsys.readouterr().err) and "give --beta 0" in err
    for fold in "12":
        assert train(corpus, exp, fold=fold, epochs=6, beta=float(some), grl="forward") == 0
    first, *later = (record["train"] for record in records(exp, "1"))
    last = later[-1]
    for task in ("ser", "asr", "sid") if some else ("ser", "asr"):
        assert min(record[f"loss_{task}"] for record in later) < first[f"loss_{task}"]
    assert some or (last["loss_sid"] is None and last["acc_sid"] is None)
    assert math.isfinite(last["loss"])
    model = json.loads((exp / "1" / "model.json").read_text())
    assert model["speakers"] == (["s1", "s2"] if some else ["unknown"])

    words = ["--config", recipe / "conf" / "decode.yaml", *corpus.arguments(exp, "1", "2")]
    for job in (1, 2):
        assert run_program(decode.main, *words, "--job", job) == 0
    words = ["--data", corpus.data, "--exp", exp, "--folds_dir", corpus.folds_dir, "--folds", "1", "2"]
    assert run_program(score.main, "folds", *words) == 0
    capsys.readouterr()
    assert run_program(score.main, "pool", "--exp", exp, "--folds_file", corpus.folds_dir / "folds") == 0
    assert "protocol random2 (speaker-dependent or unknown:" in capsys.readouterr().out
    scores = json.loads((exp / "scores.json").read_text())
    assert scores["ser"]["n"] == 23 and scores["ser"]["no_reference"] == 1 and scores["speaker_dependent"]
    assert list(scores["per_speaker"]) == (["s1", "s2", "unknown"] if some else ["unknown"])
    assert scores["spk"].get("n") == (15 if some else None)
