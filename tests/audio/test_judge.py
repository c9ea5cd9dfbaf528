"""Audio that can be decoded and still holds nothing right; quiet audio, which keeps its bits."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from sermtl.audio.read import cut, read_recording
from sermtl.audio.resample import as_floats, quantise
from sermtl.audio.stream import as_samples, audio_blocks
from sermtl.errors import UserError

RANDOM = np.random.default_rng(0)
SPEECH_S = np.sin(np.arange(32000) / 9) * RANDOM.uniform(0.05, 0.3, 32000)
"""Two seconds whose deviation is about 0.13."""
WRONG = {
    "float_times_32768": (SPEECH_S * 32768, "FLOAT", r"floats up to 9\d\d\d.*, where full scale is 1: divide by 32768"),
    "antiphase_stereo": (
        np.stack([SPEECH_S, -SPEECH_S], 1), "PCM_16", r"averaging its 2 channels removes 100.0 % .* --channel 1",
    ),
    "nearly_antiphase": (np.stack([SPEECH_S, -0.6 * SPEECH_S], 1), "PCM_16", "averaging .* removes 94.1 %"),
    "all_zero": (SPEECH_S * 0, "PCM_16", "holds nothing: every sample is zero"),
    "stereo_zero": (np.zeros((32000, 2)), "PCM_16", "holds nothing: every sample is zero"),
    "constant": (SPEECH_S * 0 + 0.25, "PCM_16", "holds nothing: every sample is 0.25"),
    "clipped": (np.clip(SPEECH_S * 40, -1, 0.99), "PCM_16", r"\d\d % of its samples are clipped"),
    "clipped_floats": (np.clip(SPEECH_S * 40, -1, 1), "FLOAT", r"\d\d % of its samples are clipped"),
}  # fmt: skip


def write(path: Path, samples: np.ndarray, subtype: str, rate: int = 16000) -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("case", WRONG)
def test_wrong_samples_are_refused_by_name_at_once_and_in_blocks(tmp_path: Path, case: str, rate: int) -> None:
    samples, subtype, message = WRONG[case]
    path = write(tmp_path / "x.wav", samples, subtype, rate)
    with pytest.raises(UserError, match=rf"x\.wav: {message}"):
        read_recording(path)
    with pytest.raises(UserError, match=rf"x\.wav: {message}"):
        list(audio_blocks(str(path), seconds=0.3))


def test_a_channel_of_stereo_out_of_phase_is_read(tmp_path: Path) -> None:
    samples = (np.stack([SPEECH_S, -SPEECH_S], 1) * 32768).astype(np.int16)
    path = write(tmp_path / "x.wav", samples, "PCM_16")
    for channel in (1, 2):
        assert np.array_equal(read_recording(path, channel=channel), samples[:, channel - 1])
        assert np.array_equal(np.concatenate([*audio_blocks(str(path), channel)]), samples[:, channel - 1])


@pytest.mark.parametrize(("second", "removed"), [(0.0, ""), (RANDOM.uniform(-0.3, 0.3, 32000), ""), (-0.25, "73.5 %")])
def test_channels_that_cancel_in_part_are_reported(tmp_path: Path, caplog, second, removed: str) -> None:
    other_S = second if isinstance(second, np.ndarray) else second * SPEECH_S
    read_recording(write(tmp_path / "x.wav", np.stack([SPEECH_S, other_S], 1), "PCM_16"))
    assert removed in caplog.text and bool(caplog.text) == bool(removed)


def test_loud_but_whole_audio_is_read(tmp_path: Path, caplog) -> None:
    samples = np.clip(SPEECH_S * 5, -1, 32767 / 32768)
    assert 0.05 < np.mean(np.abs(samples) > 0.98) < 0.25
    read_recording(write(tmp_path / "x.wav", samples, "PCM_16"))
    read_recording(write(tmp_path / "y.wav", SPEECH_S * 5, "FLOAT"))
    assert not caplog.text


@pytest.mark.parametrize("scale", [2.0**-15, 2.0**-10])
def test_quiet_floats_keep_their_bits(tmp_path: Path, caplog, scale: float) -> None:
    quiet_S = (SPEECH_S * scale).astype(np.float32)
    path = write(tmp_path / "x.wav", quiet_S, "FLOAT")
    read = read_recording(path)
    assert read.dtype == np.float32 and np.array_equal(read, quiet_S)
    assert "x.wav: so quiet that it is kept as float32" in caplog.text
    assert np.array_equal(quantise(np.concatenate([*audio_blocks(str(path), seconds=0.3)])), quiet_S)
    assert np.array_equal(as_samples(quiet_S, 16000, "x"), quiet_S)


def test_what_is_kept_as_floats_follows_from_the_noise_of_rounding() -> None:
    """Beyond 40 dB int16, else float32; the noise is measured here, not computed."""
    wave_S = RANDOM.normal(0, 1, 200_000).astype(np.float32)
    for steps in (20, 27, 30, 50):
        samples_S = wave_S * np.float32(steps / 32768)
        rounded_S = np.rint(samples_S * 32768) / 32768
        snr = 10 * np.log10(np.mean(samples_S**2) / np.mean((rounded_S - samples_S) ** 2))
        assert (quantise(samples_S).dtype == np.int16) == (snr > 40)


def test_quiet_int16_is_unchanged(tmp_path: Path) -> None:
    samples = RANDOM.integers(-1, 2, 8000).astype(np.int16)
    read = read_recording(write(tmp_path / "x.wav", samples, "PCM_16"))
    assert read.dtype == np.int16 and np.array_equal(read, samples)
    assert np.array_equal(as_floats(read) * 32768, samples)


def test_a_segment_that_holds_nothing_is_named() -> None:
    samples = np.concatenate([np.arange(16000), np.zeros(16000)]).astype(np.int16)
    assert len(cut(samples, 0.5, 1.5, "call.wav")) == 16000
    with pytest.raises(UserError, match=r"call\.wav from 1\.2 to -1 s: holds nothing"):
        cut(samples, 1.2, -1, "call.wav")
