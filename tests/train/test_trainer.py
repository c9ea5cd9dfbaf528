import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jiwer
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, recall_score
from small_corpus import SETTINGS, make_small_corpus, run_program

from sermtl.bin import train as program
from sermtl.config import TrainConfig, as_dict, experiment_tag, load_config
from sermtl.data.dataset import FoldDataset
from sermtl.data.fold_data import load_fold
from sermtl.errors import UserError
from sermtl.fileio import lock
from sermtl.fileio.ark import DUMP_TABLES, read_entry
from sermtl.fileio.tables import read_table, write_table
from sermtl.inference.decode import decode
from sermtl.model.batch import Batch
from sermtl.model.ctc import greedy_texts
from sermtl.model.multitask import Output
from sermtl.model.upstreams.load import load_upstream
from sermtl.text.tokenizer import ENGLISH_TOKENS, CharTokenizer
from sermtl.train.epoch_sums import Tally
from sermtl.train.optimizer import learning_rate, make_optimizer
from sermtl.train.trainer import Trainer

CPU = torch.device("cpu")
EVERYTHING_RANDOM = {
    "speed_perturb": [0.9, 1.0], "bucket_batches": 2, "accum_grad": 2, "batch_size": 4, "grl_schedule": "dann",
    "lr_schedule": "cosine", "epochs": 4, "alpha": 0.2, "weight_decay": 0.01,
}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    corpus = make_small_corpus(tmp_path_factory.mktemp("corpus"), dev_ratio=0.2)
    corpus.dump_audio("raw", speed=0.9)
    return corpus


def train(corpus, exp, feats_type="raw", fold="s0", **settings):
    return run_program(program.main, "--config", corpus.config(feats_type, **settings), *corpus.arguments(exp, fold))


def make_trainer(corpus, exp, feats_type="raw", **settings):
    """A trainer as the program makes it."""
    config = load_config(TrainConfig, corpus.config(feats_type, **settings))
    fold = load_fold(corpus.data, corpus.folds_dir / "s0", corpus.dump, corpus.tokens / "s0", config)
    torch.manual_seed(config.seed)
    trained = program.build(config, fold, load_upstream(config.upstream))
    exp.mkdir(exist_ok=True)
    return Trainer(trained, config, program.make_sets(corpus.data, config, fold, trained), exp, CPU)


def weights(exp, fold="s0"):
    return load_file(exp / fold / "model.safetensors")


def records(exp, fold="s0"):
    """The history, as strict JSON, without the seconds."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    lines = (exp / fold / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line, parse_constant=refuse).items() if k != "seconds"} for line in lines]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def contents(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


# Interruption


class Killed(BaseException):
    """What no handler of the program catches."""


def kill_in(monkeypatch, method, call, how="after"):
    """Die in a call of a trainer's method; ``how``: before it, after it, or by SIGTERM during it."""
    real, calls = getattr(Trainer, method), []

    def deadly(self, *args):
        calls.append(args)
        if len(calls) == call and how == "before":
            raise Killed
        if len(calls) == call and how == "sigterm":
            os.kill(os.getpid(), signal.SIGTERM)
        result = real(self, *args)
        if len(calls) == call and how == "after":
            raise Killed
        return result

    monkeypatch.setattr(Trainer, method, deadly)


@pytest.fixture(scope="module")
def straight(corpus, tmp_path_factory):
    """Four epochs without interruption."""
    exp = tmp_path_factory.mktemp("straight")
    assert train(corpus, exp, **EVERYTHING_RANDOM) == 0
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
    kill_in(monkeypatch, method, call, how)
    if how == "sigterm":
        assert train(corpus, tmp_path, **EVERYTHING_RANDOM, **settings) == program.STOPPED
    else:
        with pytest.raises(Killed):
            train(corpus, tmp_path, **EVERYTHING_RANDOM, **settings)
    assert not (tmp_path / "s0" / "model.safetensors").exists()
    monkeypatch.undo()
    assert train(corpus, tmp_path, **EVERYTHING_RANDOM) == 0
    assert same(weights(tmp_path), weights(straight))
    assert records(tmp_path) == records(straight)


@pytest.mark.parametrize(("method", "how"), [("finish_epoch", "before"), ("save", "before"), ("update", "after")])
def test_the_best_model_survives_a_kill(corpus, tmp_path, monkeypatch, method, how):
    assert train(corpus, tmp_path / "straight", **EVERYTHING_RANDOM, select="best") == 0
    kill_in(monkeypatch, method, 3, how)
    with pytest.raises(Killed):
        train(corpus, tmp_path, **EVERYTHING_RANDOM, select="best")
    monkeypatch.undo()
    assert train(corpus, tmp_path, **EVERYTHING_RANDOM, select="best") == 0
    assert same(weights(tmp_path), weights(tmp_path / "straight"))
    assert records(tmp_path) == records(tmp_path / "straight")


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
    assert status == program.STOPPED, log.read_text()
    assert "stopped by SIGTERM after saving" in log.read_text()
    assert train(corpus, tmp_path, **settings) == 0
    assert same(weights(tmp_path), weights(straight))


