import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sermtl.config import TrainConfig
from sermtl.data.dataset import mask_features, span_mask
from sermtl.seeding import generator


def spans_of(mask):
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


@given(st.integers(0, 200), st.floats(0, 1), st.integers(1, 40), st.integers(0, 5), st.integers(0, 999))
def test_spans_fit_and_none_is_cut_short(size, prob, length, minimum, seed):
    mask = span_mask(size, prob, length, minimum, generator(seed))
    assert mask.shape == (size,) and mask.dtype == bool
    assert all(end - start >= length for start, end in spans_of(mask))
    if prob == 0 or size < length:
        assert not mask.any()
    elif minimum:
        assert mask.any()
    assert mask.sum() <= max(int(prob * size / length) + 1, minimum) * length
    assert np.array_equal(mask, span_mask(size, prob, length, minimum, generator(seed)))


def test_the_expected_number_of_spans_is_that_of_wav2vec2():
    """transformers' own sampler, which takes the same numbers, masks as large a share."""
    # isort: off
    from sermtl import torchaudio_compat  # noqa: F401 (before transformers)
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices
    # isort: on

    np.random.seed(0)
    theirs = np.mean([_compute_mask_indices((1, 149), 0.05, 10, min_masks=0) for _ in range(3000)])
    ours = np.mean([span_mask(149, 0.05, 10, 0, generator(n)) for n in range(3000)])
    assert ours == pytest.approx(theirs, rel=0.05)
    theirs = np.mean([_compute_mask_indices((1, 30), 0.05, 10, min_masks=2) for _ in range(1000)])
    ours = np.mean([span_mask(30, 0.05, 10, 2, generator(n)) for n in range(1000)])
    assert ours == pytest.approx(theirs, rel=0.05)


def test_spans_start_anywhere():
    starts = [spans_of(span_mask(20, 1e-9, 5, 1, generator(n)))[0][0] for n in range(800)]
    counts = np.bincount(starts)
    assert len(counts) == 16 and counts.min() > 20


@given(st.integers(1, 120), st.integers(0, 3), st.integers(1, 100), st.integers(0, 3), st.integers(1, 60))
def test_feature_masks_are_bands_and_frames_of_documented_width(frames, freq, freq_width, time, time_width):
    features = np.ones((frames, 8), dtype=np.float32)
    sizes = {"freq_masks": freq, "freq_mask_width": freq_width, "time_masks": time, "time_mask_width": time_width}
    masked = mask_features(features, TrainConfig(**sizes), generator(frames, freq, time))
    assert (features == 1).all() and masked.shape == features.shape and masked.dtype == np.float32
    silent_bands, silent_frames = (masked == 0).all(0), (masked == 0).all(1)
    # Whatever is masked is a whole band or a whole frame.
    assert np.array_equal(masked == 0, silent_bands[None] | silent_frames[:, None])
    assert silent_bands.all() or silent_frames.sum() <= time * min(time_width, frames // 5)
    if not silent_frames.all():
        assert silent_bands.sum() <= freq * min(freq_width, 8)


def test_widths_are_uniform_from_none_to_the_largest():
    features = np.ones((100, 80), dtype=np.float32)
    config = TrainConfig(freq_masks=1, freq_mask_width=4)
    bands = [int((mask_features(features, config, generator(n)) == 0).all(0).sum()) for n in range(1000)]
    assert np.bincount(bands, minlength=5).min() > 140 and max(bands) == 4
    config = TrainConfig(time_masks=1, time_mask_width=50)
    frames = [int((mask_features(features, config, generator(n)) == 0).all(1).sum()) for n in range(1000)]
    assert max(frames) == 20 and min(frames) == 0
