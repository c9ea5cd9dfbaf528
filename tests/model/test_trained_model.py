import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from small_model import GEOMETRIES, LABELS, upstream_of, with_heads
from upstreams import FAMILIES, save, transformers_model

from sermtl.errors import UserError
from sermtl.model.batch import Batch
from sermtl.model.front_end import FrontEnd
from sermtl.model.heads import HeadSettings
from sermtl.model.multitask import MultiTaskModel
from sermtl.model.trained_model import TrainedModel, load_model, save_description, save_weights
from sermtl.model.upstreams.load import load_upstream
from sermtl.text.tokenizer import ENGLISH_TOKENS, load_tokenizer

CPU = torch.device("cpu")
SPEAKERS = ["s1", "s2", "s3"]


def published(path, family):
    """An upstream from a folder as on the hub, with settings of heads and a preprocessor."""
    model_type, values = FAMILIES[family]
    save(transformers_model(model_type, **values, num_labels=7), path)
    preprocessor = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": False}
    (path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return load_upstream(str(path))


def make(tmp_path, kind="raw", settings=None):
    upstream = upstream_of(GEOMETRIES[kind]) if kind in GEOMETRIES else published(tmp_path / "published", kind)
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "tokens.txt").write_text("\n".join(ENGLISH_TOKENS) + "\n")
    tokenizer = load_tokenizer(tmp_path / "tokens")
    sizes = (len(LABELS), len(tokenizer.tokens), len(SPEAKERS))
    model = with_heads(upstream, *sizes) if settings is None else MultiTaskModel(upstream, settings, *sizes)
    model.eval()
    mean_F = std_F = None
    if upstream.input_bands:
        mean_F, std_F = np.linspace(0, 1, 80, dtype=np.float32) / 3, np.linspace(1, 2, 80, dtype=np.float32)
    feats_type = "fbank" if upstream.input_bands else "raw"
    front_end = FrontEnd(feats_type, upstream.normalize, "global", upstream.geometry, mean_F, std_F)
    trained = TrainedModel(model, front_end, LABELS, SPEAKERS, tokenizer)
    exp = tmp_path / "exp"
    save_description(exp, trained, tmp_path / "tokens")
    save_weights(exp, model)
    return exp, trained


def a_batch(bands):
    inputs = torch.randn(2, 900, *((bands,) if bands else ()), generator=torch.Generator().manual_seed(0))
    rows = torch.zeros(2, dtype=torch.long)
    return Batch(["a", "b"], inputs, torch.tensor([900, 500]), rows, rows, rows[:, None], rows)


@pytest.mark.parametrize(
    "kind", [*GEOMETRIES, "wav2vec2-base", "hubert-base", "wavlm-base", "unispeech-sat", "data2vec-audio"]
)
@torch.no_grad()
def test_a_model_comes_back_as_it_was(tmp_path, kind):
    exp, trained = make(tmp_path, kind)
    loaded = load_model(exp, CPU)
    assert (loaded.labels, loaded.speakers, loaded.tokenizer.tokens) == (LABELS, SPEAKERS, list(ENGLISH_TOKENS))
    assert not loaded.model.training and not loaded.model.bf16
    batch = a_batch(trained.model.upstream.input_bands)
    before, after = trained.model(batch), loaded.model(batch)
    for name in vars(before):
        one, other = getattr(before, name), getattr(after, name)
        assert one is other is None or torch.equal(one, other), name
    ours, theirs = vars(trained.front_end), vars(loaded.front_end)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert np.array_equal(theirs[name], value) if isinstance(value, np.ndarray) else theirs[name] == value, name
    assert loaded.model.upstream.masking == trained.model.upstream.masking
    # Its description can be saved again, and is the same.
    save_description(tmp_path / "again", loaded, exp / "tokens")
    assert (tmp_path / "again" / "model.json").read_bytes() == (exp / "model.json").read_bytes()


@pytest.mark.parametrize(
    "settings",
    [
        HeadSettings((1,), (0,), projection=3),
        HeadSettings((0, 1), (), pooling="mean_std", standardise=True),
        HeadSettings((0, 1, 2), (1, 2), pooling="attention"),
    ],
)
@torch.no_grad()
def test_what_the_heads_read_comes_back_too(tmp_path, settings):
    """Mixes, statistics and the layers that were left out belong to the model."""
    exp, trained = make(tmp_path, "wav2vec2-base", settings)
    for value in trained.model.vector.state_dict().values():
        torch.nn.init.uniform_(value, 1, 2)
    save_weights(exp, trained.model)
    loaded = load_model(exp, CPU)
    assert loaded.model.settings == settings
    assert len(loaded.model.upstream.layers) == settings.states[-1] and loaded.model.upstream.total_layers == 2
    before, after = (vars(model.model(a_batch(0))) for model in (trained, loaded))
    assert (before["tokens_BTV"] is None) == (not settings.ctc_layers)
    for name, value in before.items():
        assert after[name] is None if value is None else torch.equal(value, after[name]), name


def test_the_folder_is_complete(tmp_path):
    exp, _ = make(tmp_path, "wav2vec2-base")
    moved = exp.rename(tmp_path / "moved")
    for folder in ("published", "tokens"):
        (tmp_path / folder).rename(tmp_path / f"gone_{folder}")
    assert load_model(moved, CPU).labels == LABELS
    assert sorted(str(p.relative_to(moved)) for p in moved.rglob("*") if p.is_file()) == [
        "model.json", "model.safetensors", "tokens/tokens.txt",
    ]  # fmt: skip
    assert str(tmp_path) not in (moved / "model.json").read_text()


def test_the_weights_are_plain_safetensors_by_parameter_name(tmp_path):
    exp, trained = make(tmp_path)
    with safe_open(exp / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(trained.model.state_dict())
        assert torch.equal(file.get_tensor("emotion_head.weight"), trained.model.emotion_head.weight)


def refused(exp, *words):
    with pytest.raises(UserError) as error:
        load_model(exp, CPU)
    assert [word for word in (str(exp), *words) if word not in str(error.value)] == [], str(error.value)


def test_folders_without_a_whole_model_are_refused(tmp_path):
    refused(tmp_path / "nothing", "model.json", "stage 3")
    exp, _ = make(tmp_path)
    weights, description = (exp / "model.safetensors").read_bytes(), (exp / "model.json").read_text()
    for damaged in (b"", weights[:50], weights[:-4], b"x" * 500):
        (exp / "model.safetensors").write_bytes(damaged)
        refused(exp, "model.safetensors", "stage 3")
    (exp / "model.safetensors").unlink()
    refused(exp, "model.safetensors", "stage 3")
    (exp / "model.safetensors").write_bytes(weights)
    values = json.loads(description)
    for damaged in (
        "", "{", "[]", json.dumps(values | {"format": 99}), json.dumps({"format": 1}),
        json.dumps(values | {"labels": ["one"]}), json.dumps(values | {"upstream": {"model_type": "bert"}}),
        json.dumps(values | {"upstream": values["upstream"] | {"hidden_size": 32}}),
        json.dumps(values | {"upstream": values["upstream"] | {"hidden_size": "wide"}}),
        json.dumps(values | {"upstream": values["upstream"] | {"conv_dim": [1]}}),
    ):  # fmt: skip
        (exp / "model.json").write_text(damaged)
        refused(exp)
    (exp / "model.json").write_text(description)
    assert load_model(exp, CPU).labels == LABELS
    (exp / "tokens" / "tokens.txt").unlink()
    refused(exp, "tokens.txt")