def test_a_training_that_is_killed_again_and_again_ends(corpus, straight, tmp_path, monkeypatch):
    for _ in range(6):
        kill_in(monkeypatch, "update", 3)
        with pytest.raises(Killed):
            train(corpus, tmp_path, **EVERYTHING_RANDOM, save_minutes=0.0)
        monkeypatch.undo()
    assert train(corpus, tmp_path, **EVERYTHING_RANDOM) == 0
    assert same(weights(tmp_path), weights(straight)) and records(tmp_path) == records(straight)


def test_a_damaged_checkpoint_costs_an_epoch_at_most(corpus, straight, tmp_path, monkeypatch, capsys):
    kill_in(monkeypatch, "finish_epoch", 3)
    with pytest.raises(Killed):
        train(corpus, tmp_path, **EVERYTHING_RANDOM)
    monkeypatch.undo()
    path = tmp_path / "s0" / "checkpoint.pth"
    path.write_bytes(path.read_bytes()[:-500])
    assert train(corpus, tmp_path, **EVERYTHING_RANDOM) == 0
    assert "damaged" in capsys.readouterr().out
    assert same(weights(tmp_path), weights(straight)) and records(tmp_path) == records(straight)


def test_killed_between_its_last_files_it_is_finished_by_the_next_run(corpus, straight, tmp_path, monkeypatch):
    for name in ("save_weights", "write_history"):
        exp = tmp_path / name
        # write_history is called for each of the first three epochs too.
        calls, real = [], getattr(sys.modules["sermtl.train.trainer"], name)

        def deadly(*args, name=name, calls=calls, real=real):
            calls.append(args)
            if len(calls) == {"save_weights": 1, "write_history": 4}[name]:
                raise Killed
            return real(*args)

        monkeypatch.setattr(f"sermtl.train.trainer.{name}", deadly)
        with pytest.raises(Killed):
            train(corpus, exp, **EVERYTHING_RANDOM)
        monkeypatch.undo()
        assert len(records(exp)) == 3
        assert train(corpus, exp, **EVERYTHING_RANDOM) == 0
        assert same(weights(exp), weights(straight)) and records(exp) == records(straight)


