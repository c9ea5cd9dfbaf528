import json
import re
import shutil
from dataclasses import replace

import kaldiio
import numpy as np
import pytest
import torch
from datadirs import changed, contents
from small_corpus import make_small_corpus, run_program

from sermtl.bin import decode as program
from sermtl.bin import train as training
from sermtl.config import TrainConfig
from sermtl.data import fold_data
from sermtl.data.fold_data import load_fold
from sermtl.fileio.files import sha256
from sermtl.fileio.stamp import NAME
from sermtl.fileio.tables import PARTS, read_list, read_table
from sermtl.inference.decode import decode, training_config
from sermtl.model.multitask import collapse
from sermtl.model.trained_model import load_model
from sermtl.text.tokenizer import ENGLISH_TOKENS

CPU = torch.device("cpu")
FILES = ("utt2emo", "emo_post", "text", "utt2spk", "emb.scp", "emb.ark")
KINDS = {"raw": {}, "fbank": {}, "fbank global": {"cmvn": "global"}, "fbank speaker": {"cmvn": "speaker"}}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_small_corpus(tmp_path_factory.mktemp("corpus"), dev_ratio=0.2)


@pytest.fixture(scope="module", params=KINDS)
def trained(request, corpus, tmp_path_factory):
    """The experiment of a trained fold."""
    exp = tmp_path_factory.mktemp("exp")
    config = corpus.config(request.param.partition(" ")[0], epochs=3, learning_rate=1e-2, **KINDS[request.param])
    assert run_program(training.main, "--config", config, *corpus.arguments(exp)) == 0
    return exp


@pytest.fixture
def exp(trained, tmp_path):
    """A copy of the experiment, not decoded yet."""
    return shutil.copytree(trained, tmp_path / "exp", ignore=shutil.ignore_patterns("decode_*"))


def run(corpus, exp, batch_size=16, fold="s0", train=False):
    config = corpus.root / "decode.yaml"
    config.write_text(f"batch_size: {batch_size}\ndecode_train: {train}\n")
    return run_program(program.main, "--config", config, *corpus.arguments(exp, fold))


def read(folder):
    """The tables, the posteriors (N, C) and the embeddings (N, D) of a decoded list."""
    posteriors = np.array([line.split() for line in read_table(folder / "emo_post").values()], dtype=float)
    embeddings = kaldiio.load_scp(str(folder / "emb.scp"))
    tables = {name: read_table(folder / name) for name in ("utt2emo", "text", "utt2spk")}
    return tables, posteriors, np.stack([embeddings[utterance] for utterance in tables["text"]])


def model_and_test_set(corpus, exp):
    model, config = load_model(exp / "s0", CPU), training_config(exp / "s0")
    paths = (corpus.data, corpus.folds_dir / "s0", corpus.dump, corpus.tokens / "s0")
    return model, fold_data.evaluation_set(model.front_end, config, load_fold(*paths, config), "test")


def test_outputs_do_not_depend_on_the_batch_size(corpus, exp):
    results = []
    for size in (1, 3, 16):
        assert run(corpus, exp, size) == 0
        results.append(read(exp / "s0" / "decode_test"))
        shutil.rmtree(exp / "s0" / "decode_test")
    tables, posteriors, embeddings = results[0]
    for other_tables, other_posteriors, other_embeddings in results[1:]:
        assert other_tables == tables
        np.testing.assert_allclose(other_posteriors, posteriors, atol=1e-4)
        np.testing.assert_allclose(other_embeddings, embeddings, atol=1e-4)


