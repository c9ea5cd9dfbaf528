from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from small_corpus import FBANK_GEOMETRY, RAW_GEOMETRY
from small_model import FAMILIES, upstream_of, with_heads

from sermtl.model.batch import Batch
from sermtl.model.heads import pool
from sermtl.model.multitask import balanced_weights, ctc_losses, task_losses

LENGTHS = (800, 1500, 3000, 5000)
TOKENS = ((5, 6, 6), (), (7,), (8, 9, 10, 9))
PLAIN = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "feat_proj_dropout": 0.0}
PLAIN |= {"final_dropout": 0.0, "layerdrop": 0.0}


def make_model(geometry=RAW_GEOMETRY):
    return with_heads(upstream_of(geometry | PLAIN), 4, 12, 3)


def make_batch(lengths=LENGTHS, tokens=TOKENS, emotions=(0, 3, -1, 1), speakers=(2, 0, 1, -1), tail=()):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.zeros(len(lengths), max(lengths), *tail)
    for row, length in zip(inputs, lengths, strict=True):
        row[:length] = torch.randn(length, *tail, generator=generator)
    tokens_BN = torch.zeros(len(lengths), max(1, *map(len, tokens)), dtype=torch.long)
    for row, ids in zip(tokens_BN, tokens, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return Batch(
        [f"u{n}" for n in range(len(lengths))], inputs, torch.tensor(lengths), torch.tensor(emotions),
        torch.tensor(speakers), tokens_BN, torch.tensor([len(ids) for ids in tokens]),
    )  # fmt: skip


def rows(batch, start, stop):
    """A part of a batch, no longer than its longest utterance."""
    keep = slice(start, stop)
    return Batch(
        batch.utterances[keep], batch.inputs[keep, : int(batch.lengths_B[keep].max())], batch.lengths_B[keep],
        batch.emotions_B[keep], batch.speakers_B[keep], batch.tokens_BN[keep], batch.token_lengths_B[keep],
    )  # fmt: skip


def gradients(model, loss):
    """Parameter name -> gradient (None where none arrives)."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True))


def speaker_gradients(scale):
    model, batch = make_model(), make_batch()
    return gradients(model, task_losses(model(batch, scale), batch)["sid"])


def encoder(grads):
    return {name: grad for name, grad in grads.items() if name.startswith("upstream.") and grad is not None}


# Outputs


@torch.no_grad()
@pytest.mark.parametrize("geometry, tail", [(RAW_GEOMETRY, ()), (FBANK_GEOMETRY, (80,))])
def test_all_outputs_are_the_same_alone_and_in_a_batch(geometry, tail):
    model = make_model(geometry).eval()
    batch = make_batch((230, 800, 2500) if not tail else (3, 40, 130), ((),) * 3, (0,) * 3, (0,) * 3, tail)
    together = model(batch)
    for row in range(3):
        alone = model(rows(batch, row, row + 1))
        frames = int(alone.frames_B)
        assert int(together.frames_B[row]) == frames
        for name in ("emotion_BC", "speaker_BS", "vector_BM"):
            torch.testing.assert_close(getattr(together, name)[row], getattr(alone, name)[0], rtol=0, atol=1e-4)
        torch.testing.assert_close(together.tokens_BTV[row, :frames], alone.tokens_BTV[0], rtol=0, atol=1e-4)


@torch.no_grad()
def test_the_heads_are_linear_and_pooling_is_the_mean_of_own_frames():
    model, batch = make_model().eval(), make_batch()
    output = model(batch)
    (hidden_BTD,), frames_B = model.upstream(batch.inputs, batch.lengths_B)
    for row, frames in enumerate(frames_B.tolist()):
        mean_D = hidden_BTD[row, :frames].mean(0)
        torch.testing.assert_close(output.vector_BM[row], mean_D)
        torch.testing.assert_close(output.emotion_BC[row], F.linear(mean_D, *model.emotion_head.parameters()))
        torch.testing.assert_close(output.speaker_BS[row], F.linear(mean_D, *model.speaker_head.parameters()))
    torch.testing.assert_close(output.tokens_BTV, F.linear(hidden_BTD, *model.token_head.parameters()))
    assert all(isinstance(head, torch.nn.Linear) for head in (model.emotion_head, model.token_head, model.speaker_head))


def test_the_mean_ignores_whatever_stands_beyond():
    hidden_BTD = torch.randn(2, 5, 3, requires_grad=True)
    pooled_BD = pool(hidden_BTD, torch.tensor([2, 5]), "mean")
    torch.testing.assert_close(pooled_BD[0], hidden_BTD[0, :2].mean(0))
    pooled_BD.sum().backward()
    assert not hidden_BTD.grad[0, 2:].any() and hidden_BTD.grad[0, :2].all()


# Losses


def test_the_losses_are_sums_over_utterances_computed_one_by_one():
    model, batch = make_model().eval(), make_batch()
    losses = task_losses(model(batch), batch)
    ser, asr, sid = [], [], []
    for row in range(4):
        own = rows(batch, row, row + 1)
        (hidden_BTD,), _ = model.upstream(own.inputs, own.lengths_B)
        pooled_BD = hidden_BTD.mean(1)
        if own.emotions_B[0] >= 0:
            ser.append(F.cross_entropy(model.emotion_head(pooled_BD), own.emotions_B))
        if own.speakers_B[0] >= 0:
            sid.append(F.cross_entropy(model.speaker_head(pooled_BD), own.speakers_B))
        if TOKENS[row]:
            log_probs_TV = model.token_head(hidden_BTD)[0].log_softmax(-1)
            target = torch.tensor(TOKENS[row])
            asr.append(F.ctc_loss(log_probs_TV, target, torch.tensor(len(log_probs_TV)), torch.tensor(len(target)),
                                  reduction="sum"))  # fmt: skip
    assert (len(ser), len(asr), len(sid)) == (3, 3, 3)
    for name, values in (("ser", ser), ("asr", asr), ("sid", sid)):
        torch.testing.assert_close(losses[name], sum(values), rtol=1e-4, atol=1e-4)


def test_balanced_weights_are_those_of_scikit_learn_and_weight_the_emotion_loss_in_training_only():
    emotions = [0, 0, 0, 0, 1, 3, 3, 3]
    weights_C = balanced_weights([*emotions, -1], 4)
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=np.array(emotions))
    torch.testing.assert_close(weights_C[[0, 1, 3]], torch.tensor(expected, dtype=torch.float32))
    assert weights_C[emotions].mean() == 1
    model, batch = make_model(), make_batch(emotions=(0, 3, -1, 1))
    model.dropout.p = 0.0
    plain = [
        F.cross_entropy(model(batch).emotion_BC[row : row + 1], batch.emotions_B[row : row + 1]) for row in (0, 1, 3)
    ]
    model.class_weights_C = weights_C
    weighted = sum(weights_C[emotion] * loss for emotion, loss in zip((0, 3, 1), plain, strict=True))
    torch.testing.assert_close(task_losses(model.train()(batch), batch)["ser"], weighted)
    torch.testing.assert_close(task_losses(model.eval()(batch), batch)["ser"], sum(plain))
    assert not any("weights" in name for name in model.state_dict())


def test_ctc_is_the_sum_over_all_alignments():
    """By enumeration of every path of three frames over two tokens and the blank."""
    torch.manual_seed(0)
    logits_BTV = torch.randn(1, 3, 3)
    probs_TV = logits_BTV[0].softmax(-1)
    total = 0.0
    for path in torch.cartesian_prod(*[torch.arange(3)] * 3).tolist():
        collapsed = [t for n, t in enumerate(path) if t and (n == 0 or t != path[n - 1])]
        if collapsed == [2, 1]:
            total += float(probs_TV[0, path[0]] * probs_TV[1, path[1]] * probs_TV[2, path[2]])
    batch = make_batch((10,), ((2, 1),), (0,), (0,))
    nll_B = ctc_losses(logits_BTV, torch.tensor([3]), batch)
    assert float(nll_B[0]) == pytest.approx(-torch.tensor(total).log().item(), rel=1e-5)


def test_utterances_without_a_transcript_or_with_one_too_long_add_nothing_and_stay_finite():
    model = make_model()
    whole = make_batch()
    too_long = make_batch(tokens=((5, 6, 6), tuple(range(1, 10)) * 9, (7,), (8, 9, 10, 9)))
    expected = task_losses(model(whole), whole)["asr"]
    loss = task_losses(model(too_long), too_long)["asr"]
    torch.testing.assert_close(loss, expected)
    for grad, same in zip(gradients(model, loss).values(), gradients(model, expected).values(), strict=True):
        if same is not None:
            assert torch.isfinite(grad).all()
            torch.testing.assert_close(grad, same, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tokens", [((),) * 4, ((5, 6, 7) * 30,) * 4])
def test_a_batch_without_any_target_gives_zero_losses_and_finite_gradients(tokens):
    model, batch = make_model(), make_batch(tokens=tokens, emotions=(-1,) * 4, speakers=(-1,) * 4)
    losses = task_losses(model(batch, -0.1), batch)
    assert {name: loss.item() for name, loss in losses.items()} == {"ser": 0.0, "asr": 0.0, "sid": 0.0}
    grads = gradients(model, sum(losses.values()))
    assert all(grad is None or not grad.any() for grad in grads.values())


@pytest.mark.parametrize("cuts", [(0, 2, 4), (0, 1, 2, 3, 4), (0, 3, 4)])
def test_an_updates_loss_and_gradient_do_not_depend_on_how_it_is_cut(cuts):
    model, batch = make_model(), make_batch()

    def total(part):
        losses = task_losses(model(part, -0.5), part)
        return losses["ser"] + 0.1 * losses["asr"] + losses["sid"]

    whole, whole_grads = total(batch), gradients(model, total(batch))
    parts = [rows(batch, start, stop) for start, stop in zip(cuts, cuts[1:], strict=False)]
    torch.testing.assert_close(sum(total(part) for part in parts), whole, rtol=1e-5, atol=1e-5)
    sums = [gradients(model, total(part)) for part in parts]
    for name, grad in whole_grads.items():
        if grad is not None:
            summed = sum(part[name] for part in sums)
            torch.testing.assert_close(summed, grad, rtol=1e-5, atol=1e-5 * float(grad.abs().max()) + 1e-7, msg=name)


# The speaker head's gradient


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_the_reversed_gradient_at_the_encoder_is_exactly_minus_beta_times_the_plain_one(beta):
    plain, reverse, forward = (speaker_gradients(scale) for scale in (1.0, -beta, beta))
    assert len(encoder(plain)) > 10
    for name, grad in encoder(plain).items():
        assert torch.equal(reverse[name], -beta * grad), name
        assert torch.equal(forward[name], beta * grad), name
    assert max(float(grad.abs().max()) for grad in encoder(plain).values()) > 1e-3


def test_a_beta_that_is_no_power_of_two():
    plain, reverse = speaker_gradients(1.0), speaker_gradients(-0.1)
    for name, grad in encoder(plain).items():
        torch.testing.assert_close(reverse[name], -0.1 * grad, rtol=1e-4, atol=1e-9 + 1e-6 * float(grad.abs().max()))


def test_the_speaker_head_learns_at_full_strength_whatever_beta():
    grads = [speaker_gradients(scale) for scale in (1.0, -0.1, 0.1, 0.0)]
    for name in ("speaker_head.weight", "speaker_head.bias"):
        assert grads[0][name].any()
        assert all(torch.equal(grad[name], grads[0][name]) for grad in grads)


def test_beta_0_gives_the_encoder_no_gradient_of_the_speaker_loss():
    assert not any(grad.any() for grad in encoder(speaker_gradients(0.0)).values())


def test_the_other_heads_get_no_gradient_of_the_speaker_loss():
    grads = [speaker_gradients(-1.0)[f"{head}_head.weight"] for head in ("emotion", "token")]
    assert all(grad is None or not grad.any() for grad in grads)


# Gradient norms


def test_recorded_norms_are_those_of_each_tasks_gradient_on_own_frames():
    model, batch = make_model(), make_batch()
    losses = task_losses(model(batch, -0.3), batch)
    (losses["ser"] + 0.1 * losses["asr"] + losses["sid"]).backward()
    (hidden_BTD,), frames_B = model.upstream(batch.inputs, batch.lengths_B)
    hidden_BTD = hidden_BTD.detach().requires_grad_()
    pooled_BD = torch.stack([hidden_BTD[row, :frames].mean(0) for row, frames in enumerate(frames_B.tolist())])
    expected = {
        "ser": F.cross_entropy(model.emotion_head(pooled_BD), batch.emotions_B, ignore_index=-1, reduction="sum"),
        "sid": F.cross_entropy(model.speaker_head(pooled_BD), batch.speakers_B, ignore_index=-1, reduction="sum"),
        "asr": ctc_losses(model.token_head(hidden_BTD), frames_B, batch).sum(),
    }
    factors = {"ser": 1.0, "sid": 0.3, "asr": 0.1}
    assert model.gradient_norms.keys() == expected.keys()
    for task, loss in expected.items():
        norm = torch.autograd.grad(loss, hidden_BTD, retain_graph=True)[0].norm() * factors[task]
        torch.testing.assert_close(model.gradient_norms[task], norm, rtol=1e-4, atol=1e-7)


def test_recorded_norms_do_not_grow_with_padding():
    def norms(batch):
        model = make_model()
        losses = task_losses(model(batch, -1.0), batch)
        sum(losses.values()).backward()
        return model.gradient_norms

    short = make_batch((900,), ((5, 6),), (1,), (2,))
    padded = replace(short, inputs=torch.cat([short.inputs, torch.zeros(1, 8000)], 1))
    for task, norm in norms(short).items():
        torch.testing.assert_close(norms(padded)[task], norm, rtol=1e-3, atol=1e-6)


# Precision


@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech-sat"])
def test_bf16_runs_the_upstream_in_bf16_and_the_heads_in_float32(family):
    plain, halved = (make_model(FAMILIES[family]).eval() for _ in range(2))
    halved.bf16 = True
    seen = []
    halved.upstream.model.encoder.layers[0].feed_forward.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    batch = make_batch()
    output, expected = halved(batch, -0.1), plain(batch, -0.1)
    assert seen == [torch.bfloat16]
    assert output.emotion_BC.dtype == output.tokens_BTV.dtype == output.vector_BM.dtype == torch.float32
    torch.testing.assert_close(output.vector_BM, expected.vector_BM, rtol=0.1, atol=0.1)
    assert not torch.equal(output.vector_BM, expected.vector_BM)
    losses = task_losses(output, batch)
    sum(losses.values()).backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in halved.parameters())