def test_a_prolonged_training_that_is_killed_does_not_pass_for_finished(corpus, tmp_path, monkeypatch, capsys):
    assert train(corpus, tmp_path, epochs=1) == 0
    old = weights(tmp_path)
    monkeypatch.setattr("sermtl.train.trainer.save_weights", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        train(corpus, tmp_path, epochs=3)
    monkeypatch.undo()
    assert same(weights(tmp_path), old)
    assert train(corpus, tmp_path, epochs=3) == 0
    assert "trained already" not in capsys.readouterr().out
    assert not same(weights(tmp_path), old) and len(records(tmp_path)) == 3


# Seeds


def test_a_seed_decides_everything(corpus, straight, tmp_path):
    for number, seed in enumerate((0, 1)):
        assert train(corpus, tmp_path / str(number), seed=seed, **EVERYTHING_RANDOM) == 0
    assert same(weights(tmp_path / "0"), weights(straight)) and records(tmp_path / "0") == records(straight)
    other = weights(tmp_path / "1")
    assert not any(
        torch.equal(other[name], weights(straight)[name]) for name in other if "layers.0.conv.weight" in name
    )
    assert records(tmp_path / "1") != records(straight)


def test_loader_processes_change_no_bit(corpus, straight, tmp_path):
    assert train(corpus, tmp_path, num_workers=2, **EVERYTHING_RANDOM) == 0
    assert same(weights(tmp_path), weights(straight)) and records(tmp_path) == records(straight)


def test_each_epoch_takes_every_utterance_once_with_draws_of_its_own(corpus, tmp_path, monkeypatch):
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


# One update


def one_update(corpus, exp, **settings):
    """The gradients of an update of eight utterances, what it counted, and the trainer."""
    trainer = make_trainer(corpus, exp, grad_clip=0.0, epochs=1, **settings)
    trainer.model.eval()
    parts = [
        trainer.sets.train.collate([trainer.sets.train[index] for index in part])
        for part in trainer.parts_of(list(range(2, 10)))
    ]
    tally = Tally(4)
    trainer.update(0, parts, 8, tally)
    gradients = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    return gradients, trainer.averages(tally), len(parts)


@pytest.mark.parametrize("feats_type", ["raw", "fbank"])
def test_an_update_is_the_same_however_it_is_cut(corpus, tmp_path, feats_type):
    whole, averages, _ = one_update(corpus, tmp_path, feats_type=feats_type)
    for accum_grad in (2, 3, 4, 8):
        cut, cut_averages, parts = one_update(corpus, tmp_path, feats_type=feats_type, accum_grad=accum_grad)
        assert parts == accum_grad
        assert cut.keys() == whole.keys()
        for name, gradient in whole.items():
            scale = float(gradient.abs().max())
            torch.testing.assert_close(cut[name], gradient, rtol=1e-5, atol=2e-5 * scale + 1e-7, msg=name)
        for name, value in averages.items():
            assert cut_averages[name] == (value if value is None else pytest.approx(value, rel=1e-4)), name


def test_clipping_limits_the_gradient_of_the_speaker_head_and_of_the_rest(corpus, tmp_path):
    trainer = make_trainer(corpus, tmp_path, grad_clip=0.01, epochs=1)
    trainer.update(0, [trainer.sets.train.collate([trainer.sets.train[n] for n in range(8)])], 8, Tally(4))
    norms = {True: [], False: []}
    for name, parameter in trainer.model.named_parameters():
        if parameter.grad is not None:
            norms[name.startswith("speaker_head")].append(parameter.grad.norm())
    for part in norms.values():
        assert torch.stack(part).norm().item() == pytest.approx(0.01, rel=1e-3)


def relabelled(trainer):
    """Give every training utterance another speaker's number."""
    train_set = trainer.sets.train
    train_set.examples = [dataclasses.replace(e, speaker=(i // 2) % 2) for i, e in enumerate(train_set.examples)]


def test_with_beta_0_the_encoder_does_not_depend_on_speakers_and_the_head_learns(corpus, tmp_path):
    settings = {"beta": 0.0, "grad_clip": 0.1, "epochs": 1}
    states = []
    for number, change in enumerate((lambda _: None, relabelled)):
        trainer = make_trainer(corpus, tmp_path / str(number), **settings)
        before = trainer.model.speaker_head.weight.detach().clone()
        change(trainer)
        trainer.run()
        assert not torch.equal(trainer.model.speaker_head.weight, before)
        states.append(trainer.model.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]) == (not name.startswith("speaker_head")), name


def test_a_frozen_feature_encoder_keeps_its_weights(corpus, tmp_path):
    trainer = make_trainer(corpus, tmp_path, freeze_feature_encoder=True, epochs=1)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.run()
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert not any("feature_extractor" in name for name in changed)
    assert {"emotion_head.weight", "token_head.weight", "speaker_head.weight"} <= changed
    assert any("encoder.layers" in name for name in changed)


def test_the_learning_rate_climbs_and_falls():
    config = TrainConfig(learning_rate=1e-3, warmup_ratio=0.1)
    rates = [learning_rate(update, 100, config) for update in range(100)]
    assert rates[:10] == pytest.approx([1e-4 * n for n in range(1, 11)])
    assert rates[10:] == pytest.approx([1e-3 * (100 - n) / 90 for n in range(10, 100)])
    cosine = [learning_rate(n, 100, dataclasses.replace(config, lr_schedule="cosine")) for n in range(10, 100)]
    assert cosine == pytest.approx([0.5e-3 * (1 + np.cos(np.pi * (n - 10) / 90)) for n in range(10, 100)])
    assert (
        learning_rate(0, 1, TrainConfig(warmup_ratio=0.0)) == learning_rate(0, 1, TrainConfig(warmup_ratio=1.0)) == 5e-5
    )


def test_only_matrices_decay_and_only_trained_weights_are_optimised(corpus, tmp_path):
    trainer = make_trainer(corpus, tmp_path, freeze_feature_encoder=True, weight_decay=0.3, adam_betas=[0.8, 0.9])
    optimizer = make_optimizer(trainer.model, trainer.config)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in trainer.model.named_parameters():
        assert decay.get(id(parameter)) == (
            None if "feature_extractor" in name else 0.3 if parameter.ndim > 1 else 0.0
        ), name
    assert all(group["betas"] == (0.8, 0.9) for group in optimizer.param_groups)


@pytest.mark.parametrize("seed", range(3))
def test_rates_are_those_of_scikit_learn_and_jiwer(seed):
    random = np.random.default_rng(seed)
    tokenizer = CharTokenizer(ENGLISH_TOKENS)
    # The class that occurs in no truth is guessed, utterances have no truth, words or speaker.
    truths, guesses, speakers = random.integers(-1, 3, 60), random.integers(0, 4, 60), random.integers(-1, 3, 60)
    words = [" ".join(random.choice(["NO", "SO", "WHY"], random.integers(0, 4))) for _ in range(60)]
    paths = torch.from_numpy(random.choice([0, 4, 8, 9, 13], (60, 7)))
    frames_B = torch.from_numpy(random.integers(1, 8, 60))
    heard = torch.from_numpy(random.integers(0, 3, 60))
    output = Output(
        F.one_hot(torch.from_numpy(guesses), 4).float(), F.one_hot(paths, 32).float(), F.one_hot(heard, 3).float(),
        torch.zeros(60, 1), frames_B,
    )  # fmt: skip
    tally = Tally(4)
    for part in (slice(0, 25), slice(25, 60)):
        none = torch.zeros(0)
        targets = torch.from_numpy(truths[part]), torch.from_numpy(speakers[part])
        batch = Batch([], none, none, *targets, none, none)
        cut = Output(*(getattr(output, field.name)[part] for field in dataclasses.fields(Output)))
        tally.add_outputs(cut, batch, words[part], tokenizer)
    rates, known, of_known = tally.rates(), truths >= 0, speakers >= 0
    assert rates["wa"] == pytest.approx(accuracy_score(truths[known], guesses[known]))
    assert rates["ua"] == pytest.approx(
        recall_score(truths[known], guesses[known], labels=[0, 1, 2], average="macro", zero_division=0)
    )
    assert rates["acc_sid"] == pytest.approx(accuracy_score(speakers[of_known], heard.numpy()[of_known]))
    hypotheses = greedy_texts(output, tokenizer)
    kept = [number for number, text in enumerate(words) if text]
    assert rates["wer"] == pytest.approx(jiwer.wer([words[n] for n in kept], [hypotheses[n] for n in kept]))
    assert Tally(4).rates() == dict.fromkeys(("wa", "ua", "wer", "acc_sid"))


# Non-finite updates


class Poisoned(FoldDataset):
    """A set in which some utterances are not numbers."""

    def __init__(self, good, utterances):
        self.__dict__.update(good.__dict__)
        self.utterances = utterances

    def __getitem__(self, index):
        example, features, *masks = super().__getitem__(index)
        bad = example.utterance in self.utterances
        return example, np.full_like(features, np.nan) if bad else features, *masks


def poisoned_trainer(corpus, exp, *utterances, part="train", **settings):
    trainer = make_trainer(corpus, exp, batch_size=4, **settings)
    if part == "train":
        trainer.sets = dataclasses.replace(trainer.sets, train=Poisoned(trainer.sets.train, utterances))
    else:
        trainer.sets = dataclasses.replace(
            trainer.sets, evaluated={part: Poisoned(trainer.sets.evaluated[part], utterances)}
        )
    return trainer


def test_an_update_that_is_not_finite_is_skipped_and_counted(corpus, tmp_path, caplog):
    trainer = poisoned_trainer(corpus, tmp_path / "s0", "s1-03", epochs=2)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    train_set = trainer.sets.train
    bad = next(i for i, e in enumerate(train_set.examples) if e.utterance == "s1-03")
    tally = Tally(4)
    trainer.update(0, [train_set.collate([train_set[bad], train_set[bad - 1]])], 2, tally)
    assert same(trainer.model.state_dict(), before) and not trainer.optimizer.state
    assert tally.sums["nonfinite"] == 1 and "loss_ser" not in tally.sums
    assert "s1-03" in caplog.text
    trainer.run()
    assert all(torch.isfinite(value).all() for value in trainer.model.state_dict().values())
    for record in records(tmp_path):
        assert record["train"]["nonfinite"] == 1 and record["train"]["loss"] > 0


def test_too_many_stop_the_training_with_their_utterances(corpus, tmp_path):
    trainer = poisoned_trainer(corpus, tmp_path, "s1-03", "s1-05", "s2-04", "s2-06", "s2-07", epochs=2)
    with pytest.raises(UserError) as error:
        trainer.run()
    told = str(error.value)
    assert "of 4 updates of epoch 1 were not finite" in told and "max_nonfinite is 0.01" in told
    assert any(utterance in told for utterance in ("s1-03", "s1-05", "s2-04", "s2-06", "s2-07"))
    listed = set((tmp_path / "nonfinite.txt").read_text().split())
    assert f"{tmp_path}/nonfinite.txt" in told and len(listed) > 1
    assert listed <= {"s1-03", "s1-05", "s2-04", "s2-06", "s2-07"}


def test_utterances_that_were_not_finite_are_remembered_over_a_kill(corpus, tmp_path, monkeypatch):
    (tmp_path / "s0").mkdir()
    bad = ("s1-03", "s1-05", "s2-04", "s2-06", "s2-07")
    trainer = poisoned_trainer(corpus, tmp_path / "s0", *bad, epochs=2, save_minutes=0.0)
    kill_in(monkeypatch, "report_nonfinite", 2, "before")
    with pytest.raises(Killed):
        trainer.run()
    monkeypatch.undo()
    first = trainer.nonfinite
    assert first
    with pytest.raises(UserError):
        poisoned_trainer(corpus, tmp_path / "s0", *bad, epochs=2).run()
    assert set(first) < set((tmp_path / "s0" / "nonfinite.txt").read_text().split())


def test_a_batch_that_is_not_finite_only_as_a_whole_is_named_whole(corpus, tmp_path):
    trainer = make_trainer(corpus, tmp_path / "s0")
    part = trainer.sets.train.collate([trainer.sets.train[0], trainer.sets.train[1], trainer.sets.train[2]])
    assert trainer.offenders([part]) == part.utterances


def test_max_nonfinite_0_stops_at_the_first(corpus, tmp_path):
    trainer = poisoned_trainer(corpus, tmp_path, "s1-03", epochs=1, max_nonfinite=0.0)
    with pytest.raises(UserError, match="1 of 4 updates"):
        trainer.run()


def test_an_epoch_without_a_finite_update_has_no_averages(corpus, tmp_path):
    trainer = make_trainer(corpus, tmp_path / "s0", epochs=1, max_nonfinite=1.0)
    everything = [example.utterance for example in trainer.sets.train.examples]
    trainer = poisoned_trainer(corpus, tmp_path / "s0", *everything, epochs=1, max_nonfinite=1.0)
    trainer.run()
    (record,) = records(tmp_path)
    assert record["train"]["nonfinite"] == 4
    assert record["train"]["loss"] is record["train"]["loss_ser"] is None


def test_a_dev_loss_that_is_not_finite_is_none_in_the_history(corpus, tmp_path):
    dev = (corpus.folds_dir / "s0" / "dev").read_text().split()
    trainer = poisoned_trainer(corpus, tmp_path / "s0", dev[0], part="dev", epochs=1)
    trainer.run()
    (record,) = records(tmp_path)
    assert record["dev"]["loss"] is None and record["train"]["loss"] > 0


# What a training leaves


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
            assert v["loss"] == pytest.approx(v["loss_ser"] + 0.2 * v["loss_asr"] + 0.1 * v["loss_sid"])
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
        hidden_BTD, _ = trained.model.upstream(wav, torch.tensor([wav.shape[1]]))
        logits_C = trained.model.emotion_head(hidden_BTD.mean(1))[0]
        truth = trained.labels.index(emotions[utterance])
        hits.append(int(logits_C.argmax()) == truth)
        nll.append(-logits_C.log_softmax(-1)[truth].item())
    dev = records(straight)[-1]["dev"]
    assert dev["wa"] == pytest.approx(np.mean(hits)) and dev["loss_ser"] == pytest.approx(np.mean(nll), rel=1e-4)


def test_tensorboard_shows_each_epoch_once(corpus, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    kill_in(monkeypatch, "finish_epoch", 2)
    with pytest.raises(Killed):
        train(corpus, tmp_path, epochs=3)
    monkeypatch.undo()
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
    made = {"corpus", "protocol", "fold", "upstream_digest", "upstream_commit", "inputs", "computed_in", "code_version"}
    assert config.keys() == keys | made
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


# Settings


def test_other_settings_are_refused_with_their_differences(corpus, straight, capsys):
    before = contents(straight)
    assert train(corpus, straight, **(EVERYTHING_RANDOM | {"beta": 1.0, "seed": 5})) == 2
    told = capsys.readouterr().err
    assert "beta: 0.1 there, 1.0 now" in told and "seed: 0 there, 5 now" in told and "--tag" in told
    assert "alpha" not in told and contents(straight) == before
    assert train(corpus, straight, **(EVERYTHING_RANDOM | {"epochs": 3})) == 2
    assert "epochs: 4 there, 3 now" in capsys.readouterr().err and contents(straight) == before


def test_other_data_is_refused(corpus, tmp_path, capsys):
    assert train(corpus, tmp_path, epochs=1) == 0
    texts = read_table(corpus.data / "text")
    write_table(corpus.data / "text", texts | {"s1-04": "OTHER WORDS"})
    try:
        assert train(corpus, tmp_path, epochs=1) == 2
    finally:
        write_table(corpus.data / "text", texts)
    assert "inputs" in capsys.readouterr().err


def test_what_changes_no_result_may_change_and_epochs_may_be_added(corpus, tmp_path, capsys):
    assert train(corpus, tmp_path, epochs=1) == 0
    assert train(corpus, tmp_path, epochs=1, num_workers=1, save_minutes=3.0) == 0
    assert "trained already" in capsys.readouterr().out
    assert train(corpus, tmp_path, epochs=2) == 0
    assert [record["epoch"] for record in records(tmp_path)] == [1, 2]
    # The learning rates of an epoch that was added are those of the new total.
    train_list = (corpus.folds_dir / "s0" / "train").read_text().split()
    config = TrainConfig(learning_rate=5e-3, epochs=2, **SETTINGS["raw"])
    total = 2 * -(-len(train_list) // config.batch_size)
    assert records(tmp_path)[1]["lr"] == pytest.approx(learning_rate(total - 1, total, config))
    assert yaml.safe_load((tmp_path / "s0" / "config.yaml").read_text())["epochs"] == 2


def test_a_training_goes_on_in_the_precision_that_it_began_in(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(program, "choose_precision", lambda *_: "bf16")
    assert train(corpus, tmp_path, epochs=1) == 0
    monkeypatch.undo()
    assert train(corpus, tmp_path, epochs=2) == 0
    told = capsys.readouterr().out
    assert "was begun in bf16, and goes on so (a new training would take float32 here)" in told and "bf16 True" in told
    settings = yaml.safe_load((tmp_path / "s0" / "config.yaml").read_text())
    assert (settings["precision"], settings["computed_in"]) == ("auto", "bf16")
    assert train(corpus, tmp_path, epochs=2, precision="float32") == 2


def test_settings_of_a_training_that_never_began_do_not_stand_in_the_way(corpus, tmp_path, capsys):
    wrong = corpus.root / "wrong.yaml"
    wrong.write_text("hidden_size: wide\n")
    assert train(corpus, tmp_path, upstream=str(wrong)) == 2
    assert "wrong.yaml" in capsys.readouterr().err
    assert train(corpus, tmp_path, epochs=1) == 0


def test_the_best_model_needs_a_dev_set(tmp_path, capsys):
    plain = make_small_corpus(tmp_path / "plain", speakers=2, each=4)
    assert train(plain, tmp_path / "exp", select="best") == 2
    told = capsys.readouterr().err
    assert "select: best needs a dev set" in told and "--dev_ratio" in told
    assert not (tmp_path / "exp").exists()


def test_the_best_model_is_that_of_the_best_epoch_on_dev(corpus, tmp_path, monkeypatch):
    seen, real = [], Trainer.evaluate

    def evaluate(self, dataset):
        seen.append({name: value.clone() for name, value in self.model.state_dict().items()})
        return real(self, dataset) | {"ua": [0.2, 0.7, 0.7, 0.5][len(seen) - 1]}

    monkeypatch.setattr(Trainer, "evaluate", evaluate)
    assert train(corpus, tmp_path, select="best", epochs=4) == 0
    # The earlier of two equal ones.
    assert same(weights(tmp_path), seen[1]) and not same(seen[1], seen[2])


def test_the_best_model_deleted_is_told_when_nothing_makes_it_again(corpus, tmp_path, capsys):
    assert train(corpus, tmp_path, select="best", epochs=1) == 0
    weights = next(tmp_path.rglob("model.safetensors"))
    weights.unlink()
    assert train(corpus, tmp_path, select="best", epochs=1) == 2
    assert "the best epoch's weights, is gone" in capsys.readouterr().err
    for file in [*weights.parent.glob("checkpoint*.pth"), weights.parent / "history.jsonl"]:
        file.unlink()
    assert train(corpus, tmp_path, select="best", epochs=1) == 0 and weights.is_file()


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"feats_type": "fbank", "upstream": "tiny"}, ["tiny reads raw", "--feats_type raw"]),
        ({"upstream": "small"}, ["small reads fbank", "--feats_type fbank"]),
        ({"beta": -0.5}, ["beta", "0 or more"]),
        ({"gamma": 1}, ["gamma"]),
        ({"speed_perturb": [1.3]}, ["raw_sp1.3", "stage 2"]),
    ],
)
def test_settings_that_cannot_be_trained_are_told_at_once(corpus, tmp_path, capsys, settings, told):
    assert train(corpus, tmp_path / "exp", **settings) == 2
    message = capsys.readouterr().err
    assert [word for word in told if word not in message] == [], message
    assert not list((tmp_path).rglob("checkpoint.pth"))


def test_words_that_do_not_fit_are_told(corpus, tmp_path, capsys):
    words = ["--config", corpus.config(), *corpus.arguments(tmp_path / "exp")]
    for extra, told in ((("--job", 2), "--job 2: there are 1 folds"), (("--set", "alpha"), "key=value")):
        assert run_program(program.main, *words, *extra) == 2
        assert told in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert run_program(program.main, *words, "--ngpu", 1) == 2
        assert "no GPU" in capsys.readouterr().err
    assert run_program(program.main, "--config", corpus.config(), *corpus.arguments(tmp_path / "exp", "s9")) == 2
    assert "s9" in capsys.readouterr().err


def test_a_fold_without_transcripts_trains_with_alpha_0(corpus, tmp_path):
    texts = read_table(corpus.data / "text")
    write_table(corpus.data / "text", dict.fromkeys(texts, ""))
    try:
        assert train(corpus, tmp_path, epochs=1) == 0
        assert "alpha: 0.0\n" in (tmp_path / "s0" / "config.yaml").read_text()
    finally:
        write_table(corpus.data / "text", texts)
    (record,) = records(tmp_path)
    assert record["train"]["wer"] is None and record["train"]["loss_asr"] == 0


def test_jobs_of_several_folds_each_train_their_own(corpus, tmp_path):
    words = ["--config", corpus.config(epochs=1), *corpus.arguments(tmp_path, "s0", "s2")]
    assert run_program(program.main, *words, "--job", 2) == 0
    assert [path.name for path in Path(tmp_path).iterdir() if path.is_dir()] == ["s2"]


def test_upstreams_of_one_name_share_a_tag_and_the_second_is_refused_by_name(tmp_path):
    first, second = (TrainConfig(upstream=f"{place}/wav2vec2-base") for place in ("a", "b"))
    assert experiment_tag("x", "speaker", "train", first, []) == experiment_tag("x", "speaker", "train", second, [])
    program.write_config_once(tmp_path, as_dict(first))
    (tmp_path / "checkpoint.pth").touch()
    with pytest.raises(UserError, match="'a/wav2vec2-base' there, 'b/wav2vec2-base' now") as error:
        program.write_config_once(tmp_path, as_dict(second))
    assert "give another --tag" in str(error.value)


def test_settings_or_weights_replaced_in_an_upstreams_folder_are_another_upstream(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = program.upstream_digest(str(tmp_path))
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes(b"other 1")
        program.upstream_digest.cache_clear()
        assert program.upstream_digest(str(tmp_path)) not in (None, before)
        before = program.upstream_digest(str(tmp_path))


def test_another_commit_of_a_model_of_the_hub_is_another_upstream(tmp_path, monkeypatch):
    hub = tmp_path / "models--some--model"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (hub / "refs").mkdir(parents=True)
    commits = []
    for commit in ("a" * 40, "b" * 40):
        (hub / "snapshots" / commit).mkdir(parents=True)
        (hub / "snapshots" / commit / "config.json").write_text('{"model_type": "wav2vec2"}')
        (hub / "refs" / "main").write_text(commit)
        program.hub_commit.cache_clear()
        commits.append(program.hub_commit("some/model"))
    assert commits == ["a" * 40, "b" * 40]
    assert program.hub_commit("some/other") is None and program.upstream_digest("some/model") is None

    settings = as_dict(TrainConfig(upstream="some/model"))
    exp = tmp_path / "exp"
    program.write_config_once(exp, settings | {"upstream_commit": commits[0]})
    (exp / "checkpoint.pth").touch()
    with pytest.raises(UserError, match=f"upstream_commit: '{commits[0]}' there, '{commits[1]}' now"):
        program.write_config_once(exp, settings | {"upstream_commit": commits[1]})
    # A cache that was emptied where the hub cannot be reached.
    program.write_config_once(exp, settings | {"upstream_commit": None})
    assert yaml.safe_load((exp / "config.yaml").read_text())["upstream_commit"] == commits[0]


def test_other_settings_are_not_written_while_a_fold_is_trained(corpus, tmp_path, capsys):
    with pytest.raises(Killed), pytest.MonkeyPatch.context() as patch:
        kill_in(patch, "update", 3, "before")
        train(corpus, tmp_path, epochs=2, save_minutes=0.0)
    holder = "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.lockf(file, fcntl.LOCK_EX); print(); input()"
    words = [sys.executable, "-c", holder, tmp_path / "s0" / ".owner"]
    lock._held.pop(tmp_path / "s0").close()
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        before = (tmp_path / "s0" / "config.yaml").read_bytes()
        assert train(corpus, tmp_path, epochs=3) == 2
        assert "another process works on" in capsys.readouterr().err
        assert (tmp_path / "s0" / "config.yaml").read_bytes() == before
        process.communicate(b"\n")
    assert train(corpus, tmp_path, epochs=3) == 0


def test_a_dump_made_anew_under_a_training_stops_it(corpus, tmp_path):
    trainer = make_trainer(corpus, tmp_path / "s0")
    train_set = trainer.sets.train
    train_set.examples[3] = dataclasses.replace(train_set.examples[3], length=train_set.examples[3].length + 1)
    with pytest.raises(UserError, match="stage 2 was run meanwhile"):
        train_set[3]


def flip(ark, entry):
    """Change a bit in the middle of an entry's samples; gives what puts it back."""
    before = ark.read_bytes()
    at = int(entry.rpartition(":")[2]) + 400
    ark.write_bytes(before[:at] + bytes([before[at] ^ 16]) + before[at + 1 :])
    return lambda: ark.write_bytes(before)


@pytest.mark.parametrize(
    "feats_type, cmvn, workers", [("raw", "utterance", 0), ("raw", "utterance", 1), ("fbank", "global", 0)]
)
def test_a_bit_that_flipped_in_a_dump_is_told_by_utterance(corpus, tmp_path, capsys, feats_type, cmvn, workers):
    """The ark has its size and its time, so that only what is read can show it."""
    scp = read_table(corpus.dump / feats_type / DUMP_TABLES[feats_type][0])
    ark = corpus.dump / feats_type / "parts" / scp["s1-03"].rpartition("/")[2].partition(":")[0]
    times = ark.stat()
    put_back = flip(ark, scp["s1-03"])
    os.utime(ark, ns=(times.st_atime_ns, times.st_mtime_ns))
    try:
        assert train(corpus, tmp_path, feats_type, cmvn=cmvn, num_workers=workers) == 2
    finally:
        put_back()
    told = capsys.readouterr().err
    assert "s1-03 is not there as it was" in told and "rerun ./run.sh --stage 2" in told and "Traceback" not in told
    assert train(corpus, tmp_path, feats_type, cmvn=cmvn, num_workers=workers) == 0


def test_a_cut_ark_is_told_before_anything_is_read(corpus, tmp_path, capsys):
    ark = corpus.dump / "raw" / "parts" / "1.ark"
    before = ark.read_bytes()
    ark.write_bytes(before[:-1])
    try:
        assert train(corpus, tmp_path) == 2
    finally:
        ark.write_bytes(before)
    assert "missing or damaged: 1.ark; rerun ./run.sh --stage 2" in capsys.readouterr().err
    assert not (tmp_path / "s0" / "checkpoint.pth").exists()


def test_deterministic_asks_pytorch_and_trains_the_same_on_a_cpu(corpus, tmp_path):
    try:
        assert train(corpus, tmp_path / "a", epochs=1, deterministic=True) == 0
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert train(corpus, tmp_path / "b", epochs=1) == 0
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


# Memory


GPU_FULL = torch.OutOfMemoryError("no memory left")
CPU_FULL = RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.")


def refuse_from(monkeypatch, trainer, size, error=GPU_FULL):
    """A machine on which batches of so many utterances do not fit."""
    real = trainer.model.forward

    def forward(batch, *args):
        if len(batch.utterances) >= size:
            raise error
        return real(batch, *args)

    monkeypatch.setattr(trainer.model, "forward", forward)


def update_of_six(trainer):
    """One update without dropout; its tally."""
    trainer.model.eval()
    tally = Tally(4)
    data = trainer.sets.train
    trainer.update(0, [data.collate([data[index] for index in range(6)])], 6, tally)
    return tally


@pytest.mark.parametrize("error", [GPU_FULL, CPU_FULL])
def test_an_update_that_does_not_fit_the_memory_is_computed_in_smaller_parts(
    corpus, tmp_path, monkeypatch, caplog, error
):
    whole, small = (make_trainer(corpus, tmp_path / name) for name in ("whole", "small"))
    refuse_from(monkeypatch, small, 3, error)
    expected, got = update_of_six(whole), update_of_six(small)
    assert got.sums == pytest.approx(expected.sums, rel=1e-4)
    for name, weight in small.model.state_dict().items():
        torch.testing.assert_close(weight, whole.model.state_dict()[name], rtol=0, atol=1e-5)
    assert caplog.text.count("out of memory with") == 2 and whole.sets.train.examples[0].utterance in caplog.text


def test_an_utterance_that_does_not_fit_the_memory_alone_stops(corpus, tmp_path, monkeypatch):
    trainer = make_trainer(corpus, tmp_path / "exp")
    refuse_from(monkeypatch, trainer, 1)
    with pytest.raises(UserError, match="out of memory with the utterance s[0-9]-[0-9]+ alone"):
        update_of_six(trainer)


def test_another_error_of_an_update_is_not_taken_for_one_of_memory(corpus, tmp_path, monkeypatch):
    trainer = make_trainer(corpus, tmp_path / "exp")
    refuse_from(monkeypatch, trainer, 1, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        update_of_six(trainer)


def test_an_evaluation_that_does_not_fit_the_memory_is_computed_in_smaller_parts(corpus, tmp_path, monkeypatch, caplog):
    trainer = make_trainer(corpus, tmp_path / "exp")
    expected = trainer.evaluate(trainer.sets.train)
    refuse_from(monkeypatch, trainer, 5)
    assert trainer.evaluate(trainer.sets.train) == pytest.approx(expected, rel=1e-4)
    assert "computed again in smaller parts" in caplog.text
    refuse_from(monkeypatch, trainer, 1, CPU_FULL)
    with pytest.raises(UserError, match="out of memory with the utterance s[0-9]-[0-9]+ alone"):
        trainer.evaluate(trainer.sets.train)


def test_decoding_in_smaller_parts_gives_the_same(corpus, tmp_path, monkeypatch):
    trainer = make_trainer(corpus, tmp_path / "exp")
    data = trainer.sets.train
    expected = list(decode(trainer.trained, data, 8, torch.device("cpu")))
    refuse_from(monkeypatch, trainer, 3)
    got = list(decode(trainer.trained, data, 8, torch.device("cpu")))
    assert [item.utterance for item in got] == [item.utterance for item in expected] and len(got) == len(data)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one.posteriors_C, other.posteriors_C, atol=1e-5)
        assert (one.text, one.speaker) == (other.text, other.speaker)


@pytest.mark.parametrize("damage", [b"", b"beta: [", None])
def test_damaged_settings_of_a_finished_training_come_back_or_are_told(corpus, tmp_path, capsys, damage):
    assert train(corpus, tmp_path, epochs=1) == 0
    config = tmp_path / "s0" / "config.yaml"
    before = config.read_bytes()
    config.unlink() if damage is None else config.write_bytes(damage)
    assert train(corpus, tmp_path, epochs=1, beta=0.5) == 2
    assert "config.yaml is missing or damaged, and these are not the settings" in capsys.readouterr().err
    assert train(corpus, tmp_path, epochs=1) == 0
    assert config.read_bytes() == before and "nothing changed" in capsys.readouterr().out
