"""What the heads read: formulas against plain loops, and what is frozen or left out."""

from __future__ import annotations

import pytest
import torch
from small_corpus import RAW_GEOMETRY
from small_model import upstream_of
from upstreams import wave

from sermtl.config import TrainConfig
from sermtl.errors import UserError
from sermtl.model.batch import Batch
from sermtl.model.heads import HeadSettings, UtteranceVector, head_settings, pool
from sermtl.model.multitask import MultiTaskModel, task_losses

FRAMES = (1, 4, 9)
WHISPER = {"model_type": "whisper", "d_model": 16, "encoder_layers": 3, "encoder_attention_heads": 2}
WHISPER |= {"encoder_ffn_dim": 16, "num_mel_bins": 80, "max_source_positions": 50}
W2V_BERT = {"model_type": "wav2vec2-bert", "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
W2V_BERT |= {"intermediate_size": 16, "output_hidden_size": 16, "conv_depthwise_kernel_size": 5}
LOUD = {"hidden_dropout": 0.5, "attention_dropout": 0.5, "activation_dropout": 0.5, "layerdrop": 0.5}
GEOMETRIES = {
    "wav2vec2": RAW_GEOMETRY | LOUD | {"num_hidden_layers": 3, "feat_proj_dropout": 0.5},
    "norms first": RAW_GEOMETRY
    | LOUD
    | {"num_hidden_layers": 3, "feat_proj_dropout": 0.5, "feat_extract_norm": "layer", "do_stable_layer_norm": True},
    "whisper": WHISPER
    | {"dropout": 0.5, "attention_dropout": 0.5, "activation_dropout": 0.5, "encoder_layerdrop": 0.5},
    "wav2vec2-bert": W2V_BERT | LOUD | {"feat_proj_dropout": 0.5, "conformer_conv_dropout": 0.5},
}
"""Everything that is not frozen draws dropout, whole layers too."""


def states_of(count, width=6, seed=0):
    """Hidden states of three utterances with noise in their padding."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, max(FRAMES), width, generator=generator) for _ in range(count)], torch.tensor(FRAMES)


def vector_of(settings, width=6):
    """Random weights of everything that makes the vector."""
    torch.manual_seed(1)
    vector = UtteranceVector(settings, width)
    if vector.mix.scores_n is not None:
        torch.nn.init.normal_(vector.mix.scores_n)
    return vector


def own(states, row):
    """An utterance's own frames of each state."""
    return [state[row, : FRAMES[row]] for state in states]


# Formulas


@torch.no_grad()
def test_the_mix_of_pooled_states_is_the_pooled_mix_of_frames():
    """SUPERB's formula, as s3prl computes it: mixed frames, projected one by one, then their mean."""
    states, frames_B = states_of(4)
    vector = vector_of(HeadSettings((0, 1, 2, 3), (), projection=5))
    shares = vector.mix.scores_n.softmax(0)
    assert float(shares.max() - shares.min()) > 0.1
    ours_BM = vector(vector.pool(states, frames_B))
    for row in range(3):
        mixed_TD = sum(share * state for share, state in zip(shares, own(states, row), strict=True))
        projected_TM = torch.stack([vector.projection(frame_D) for frame_D in mixed_TD])
        torch.testing.assert_close(ours_BM[row], projected_TM.mean(0), rtol=0, atol=1e-5)


@torch.no_grad()
def test_means_and_deviations_are_those_of_each_state_then_mixed_then_projected():
    states, frames_B = states_of(3)
    vector = vector_of(HeadSettings((0, 1, 2), (), projection=5, pooling="mean_std"))
    ours_BM = vector(vector.pool(states, frames_B))
    for row in range(3):
        pooled = [torch.cat([state.mean(0), (state.var(0, correction=0) + 1e-5).sqrt()]) for state in own(states, row)]
        mixed = sum(share * one for share, one in zip(vector.mix.weights, pooled, strict=True))
        torch.testing.assert_close(ours_BM[row], vector.projection(mixed), rtol=0, atol=1e-5)


@torch.no_grad()
def test_attention_weighs_the_mixed_frames():
    states, frames_B = states_of(3)
    vector = vector_of(HeadSettings((0, 1, 2), (), projection=5, pooling="attention"))
    ours_BM = vector(vector.pool(states, frames_B))
    for row in range(3):
        total, weighed = 0.0, torch.zeros(6)
        for frame in range(FRAMES[row]):
            mixed_D = sum(share * state[row, frame] for share, state in zip(vector.mix.weights, states, strict=True))
            weight = (vector.attention.weight[0] @ mixed_D + vector.attention.bias[0]).exp()
            total, weighed = total + weight, weighed + weight * mixed_D
        torch.testing.assert_close(ours_BM[row], vector.projection(weighed / total), rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "mean_std", "attention"])
