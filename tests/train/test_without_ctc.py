"""Utterances without a CTC term (no transcript, or one too long for its frames) do not count in the mean of L_asr."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from small_corpus import make_small_corpus
from small_training import make_trainer, records, train

from sermtl.config import TrainConfig, load_config
from sermtl.data.fold_data import load_fold
from sermtl.errors import UserError
from sermtl.fileio.tables import read_table, write_table
from sermtl.train.fold import check_fold

ALPHA = 0.2


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_small_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.mark.parametrize("accum_grad", [1, 3])
def test_each_loss_is_the_mean_over_the_utterances_of_the_update_that_have_its_target(corpus, tmp_path, accum_grad):
    trainer = make_trainer(corpus, tmp_path, alpha=ALPHA, beta=1.0, grl="forward", grad_clip=0.0, accum_grad=accum_grad)
    model, train_set = trainer.model.eval(), trainer.sets.train
    for number in (5, 6, 7):
        train_set.examples[number] = dataclasses.replace(train_set.examples[number], speaker=-1)
    numbers = list(range(5, 13))  # the last ones: no transcript, one too long, no emotion, all present

    losses = {"ser": [], "asr": [], "sid": []}
    for number in numbers:
        batch = train_set.collate([train_set[number]])
        output = model(batch, 1.0)
        if batch.emotions_B[0] >= 0:
            losses["ser"].append(F.cross_entropy(output.emotion_BC, batch.emotions_B))
        if batch.speakers_B[0] >= 0:
            losses["sid"].append(F.cross_entropy(output.speaker_BS, batch.speakers_B))
        tokens = torch.tensor(train_set.examples[number].tokens)
        loss = F.ctc_loss(output.tokens_BTV[0].log_softmax(-1), tokens, output.frames_B, torch.tensor([len(tokens)]),
                          reduction="sum")  # fmt: skip
        if len(tokens) and loss.isfinite():
            losses["asr"].append(loss)
    assert {task: len(found) for task, found in losses.items()} == {"ser": 7, "asr": 6, "sid": 5}
    means = {task: sum(found) / len(found) for task, found in losses.items()}
    total = means["ser"] + ALPHA * means["asr"] + means["sid"]
    parameters = dict(model.named_parameters())
    expected = dict(zip(parameters, torch.autograd.grad(total, [*parameters.values()], allow_unused=True), strict=True))

    trainer.update(0, [train_set.collate([train_set[n] for n in part]) for part in trainer.parts_of(numbers)])
    averages = trainer.counted().averages(ALPHA)
    for task, mean in means.items():
        assert averages[f"loss_{task}"] == pytest.approx(mean.item(), rel=1e-4), task
    assert averages["loss"] == pytest.approx(total.item(), rel=1e-4) and averages["no_ctc"] == 2
    for name, gradient in expected.items():
        if gradient is not None and gradient.any():
            scale = float(gradient.abs().max())
            torch.testing.assert_close(parameters[name].grad, gradient, rtol=1e-4, atol=2e-5 * scale + 1e-7, msg=name)


@pytest.mark.parametrize("case", ["ctc_too_long", "ctc_half_too_long"])
def test_transcripts_that_are_too_long_are_counted_named_and_left_out_of_the_mean(corpus, tmp_path, capsys, case):
    texts = read_table(corpus.data / "text")
    half = case == "ctc_half_too_long"
    long = {utt: "WHY NO " * 40 for number, utt in enumerate(texts) if number % 2 or not half}
    write_table(corpus.data / "text", texts | long)
    try:
        assert train(corpus, tmp_path / "exp", epochs=1, bucket_batches=1) == 0
    finally:
        write_table(corpus.data / "text", texts)
    (record,) = (record["train"] for record in records(tmp_path / "exp"))
    trained = [utt for utt in texts if not utt.startswith("s0")]
    without = [utt for utt in trained if utt in long]
    assert record["no_ctc"] == len(without) + half  # s2-00 has no transcript in either case
    assert record["loss_asr"] > 5 if half else record["loss_asr"] is None
    words = f"{len(without)} with one too long for their frames ({', '.join(without[:5])}, ...)"
    printed, kept = capsys.readouterr().out, (tmp_path / "exp" / "s0" / "warnings.txt").read_text()
    (line,) = [line for line in printed.splitlines() if line.startswith("warning: training utterances that do not")]
    assert line.endswith(words) and line.removeprefix("warning: ") in kept


def test_characters_without_a_transcript_in_the_training_list_are_refused(corpus, tmp_path):
    config = load_config(TrainConfig, corpus.config(alpha=ALPHA))
    fold = load_fold(corpus.data, corpus.folds_dir / "s0", corpus.dump, corpus.tokens / "s0", config)
    check_fold(config, fold, corpus.folds_dir / "s0")
    silent = [dataclasses.replace(example, tokens=()) for example in fold.examples["train"]]
    fold = dataclasses.replace(fold, examples={**fold.examples, "train": silent})
    with pytest.raises(UserError, match=r"folds/speaker/s0/train has no transcript, .*; give --alpha 0$"):
        check_fold(config, fold, corpus.folds_dir / "s0")
