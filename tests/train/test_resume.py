"""A training that is stopped anywhere ends with the same bits, and what a whole one leaves."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from small_training import (
    CPU,
    EVERYTHING_RANDOM,
    Killed,
    contents,
    kill_in,
    make_training_corpus,
    records,
    same,
    train,
    train_killed,
    weights,
)

from sermtl.config import TrainConfig
from sermtl.data.dataset import FoldDataset
from sermtl.fileio.ark import read_entry
from sermtl.fileio.tables import read_table
from sermtl.train import trainer
from sermtl.train.checkpoint import load_checkpoint
from sermtl.train.processes import STOPPED


@pytest.fixture(scope="module", autouse=True)
def every_epoch_is_saved():
    """However short it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "REPEATED", 0.0)
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_training_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def straight(corpus, tmp_path_factory):
    """Four epochs without interruption."""
    exp = tmp_path_factory.mktemp("straight")
    assert train(corpus, exp, **EVERYTHING_RANDOM) == 0
    return exp


@pytest.fixture(scope="module")
def best(corpus, tmp_path_factory):
    """The same with the best epoch's model."""
    exp = tmp_path_factory.mktemp("best")
    assert train(corpus, exp, **EVERYTHING_RANDOM, select="best") == 0
    return exp


@pytest.mark.parametrize(
    "method, call, how, settings",
    [
        ("finish_epoch", 2, "after", {}),
        ("finish_epoch", 2, "before", {}),
        ("update", 1, "before", {}),
        ("update", 10, "after", {}),
        ("update", 10, "after", {"save_minutes": 0.0}),
        ("evaluate", 3, "after", {"save_minutes": 0.0}),
        ("update", 7, "sigterm", {}),
        ("update", 8, "sigterm", {}),
        ("evaluate", 4, "sigterm", {}),
    ],
)
def test_an_interrupted_training_ends_with_the_same_bits(
    corpus, straight, tmp_path, monkeypatch, method, call, how, settings
):
    if how == "sigterm":
        kill_in(monkeypatch, method, call, how)
        assert train(corpus, tmp_path, **EVERYTHING_RANDOM, **settings) == STOPPED
        monkeypatch.undo()
    else:
        train_killed(corpus, tmp_path, method, call, how, **EVERYTHING_RANDOM, **settings)
    assert not (tmp_path / "s0" / "model.safetensors").exists()
    assert train(corpus, tmp_path, **EVERYTHING_RANDOM) == 0
    assert same(weights(tmp_path), weights(straight))
    assert records(tmp_path) == records(straight)


@pytest.mark.parametrize("settings", [{"freeze": "conv"}, {"freeze": "all", "beta": 0.0, "updates": 3}])
def test_a_checkpoint_leaves_out_what_is_frozen_and_goes_on_with_the_same_bits(corpus, tmp_path, settings):
    settings = EVERYTHING_RANDOM | settings
    assert train(corpus, tmp_path / "whole", **settings) == 0
    train_killed(corpus, tmp_path / "killed", "update", 7, **settings, save_minutes=0.0)
    kept = load_checkpoint(tmp_path / "killed" / "s0")["model"].keys()
    frozen = "upstream.model.feature_extractor." if settings["freeze"] == "conv" else "upstream.model."
    everything = weights(tmp_path / "whole")
    assert kept == {name for name in everything if not name.startswith(frozen)}
    assert train(corpus, tmp_path / "killed", **settings) == 0
    assert same(weights(tmp_path / "killed"), everything)
    assert records(tmp_path / "killed") == records(tmp_path / "whole")


