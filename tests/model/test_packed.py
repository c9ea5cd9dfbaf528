"""The packed encoder against transformers' own, which `test_upstream` compares the padded one with."""

import pytest
import torch
from small_model import with_heads
from torch import nn
from upstreams import FAMILIES, SMALL, around, every_state, hidden_states, transformers_model, wave

from sermtl.errors import UserError
from sermtl.model.batch import Batch
from sermtl.model.multitask import task_losses
from sermtl.model.packed import ROWS, Packing, _drop, attend_padded, convolve_positions
from sermtl.model.padded import convolve_channels_last, enough_bits, own_frames
from sermtl.model.upstreams.load import build_upstream, config_from

PACKABLE = [name for name in FAMILIES if not name.startswith("wavlm")]
LENGTHS = (50, 399, 2500, 9000, 30000)
SHORT = (50, 399, 2500, 5000, 9000)
"""CTC's own rounding grows with an utterance's nats: over 93 frames float32 is 1.6e-5 away from float64."""
QUIET = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "feat_proj_dropout": 0.0}


def plain_model(name):
    model_type, values = FAMILIES[name]
    return transformers_model(model_type, **values, **QUIET, layerdrop=0.0)


def upstream_of(name):
    return every_state(around(plain_model(name)))


def masks(upstream, lengths):
    frames = [upstream.geometry.frames(length) for length in lengths]
    generator = torch.Generator().manual_seed(1)
    time_BT = torch.rand(len(frames), max(frames), generator=generator) < 0.2
    return time_BT, torch.rand(len(frames), upstream.hidden_size, generator=generator) < 0.1


def loss_and_gradient(upstream, packed):
    upstream.packed = packed
    wav_BS, lengths_B = wave(*LENGTHS)
    states, _ = upstream(wav_BS, lengths_B, *masks(upstream, LENGTHS))
    direction_D = torch.linspace(-1, 1, upstream.hidden_size)
    loss = sum((hidden_BTD @ direction_D).square().mean() for hidden_BTD in states)
    weights = [p for p in upstream.parameters() if p.requires_grad]
    return loss.detach(), torch.autograd.grad(loss, weights, materialize_grads=True)


def apart(ours, theirs):
    """Norm of the difference over the norm."""
    difference = sum(float((a - b).square().sum()) for a, b in zip(ours, theirs, strict=True))
    return (difference / sum(float(b.square().sum()) for b in theirs)) ** 0.5


@pytest.mark.parametrize("name", PACKABLE)
@torch.no_grad()
def test_each_utterances_hidden_states_are_those_of_transformers_alone(name):
    upstream, theirs = upstream_of(name).eval(), plain_model(name)
    assert upstream.packable
    upstream.packed = True
    wav_BS, lengths_B = wave(*LENGTHS)
    states, frames_B = upstream(wav_BS, lengths_B)
    for row, length in enumerate(LENGTHS):
        alone = hidden_states(theirs, wav_BS[row : row + 1, : max(length, 400)])
        for hidden_BTD, theirs_1TD in zip(states, alone, strict=True):
            torch.testing.assert_close(hidden_BTD[row, : frames_B[row]], theirs_1TD[0], rtol=0, atol=1e-4)
            assert not hidden_BTD[row, frames_B[row] :].any()


@pytest.mark.parametrize("rows", [1, 64])
@pytest.mark.parametrize("name", ["wav2vec2-base", "xls-r", "data2vec-audio"])
def test_the_loss_and_the_gradient_are_those_of_the_padded_batch(name, rows, monkeypatch):
    monkeypatch.setitem(ROWS, "cpu", rows)
    upstream = upstream_of(name).train()
    plain_loss, plain = loss_and_gradient(upstream, packed=False)
    for fourier in (True, False):
        upstream.fourier_positions = fourier
        loss, gradient = loss_and_gradient(upstream, packed=True)
        torch.testing.assert_close(loss, plain_loss, rtol=1e-5, atol=0)
        assert apart(gradient, plain) < 1e-5


@pytest.mark.parametrize("packed, bf16, near", [(True, False, 1e-5), (False, True, 2e-2), (True, True, 2e-2)])
def test_the_three_losses_and_their_gradient_are_those_of_the_plain_path(packed, bf16, near):
    def losses_and_gradient(packed, bf16):
        torch.manual_seed(3)
        model = with_heads(upstream_of("wav2vec2-base"), 4, 9, 3).train()
        model.dropout.p, model.upstream.packed, model.bf16 = 0.0, packed, bf16
        wav_BS, lengths_B = wave(*SHORT)
        tokens_BN = torch.tensor([[1, 0, 0], [2, 0, 0], [1, 2, 3], [4, 4, 0], [5, 6, 7]])
        targets = torch.tensor([0, 3, -1, 1, 2]), torch.tensor([2, 1, 0, -1, 0]), tokens_BN
        batch = Batch(list("abcde"), wav_BS, lengths_B, *targets, torch.tensor([1, 0, 3, 2, 3]))
        batch.time_mask_BT, batch.feature_mask_BD = masks(model.upstream, SHORT)
        losses = task_losses(model(batch, -0.1), batch)
        total = losses["ser"] + 0.1 * losses["asr"] + losses["sid"]
        weights = [p for p in model.parameters() if p.requires_grad]
        return losses, torch.autograd.grad(total, weights, materialize_grads=True)

    plain_losses, plain = losses_and_gradient(packed=False, bf16=False)
    losses, gradient = losses_and_gradient(packed, bf16)
    for task, loss in losses.items():
        torch.testing.assert_close(loss, plain_losses[task], rtol=near, atol=0)
    assert apart(gradient, plain) < near


