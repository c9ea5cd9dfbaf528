import json
import logging

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from upstreams import FAMILIES, SMALL, around, every_state, hidden_states, save, transformers_model, wave

# isort: off
from sermtl import before_transformers  # noqa: F401 (before transformers)
from transformers import AutoConfig, AutoModel, BertConfig, BertModel

# isort: on
from sermtl.errors import UserError
from sermtl.model.padded import masked_group_norm
from sermtl.model.upstreams.load import build_upstream, config_from, load_upstream, read_geometry, settings_of


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """A saved folder, transformers' model, and ours, loaded from the folder, which gives every hidden state."""
    model_type, values = FAMILIES[request.param]
    model = transformers_model(model_type, **values)
    folder = save(model, tmp_path_factory.mktemp(request.param))
    return folder, model, every_state(load_upstream(str(folder)).eval())


@torch.no_grad()
def test_every_hidden_state_is_transformers_own(family):
    _, model, upstream = family
    for length in (400, 2000, 9001):
        wav_BS, lengths_B = wave(length)
        states, frames_B = upstream(wav_BS, lengths_B)
        theirs = hidden_states(model, wav_BS)
        assert len(states) == len(theirs) == 3 and frames_B.tolist() == [theirs[0].shape[1]]
        for hidden_BTD, theirs_BTD in zip(states, theirs, strict=True):
            torch.testing.assert_close(hidden_BTD, theirs_BTD, rtol=0, atol=1e-5)


@torch.no_grad()
def test_an_utterances_hidden_states_are_the_same_alone_and_in_any_batch(family):
    _, _, upstream = family
    lengths = (50, 399, 400, 401, 719, 721, 2500, 9000)
    wav_BS, lengths_B = wave(*lengths)
    states, frames_B = upstream(wav_BS, lengths_B)
    longer, _ = upstream(torch.cat([wav_BS, torch.zeros(len(lengths), 3000)], 1), lengths_B)
    for row, length in enumerate(lengths):
        alone, alone_B = upstream(wav_BS[row : row + 1, : max(length, 400)], torch.tensor([length]))
        frames = int(frames_B[row])
        assert frames == int(alone_B[0]) == alone[0].shape[1]
        for batch_BTD, alone_BTD in zip([*states, *longer], [*alone, *alone], strict=True):
            torch.testing.assert_close(batch_BTD[row, :frames], alone_BTD[0], rtol=0, atol=1e-4)
            assert not batch_BTD[row, frames:].any()


@torch.no_grad()
def test_what_stands_in_the_padding_does_not_matter(family):
    _, _, upstream = family
    wav_BS, lengths_B = wave(1500, 6000)
    loud_BS = wav_BS.clone()
    loud_BS[0, 1500:] = 100.0
    for loud_BTD, hidden_BTD in zip(upstream(loud_BS, lengths_B)[0], upstream(wav_BS, lengths_B)[0], strict=True):
        torch.testing.assert_close(loud_BTD, hidden_BTD, rtol=0, atol=1e-4)


def test_a_batchs_gradient_is_the_sum_of_its_utterances(family):
    _, _, upstream = family
    wav_BS, lengths_B = wave(50, 1300, 5000)
    weights = [p for p in upstream.parameters() if p.requires_grad]
    direction_D = torch.linspace(-1, 1, 24)

    def gradient(rows):
        states, _ = upstream(wav_BS[rows, : max(400, int(lengths_B[rows].max()))], lengths_B[rows])
        loss = sum((hidden_BTD @ direction_D).square().sum() for hidden_BTD in states)
        return torch.autograd.grad(loss, weights, materialize_grads=True)

    together = gradient([0, 1, 2])
    alone = [sum(parts) for parts in zip(*(gradient([row]) for row in range(3)), strict=True)]
    for whole, parts in zip(together, alone, strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-3, atol=1e-3 * float(whole.abs().max()) + 1e-4)


def test_frame_counts_are_transformers_own(family):
    _, model, upstream = family
    lengths = torch.arange(400, 20000, 37)
    ours = [upstream.geometry.frames(length) for length in lengths.tolist()]
    assert ours == model._get_feat_extract_output_lengths(lengths).tolist()


def test_the_configuration_comes_back_from_plain_values(family):
    folder, _, upstream = family
    values = json.loads(json.dumps(settings_of(upstream.config)))
    config = config_from(values.pop("model_type"), values, "model.json")
    rebuilt = every_state(build_upstream(config).eval())
    rebuilt.load_state_dict(upstream.state_dict())
    wav_BS, lengths_B = wave(3000)
    with torch.no_grad():
        assert all(map(torch.equal, rebuilt(wav_BS, lengths_B)[0], upstream(wav_BS, lengths_B)[0]))
    assert rebuilt.masking == upstream.masking and rebuilt.normalize == upstream.normalize