@pytest.mark.parametrize(
    ("method", "how", "repeated"),
    [("finish_epoch", "before", 0), ("save", "before", 0), ("update", "after", 0), ("finish_epoch", "before", 1000)],
)
def test_the_best_model_survives_a_kill(corpus, best, tmp_path, monkeypatch, method, how, repeated):
    monkeypatch.setattr(trainer, "REPEATED", repeated)
    train_killed(corpus, tmp_path, method, 3, how, **EVERYTHING_RANDOM, select="best")
    assert (tmp_path / "s0" / "checkpoint.pth").exists() == (not repeated and method != "update")
    assert train(corpus, tmp_path, **EVERYTHING_RANDOM, select="best") == 0
    assert same(weights(tmp_path), weights(best)) and records(tmp_path) == records(best)


@pytest.mark.slow
def test_sigterm_to_every_process_of_a_training_saves_it(corpus, straight, tmp_path):
    settings = EVERYTHING_RANDOM | {"num_workers": 2, "save_minutes": 60.0}
    words = [sys.executable, "-m", "sermtl.bin.train", "--config", corpus.config("raw", **settings)]
    words += corpus.arguments(tmp_path, "s0")
    log = tmp_path / "log"
    with log.open("w") as out:
        process = subprocess.Popen(list(map(str, words)), stdout=out, stderr=out, start_new_session=True)
        while "epoch 2/4" not in log.read_text() and process.poll() is None:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGTERM)
        status = process.wait(100)
    assert status == STOPPED, log.read_text()
    assert "stopped by SIGTERM after saving" in log.read_text()
    assert train(corpus, tmp_path, **settings) == 0
    assert same(weights(tmp_path), weights(straight))


def test_a_training_that_is_killed_again_and_again_ends(corpus, straight, tmp_path):
    for _ in range(6):
        train_killed(corpus, tmp_path, "update", 3, **EVERYTHING_RANDOM, save_minutes=0.0)
    assert train(corpus, tmp_path, **EVERYTHING_RANDOM) == 0
    assert same(weights(tmp_path), weights(straight)) and records(tmp_path) == records(straight)


def test_a_damaged_checkpoint_costs_an_epoch_at_most(corpus, straight, tmp_path, capsys):
    train_killed(corpus, tmp_path, "finish_epoch", 3, **EVERYTHING_RANDOM)
    path = tmp_path / "s0" / "checkpoint.pth"
    path.write_bytes(path.read_bytes()[:-500])
    assert train(corpus, tmp_path, **EVERYTHING_RANDOM) == 0
    assert "damaged" in capsys.readouterr().out
    assert same(weights(tmp_path), weights(straight)) and records(tmp_path) == records(straight)


def test_killed_between_its_last_files_it_is_finished_by_the_next_run(corpus, straight, tmp_path, monkeypatch):
    for module, name in (("trainer", "save_model"), ("history", "write_history")):
        exp = tmp_path / name
        # write_history is called for each of the first three epochs too.
        calls, real = [], getattr(sys.modules[f"sermtl.train.{module}"], name)

        def deadly(*args, name=name, calls=calls, real=real):
            calls.append(args)
            if len(calls) == {"save_model": 1, "write_history": 4}[name]:
                raise Killed
            return real(*args)

        monkeypatch.setattr(f"sermtl.train.{module}.{name}", deadly)
        with pytest.raises(Killed):
            train(corpus, exp, **EVERYTHING_RANDOM)
        monkeypatch.undo()
        assert len(records(exp)) == 3
        assert train(corpus, exp, **EVERYTHING_RANDOM) == 0
        assert same(weights(exp), weights(straight)) and records(exp) == records(straight)


