import math
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sermtl.audio.features import fbank
from sermtl.audio.read import read_recording
from sermtl.audio.resample import change_speed, interpolate, resample, to_int16
from sermtl.errors import UserError


def tone(rate, seconds=0.25, pitch=440.0):
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(int(rate * seconds)) / rate)


def write(path, samples, rate=16000, **kind):
    soundfile.write(path, samples, rate, **kind)
    return path


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).integers(-32768, 32767, 5000, dtype=np.int16)


@pytest.mark.parametrize("name, subtype", [("x.wav", "PCM_16"), ("x.flac", "PCM_16"), ("x.aiff", "PCM_16")])
def test_16_bit_mono_at_16_khz_comes_through_to_the_bit(tmp_path, noise, name, subtype):
    read = read_recording(write(tmp_path / name, noise, subtype=subtype))
    assert read.dtype == np.int16 and np.array_equal(read, noise)


@pytest.mark.parametrize("subtype", ["PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_wider_samples_keep_their_16_bits(tmp_path, noise, subtype):
    path = write(tmp_path / "x.wav", noise.astype(np.float64) / 32768, subtype=subtype)
    assert np.array_equal(read_recording(path), noise)


def test_channels_are_averaged(tmp_path):
    left, right = np.tile([1000, 2000], 200).astype(np.int16), np.full(400, -400, dtype=np.int16)
    for name in ("x.wav", "x.flac"):
        path = write(tmp_path / name, np.stack([left, right], 1))
        assert read_recording(path).tolist() == [300, 800] * 200
        assert np.array_equal(read_recording(path, channel=1), left)
    with pytest.raises(UserError, match="has 2 channels, no channel 3"):
        read_recording(path, channel=3)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 32000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_other_rates_keep_the_tone_and_its_duration(tmp_path, rate, channels):
    signal = np.repeat(tone(rate)[:, None], channels, 1)
    read = read_recording(write(tmp_path / "x.wav", signal, rate)).astype(float) / 32768
    assert len(read) == pytest.approx(4000, abs=1)
    theirs = scipy.signal.resample_poly(tone(rate), 16000, rate)[: len(read)]
    inner = slice(300, 3700)
    assert np.abs(read[inner] - theirs[inner]).max() < 0.005
    assert np.abs(read[inner] - tone(16000)[: len(read)][inner]).max() < 0.005


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 24000, 32000, 44100, 48000, 96000, 192000])
def test_the_filter_for_odd_rates_is_torchaudios(rate):
    samples = np.random.default_rng(rate).normal(0, 0.2, 20001).astype(np.float32)
    divisor = math.gcd(rate, 16000)
    table = resample(samples, rate, 16000)
    np.testing.assert_allclose(interpolate(samples, rate // divisor, 16000 // divisor), table, atol=1 / 32768)


@pytest.mark.parametrize("rate", [7919, 15999, 44099, 47999, 191999])
def test_odd_rates_keep_the_tone_in_little_memory(tmp_path, rate):
    path = write(tmp_path / "x.wav", tone(rate, seconds=1.0), rate)
    tracemalloc.start()
    read = read_recording(path).astype(float) / 32768
    assert tracemalloc.get_traced_memory()[1] < 60e6
    tracemalloc.stop()
    assert len(read) == pytest.approx(16000, abs=1)
    assert np.abs(read[300:-300] - tone(16000, seconds=1.0)[: len(read)][300:-300]).max() < 0.005


@pytest.mark.parametrize("rate", [1, 999, 768001])
def test_rates_that_no_speech_has_are_refused(tmp_path, rate):
    with pytest.raises(UserError, match=f"x.wav: a sampling rate of {rate} Hz"):
        read_recording(write(tmp_path / "x.wav", tone(16000), rate))


def test_what_a_lower_rate_cannot_hold_does_not_fold_back(tmp_path):
    read = read_recording(write(tmp_path / "x.wav", tone(48000, pitch=12000.0), 48000))
    assert np.abs(read[200:-200]).max() < 50


@given(st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=50))
def test_floats_become_the_nearest_int16(values):
    read = to_int16(np.array(values, dtype=np.float32))
    exact = np.array(values, dtype=np.float64) * 32768
    assert (np.abs(read - np.clip(exact, -32768, 32767)) <= 0.5).all()


def broken_files(folder, noise):
    """Files that cannot be used, and a word of the reason."""
    whole = write(folder / "whole.wav", noise).read_bytes()
    flac = write(folder / "whole.flac", noise).read_bytes()
    float_wav = write(folder / "float.wav", noise / 32768, subtype="FLOAT").read_bytes()
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("not audio at all\n" * 99)
    (folder / "half.wav").write_bytes(whole[: len(whole) // 2])
    (folder / "last_byte.wav").write_bytes(whole[:-1])
    (folder / "half.flac").write_bytes(flac[: len(flac) // 2])
    (folder / "half_float.wav").write_bytes(float_wav[: len(float_wav) // 2])
    (folder / "header.wav").write_bytes(whole[:20])
    write(folder / "no_samples.wav", noise[:0])
    for name, value in (("nan.wav", np.nan), ("inf.wav", np.inf)):
        write(folder / name, np.array([0.1, value, 0.2]), subtype="FLOAT")
    (folder / "folder.wav").mkdir()
    return {
        "missing.wav": "no such file", "empty.wav": "", "text.wav": "not readable", "half.wav": "truncated",
        "last_byte.wav": "truncated", "half.flac": "", "half_float.wav": "truncated", "header.wav": "",
        "no_samples.wav": "no samples", "nan.wav": "NaN", "inf.wav": "infinite", "folder.wav": "",
    }  # fmt: skip


def test_every_broken_file_is_refused_by_name(tmp_path, noise):
    for name, reason in broken_files(tmp_path, noise).items():
        with pytest.raises(UserError) as error:
            read_recording(tmp_path / name)
        assert name in str(error.value) and reason in str(error.value), str(error.value)


def test_a_stream_that_did_not_know_its_length_is_whole(tmp_path, noise):
    content = bytearray(write(tmp_path / "x.wav", noise).read_bytes())
    at = content.index(b"data") + 4
    content[4:8] = content[at : at + 4] = b"\xff\xff\xff\xff"
    (tmp_path / "stream.wav").write_bytes(content)
    assert np.array_equal(read_recording(tmp_path / "stream.wav"), noise)


def test_a_name_that_is_a_command_is_a_name(tmp_path):
    with pytest.raises(UserError):
        read_recording(f"touch {tmp_path}/ran |")
    assert not (tmp_path / "ran").exists()


def theirs(samples):
    """torchaudio's Kaldi features with its defaults written out, on a plain float waveform."""
    import torchaudio.compliance.kaldi as kaldi

    wav = torch.tensor(samples.astype(np.float32))[None]
    return kaldi.fbank(
        wav, blackman_coeff=0.42, dither=0.0, energy_floor=1.0, frame_length=25.0, frame_shift=10.0,
        high_freq=0.0, low_freq=20.0, num_mel_bins=80, preemphasis_coefficient=0.97, raw_energy=True,
        remove_dc_offset=True, round_to_power_of_two=True, sample_frequency=16000.0, snip_edges=True,
        use_energy=False, use_log_fbank=True, use_power=True, window_type="povey",
    ).numpy()  # fmt: skip


def test_fbank_is_kaldis(noise):
    ours = fbank(noise)
    assert ours.dtype == np.float32 and ours.shape[1] == 80
    np.testing.assert_array_equal(ours, theirs(noise))


@given(st.integers(1, 3000))
@settings(max_examples=40)
def test_one_frame_each_10_ms_and_at_least_one(length):
    assert fbank(np.ones(length, dtype=np.int16)).shape == (max(1, 1 + (length - 400) // 160), 80)


def test_a_short_input_is_continued_with_silence(noise):
    short = fbank(noise[:100])
    np.testing.assert_array_equal(short, fbank(np.concatenate([noise[:100], np.zeros(300, dtype=np.int16)])))
    assert np.isfinite(short).all() and np.isfinite(fbank(np.zeros(1600, dtype=np.int16))).all()


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_speed_changes_duration_and_pitch(speed):
    slow = change_speed(to_int16(tone(16000, seconds=1.0)), speed)
    assert len(slow) == pytest.approx(16000 / speed, abs=1) and slow.dtype == np.int16
    spectrum = np.abs(np.fft.rfft(slow[:14000]))
    assert np.argmax(spectrum) * 16000 / 14000 == pytest.approx(440 * speed, abs=1.5)


def test_equal_rates_leave_samples_alone():
    samples = np.random.default_rng(0).normal(size=50).astype(np.float32)
    assert resample(samples, 16000, 16000) is samples


def test_reading_needs_no_torch(tmp_path):
    path = write(tmp_path / "x.wav", np.arange(400, dtype=np.int16))
    read = f"from sermtl.audio.read import read_recording; read_recording({str(path)!r})"
    code = f"import sys; {read}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
