"""One update, its gradients and rates; updates that are not finite or do not fit the memory."""

import dataclasses

import jiwer
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, recall_score
from small_training import Killed, kill_in, make_trainer, make_training_corpus, records, same

from sermtl.config import TrainConfig
from sermtl.data import sampler
from sermtl.data.dataset import FoldDataset
from sermtl.data.sampler import batches_of_epoch
from sermtl.errors import UserError
from sermtl.inference.decode import decode
from sermtl.model.batch import Batch
from sermtl.model.multitask import Output, texts_of
from sermtl.text.tokenizer import ENGLISH_TOKENS, CharTokenizer
from sermtl.train.epoch_sums import EpochSums, Guesses
from sermtl.train.update import make_optimizer, nonfinite_utterances, rate_share


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_training_corpus(tmp_path_factory.mktemp("corpus"))


GPU_FULL = torch.OutOfMemoryError("no memory left")
CPU_FULL = RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.")


def one_update(corpus, exp, **settings):
    """The gradients of an update of eight utterances, what it counted, and the trainer."""
    trainer = make_trainer(corpus, exp, grad_clip=0.0, epochs=1, **settings)
    trainer.model.eval()
    parts = [
        trainer.sets.train.collate([trainer.sets.train[index] for index in part])
        for part in trainer.parts_of(list(range(2, 10)))
    ]
    trainer.update(0, parts)
    trainer.count_updates()
    gradients = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    return gradients, trainer.epoch_sums.averages(trainer.config.alpha), len(parts)


def test_an_update_is_the_same_where_a_long_clip_is_a_part_of_its_own(corpus, tmp_path, monkeypatch):
    whole, averages, parts = one_update(corpus, tmp_path)
    monkeypatch.setattr(sampler, "MOST_SIZE", 1.0)
    cut, cut_averages, more = one_update(corpus, tmp_path)
    assert parts == 1 < more < 8
    assert {name: pytest.approx(value, rel=1e-4, abs=1e-6) for name, value in averages.items()} == cut_averages
    for name, gradient in whole.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(cut[name], gradient, rtol=1e-5, atol=2e-5 * scale + 1e-7, msg=name)


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
    trainer.update(0, [trainer.sets.train.collate([trainer.sets.train[n] for n in range(8)])])
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
        assert torch.equal(value, states[1][name]) == (name not in ("speaker_head.weight", "speaker_head.bias")), name


def test_class_weights_are_those_of_the_training_list_and_change_the_training(corpus, tmp_path):
    trainer = make_trainer(corpus, tmp_path / "a", class_weights="balanced")
    emotions = [example.emotion for example in trainer.sets.train.examples]
    counts = torch.tensor([emotions.count(label) for label in range(4)])
    torch.testing.assert_close(trainer.model.class_weights_C, counts.sum() / (4 * counts))
    assert make_trainer(corpus, tmp_path / "b").model.class_weights_C is None


def test_the_dropout_before_the_heads_is_that_of_the_settings(corpus, tmp_path):
    shares = [make_trainer(corpus, tmp_path / value, final_dropout=value).model.dropout.p for value in ("auto", "0.4")]
    assert shares[1] == 0.4 != shares[0]


def test_a_frozen_front_keeps_its_weights(corpus, tmp_path):
    trainer = make_trainer(corpus, tmp_path, freeze="conv", epochs=1)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.run()
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert not any("feature_extractor" in name for name in changed)
    assert {"emotion_head.weight", "token_head.weight", "speaker_head.weight"} <= changed
    assert any("encoder.layers" in name for name in changed)


@pytest.mark.parametrize("freeze, warned", [("none", True), ("all", False)])
def test_a_speaker_head_on_which_nothing_depends_is_not_warned_of(corpus, tmp_path, freeze, warned):
    """Over a frozen encoder it reads what nobody trains, and no gradient leaves it."""
    trainer = make_trainer(corpus, tmp_path, freeze=freeze, beta=0.0, alpha=0.0, epochs=1)
    trainer.history = 3 * [{"train": {"loss": 1.0, "ua": 0.6, "acc_sid": 0.0}}]
    trainer.write_results()
    warnings = (tmp_path / "warnings.txt").read_text()
    assert ("the speaker head stayed at chance" in warnings) == warned and "emotion" not in warnings


