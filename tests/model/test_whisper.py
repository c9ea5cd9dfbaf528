"""Whisper's encoder at an utterance's own length, against transformers' extractor, forward and layers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from upstreams import wave

# isort: off
from sermtl import before_transformers  # noqa: F401 (before transformers)
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import WhisperEncoder

# isort: on

from sermtl.model.upstreams.load import build_upstream, config_from, load_upstream, settings_of

SMALL = {
    "d_model": 16,
    "encoder_layers": 3,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "max_source_positions": 50,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 24,
    "vocab_size": 60,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
"""A window is one second."""


@pytest.fixture(scope="module", params=[80, 128])
def upstream(request):
    torch.manual_seed(0)
    made = build_upstream(config_from("whisper", SMALL | {"num_mel_bins": request.param}, "test")).eval()
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    made.reads = (0, 1, 2, 3)
    return made


def mel_of(upstream, wav_S):
    """What transformers' extractor makes of a waveform at its own length: (1, F, M)."""
    extractor = WhisperFeatureExtractor(feature_size=upstream.config.num_mel_bins)
    made = extractor(wav_S.numpy(), sampling_rate=16000, padding="do_not_pad", truncation=False, return_tensors="pt")
    return made.input_features


@torch.no_grad()
def test_every_state_of_a_whole_window_is_transformers_own(upstream):
    wav_BS, lengths_B = wave(16000, 16000)
    states, frames_B = upstream(wav_BS, lengths_B)
    mel_BFM = torch.cat([mel_of(upstream, wav_S) for wav_S in wav_BS])
    theirs = upstream.model(mel_BFM, output_hidden_states=True).hidden_states
    assert frames_B.tolist() == [50, 50] and len(states) == len(theirs) == 4
    for ours_BTD, theirs_BTD in zip(states, theirs, strict=True):
        torch.testing.assert_close(ours_BTD, theirs_BTD, rtol=0, atol=1e-4)


@torch.no_grad()
def test_shorter_audio_is_a_plain_loop_over_the_layers(upstream):
    encoder, length = upstream.model, 9999
    wav_BS, lengths_B = wave(length)
    hidden = nn.functional.gelu(encoder.conv1(mel_of(upstream, wav_BS[0])))
    hidden = nn.functional.gelu(encoder.conv2(hidden)).transpose(1, 2)
    hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
    expected = [hidden]
    for layer in encoder.layers:
        expected.append(layer(expected[-1], None))
    expected[-1] = encoder.layer_norm(expected[-1])
    states, frames_B = upstream(wav_BS, lengths_B)
    assert frames_B.tolist() == [31]  # 62 mel frames
    for ours_BTD, theirs_BTD in zip(states, expected, strict=True):
        torch.testing.assert_close(ours_BTD, theirs_BTD, rtol=0, atol=1e-4)


@torch.no_grad()
def test_an_utterances_states_are_the_same_alone_in_any_batch_and_in_windows(upstream):
    lengths = (1, 300, 400, 3333, 16000, 16001, 40500)
    wav_BS, lengths_B = wave(*lengths)
    states, frames_B = upstream(wav_BS, lengths_B)
    assert frames_B.tolist() == [upstream.geometry.frames(length) for length in lengths] == [1, 1, 1, 10, 50, 51, 127]
    for row, length in enumerate(lengths):
        own, _ = upstream(wav_BS[row : row + 1, : max(400, length)], lengths_B[row : row + 1])
        for whole_BTD, own_1TD in zip(states, own, strict=True):
            torch.testing.assert_close(whole_BTD[row, : frames_B[row]], own_1TD[0], rtol=0, atol=1e-4)
            assert not whole_BTD[row, frames_B[row] :].any()
    # Windows do not overlap: each is what it would be as an utterance.
    first, _ = upstream(wav_BS[-1:, :16000], torch.tensor([16000]))
    torch.testing.assert_close(states[3][-1, :50], first[3][0], rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("entry", ["front", 1, 2])
def test_what_is_stored_goes_on_as_audio_does(upstream, entry):
    wav_BS, lengths_B = wave(5000, 40500)
    upstream.reads = (0, 1, 2, 3)
    whole, frames_B = upstream(wav_BS, lengths_B)
    stored = upstream.front(wav_BS, lengths_B)[0] if entry == "front" else whole[entry]
    upstream.entry, upstream.reads = entry, (2, 3)
    try:
        states, again_B = upstream(stored, frames_B)
    finally:
        upstream.entry, upstream.reads = "audio", (0, 1, 2, 3)
    assert again_B.tolist() == frames_B.tolist()
    for ours_BTD, theirs_BTD in zip(states, whole[2:], strict=True):
        torch.testing.assert_close(ours_BTD, theirs_BTD, rtol=0, atol=1e-4)


def test_a_whole_models_folder_and_an_encoder_alone_give_the_same(tmp_path):
    torch.manual_seed(0)
    whole = WhisperForConditionalGeneration(WhisperConfig(**SMALL))
    whole.save_pretrained(tmp_path / "whole")
    alone = WhisperEncoder(whole.config)
    alone.load_state_dict(whole.model.encoder.state_dict())
    alone.save_pretrained(tmp_path / "alone")
    for name in ("whole", "alone"):
        WhisperFeatureExtractor().save_pretrained(tmp_path / name)
        loaded = load_upstream(str(tmp_path / name))
        assert not loaded.normalize
        assert {key: value.shape for key, value in loaded.model.state_dict().items()} == {
            key: value.shape for key, value in alone.state_dict().items()
        }
        for key, value in alone.state_dict().items():
            assert torch.equal(loaded.model.state_dict()[key], value), key
        again = config_from("whisper", {k: v for k, v in settings_of(loaded.config).items() if k != "model_type"}, "x")
        assert build_upstream(again).total_layers == 3


@pytest.mark.slow
def test_a_decoder_never_comes_into_memory(tmp_path):
    """A model whose decoder has 400 MB, loaded by a process that may not grow by as much."""
    config = WhisperConfig(**(SMALL | {"vocab_size": 1_600_000, "d_model": 64}))
    WhisperForConditionalGeneration(config).save_pretrained(tmp_path)
    program = (
        "import sys; from sermtl.model.upstreams.load import load_upstream\n"
        "import sermtl.model.upstreams.whisper\n"
        "peak = lambda: int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        "before = peak(); load_upstream(sys.argv[1]); print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < 100_000  # KiB


@torch.no_grad()
@pytest.mark.parametrize("name", ["whisper-tiny", "whisper-base"])
def test_the_published_encoders_are_transformers_own(name):
    folder = Path(os.environ.get("SERMTL_TEST_MODELS", ""), name)
    if "SERMTL_TEST_MODELS" not in os.environ or not folder.is_dir():
        pytest.skip("SERMTL_TEST_MODELS names no folder with pretrained encoders")
    upstream = load_upstream(str(folder)).eval()
    upstream.reads = tuple(range(upstream.total_layers + 1))
    wav_BS, lengths_B = wave(480000)
    states, frames_B = upstream(0.1 * wav_BS, lengths_B)
    theirs = upstream.model(mel_of(upstream, 0.1 * wav_BS[0]), output_hidden_states=True).hidden_states
    assert frames_B.tolist() == [1500]
    for ours_BTD, theirs_BTD in zip(states, theirs, strict=True):
        torch.testing.assert_close(ours_BTD, theirs_BTD, rtol=1e-4, atol=1e-4)