def test_the_files_are_as_documented(corpus, exp):
    assert run(corpus, exp) == 0 and not (exp / "s0" / "decode_train").exists()
    assert run(corpus, exp, train=True) == 0
    labels = (exp / "labels.txt").read_text().split()
    for part in PARTS:
        folder = exp / "s0" / f"decode_{part}"
        assert {path.name for path in folder.iterdir()} == {*FILES, NAME}
        utterances = read_list(corpus.folds_dir / "s0" / part)
        tables, posteriors, embeddings = read(folder)
        assert all(list(table) == utterances for table in tables.values())
        assert list(read_table(folder / "emo_post")) == list(read_table(folder / "emb.scp")) == utterances
        assert posteriors.shape == (len(utterances), 4) and embeddings.shape == (len(utterances), 16)
        np.testing.assert_allclose(posteriors.sum(1), 1, atol=4e-6)
        assert list(tables["utt2emo"].values()) == [labels[best] for best in posteriors.argmax(1)]
        assert set(tables["utt2spk"].values()) <= {"s1", "s2"}
        assert all(set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ' ") for text in tables["text"].values())
        assert [key for key, _ in kaldiio.load_ark(str(folder / "emb.ark"))] == utterances


def test_outputs_are_the_models_on_each_utterance_alone(corpus, exp):
    """Recomputed from the saved model: softmax, mean of the hidden vectors, best path."""
    assert run(corpus, exp) == 0
    tables, posteriors, embeddings = read(exp / "s0" / "decode_test")
    model, dataset = model_and_test_set(corpus, exp)
    for number, (utterance, hypothesis) in enumerate(tables["text"].items()):
        inputs = torch.from_numpy(dataset[number][1])[None]
        with torch.no_grad():
            (hidden_BTD,), _ = model.model.upstream(inputs, torch.tensor([inputs.shape[1]]))
            mean_D = hidden_BTD[0].mean(0)
            np.testing.assert_allclose(embeddings[number], mean_D, atol=1e-4)
            expected = model.model.emotion_head(mean_D).softmax(-1)
            np.testing.assert_allclose(posteriors[number], expected, atol=1e-4)
            assert tables["utt2spk"][utterance] == model.speakers[model.model.speaker_head(mean_D).argmax()]
            best = model.model.token_head(hidden_BTD[0]).argmax(-1).tolist()
        letters = [ENGLISH_TOKENS[t] for n, t in enumerate(best) if t > 3 and (n == 0 or best[n - 1] != t)]
        assert hypothesis == " ".join("".join(letters).replace("|", " ").split())


@pytest.mark.parametrize("path, ids", [([], []), ([0, 0], []), ([5, 5, 0, 5, 6, 6, 0, 0, 7], [5, 5, 6, 7]), ([1], [1])])
def test_a_path_is_read_as_ctc_does(path, ids):
    assert collapse(np.array(path, dtype=np.int32)) == ids


def test_targets_are_not_looked_at(corpus, exp):
    model, dataset = model_and_test_set(corpus, exp)
    seen = {d.utterance: d for d in decode(model, dataset, 4, CPU)}
    dataset.examples = [replace(e, emotion=-1, speaker=-1, tokens=()) for e in dataset.examples]
    for blind in decode(model, dataset, 4, CPU):
        assert np.array_equal(blind.posteriors_C, seen[blind.utterance].posteriors_C)
        assert blind.text == seen[blind.utterance].text


# The rest does not depend on the kind of input.


@pytest.fixture(scope="module")
def one_trained(corpus, tmp_path_factory):
    exp = tmp_path_factory.mktemp("one")
    config = corpus.config("fbank", epochs=2)
    assert run_program(training.main, "--config", config, *corpus.arguments(exp)) == 0
    assert run(corpus, exp) == 0
    return exp


@pytest.fixture
def done(one_trained, tmp_path):
    """A copy of a decoded experiment."""
    return shutil.copytree(one_trained, tmp_path / "exp")


def stamps(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_what_this_model_decoded_already_is_kept(corpus, done, capsys):
    before = stamps(done / "s0" / "decode_test")
    assert run(corpus, done) == 0
    assert "nothing changed" in capsys.readouterr().out
    assert stamps(done / "s0" / "decode_test") == before


@pytest.mark.parametrize("name", [*FILES, NAME])
def test_a_folder_that_lacks_a_file_is_decoded_again(corpus, done, name):
    folder = done / "s0" / "decode_test"
    before = contents(folder)
    (folder / name).unlink()
    assert run(corpus, done) == 0
    after = contents(folder)
    # The one holds where the ark is, the other the digest of that.
    assert {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)} <= {"emb.scp", NAME}


def test_another_model_is_decoded_again(corpus, done):
    before = (done / "s0" / "decode_test" / "emo_post").read_text()
    assert run(corpus, done, train=True) == 0  # and from then on
    config = corpus.config("fbank", epochs=3)
    assert run_program(training.main, "--config", config, *corpus.arguments(done)) == 0
    assert run(corpus, done) == 0
    assert (done / "s0" / "decode_test" / "emo_post").read_text() != before
    for part in PARTS:
        stamp = json.loads((done / "s0" / f"decode_{part}" / NAME).read_text())
        assert stamp["inputs"]["exp:model.safetensors"] == sha256(done / "s0" / "model.safetensors")


def refused(corpus, exp, capsys, *words, fold="s0"):
    assert run(corpus, exp, fold=fold) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and [word for word in words if word not in message] == [], message


def test_a_fold_that_was_not_trained_to_its_end_is_refused(corpus, done, capsys, tmp_path):
    refused(corpus, tmp_path / "nothing", capsys, "model.json", "stage 3")
    refused(corpus, done, capsys, "s1", "stage 3", fold="s1")
    history = done / "s0" / "history.jsonl"
    history.write_text(history.read_text().split("\n")[0] + "\n")
    refused(corpus, done, capsys, "missing or damaged: history.jsonl", "--stage 3")
    (done / "s0" / NAME).unlink()
    refused(corpus, done, capsys, "not trained to its last epoch, 2", "--stage 3")
    (done / "s0" / "model.safetensors").write_bytes(b"damaged")
    refused(corpus, done, capsys, "model.safetensors", "stage 3")


def test_other_data_than_it_was_trained_on_is_refused(corpus, done, capsys):
    test = corpus.folds_dir / "s0" / "test"
    with changed(test, test.read_text().partition("\n")[2]):
        refused(corpus, done, capsys, "trained on other lists or data", "--stage 3")


def test_damaged_dumps_are_reported_by_utterance(corpus, done, capsys):
    scp = corpus.dump / "fbank" / "feats.scp"
    shutil.rmtree(done / "s0" / "decode_test")
    with changed(scp, re.sub("s0-03 .*", "s0-03 /no/such.ark:5", scp.read_text())):
        refused(corpus, done, capsys, "/no/such.ark:5", "s0-03", "stage 2")
    # What was decoded before is not left half replaced.
    assert not (done / "s0" / "decode_test" / NAME).exists()


def test_its_own_settings_are_used_whatever_the_defaults_are(one_trained):
    config = training_config(one_trained / "s0")
    assert isinstance(config, TrainConfig) and config.feats_type == "fbank" and config.adam_betas == (0.9, 0.999)
