"""Audio in arks and in formats of ffmpeg, and files that are no audio."""

import os
import subprocess
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile

from sermtl.audio.headers import header_seconds, seconds_or_fault
from sermtl.audio.read import read_recording
from sermtl.audio.stream import read_item
from sermtl.errors import UserError
from sermtl.inference.inputs import find_audio, seconds_of

SAMPLES = {f"u{n}": np.random.default_rng(n).integers(-9000, 9000, 8000 + n).astype(np.int16) for n in range(3)}


def saved(folder: Path, **options) -> dict[str, str]:
    """Entries of an ark that kaldiio writes, one call an utterance, as ESPnet does."""
    for n, (key, samples) in enumerate(SAMPLES.items()):
        ark, scp = str(folder / "a.ark"), str(folder / "a.scp")
        kaldiio.save_ark(ark, {key: (16000, samples)}, scp=scp, append=n > 0, **options)
    return dict(line.split(maxsplit=1) for line in (folder / "a.scp").read_text().splitlines())


@pytest.mark.parametrize("form", [None, "FLAC", "WAV", "OGG"])
def test_audio_inside_arks_is_read(tmp_path: Path, form: str | None) -> None:
    options = {"write_function": "soundfile", "write_kwargs": {"format": form}} if form else {}
    for key, entry in saved(tmp_path, **options).items():
        assert header_seconds(entry) == seconds_of(entry) == len(SAMPLES[key]) / 16000
        if form != "OGG":
            assert np.array_equal(read_recording(entry), SAMPLES[key])
            assert np.array_equal(read_item(entry), SAMPLES[key])


def test_a_cut_ark_and_a_wrong_offset_are_named(tmp_path: Path) -> None:
    entry = saved(tmp_path, write_function="soundfile", write_kwargs={"format": "FLAC"})["u2"]
    os.truncate(tmp_path / "a.ark", (tmp_path / "a.ark").stat().st_size - 500)
    with pytest.raises(UserError, match=r"a\.ark:\d+: "):
        read_recording(entry)
    wrong = f"{tmp_path}/a.ark:1"
    with pytest.raises(UserError, match=r"a\.ark:1: no WAV file and no audio of kaldiio at this offset$"):
        read_recording(wrong)
    assert seconds_or_fault(wrong) == "not readable as audio: no WAV file and no audio of kaldiio at this offset"


@pytest.mark.parametrize("suffix", [".m4a", ".mp4", ".webm", ".opus", ".M4A"])
def test_ffmpeg_reads_what_libsndfile_does_not(tmp_path: Path, monkeypatch, suffix: str) -> None:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    path, tone_S = tmp_path / f"a{suffix}", 0.3 * np.sin(np.arange(96000) / 20)
    soundfile.write(tmp_path / "a.wav", np.stack([tone_S, tone_S], 1), 48000)
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    made = subprocess.run([ffmpeg, "-v", "error", "-i", tmp_path / "a.wav", path], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    if suffix != ".opus":
        with pytest.raises(UserError, match=rf"a{suffix}: this format is read by ffmpeg, which is not installed; inst"):
            read_recording(path)
        assert "ffmpeg, which is not installed" in seconds_or_fault(str(path))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ffmpeg").symlink_to(ffmpeg)
    assert seconds_of(str(path)) == pytest.approx(2, abs=0.1)
    read = read_recording(path) / 32768
    assert np.abs(read).max() == pytest.approx(0.3, rel=0.1)
    # What codecs do at the beginning and the end differs: the tone is compared in the middle, at any delay.
    wanted = 0.3 * np.sin(np.arange(32000) * 3 / 20)
    best = max(float(np.corrcoef(read[8000:24000], wanted[8000 + d : 24000 + d])[0, 1]) for d in range(2000))
    assert best > 0.99


def test_what_ffmpeg_cannot_read_is_refused_with_its_reason(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ffmpeg").symlink_to(pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe())
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "a.m4a").write_bytes(bytes(2000))
    with pytest.raises(UserError, match=r"a\.m4a: not readable as audio \(ffmpeg: .*Invalid data"):
        read_recording(tmp_path / "a.m4a")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "a Git LFS pointer .*: run `git lfs pull`",
        ),
        (b"<!DOCTYPE html>\n<html><body>404</body></html>", "an HTML page in the place of the audio, .*: download it"),
        (b"\xef\xbb\xbf\n <HTML><head>", "an HTML page in the place of the audio"),
        (b"no audio at all" * 99, r"not readable as audio \(Format not recognised\)$"),
    ],
)
@pytest.mark.parametrize("name", ["x.wav", "x.mp4"])
def test_what_is_no_audio_is_called_what_it_is(
    tmp_path: Path, monkeypatch, content: bytes, message: str, name: str
) -> None:
    monkeypatch.setenv("PATH", "")
    (tmp_path / name).write_bytes(content)
    if name == "x.mp4" and b"no audio" in content:
        message = "read by ffmpeg"
    with pytest.raises(UserError, match=rf"{name}: {'.*' if 'ffmpeg' in message else ''}{message}") as raised:
        read_recording(tmp_path / name)
    assert seconds_or_fault(str(tmp_path / name)) == str(raised.value).removeprefix(f"{tmp_path / name}: ")
    assert "b'" not in str(raised.value)


def test_files_that_a_folder_search_leaves_out_are_named(tmp_path: Path, caplog) -> None:
    for name in ("a.wav", "b.m4a", "c.WAVE", "notes.txt", "deep/e.mid", "deep/d.webm", ".hidden.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = [Path(item.path).relative_to(tmp_path).as_posix() for item in find_audio([tmp_path])]
    assert found == ["a.wav", "b.m4a", "c.WAVE", "deep/d.webm"]
    assert f"{tmp_path}: left out 2 that are not named as audio is" in caplog.text
    assert "deep/e.mid" in caplog.text and "notes.txt" in caplog.text and "hidden" not in caplog.text
    for n in range(20):
        (tmp_path / f"{n:02}.txt").write_bytes(b"x")
    caplog.clear()
    find_audio([tmp_path])
    assert "left out 22 that" in caplog.text and "09.txt, ..." in caplog.text and "10.txt" not in caplog.text