def test_the_learning_rate_climbs_and_falls():
    config = TrainConfig(warmup_ratio=0.1)
    shares = [rate_share(update, 100, config) for update in range(100)]
    assert shares[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert shares[10:] == pytest.approx([(100 - n) / 90 for n in range(10, 100)])
    cosine = [rate_share(n, 100, dataclasses.replace(config, lr_schedule="cosine")) for n in range(10, 100)]
    assert cosine == pytest.approx([0.5 * (1 + np.cos(np.pi * (n - 10) / 90)) for n in range(10, 100)])
    assert rate_share(99, 100, config) == pytest.approx(1 / 90) and rate_share(100, 100, config) == 0
    constant = [rate_share(n, 100, dataclasses.replace(config, lr_schedule="constant")) for n in range(100)]
    assert constant == shares[:10] + [1.0] * 90
    assert rate_share(0, 1, TrainConfig(warmup_ratio=0.0)) == rate_share(0, 1, TrainConfig(warmup_ratio=1.0)) == 1.0


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_schedule_of_the_reversal_ends_at_the_last_update(corpus, tmp_path, monkeypatch, epochs):
    seen = []
    monkeypatch.setattr("sermtl.train.trainer.reversal_scale", lambda *words: seen.append(words[2:]) or 0.0)
    trainer = make_trainer(corpus, tmp_path, epochs=epochs, grl_schedule="dann")
    parts = [trainer.sets.train.collate([trainer.sets.train[0]])]
    for update in (0, trainer.total_updates - 1):
        trainer.update(update, parts)
    assert trainer.total_updates > 1 and seen == [("dann", 0.0), ("dann", 1.0)]


@pytest.mark.parametrize("of_heads, of_speakers", [(0.0, 0.0), (4e-3, 0.0), (4e-3, 5e-3), (0.0, 5e-3)])
def test_heads_have_a_rate_beside_that_of_the_upstream(corpus, tmp_path, of_heads, of_speakers):
    rates = {"head_learning_rate": of_heads, "speaker_learning_rate": of_speakers}
    trainer = make_trainer(corpus, tmp_path, learning_rate=1e-3, **rates, epochs=1)
    trainer.update(0, [trainer.sets.train.collate([trainer.sets.train[0]])])
    share = rate_share(0, trainer.total_updates, trainer.config)
    rates = {id(p): group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    for name, parameter in trainer.model.named_parameters():
        peak = 1e-3 if name.startswith("upstream.") or not of_heads else of_heads
        if name.startswith("speaker_head.") and of_speakers:
            peak = of_speakers
        assert rates[id(parameter)] == pytest.approx(share * peak), name
    assert trainer.optimizer.param_groups[0]["peak"] == 1e-3  # that of the history


def test_an_epoch_of_updates_goes_on_where_the_last_one_stopped(corpus, tmp_path):
    """Passes over the training list follow one another, each utterance once a pass."""
    whole, cut = (make_trainer(corpus, tmp_path / str(n), batch_size=4, updates=n, epochs=3) for n in (0, 3))
    size = len(whole.sets.train)
    passes = []
    for epoch in range(3):
        passes += batches_of_epoch(whole.sets.train.examples, whole.config, epoch, whole.epoch_updates)
    assert [len(passes), cut.total_updates] == [3 * -(-size // 4), 9]
    of_updates = []
    for epoch in range(3):
        batches = batches_of_epoch(cut.sets.train.examples, cut.config, epoch, cut.epoch_updates)
        assert len(batches) == 3
        of_updates += batches
    assert of_updates == passes[:9]


def test_only_matrices_decay_and_only_trained_weights_are_optimised(corpus, tmp_path):
    trainer = make_trainer(corpus, tmp_path, freeze="conv", weight_decay=0.3, adam_betas=[0.8, 0.9])
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
    predicted = torch.from_numpy(random.integers(0, 3, 60))
    output = Output(
        F.one_hot(torch.from_numpy(guesses), 4).float(), F.one_hot(paths, 32).float(), F.one_hot(predicted, 3).float(),
        torch.zeros(60, 1), frames_B, torch.zeros(60, 1, 1),
    )  # fmt: skip
    epoch_sums = EpochSums(4)
    for part in (slice(0, 25), slice(25, 60)):
        none = torch.zeros(0)
        targets = torch.from_numpy(truths[part]), torch.from_numpy(speakers[part])
        names = [str(number) for number in range(60)[part]]
        batch = Batch(names, none, none, *targets, none, none)
        cut = Output(*(getattr(output, field.name)[part] for field in dataclasses.fields(Output)[:6]))
        epoch_sums.add_guesses(Guesses.of(cut), batch, dict(zip(names, words[part], strict=True)), tokenizer)
    rates, known, of_known = epoch_sums.rates(), truths >= 0, speakers >= 0
    assert rates["wa"] == pytest.approx(accuracy_score(truths[known], guesses[known]))
    assert rates["ua"] == pytest.approx(
        recall_score(truths[known], guesses[known], labels=[0, 1, 2], average="macro", zero_division=0)
    )
    assert rates["acc_sid"] == pytest.approx(accuracy_score(speakers[of_known], predicted.numpy()[of_known]))
    hypotheses = texts_of(output.best_BT, frames_B, tokenizer)
    kept = [number for number, text in enumerate(words) if text]
    assert rates["wer"] == pytest.approx(jiwer.wer([words[n] for n in kept], [hypotheses[n] for n in kept]))
    assert EpochSums(4).rates() == dict.fromkeys(("wa", "ua", "wer", "acc_sid"))


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
    trainer.update(0, [train_set.collate([train_set[bad], train_set[bad - 1]])])
    assert "nonfinite" not in trainer.epoch_sums.sums  # read when the next update is launched
    trainer.count_updates()
    assert same(trainer.model.state_dict(), before)
    assert not any(value.any() for state in trainer.optimizer.state.values() for value in state.values())
    assert trainer.epoch_sums.sums["nonfinite"] == 1 and "loss_ser" not in trainer.epoch_sums.sums
    trainer.epoch_sums = EpochSums(4)
    assert "s1-03" in caplog.text
    trainer.run()
    assert all(torch.isfinite(value).all() for value in trainer.model.state_dict().values())
    for record in records(tmp_path):
        assert record["train"]["nonfinite"] == 1 and record["train"]["loss"] > 0


def test_too_many_stop_the_training_with_their_utterances(corpus, tmp_path):
    trainer = poisoned_trainer(corpus, tmp_path, "s1-03", "s1-05", "s2-04", "s2-06", "s2-07", epochs=2)
    with pytest.raises(UserError) as error:
        trainer.run()
    message = str(error.value)
    assert "of 4 updates of epoch 1 were not finite" in message and "max_nonfinite is 0.01" in message
    assert any(utterance in message for utterance in ("s1-03", "s1-05", "s2-04", "s2-06", "s2-07"))
    listed = set((tmp_path / "nonfinite.txt").read_text().split())
    assert f"{tmp_path}/nonfinite.txt" in message and len(listed) > 1
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
    assert nonfinite_utterances(trainer.model, [part]) == part.utterances


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


def refuse_from(monkeypatch, trainer, size, error=GPU_FULL):
    """A machine on which batches of ``size`` utterances do not fit."""
    real = trainer.model.forward

    def forward(batch, *args):
        if len(batch.utterances) >= size:
            raise error
        return real(batch, *args)

    monkeypatch.setattr(trainer.model, "forward", forward)


def update_of_six(trainer):
    """One update without dropout; its epoch_sums."""
    trainer.model.eval()
    data = trainer.sets.train
    trainer.update(0, [data.collate([data[index] for index in range(6)])])
    trainer.count_updates()
    return trainer.epoch_sums


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


@pytest.mark.parametrize(
    "error, kind, message",
    [
        (GPU_FULL, UserError, "out of memory with the utterance s[0-9]-[0-9]+ alone"),
        (RuntimeError("shapes do not fit"), RuntimeError, "shapes do not fit"),
    ],
)
def test_an_update_that_no_smaller_part_saves_stops(corpus, tmp_path, monkeypatch, error, kind, message):
    trainer = make_trainer(corpus, tmp_path / "exp")
    refuse_from(monkeypatch, trainer, 1, error)
    with pytest.raises(kind, match=message):
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