def test_a_prolonged_training_that_is_killed_does_not_pass_for_finished(corpus, tmp_path, monkeypatch, capsys):
    assert train(corpus, tmp_path, epochs=1) == 0
    old = weights(tmp_path)
    monkeypatch.setattr("sermtl.train.trainer.save_model", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        train(corpus, tmp_path, epochs=3)
    monkeypatch.undo()
    assert same(weights(tmp_path), old)
    assert train(corpus, tmp_path, epochs=3) == 0
    assert "trained already" not in capsys.readouterr().out
    assert not same(weights(tmp_path), old) and len(records(tmp_path)) == 3


def test_a_seed_decides_everything_and_loader_processes_nothing(corpus, straight, tmp_path):
    assert train(corpus, tmp_path / "0", num_workers=2, **EVERYTHING_RANDOM) == 0
    assert train(corpus, tmp_path / "1", seed=1, **EVERYTHING_RANDOM) == 0
    assert same(weights(tmp_path / "0"), weights(straight)) and records(tmp_path / "0") == records(straight)
    first, other = (
        weights(exp)["upstream.model.feature_extractor.conv_layers.0.conv.weight"] for exp in (straight, tmp_path / "1")
    )
    assert not torch.equal(first, other)
    assert records(tmp_path / "1") != records(straight)


def test_each_epoch_takes_every_utterance_once_with_new_draws(corpus, tmp_path, monkeypatch):
    seen, real = [], FoldDataset.__getitem__

    def watched(self, index):
        item = real(self, index)
        if self.config is not None:
            seen.append((self.epoch, item[0].utterance, item[2].tobytes()))
        return item

    monkeypatch.setattr(FoldDataset, "__getitem__", watched)
    assert train(corpus, tmp_path, epochs=3, batch_size=5) == 0
    listed = (corpus.folds_dir / "s0" / "train").read_text().split()
    orders = [[utterance for epoch, utterance, _ in seen if epoch == number] for number in range(3)]
    assert all(sorted(order) == listed for order in orders) and len(seen) == 3 * len(listed)
    assert orders[0] != orders[1] != orders[2] != orders[0]
    # SpecAugment's masks of the longer utterances are other ones in other epochs.
    masks = {utterance: {mask for _, other, mask in seen if other == utterance} for utterance in listed}
    assert sum(map(len, masks.values())) > 2 * len(listed)


def test_the_history_has_every_number_of_every_epoch(corpus, straight):
    history = records(straight)
    assert [record["epoch"] for record in history] == [1, 2, 3, 4]
    losses = {"loss", "loss_ser", "loss_asr", "loss_sid"}
    rates = {"wa", "ua", "wer", "acc_sid"}
    norms = {"grad_ser", "grad_asr", "grad_sid"}
    train_size = len((corpus.folds_dir / "s0" / "train").read_text().split())
    for record in history:
        assert record.keys() == {"epoch", "train", "dev", "lr", "updates"}
        assert record["train"].keys() == losses | rates | norms | {"no_ctc", "nonfinite"}
        assert record["dev"].keys() == losses | rates | {"no_ctc", "nonfinite"}
        assert record["updates"] == record["epoch"] * -(-train_size // 4)
        for part in ("train", "dev"):
            v = record[part]
            assert v["loss"] == pytest.approx(v["loss_ser"] + 0.2 * v["loss_asr"] + v["loss_sid"])
            assert 0 <= v["wa"] <= 1 and 0 <= v["ua"] <= 1 and 0 <= v["acc_sid"] <= 1 and v["wer"] >= 0
        # One utterance has no transcript and one has too long a one.
        assert record["train"]["no_ctc"] == 2
        assert all(record["train"][name] > 0 for name in norms)
    assert history[0]["lr"] > history[3]["lr"] > 0


def test_dev_numbers_are_those_of_the_saved_model(corpus, straight):
    """Recomputed from its files, an utterance at a time."""
    from sermtl.model.trained_model import load_model

    trained = load_model(straight / "s0", CPU)
    emotions = read_table(corpus.data / "utt2emo")
    entries = read_table(corpus.dump / "raw" / "wav.scp")
    hits, nll = [], []
    for utterance in (corpus.folds_dir / "s0" / "dev").read_text().split():
        wav = torch.from_numpy(trained.front_end.prepare(read_entry(entries[utterance], utterance, "raw"), None))[None]
        (hidden_BTD,), _ = trained.model.upstream(wav, torch.tensor([wav.shape[1]]))
        logits_C = trained.model.emotion_head(hidden_BTD.mean(1))[0]
        truth = trained.labels.index(emotions[utterance])
        hits.append(int(logits_C.argmax()) == truth)
        nll.append(-logits_C.log_softmax(-1)[truth].item())
    dev = records(straight)[-1]["dev"]
    assert dev["wa"] == pytest.approx(np.mean(hits)) and dev["loss_ser"] == pytest.approx(np.mean(nll), rel=1e-4)


def test_tensorboard_shows_each_epoch_once(corpus, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train_killed(corpus, tmp_path, "finish_epoch", 2, epochs=3)
    assert train(corpus, tmp_path, epochs=3) == 0
    events = EventAccumulator(str(tmp_path / "s0" / "tensorboard"))
    events.Reload()
    assert {"loss/train", "loss_ser/dev", "wa/dev", "wer/train", "grad_sid/train", "learning_rate"} <= set(
        events.Tags()["scalars"]
    )
    points = events.Scalars("loss_asr/train")
    assert [point.step for point in points] == [1, 2, 3]
    assert [point.value for point in points] == pytest.approx([r["train"]["loss_asr"] for r in records(tmp_path)])


def test_the_experiments_folder_is_as_documented(straight):
    files = {path.name for path in (straight / "s0").iterdir()}
    assert files >= {"config.yaml", "train.log", "history.jsonl", "checkpoint.pth", "model.safetensors", "tensorboard"}
    assert (straight / "labels.txt").read_text() == "ang\nhap\nneu\nsad\n"
    log = (straight / "s0" / "train.log").read_text()
    assert "epoch 4/4" in log and "utterances: train" in log
    config = yaml.safe_load((straight / "s0" / "config.yaml").read_text())
    keys = {field.name for field in dataclasses.fields(TrainConfig)}
    made = {"corpus", "protocol", "fold", "upstream_digest", "upstream_commit", "dump", "inputs", "computed_in"}
    assert config.keys() == keys | made | {"code_version"}
    assert (config["corpus"], config["protocol"], config["fold"], config["epochs"]) == ("small", "speaker", "s0", 4)


def test_test_scores_are_logged_when_asked_for_and_marked(corpus, straight, tmp_path):
    assert train(corpus, tmp_path, monitor_test=True, **EVERYTHING_RANDOM) == 0
    assert all("monitor_test" not in record for record in records(straight))
    for record in records(tmp_path):
        # Of unseen speakers there is no accuracy.
        assert record["monitor_test"]["acc_sid"] is None and 0 <= record["monitor_test"]["wa"] <= 1
    # They decide nothing.
    assert same(weights(tmp_path), weights(straight))


def test_a_finished_training_says_so_and_touches_nothing(corpus, straight, capsys):
    before = contents(straight)
    assert train(corpus, straight, **EVERYTHING_RANDOM) == 0
    assert "trained already (4 epochs)" in capsys.readouterr().out
    assert contents(straight) == before


def test_it_learns(corpus, tmp_path):
    assert train(corpus, tmp_path, feats_type="fbank", epochs=8) == 0
    first, *_, last = (record["train"] for record in records(tmp_path))
    assert last["loss_ser"] < 0.8 * first["loss_ser"] and last["loss_asr"] < 0.8 * first["loss_asr"]


def test_other_settings_are_refused_with_their_differences(corpus, straight, capsys):
    before = contents(straight)
    assert train(corpus, straight, **(EVERYTHING_RANDOM | {"beta": 1.0, "seed": 5})) == 2
    message = capsys.readouterr().err
    assert "beta: 0.1 there, 1.0 now" in message and "seed: 0 there, 5 now" in message and "--tag" in message
    assert "alpha" not in message and contents(straight) == before
    assert train(corpus, straight, **(EVERYTHING_RANDOM | {"epochs": 3})) == 2
    assert "epochs: 4 there, 3 now" in capsys.readouterr().err and contents(straight) == before
