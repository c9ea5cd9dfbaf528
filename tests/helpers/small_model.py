"""Model directories as stage 3 leaves them, with random weights: for tests that need a model but no training."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from small_corpus import FBANK_GEOMETRY, RAW_GEOMETRY

from sermtl.model.front_end import FrontEnd
from sermtl.model.heads import HeadSettings
from sermtl.model.multitask import MultiTaskModel
from sermtl.model.trained_model import TrainedModel, save_description, save_weights
from sermtl.model.upstreams.base import Upstream
from sermtl.model.upstreams.load import build_upstream, config_from
from sermtl.text.tokenizer import CharTokenizer, char_tokens

LABELS = ["ang", "hap", "neu", "sad"]
DATA2VEC_GEOMETRY = {key: value for key, value in RAW_GEOMETRY.items() if key != "feat_extract_norm"} | {
    "model_type": "data2vec-audio", "num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5,
}  # fmt: skip
FAMILIES = {
    "wav2vec2": RAW_GEOMETRY,
    "wav2vec2 with layer norm": RAW_GEOMETRY | {"feat_extract_norm": "layer", "do_stable_layer_norm": True},
    "hubert": RAW_GEOMETRY | {"model_type": "hubert"},
    "wavlm": RAW_GEOMETRY | {"model_type": "wavlm"},
    "data2vec-audio": DATA2VEC_GEOMETRY,
    "unispeech-sat": RAW_GEOMETRY | {"model_type": "unispeech-sat"},
}
"""Geometries of what transformers can express."""
OWN_FRONTS = {
    "whisper": {
        "model_type": "whisper", "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2,
        "encoder_ffn_dim": 24, "max_source_positions": 50, "normalize": False,
    },
    "w2v-bert": {
        "model_type": "wav2vec2-bert", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 24, "output_hidden_size": 16, "conv_depthwise_kernel_size": 5,
        "left_max_position_embeddings": 7, "right_max_position_embeddings": 3, "normalize": False,
    },
}  # fmt: skip
"""Geometries of encoders with a log-mel front; a window of that Whisper is a second."""
GEOMETRIES = {"raw": RAW_GEOMETRY, "fbank": FBANK_GEOMETRY}


def upstream_of(geometry: dict, seed: int = 0) -> Upstream:
    """An upstream of random weights; torch's generator goes on from there."""
    torch.manual_seed(seed)
    values = dict(geometry)
    return build_upstream(config_from(values.pop("model_type"), values, "test"))


def with_heads(upstream: Upstream, *sizes: int) -> MultiTaskModel:
    """The paper's heads, on the last state's mean and frames, for so many classes, tokens and speakers."""
    last = (upstream.total_layers,)
    return MultiTaskModel(upstream, HeadSettings(last, last), *sizes)


def save_model(
    directory: Path, feats_type: str = "raw", seed: int = 0, labels: list[str] | None = None, cmvn: str = "utterance",
    geometry: dict | None = None, norm_vars: bool = True,
) -> Path:  # fmt: skip
    """Write a model of random weights whose posteriors and transcripts vary with its input."""
    labels = LABELS if labels is None else labels
    upstream = upstream_of(geometry or GEOMETRIES[feats_type], seed)
    model = with_heads(upstream, len(labels), 32, 3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("emotion_head.weight", "token_head.weight")):
                weight.mul_(12)
    random = np.random.default_rng(seed)
    stats = (random.normal(size=80).astype(np.float32), np.full(80, 3.0, np.float32)) if cmvn == "global" else ()
    front_end = FrontEnd(feats_type, upstream.normalize, cmvn, upstream.geometry, *stats, norm_vars=norm_vars)
    tokens = directory / "tokens"
    tokens.mkdir(parents=True)
    (tokens / "tokens.txt").write_text("".join(f"{token}\n" for token in char_tokens([], "en")), encoding="utf-8")
    trained = TrainedModel(model, front_end, labels, ["s0", "s1", "s2"], CharTokenizer(char_tokens([], "en")))
    save_description(directory, trained, tokens)
    save_weights(directory, model)
    return directory


def copy_of(directory: Path, target: Path, *but: str) -> Path:
    """A copy to spoil, without files of these patterns."""
    return shutil.copytree(directory, target, ignore=shutil.ignore_patterns(*but))
