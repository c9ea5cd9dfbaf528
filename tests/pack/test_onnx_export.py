"""The ONNX file: onnxruntime says what PyTorch says."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
from small_corpus import speech
from small_model import FAMILIES, save_model

from sermtl import Speech2Emotion
from sermtl.audio.features import fbank
from sermtl.data.dataset import Example, FoldDataset
from sermtl.inference.predict import features
from sermtl.model.spectrum import spectrum_kernel
from sermtl.pack.onnx_export import export_onnx

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'sermtl[onnx]'")


def exported(directory, *kind, **more):
    """A model of that kind, and its ONNX file."""
    model = Speech2Emotion.from_pretrained(save_model(directory / "model", *kind, **more))
    assert export_onnx(model.models[0], directory) == ["onnx/model.onnx"]
    return model, onnxruntime.InferenceSession(directory / "model.onnx")


def run_onnx(session, recordings):
    longest = max(map(len, recordings))
    waveform_BS = np.stack([np.pad(r.astype(np.float32) / 32768, (0, longest - len(r))) for r in recordings])
    return session.run(None, {"waveform": waveform_BS, "lengths": np.array([len(r) for r in recordings])})


def same_as_onnx(model, session, recordings, tokens=1e-3):
    posteriors_BC, tokens_BTV, frames_B, embedding_BD = run_onnx(session, recordings)
    for row, result in enumerate(model(recordings, 16000)):
        np.testing.assert_allclose(posteriors_BC[row], list(result.scores.values()), atol=1e-3)
        np.testing.assert_allclose(embedding_BD[row], result.embedding, atol=1e-2)
        wanted_TV = token_log_probabilities(model.models[0], recordings[row])
        assert frames_B[row] == len(wanted_TV)
        np.testing.assert_allclose(tokens_BTV[row, : len(wanted_TV)], wanted_TV, atol=tokens)


def exact_fbank(samples_S):
    """`fbank` in 64 bits: in 32, torchaudio's values of quiet bands are up to 3e-3 off on real speech."""
    from torchaudio.compliance.kaldi import get_mel_banks

    padded_S = np.pad(samples_S.astype(np.float64), (0, max(0, 400 - len(samples_S))))
    frames = np.lib.stride_tricks.sliding_window_view(padded_S, 400)[::160]
    frames = frames - frames.mean(1, keepdims=True)
    frames = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], 1)
    power_TK = np.abs(np.fft.rfft(frames * np.hanning(400) ** 0.85, 512)) ** 2
    mel_FK = get_mel_banks(80, 512, 16000.0, 20.0, 0.0, 100.0, -500.0, 1.0)[0].numpy()
    return np.log(np.maximum(power_TK[:, :256] @ mel_FK.T, np.finfo(np.float32).eps)).astype(np.float32)


def token_log_probabilities(trained, samples_S):
    """What the model says of exact features."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sermtl.inference.predict.fbank", exact_fbank)
        values = features(trained, samples_S)
    batch = FoldDataset([], trained.front_end).collate([(Example("", "", 0, ""), values, None, None)])
    with torch.inference_mode():
        return trained.model(batch).tokens_BTV[0].log_softmax(-1).numpy()


@pytest.mark.parametrize("feats_type", ["raw", "fbank"])
def test_onnx_says_the_same_for_any_batch_and_length(tmp_path, feats_type):
    model, session = exported(tmp_path, feats_type)
    for lengths in ((16000,), (8000, 48000, 30001), (100, 5000, 4000, 7777, 160000), (480000,)):
        # Between pure tones, the logarithm is taken of almost nothing.
        tokens = 1e-3 if feats_type == "raw" else 2e-2
        same_as_onnx(model, session, [speech(n, length) for n, length in enumerate(lengths)], tokens)


@pytest.mark.parametrize("family", FAMILIES)
def test_onnx_of_each_family(tmp_path, family):
    model, session = exported(tmp_path, geometry=FAMILIES[family])
    same_as_onnx(model, session, [speech(1), speech(2, 37000)])


@pytest.mark.parametrize("cmvn", ["utterance", "global"])
@pytest.mark.parametrize("norm_vars", [True, False])
def test_onnx_of_normalised_features(tmp_path, cmvn, norm_vars):
    model, session = exported(tmp_path, "fbank", cmvn=cmvn, norm_vars=norm_vars)
    # Between pure tones, the logarithm is taken of almost nothing: see the test of any batch and length.
    same_as_onnx(model, session, [speech(1), speech(2, 37000)], 1e-3 if (cmvn, norm_vars) == ("global", True) else 2e-2)


def test_the_features_of_the_graph_are_kaldis():
    from torchaudio.compliance.kaldi import get_mel_banks

    samples_S = np.random.default_rng(0).normal(0, 3000, 400)
    parts = spectrum_kernel(512, kaldi=True).numpy() @ samples_S
    power_K = parts[:257] ** 2 + parts[257:] ** 2
    mel_FK = get_mel_banks(80, 512, 16000.0, 20.0, 0.0, 100.0, -500.0, 1.0)[0].numpy()
    np.testing.assert_allclose(np.log(mel_FK @ power_K[:256]), fbank(samples_S / 32768)[0], atol=1e-4)


@pytest.fixture(scope="module")
def half_a_minute(test_data):
    """30 s of EMO-DB, int16."""
    wavs = sorted((test_data / "emodb" / "wav").glob("*.wav"))[:20]
    speech_S = np.concatenate([soundfile.read(wav, dtype="int16")[0] for wav in wavs])[:480_000]
    assert len(speech_S) == 480_000
    return speech_S


@pytest.mark.parametrize("family", [*FAMILIES, "log-mel"])
def test_onnx_on_real_speech(half_a_minute, tmp_path, family):
    kind = {"feats_type": "fbank"} if family == "log-mel" else {"geometry": FAMILIES[family]}
    model, session = exported(tmp_path, **kind)
    same_as_onnx(model, session, [half_a_minute[: int(16000 * seconds)] for seconds in (0.5, 1.7, 8)])
    same_as_onnx(model, session, [half_a_minute])