def test_the_padding_is_not_read_and_gets_no_gradient(pooling):
    states, frames_B = states_of(2)
    vector = vector_of(HeadSettings((1, 2), (), pooling=pooling))
    loud = [state.clone().requires_grad_() for state in states]
    with torch.no_grad():
        for state in loud:
            state[0, 1:], state[1, 4:] = 100.0, -100.0
    ours_BM = vector(vector.pool(loud, frames_B))
    torch.testing.assert_close(ours_BM, vector(vector.pool(states, frames_B)), rtol=0, atol=1e-5)
    ours_BM.square().sum().backward()
    for state in loud:
        assert torch.isfinite(state.grad).all() and state.grad[2].any()
        assert not state.grad[0, 1:].any() and not state.grad[1, 4:].any()


@torch.no_grad()
def test_a_mix_begins_with_equal_shares_and_one_state_is_not_mixed():
    states, frames_B = states_of(4)
    mixed = UtteranceVector(HeadSettings((0, 1, 2, 3), ()), 6)
    mixed_BM = mixed(mixed.pool(states, frames_B))
    torch.testing.assert_close(mixed_BM, pool(sum(states) / 4, frames_B, "mean"))
    single = UtteranceVector(HeadSettings((2,), ()), 6)
    assert not list(single.parameters()) and single.mix.weights.tolist() == [1.0]
    assert torch.equal(single(single.pool(states[2:3], frames_B)), pool(states[2], frames_B, "mean"))


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["mean", "mean_std"])
def test_pooled_states_are_standardised_before_the_mix(pooling):
    states, frames_B = states_of(3)
    for state in states:
        state[..., 2] = 7.0  # a dimension that does not vary
    vector = vector_of(HeadSettings((0, 1, 2), (), pooling=pooling, standardise=True))
    pooled_BnP = torch.stack([pool(state, frames_B, pooling) for state in states], 1)
    vector.fit(pooled_BnP.mean(0), pooled_BnP.std(0, correction=0))
    standard_BnP = pooled_BnP - pooled_BnP.mean(0)
    varies_nP = pooled_BnP.std(0, correction=0) > 1e-5
    assert not varies_nP[:, 2].any() and varies_nP[:, 3].all()
    standard_BnP = torch.where(varies_nP, standard_BnP / pooled_BnP.std(0, correction=0), standard_BnP)
    expected = sum(share * standard_BnP[:, n] for n, share in enumerate(vector.mix.weights))
    torch.testing.assert_close(vector(pooled_BnP), expected, rtol=0, atol=1e-4)


# Which states are read


def settings_of(total=6, **values):
    return head_settings(TrainConfig(upstream="some", beta=0.0, **values), total)


@pytest.mark.parametrize(
    "values, layers, ctc_layers",
    [
        ({}, (6,), (6,)),
        ({"layers": "2"}, (2,), (2,)),
        ({"layers": "0", "ctc_layers": "last"}, (0,), (6,)),
        ({"layers": "mix", "ctc_layers": "3"}, (0, 1, 2, 3, 4, 5, 6), (3,)),
        ({"freeze": "4", "layers": "mix"}, (4, 5, 6), (4, 5, 6)),
        ({"freeze": "4", "layers": "4", "ctc_layers": "5"}, (4,), (5,)),
        ({"freeze": "all", "alpha": 0.0, "layers": "5"}, (5,), ()),
        ({"freeze": "all", "layers": "5"}, (5,), (5,)),
        ({"alpha": 0.0}, (6,), (6,)),
    ],
)
def test_the_states_that_heads_read(values, layers, ctc_layers):
    settings = settings_of(**values)
    assert (settings.layers, settings.ctc_layers) == (layers, ctc_layers)
    assert settings.states == tuple(sorted({*layers, *ctc_layers}))


