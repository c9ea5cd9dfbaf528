"""Long recordings: windows, their timeline, and audio as a stream."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import soundfile
from datadirs import write_wav
from hypothesis import given, settings
from hypothesis import strategies as st
from small_corpus import speech
from small_model import save_model

from sermtl import Speech2Emotion
from sermtl.audio.read import read_recording
from sermtl.audio.resample import quantise
from sermtl.audio.stream import Resampler, audio_blocks
from sermtl.inference.windows import Prediction, join, merge, windows


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return Speech2Emotion.from_pretrained(save_model(tmp_path_factory.mktemp("model") / "raw"))


@settings(max_examples=60)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(1, 30), st.data())
def test_windows_cover_a_stream_however_it_is_cut(sizes, window, data):
    hop = data.draw(st.integers(1, window))
    stream_S = np.arange(sum(sizes))
    blocks = np.split(stream_S, np.cumsum(sizes)[:-1])
    found = list(windows(blocks, window, hop))
    assert all(np.array_equal(samples_S, stream_S[start : start + window]) for start, samples_S in found)
    starts = [start for start, _ in found]
    assert starts == sorted(set(starts)) and all(start == n * hop for n, start in enumerate(starts[:-1]))
    if len(stream_S):
        assert starts[0] == 0 and starts[-1] + window >= len(stream_S)
        assert starts[-1] == max(0, len(stream_S) - window) or starts[-1] % hop == 0


def test_each_window_speaks_for_the_time_nearest_to_its_middle():
    pieces = []
    for n, start in enumerate((0, 16000, 32000, 40000)):
        posteriors_MC = np.array([[0.9, 0.1]] if n < 2 else [[0.2, 0.8]])
        tokens_T = np.arange(100) + 1000 * n  # 20 ms a frame
        pieces.append((start, 32000, Prediction(posteriors_MC, tokens_T, np.full(3, float(n)))))
    whole, parts = join(pieces)
    assert [(part.start, part.end) for part in parts] == [(0, 1.5), (1.5, 2.5), (2.5, 3.25), (3.25, 4.5)]
    first, second = merge(parts)
    assert (first.start, first.end, second.start, second.end) == (0, 2.5, 2.5, 4.5)
    np.testing.assert_allclose(whole.posteriors_MC[0], [(2.5 * 0.9 + 2 * 0.2) / 4.5, (2.5 * 0.1 + 2 * 0.8) / 4.5])
    np.testing.assert_allclose(whole.embedding_D, (1 + 2 * 0.75 + 3 * 1.25) / 4.5)
    assert len(whole.tokens_T) == 225 and list(whole.tokens_T[74:77]) == [74, 1025, 1026]


def test_a_change_of_emotion_shows_in_the_timeline(raw):
    """Two recordings that the model tells apart, one after the other, become two segments."""
    seeds = {}
    for seed in range(40):
        seeds.setdefault(raw(speech(seed, 32000), 16000).emotion, seed)
    assert len(seeds) > 1
    (first, one), (second, other) = list(seeds.items())[:2]
    joined_S = np.concatenate([np.tile(speech(one, 32000), 4), np.tile(speech(other, 32000), 4)])
    result = raw(joined_S, 16000, window=2, hop=1)
    assert result.segments[0].emotion == first and result.segments[-1].emotion == second
    assert result.segments[0].start == 0 and result.segments[-1].end == result.seconds == 16
    for before, after in zip(result.segments, result.segments[1:], strict=False):
        assert before.end == after.start and before.emotion != after.emotion
    lengths = [part.end - part.start for part in result.timeline]
    mean = np.average([list(part.scores.values()) for part in result.timeline], axis=0, weights=lengths)
    np.testing.assert_allclose(list(result.scores.values()), mean, atol=1e-9)
    assert raw(joined_S, 16000).segments == ()


def test_files_and_waveforms_are_cut_alike(raw, tmp_path):
    path = write_wav(tmp_path / "long.wav", np.concatenate([speech(n, 40000) for n in range(5)]))
    ((_, streamed),) = raw.files([path], window=3, hop=1.5)
    whole = raw(read_recording(path), 16000, window=3, hop=1.5)
    assert streamed.scores == pytest.approx(whole.scores, abs=1e-5)
    np.testing.assert_allclose(streamed.embedding, whole.embedding, atol=1e-4)
    assert len(streamed.timeline) == 8 and streamed.text == whole.text != ""


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44099, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_streamed_audio_is_the_audio_read_at_once(tmp_path, rate, channels):
    samples = np.random.default_rng(rate).uniform(-0.9, 0.9, (3 * rate + 17, channels))
    path = str(tmp_path / "a.flac")
    soundfile.write(path, samples, rate)
    streamed_S = np.concatenate(list(audio_blocks(path, seconds=0.31)))
    whole_S = read_recording(path)
    assert len(streamed_S) == len(whole_S)
    assert np.abs(quantise(streamed_S).astype(int) - whole_S).max() <= 1


def test_a_resampler_that_gets_a_sample_at_a_time_loses_none():
    stream = Resampler(8000)
    given = [stream.push(np.full(1, 0.5, np.float32)) for _ in range(100)]
    assert len(np.concatenate([*given, stream.finish()])) == 200


def test_memory_stays_flat(raw, tmp_path):
    def peak(minutes):
        path = tmp_path / f"{minutes}.wav"
        soundfile.write(path, np.random.default_rng(0).integers(-9000, 9000, minutes * 960000, dtype=np.int16), 16000)
        tracemalloc.start()
        ((_, result),) = raw.files([path])
        reached = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert result.seconds == 60 * minutes and len(result.timeline) == 12 * minutes - 1
        return reached

    peak(2)
    assert peak(8) < 1.2 * peak(2)