@pytest.mark.parametrize(
    "name", ["wav2vec2-base", "xls-r", "hubert-large", "wavlm-base", "unispeech-sat", "data2vec-audio"]
)
@torch.no_grad()
def test_older_weight_files_give_the_same_model(tmp_path, name):
    model_type, values = FAMILIES[name]
    model = transformers_model(model_type, **values)
    folder = save(model, tmp_path / "old", weights="bin")
    wav_BS, lengths_B = wave(3000)
    (ours_BTD,), _ = load_upstream(str(folder)).eval()(wav_BS, lengths_B)
    torch.testing.assert_close(ours_BTD, model(wav_BS).last_hidden_state, rtol=0, atol=1e-5)


@torch.no_grad()
def test_wav2vec2_base_at_its_full_width(tmp_path):
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model("wav2vec2", num_hidden_layers=2)).save_pretrained(tmp_path)
    model, upstream = AutoModel.from_pretrained(tmp_path).eval(), every_state(load_upstream(str(tmp_path)).eval())
    assert upstream.hidden_size == 768 and upstream.geometry.receptive_field == 400
    wav_BS, lengths_B = wave(8000)
    for ours_BTD, theirs_BTD in zip(upstream(wav_BS, lengths_B)[0], hidden_states(model, wav_BS), strict=True):
        torch.testing.assert_close(ours_BTD, theirs_BTD, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_model_with_heads_gives_its_encoder(tmp_path):
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    model = Wav2Vec2ForCTC(Wav2Vec2Config(**SMALL, vocab_size=5)).eval()
    model.save_pretrained(tmp_path)
    wav_BS, lengths_B = wave(3000)
    (ours_BTD,), _ = load_upstream(str(tmp_path)).eval()(wav_BS, lengths_B)
    torch.testing.assert_close(ours_BTD, model.wav2vec2(wav_BS).last_hidden_state, rtol=0, atol=1e-5)


@torch.no_grad()
def test_time_masks_are_transformers_own():
    model = transformers_model("wav2vec2", mask_time_prob=0.5)
    upstream = every_state(around(model).eval())
    wav_BS, lengths_B = wave(4000, 4000)
    mask_BT = torch.rand(2, 12, generator=torch.Generator().manual_seed(1)) < 0.4
    theirs = hidden_states(model, wav_BS, mask_time_indices=mask_BT)
    ours, plain = upstream(wav_BS, lengths_B, time_mask_BT=mask_BT)[0], upstream(wav_BS, lengths_B)[0]
    for ours_BTD, theirs_BTD, plain_BTD in zip(ours, theirs, plain, strict=True):
        torch.testing.assert_close(ours_BTD, theirs_BTD, rtol=0, atol=1e-5)
        assert not torch.allclose(ours_BTD, plain_BTD, atol=1e-3)


@torch.no_grad()
def test_feature_masks_silence_channels_of_the_projection():
    model = transformers_model("wav2vec2")
    upstream = around(model).eval()
    seen = []
    model.encoder.pos_conv_embed.register_forward_pre_hook(lambda _module, args: seen.append(args[0].clone()))
    wav_BS, lengths_B = wave(4000, 2000)
    mask_BD = torch.zeros(2, 24, dtype=torch.bool)
    mask_BD[0, 3:6] = True
    upstream(wav_BS, lengths_B)
    upstream(wav_BS, lengths_B, feature_mask_BD=mask_BD)
    plain_BTD, masked_BTD = seen
    assert torch.equal(masked_BTD, plain_BTD.masked_fill(mask_BD[:, None], 0.0))
    assert plain_BTD[0, :12, 3:6].abs().min() > 0


def test_spec_augment_is_what_the_configuration_asks_for():
    values = {"mask_time_prob": 0.3, "mask_time_length": 4, "mask_time_min_masks": 1, "mask_feature_prob": 0.2}
    asked = build_upstream(config_from("wav2vec2", SMALL | values, "test")).masking
    assert (asked.time_prob, asked.time_length, asked.time_min, asked.feature_prob) == (0.3, 4, 1, 0.2)
    assert asked.hidden_size == 24
    off = build_upstream(config_from("wav2vec2", SMALL | values | {"apply_spec_augment": False}, "test")).masking
    assert off.time_prob == off.feature_prob == 0


@given(st.lists(st.integers(2, 40), min_size=1, max_size=4), st.integers(1, 5), st.integers(0, 999))
@settings(max_examples=40)
def test_masked_group_norm_is_group_norm_on_each_utterance_alone(frames, channels, seed):
    torch.manual_seed(seed)
    norm = nn.GroupNorm(channels, channels)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    hidden_BCT = torch.randn(len(frames), channels, max(frames)) * 3 + 1
    normed_BCT = masked_group_norm(hidden_BCT, torch.tensor(frames), norm)
    for row, count in enumerate(frames):
        alone_BCT = norm(hidden_BCT[row : row + 1, :, :count])
        torch.testing.assert_close(normed_BCT[row : row + 1, :, :count], alone_BCT, rtol=1e-4, atol=1e-4)


def test_a_single_frame_is_its_own_mean():
    """nn.GroupNorm refuses it; a value that does not vary is its group's bias."""
    norm = nn.GroupNorm(3, 3)
    nn.init.normal_(norm.bias)
    normed_BCT = masked_group_norm(torch.randn(2, 3, 5), torch.tensor([1, 5]), norm)
    torch.testing.assert_close(normed_BCT[0, :, 0], norm.bias)


def test_shipped_geometries_are_small_enough_for_a_cpu(recipe):
    for path in (recipe / "conf" / "upstream").glob("*.yaml"):
        config = read_geometry(path)
        assert sum(p.numel() for p in build_upstream(config).parameters()) < 1e6, path
    assert load_upstream("small").input_bands == 80 and load_upstream("tiny").input_bands == 0


def test_fresh_weights_are_a_function_of_the_seed():
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in load_upstream("tiny").parameters()])

    assert torch.equal(weights(1), weights(1)) and not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("asked", [True, False])
