"""w2v-BERT 2.0 on an utterance's own frames, against transformers' extractor and forward."""

from __future__ import annotations

import pytest
import torch
from upstreams import wave

# isort: off
from sermtl import before_transformers  # noqa: F401 (before transformers)
from transformers import SeamlessM4TFeatureExtractor

# isort: on
from sermtl.errors import UserError
from sermtl.model.upstreams.load import build_upstream, config_from, load_upstream

SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
SMALL |= {"output_hidden_size": 16, "conv_depthwise_kernel_size": 5, "left_max_position_embeddings": 7}
POSITIONS = ("relative_key", "relative", "rotary")


def make(**values):
    torch.manual_seed(0)
    made = build_upstream(config_from("wav2vec2-bert", SMALL | values, "test")).eval()
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    made.reads = (0, 1, 2, 3)
    return made


@pytest.fixture(scope="module", params=POSITIONS)
def upstream(request):
    return make(position_embeddings_type=request.param)


def filterbanks(wav_S):
    """What transformers' extractor makes of one waveform: (1, T, 160)."""
    extractor = SeamlessM4TFeatureExtractor()
    return extractor(wav_S.numpy(), sampling_rate=16000, pad_to_multiple_of=None, return_tensors="pt").input_features


@torch.no_grad()
def test_every_state_is_transformers_own(upstream):
    for length in (700, 5000, 16000):
        wav_BS, lengths_B = wave(length)
        states, frames_B = upstream(wav_BS, lengths_B)
        theirs = upstream.model(filterbanks(wav_BS[0]), output_hidden_states=True)
        assert frames_B.tolist() == [theirs.last_hidden_state.shape[1]] == [upstream.geometry.frames(length)]
        torch.testing.assert_close(states[-1], theirs.last_hidden_state, rtol=0, atol=1e-4)
        for ours_BTD, theirs_BTD in zip(states[:-1], theirs.hidden_states, strict=False):
            torch.testing.assert_close(ours_BTD, theirs_BTD, rtol=0, atol=1e-4)


@torch.no_grad()
def test_an_utterances_states_are_the_same_alone_and_in_any_batch(upstream):
    lengths = (1, 560, 900, 7777, 16000)
    wav_BS, lengths_B = wave(*lengths)
    states, frames_B = upstream(wav_BS, lengths_B)
    assert frames_B.tolist() == [upstream.geometry.frames(length) for length in lengths]
    for row, length in enumerate(lengths):
        own, _ = upstream(wav_BS[row : row + 1, : max(560, length)], lengths_B[row : row + 1])
        for whole_BTD, own_1TD in zip(states, own, strict=True):
            torch.testing.assert_close(whole_BTD[row, : frames_B[row]], own_1TD[0], rtol=0, atol=1e-4)


def test_a_folder_is_loaded_and_one_with_an_adapter_refused(tmp_path):
    made = make()
    made.model.save_pretrained(tmp_path)
    SeamlessM4TFeatureExtractor().save_pretrained(tmp_path)
    loaded = load_upstream(str(tmp_path))
    assert all(map(torch.equal, loaded.model.state_dict().values(), made.model.state_dict().values()))
    loaded.eval().reads = made.reads
    batch = wave(900, 7777)
    with torch.no_grad():
        assert all(map(torch.equal, loaded(*batch)[0], made(*batch)[0]))
    with pytest.raises(UserError, match="adapter"):
        make(add_adapter=True)