@pytest.mark.parametrize(
    "values, words",
    [
        ({"layers": "7"}, ["layers is 7", "some with freeze none has hidden states 0 to 6"]),
        ({"ctc_layers": "9"}, ["ctc_layers is 9", "hidden states 0 to 6"]),
        ({"freeze": "3", "layers": "2"}, ["layers is 2", "freeze 3 has hidden states 3 to 6"]),
        ({"freeze": "3", "ctc_layers": "1"}, ["ctc_layers is 1", "freeze 3 has hidden states 3 to 6"]),
        ({"freeze": "6"}, ["freeze is 6", "has 6 layers", "give all, or fewer"]),
        (
            {"freeze": "all", "pooling": "attention", "pooled_norm": "train"},
            ["pooled_norm train needs pooling mean or mean_std"],
        ),
    ],
)
def test_states_that_cannot_be_read_are_refused(values, words):
    with pytest.raises(UserError) as error:
        settings_of(**values)
    assert [word for word in words if word not in str(error.value)] == [], str(error.value)


def test_an_upstream_refuses_what_it_lacks():
    upstream = upstream_of(GEOMETRIES["wav2vec2"])
    with pytest.raises(UserError, match="no hidden state 4; this upstream has 0 to 3"):
        upstream.read((2, 4))
    for frozen in (0, 3):
        with pytest.raises(UserError, match=f"freeze: {frozen}; this upstream takes none, conv, 1 to 2, or all"):
            upstream.freeze(frozen)


# Frozen parts, and layers that are left out


def model_of(name, settings, freeze="none", **values):
    model = MultiTaskModel(upstream_of(GEOMETRIES[name] | values), settings, 4, 12, 3)
    model.upstream.freeze(freeze)
    return model