def test_normalisation_is_what_the_preprocessor_asks_for(tmp_path, asked):
    save(transformers_model("wav2vec2"), tmp_path)
    preprocessor = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": asked}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    assert load_upstream(str(tmp_path)).normalize is asked
    # Where the file does not say, transformers' extractor normalises.
    (tmp_path / "preprocessor_config.json").write_text("{}")
    assert load_upstream(str(tmp_path)).normalize is True


@pytest.mark.parametrize(
    "name, guessed",
    [("wavlm-base", False), ("wavlm-large", True), ("wav2vec2-base", False), ("xls-r", True), ("data2vec-audio", True)],
)
def test_a_folder_without_its_preprocessor_is_never_normalised_silently(tmp_path, caplog, name, guessed):
    model_type, values = FAMILIES[name]
    folder = save(transformers_model(model_type, **values), tmp_path / "model")
    for content in (None, "no JSON", "[]"):
        if content is not None:
            (folder / "preprocessor_config.json").write_text(content)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert load_upstream(str(folder)).normalize is guessed
        (message,) = [record.getMessage() for record in caplog.records if record.name.startswith("sermtl")]
        for word in (str(folder), "preprocessor_config.json", "normalised" if guessed else "not normalised"):
            assert word in message


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_an_unreachable_hub_gets_the_way_to_a_local_folder(offline):
    with pytest.raises(UserError) as error:
        load_upstream("nobody/no-such-model")
    message = str(error.value)
    assert "nobody/no-such-model" in message and "--local-dir DIR" in message and "--upstream DIR" in message
    assert len(message) < 700 and "\n" not in message


def refused(folder, *words):
    with pytest.raises(UserError) as error:
        load_upstream(str(folder))
    assert [word for word in (str(folder), *words) if word not in str(error.value)] == [], str(error.value)


def test_folders_that_are_no_upstream_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "config.json")
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=9, **small)).save_pretrained(tmp_path / "bert")
    refused(
        tmp_path / "bert",
        "bert model",
        "wav2vec2, hubert, wavlm, data2vec-audio, unispeech-sat, whisper, wav2vec2-bert",
    )
    folder = save(transformers_model("wav2vec2"), tmp_path / "model")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    refused(folder, "model.safetensors")
    for damaged in (b"", weights[:1000], weights[: len(weights) // 2], b"x" * 2000):
        (folder / "model.safetensors").write_bytes(damaged)
        refused(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"PK damaged")
    refused(folder)
    (folder / "config.json").write_text("{")
    refused(folder, "config.json")


def test_weights_of_another_model_are_refused(tmp_path):
    """transformers would fill what is missing with random numbers and go on."""
    folder = save(transformers_model("wav2vec2", num_hidden_layers=1), tmp_path / "one_layer")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    refused(folder, "lack", "layers.1")
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 48}))
    refused(folder)
    # A model that was trained without masks has no vector for them.
    save(transformers_model("wav2vec2", mask_time_prob=0.0), tmp_path / "no_masks")
    config = json.loads((tmp_path / "no_masks" / "config.json").read_text())
    (tmp_path / "no_masks" / "config.json").write_text(json.dumps(config | {"mask_time_prob": 0.05}))
    assert load_upstream(str(tmp_path / "no_masks")).masking.time_prob == 0.05


@pytest.mark.parametrize(
    "values, words",
    [
        ({"hiden_size": 8}, ["hiden_size", "did you mean hidden_size?"]),
        (
            {"model_type": "bert"},
            ["bert", "wav2vec2, hubert, wavlm, data2vec-audio, unispeech-sat, whisper, wav2vec2-bert"],
        ),
        ({"model_type": "hubert", "num_codevectors_per_group": 8}, ["num_codevectors_per_group"]),
        ({"hidden_size": "wide"}, ["hidden_size"]),
        ({"conv_dim": [8, 8]}, ["conv_dim"]),
        ({"hidden_size": 10, "num_conv_pos_embedding_groups": 3}, ["divisible"]),
        ({"feat_extract_norm": "batch"}, ["feat_extract_norm"]),
    ],
)
def test_a_wrong_geometry_is_refused_by_file_and_key(tmp_path, values, words):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError) as error:
        load_upstream(str(path))
    assert [word for word in ("mine.yaml", *words) if word not in str(error.value)] == [], str(error.value)