@pytest.mark.parametrize("heads, frames", [(2, (1, 70, 63, 150)), (1, (5,))])
def test_attention_of_all_utterances_at_once_is_that_of_each(heads, frames):
    torch.manual_seed(0)
    counts_B, total = torch.tensor(frames), max(frames) + 3
    projected_NKHD = torch.randn(sum(frames), 3, heads, 8, requires_grad=True)
    ours = attend_padded(projected_NKHD, Packing.of(counts_B, own_frames(counts_B, total), ROWS), 0.0)
    each = [[part.transpose(0, 1) for part in one.unbind(1)] for one in projected_NKHD.split(frames)]
    theirs = torch.cat([nn.functional.scaled_dot_product_attention(*one).transpose(0, 1) for one in each])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    sent_back = torch.randn_like(ours)
    gradients = [torch.autograd.grad(out, projected_NKHD, sent_back)[0] for out in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


SHAPES = [(128, 4, (1, 700, 63, 1500)), (31, 2, (5,)), (7, 1, (600, 2)), (129, 2, (300, 40)), (300, 1, (900, 1))]


@pytest.mark.parametrize("taps, groups, frames", SHAPES)
def test_fourier_positions_are_the_convolution(taps, groups, frames):
    torch.manual_seed(0)
    conv = nn.Conv1d(8, 8, taps, padding=taps // 2, groups=groups)
    hidden_ND = torch.randn(sum(frames), 8, requires_grad=True)
    ours = convolve_positions(hidden_ND, frames, conv)
    theirs = torch.cat([conv(part.T)[:, : len(part)].T for part in hidden_ND.split(frames)])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    sent_back = torch.randn_like(ours) / len(ours) ** 0.5
    wanted = (hidden_ND, conv.weight, conv.bias)
    gradients = [torch.autograd.grad(out, wanted, sent_back) for out in (ours, theirs)]
    for gradient, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "channels, taps, stride", [(8, 8, 8), (16, 8, 4), (24, 4, 4), (4, 128, 1), (32, 8, 8), (64, 3, 2)]
)
def test_convolutions_in_bf16_are_near_those_in_float32(channels, taps, stride):
    """With AMX, some over few channels are not, where they are left to PyTorch."""
    conv = nn.Conv1d(channels, channels, taps, stride).requires_grad_(False)
    values_BCT = torch.randn(2, channels, 300)
    with torch.autocast("cpu", torch.bfloat16), enough_bits(values_BCT, channels) as input_BCT:
        ours = conv(input_BCT), convolve_channels_last(values_BCT, conv)
    for output in ours:
        assert apart([output.float()], [conv(values_BCT)]) < 1e-2


def test_dropout_keeps_the_mean_and_drops_its_share():
    torch.manual_seed(0)
    dropped = _drop(torch.ones(1001, 999), 0.1)
    assert float((dropped == 0).float().mean()) == pytest.approx(0.1, abs=0.002)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.002)
    torch.manual_seed(0)
    assert torch.equal(dropped, _drop(torch.ones(1001, 999), 0.1))


def test_training_draws_dropout_and_evaluation_none():
    model_type, values = FAMILIES["wav2vec2-base"]
    upstream = build_upstream(config_from(model_type, SMALL | values, "test"))
    upstream.packed = True
    wav_BS, lengths_B = wave(3000, 9000)

    def twice():
        return [upstream(wav_BS, lengths_B)[0][0] for _ in range(2)]

    upstream.train()
    assert not torch.equal(*twice())
    upstream.eval()
    assert torch.equal(*twice())


def test_the_layout_is_chosen_by_what_gains_from_it():
    upstream = upstream_of("xls-r")
    for width, layout, device, packed in (
        (24, "auto", "cpu", False), (24, "packed", "cpu", True), (24, "padded", "cpu", False),
        (768, "auto", "cpu", True), (768, "auto", "cuda", True), (768, "padded", "cpu", False),
    ):  # fmt: skip
        upstream.hidden_size = width
        upstream.lay_out(layout, torch.device(device))
        assert upstream.packed == packed
    with pytest.raises(UserError, match="packed is not known for wavlm"):
        upstream_of("wavlm-base").lay_out("packed", torch.device("cpu"))
