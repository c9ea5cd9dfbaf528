"""All folds' models on all of another corpus: `decode --other_corpus`, then `score corpus`."""

import json
import shutil

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, recall_score
from small_corpus import make_small_corpus, run_program

from sermtl.bin import decode, score, train
from sermtl.fileio.tables import read_table, write_table

FOLDS = ("s0", "s1")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The small corpus, and a copy of its data directory under another name, which has the same dump."""
    corpus = make_small_corpus(tmp_path_factory.mktemp("corpus"))
    shutil.copytree(corpus.data, corpus.data.with_name("other"))
    return corpus


@pytest.fixture(scope="module")
def exp(corpus, tmp_path_factory):
    """An experiment of two trained folds, whose test lists are decoded."""
    exp = tmp_path_factory.mktemp("exp")
    config = corpus.config("fbank", epochs=2, cmvn="speaker")
    for number in (1, 2):
        words = [*corpus.arguments(exp, *FOLDS), "--job", number]
        assert run_program(train.main, "--config", config, *words) == 0
        assert decoded(corpus, *words) == 0
    return exp


def decoded(corpus, *words):
    config = corpus.root / "decode.yaml"
    config.write_text("batch_size: 16\n")
    return run_program(decode.main, "--config", config, *words)


def on(corpus, exp, data):
    """Decode another corpus, all folds in one job."""
    return decoded(corpus, *corpus.arguments(exp, *FOLDS), "--data", data, "--other_corpus", "--jobs", 1)


def posteriors(folder):
    return {utt: np.array(row.split(), float) for utt, row in read_table(folder / "emo_post").items()}


def test_each_model_and_their_averaged_posteriors_are_scored(corpus, exp, capsys):
    other = corpus.data.with_name("other")
    assert on(corpus, exp, other) == 0
    words = ["corpus", "--exp", exp, "--data", other, "--folds", *FOLDS]
    assert run_program(score.main, *words) == 0
    printed = capsys.readouterr().out
    made = json.loads((exp / "scores_other.json").read_text())
    emotions = {utt: emotion for utt, emotion in read_table(other / "utt2emo").items() if emotion}
    labels, truth = sorted(set(emotions.values())), list(emotions.values())
    accuracies, sums = [], {utt: 0 for utt in emotions}
    for fold in FOLDS:
        found = posteriors(exp / fold / "decode_other")
        assert len(found) == 24 and len(truth) == 23
        own = posteriors(exp / fold / "decode_test")  # the same utterances get the same outputs
        assert own and all(np.array_equal(found[utt], row) for utt, row in own.items())
        guesses = [read_table(exp / fold / "decode_other" / "utt2emo")[utt] for utt in emotions]
        accuracies.append(accuracy_score(truth, guesses))
        kept = json.loads((exp / fold / "score_other" / "scores.json").read_text())
        assert kept == made["per_fold"][fold] and kept["ser"]["no_reference"] == 1
        assert (kept["ser"]["n"], kept["ser"]["wa"]) == (23, pytest.approx(accuracies[-1]))
        assert kept["spk"]["acc"] is None and kept["asr"]["words"] > 0
        names = {path.name for path in (exp / fold / "score_other").iterdir()}
        assert names >= {"result_ser.txt", "result_asr.txt", "result_spk.txt", "ref.trn", "hyp.trn", "per_utt.tsv"}
        sums = {utt: sums[utt] + found[utt] for utt in emotions}
    means = made["mean_over_folds"]["wa"]
    assert means["mean"] == pytest.approx(np.mean(accuracies))
    assert means["std"] == pytest.approx(np.std(accuracies, ddof=1))
    averaged = [labels[row.argmax()] for row in sums.values()]
    assert made["averaged"]["wa"] == pytest.approx(accuracy_score(truth, averaged))
    assert made["averaged"]["ua"] == pytest.approx(recall_score(truth, averaged, average="macro"))
    shown = f"other wa: {means['mean']:.4f}, std {means['std']:.4f} over the models; {made['averaged']['wa']:.4f} of"
    assert shown in printed
    # Again: nothing is decoded; and what was decoded with another model is not scored.
    capsys.readouterr()
    assert on(corpus, exp, other) == 0 and capsys.readouterr().out.count("nothing changed") == 2
    text = (exp / "s1" / "model.json").read_text()
    try:
        (exp / "s1" / "model.json").write_text(text + "\n")
        assert run_program(score.main, *words) == 2 and "decode again with: ./run.sh" in capsys.readouterr().err
    finally:
        (exp / "s1" / "model.json").write_text(text)


def test_what_cannot_be_scored_is_refused(corpus, exp, tmp_path, capsys):
    other = shutil.copytree(corpus.data, tmp_path / "third")
    emotions = read_table(other / "utt2emo")
    write_table(other / "utt2emo", emotions | {"s0-00": "joy"})
    assert on(corpus, exp, other) == 2
    assert "the model does not know joy; it knows ang, hap, neu, sad" in (err := capsys.readouterr().err)
    assert "--label_map" in err and not (exp / "s0" / "decode_third").exists()
    for name in ("small", "test"):  # the corpus that was trained on; a list of every fold
        assert on(corpus, exp, shutil.copytree(corpus.data, tmp_path / name)) == 2
        assert f"needs another corpus than {tmp_path / name}" in capsys.readouterr().err
    words = [*corpus.arguments(exp, *FOLDS), "--data", corpus.data.with_name("other"), "--dump", tmp_path]
    assert decoded(corpus, *words, "--other_corpus") == 2
    assert "run ./run.sh --stage 2 first" in capsys.readouterr().err