def a_batch():
    rows_B = torch.tensor([0, 1])
    return Batch(["a", "b"], *wave(4000, 9000), rows_B, rows_B, torch.tensor([[5, 6], [7, 0]]), torch.tensor([2, 1]))


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("freeze", ["none", "conv", 1, 2, "all"])
def test_what_is_frozen_stays_in_evaluation_mode_and_keeps_its_weights(name, freeze):
    """Of what is trained, states draw dropout; of what is frozen, they are always the same."""
    model, batch = model_of(name, HeadSettings((0, 1, 2, 3), (3,)), freeze), a_batch()
    upstream, count = model.upstream, {"none": 0, "conv": 0, "all": 3}.get(freeze, freeze)
    model.eval()
    model.train()
    modules = [*upstream.fronts, *upstream.before_layers, *upstream.layers[:count]]
    modules = {"none": [], "conv": upstream.fronts, "all": [upstream.model]}.get(freeze, modules)
    assert not any(part.training for module in modules for part in module.modules())
    assert model.training and model.dropout.training
    assert [layer.training for layer in upstream.layers] == [False] * count + [True] * (3 - count)
    with torch.no_grad():
        runs = [upstream(batch.inputs, batch.lengths_B)[0] for _ in range(4)]
    fixed = [all(torch.equal(run[number], runs[0][number]) for run in runs) for number in range(4)]
    lowest = {"none": 0, "conv": 0, "all": 4}.get(freeze, count + 1)
    assert fixed[:lowest] == [True] * lowest and not any(fixed[max(1, lowest) :])
    assert (upstream.masking.time_prob > 0) == (name != "whisper" and freeze in ("none", "conv"))

    kept = {id(parameter) for module in modules for parameter in module.parameters()}
    before = {key: value.clone() for key, value in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    sum(task_losses(model.eval()(batch, -0.1), batch).values()).backward()
    optimizer.step()
    changed = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert not any(id(value) in kept for key, value in model.named_parameters() if key in changed)
    assert any(key.startswith("upstream.") for key in changed) == (freeze != "all")
    assert {"emotion_head.weight", "token_head.weight", "speaker_head.weight", "vector.mix.scores_n"} <= changed


@pytest.mark.parametrize("name", GEOMETRIES)
@torch.no_grad()
def test_layers_above_the_highest_state_that_is_read_are_gone(name):
    batch = a_batch()
    whole = model_of(name, HeadSettings((0, 1, 2, 3), (1,))).eval()
    parts = model_of(name, HeadSettings((0, 2), (1,))).eval()
    assert len(whole.upstream.layers) == 3 and len(parts.upstream.layers) == 2
    assert parts.upstream.total_layers == 3 and parts.upstream.config.kept_layers == 2
    states, frames_B = whole.states(batch)
    fewer, again_B = parts.states(batch)
    assert list(fewer) == [0, 1, 2] and torch.equal(frames_B, again_B)
    for number, state_BTD in fewer.items():
        assert torch.equal(state_BTD, states[number])
    # State 2 is what layer 2 gives, without the norm that follows the last layer.
    alone = model_of(name, HeadSettings((2,), (2,))).eval()
    assert torch.equal(alone.states(batch)[0][2], states[2])
    none = model_of(name, HeadSettings((0,), (0,))).eval()
    assert len(none.upstream.layers) == 0 and torch.equal(none.states(batch)[0][0], states[0])


# The three heads


@torch.no_grad()
def test_each_head_reads_its_own_states_and_projection():
    model, batch = model_of("wav2vec2", HeadSettings((1, 3), (0, 2), projection=5)).eval(), a_batch()
    torch.nn.init.normal_(model.vector.mix.scores_n)
    torch.nn.init.normal_(model.frame_mix.scores_n)
    output = model(batch)
    states, frames_B = model.states(batch)
    mixed_BTD = sum(w * states[n] for w, n in zip(model.frame_mix.weights, (0, 2), strict=True))
    torch.testing.assert_close(output.tokens_BTV, model.token_head(model.frame_projection(mixed_BTD)))
    torch.testing.assert_close(output.vector_BM, model.vector(model.vector.pool([states[1], states[3]], frames_B)))
    torch.testing.assert_close(output.emotion_BC, model.emotion_head(output.vector_BM))
    torch.testing.assert_close(output.speaker_BS, model.speaker_head(output.vector_BM))
    assert output.vector_BM.shape == (2, 5)


def test_without_states_for_characters_there_is_no_ctc_loss():
    model, batch = model_of("wav2vec2", HeadSettings((1, 2), ()), "all"), a_batch()
    output = model(batch)
    losses = task_losses(output, batch)
    assert output.tokens_BTV is None and losses["asr"] == 0 and losses["ser"] > 0


def test_behind_a_frozen_upstream_the_projections_gradient_is_reversed():
    def gradient(scale):
        model, batch = model_of("wav2vec2", HeadSettings((2, 3), (), projection=5), "all").eval(), a_batch()
        task_losses(model(batch, scale), batch)["sid"].backward()
        assert all(parameter.grad is None for parameter in model.upstream.parameters())
        return model.vector.projection.weight.grad, model.speaker_head.weight.grad

    (plain, head), (reverse, same_head) = gradient(1.0), gradient(-0.5)
    assert plain.abs().max() > 1e-4 and torch.equal(reverse, -0.5 * plain) and torch.equal(head, same_head)


def test_dropout_is_that_of_the_settings_and_acts_on_what_the_heads_read():
    batch = a_batch()
    assert model_of("wav2vec2", HeadSettings((3,), (3,))).dropout.p == 0.1  # as the upstream was trained
    assert model_of("whisper", HeadSettings((3,), (3,))).dropout.p == 0.0
    model = model_of("wav2vec2", HeadSettings((3,), (3,)), "all", final_dropout=0.4).train()
    with torch.no_grad():
        first, second = model(batch), model(batch)
    assert torch.equal(first.vector_BM, second.vector_BM)
    for name in ("emotion_BC", "tokens_BTV", "speaker_BS"):
        assert not torch.equal(getattr(first, name), getattr(second, name))
