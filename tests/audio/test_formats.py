"""Audio in arks and in formats of ffmpeg, and files that are no audio."""

import os
import shutil
import stat
import sys
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile

from sermtl.audio.headers import header_seconds, seconds_or_fault
from sermtl.audio.read import read_audio, read_recording
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


def fake_ffmpeg(folder: Path, body: str) -> None:
    """A program `ffmpeg` that is Python."""
    path = folder / "bin" / "ffmpeg"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!{sys.executable}\nimport sys, io, soundfile, numpy as np\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


WRITES = """
samples, rate = np.load(sys.argv[sys.argv.index("-i") + 1]), 32000
made = io.BytesIO()
soundfile.write(made, samples, rate, format="AU", subtype="FLOAT")
data = bytearray(made.getvalue())
data[8:12] = b"\\xff" * 4  # a pipe's header has no length
sys.stdout.buffer.write(data)
"""


@pytest.mark.parametrize("suffix", [".m4a", ".mp4", ".webm", ".opus", ".M4A"])
def test_ffmpeg_reads_what_libsndfile_does_not(tmp_path: Path, monkeypatch, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    tone_S = (0.3 * np.sin(np.arange(64000) / 20)).astype(np.float32)
    with open(path, "wb") as file:
        np.save(file, np.stack([tone_S, tone_S], 1))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(UserError, match=rf"a{suffix}: this format is read by ffmpeg, which is not installed; install"):
        read_audio(path)
    assert "ffmpeg, which is not installed" in seconds_or_fault(str(path))
    fake_ffmpeg(tmp_path, WRITES)
    assert header_seconds(str(path)) == 2.0
    read = read_audio(path)
    assert len(read) == 32000 and np.abs(read[100:-100] / 32768 - tone_S[200:-200:2]).max() < 0.001
    fake_ffmpeg(tmp_path, "sys.exit('a.m4a: moov atom not found')")
    with pytest.raises(UserError, match=r"not readable as audio \(ffmpeg: a\.m4a: moov atom not found\)"):
        read_audio(path)


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg")
@pytest.mark.parametrize("suffix", [".m4a", ".webm"])
def test_real_ffmpeg(tmp_path: Path, suffix: str) -> None:
    soundfile.write(tmp_path / "a.wav", 0.3 * np.sin(np.arange(32000) / 20), 16000)
    assert os.system(f"ffmpeg -v error -i {tmp_path}/a.wav {tmp_path}/a{suffix}") == 0
    assert seconds_of(f"{tmp_path}/a{suffix}") == pytest.approx(2, abs=0.1)
    assert np.abs(read_audio(tmp_path / f"a{suffix}")).max() == pytest.approx(0.3 * 32768, rel=0.1)


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
        read_audio(tmp_path / name)
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
