"""Packs of frozen and mixed models: plain transformers computes the same, or the card says why not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_corpus import RAW_GEOMETRY
from small_model import LABELS, upstream_of
from upstreams import wave

# isort: off
from sermtl import before_transformers  # noqa: F401 (before transformers)
from transformers import AutoModelForAudioClassification

# isort: on
from sermtl.model.batch import Batch
from sermtl.model.front_end import FrontEnd
from sermtl.model.heads import HeadSettings
from sermtl.model.multitask import MultiTaskModel
from sermtl.model.trained_model import TrainedModel
from sermtl.pack.onnx_export import export_onnx
from sermtl.pack.transformers_export import export_transformers, obstacle
from sermtl.text.tokenizer import CharTokenizer, char_tokens

DEEP = RAW_GEOMETRY | {"num_hidden_layers": 3}
STABLE = DEEP | {"do_stable_layer_norm": True}
BERT = {"model_type": "wav2vec2-bert", "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
BERT |= {"intermediate_size": 24, "output_hidden_size": 16, "conv_depthwise_kernel_size": 5}
STATES = {
    "the last": ((3,), 0),
    "one": ((1,), 0),
    "all mixed": ((0, 1, 2, 3), 0),
    "upper ones, projected": ((1, 2, 3), 5),
    "lower layers only": ((1, 2), 0),
    "one, standardised, of speakers": ((1,), 0, "mean", True, "erase+standardise"),
    "the last, of speakers, projected": ((3,), 5, "mean", False, "standardise", "mean_std"),
}


def make(geometry, settings):
    upstream = upstream_of(geometry)
    tokenizer = CharTokenizer(char_tokens([], "en"))
    model = MultiTaskModel(upstream, settings, len(LABELS), len(tokenizer.tokens), 3).eval()
    with torch.no_grad():
        for parameter in model.vector.parameters():
            parameter.add_(torch.randn_like(parameter))
        for buffer in model.vector.buffers():
            buffer.add_(torch.rand_like(buffer))
    front_end = FrontEnd("raw", upstream.normalize, "utterance", upstream.geometry)
    return TrainedModel(model, front_end, list(LABELS), ["s0", "s1", "s2"], tokenizer)


@torch.no_grad()
@pytest.mark.parametrize("states", STATES)
@pytest.mark.parametrize("geometry", [DEEP, BERT, STABLE], ids=["wav2vec2", "w2v-bert", "norms first"])
def test_transformers_classifier_gives_the_same(tmp_path, geometry, states):
    layers, *more = STATES[states]
    trained = make(geometry, HeadSettings(layers, (), *more))
    if geometry is STABLE and layers != (3,):
        assert "ends in a norm" in obstacle(trained)
        return
    assert obstacle(trained) == ""
    assert export_transformers(trained, tmp_path) == ["audio-classification"]
    theirs = AutoModelForAudioClassification.from_pretrained(tmp_path / "audio-classification").eval()
    samples_S = np.random.default_rng(0).normal(0, 3000, 9000).astype(np.int16)
    wav_1S = torch.from_numpy(trained.front_end.waveform(samples_S))[None]
    lengths_1 = torch.tensor([9000])
    inputs = trained.model.upstream.front(wav_1S, lengths_1)[0] if geometry is BERT else wav_1S
    named, frames_B = trained.model.upstream(wav_1S, lengths_1)
    by_number = dict(zip(trained.model.settings.states, named, strict=True))
    vector = trained.model.vector
    vector_1M = vector(vector.pool([by_number[number] for number in layers], frames_B))
    torch.testing.assert_close(trained.model.emotion_head(vector_1M), theirs(inputs).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("geometry", "settings", "says"),
    [
        (DEEP, HeadSettings((3,), (), pooling="mean_std"), "pools by mean_std"),
        (DEEP, HeadSettings((2, 3), (), standardise=True), "normalises each state before the mix"),
        (DEEP, HeadSettings((2, 3), (), spk_norm="erase"), "normalises each state before the mix"),
        (STABLE, HeadSettings((2,), ()), "ends in a norm"),
        (STABLE, HeadSettings((0, 1, 2, 3), ()), "ends in a norm"),
        (DEEP | {"input_bands": 80}, HeadSettings((3,), ()), "log-mel"),
    ],
)
def test_what_it_cannot_compute_is_said(geometry, settings, says):
    assert says in obstacle(make(geometry, settings))


def test_an_onnx_file_without_characters(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    trained = make(DEEP, HeadSettings((0, 1, 2, 3), (), 5, "mean_std", True, "erase+standardise", "mean_std"))
    assert export_onnx(trained, tmp_path) == ["onnx/model.onnx"]
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    assert [output.name for output in session.get_outputs()] == ["posteriors", "frames", "embedding"]
    wav_BS, lengths_B = wave(4000, 9000)
    posteriors_BC, _, vectors_BM = session.run(None, {"waveform": wav_BS.numpy(), "lengths": lengths_B.numpy()})
    for row, length in enumerate(lengths_B.tolist()):
        own_1S = wav_BS[row : row + 1, :length]
        one_1S = (own_1S - own_1S.mean()) / own_1S.std(correction=0)
        with torch.no_grad():
            states, frames_B = trained.model.upstream(one_1S, torch.tensor([length]))
            vector_1M = trained.model.vector(trained.model.vector.pool(states, frames_B))
            posteriors_1C = trained.model.emotion_head(vector_1M).softmax(-1)
        np.testing.assert_allclose(posteriors_BC[row], posteriors_1C[0], rtol=0, atol=1e-4)
        np.testing.assert_allclose(vectors_BM[row], vector_1M[0], rtol=0, atol=1e-4)


WHISPER = {"model_type": "whisper", "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2}
WHISPER |= {"encoder_ffn_dim": 24, "max_source_positions": 100, "vocab_size": 60, "pad_token_id": 0}


@pytest.mark.parametrize("geometry", [WHISPER, BERT], ids=["whisper", "w2v-bert"])
def test_an_onnx_file_of_an_encoder_with_its_own_front(tmp_path, geometry):
    onnxruntime = pytest.importorskip("onnxruntime")
    last = (2,)
    trained = make(geometry | {"normalize": False}, HeadSettings(last, last))
    export_onnx(trained, tmp_path)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    wav_BS, lengths_B = wave(700, 4000, 9001)
    found = session.run(None, {"waveform": 0.1 * wav_BS.numpy(), "lengths": lengths_B.numpy()})
    posteriors_BC, tokens_BTV, frames_B, vectors_BM = found
    for row, length in enumerate(lengths_B.tolist()):
        one_1S, none_1 = 0.1 * wav_BS[row : row + 1, :length], torch.zeros(1, dtype=torch.long)
        with torch.no_grad():
            output = trained.model(Batch([], one_1S, lengths_B[row : row + 1], none_1, none_1, none_1[:, None], none_1))
        assert frames_B[row] == output.frames_B[0]
        np.testing.assert_allclose(posteriors_BC[row], output.emotion_BC.softmax(-1)[0], rtol=0, atol=1e-4)
        own_TV = tokens_BTV[row, : frames_B[row]]
        np.testing.assert_allclose(own_TV, output.tokens_BTV.log_softmax(-1)[0], rtol=0, atol=1e-3)
        np.testing.assert_allclose(vectors_BM[row], output.vector_BM[0], rtol=0, atol=1e-3)
