"""Data directories that Kaldi or ESPnet made."""

from __future__ import annotations

from pathlib import Path

import prepare
import pytest


def write(folder: Path, **tables: str) -> Path:
    """A directory with three utterances of two speakers; an empty value leaves a table out."""
    a, b = (prepare.write_wav(folder / f"audio/{name}.wav", samples=16000) for name in "ab")
    default = {
        "wav.scp": f"S1-1 {a}\nS1-2 {b}\nS2-1 {a}\n",
        "utt2spk": "S1-1 S1\nS1-2 S1\nS2-1 S2\n",
        "text": "S1-1 hello, you\nS1-2\nS2-1 two & 3\n",
        "utt2emo": "S1-1 joy\nS2-1 sad\n",
        "spk2gender": "S1 m\nS2 f\n",
    }
    data = folder / "train"
    data.mkdir(exist_ok=True)
    for name, content in {**default, **{k.replace("_scp", ".scp"): v for k, v in tables.items()}}.items():
        if content:
            (data / name).write_text(content)
    return data


def run(data: Path, *options: str) -> tuple[prepare.Result, Path]:
    out = data.parent / "out"
    return prepare.run("prepare_kaldi", "--corpus_dir", data, "--out", out, *options), out


def test_a_directory_is_used_as_it_is(tmp_path: Path) -> None:
    data = write(tmp_path)
    result, out = run(data)
    assert result.status == 0
    for name in ("wav.scp", "utt2spk", "spk2gender"):
        assert (out / name).read_text() == (data / name).read_text()
    assert prepare.table(out / "utt2emo") == {"S1-1": "joy", "S1-2": "", "S2-1": "sad"}
    assert prepare.table(out / "text") == {"S1-1": "HELLO YOU", "S1-2": "", "S2-1": "TWO AND THREE"}
    assert prepare.table(out / "utt2dur") == {"S1-1": "1.0", "S1-2": "1.0", "S2-1": "1.0"}
    assert prepare.table(out / "spk2utt") == {"S1": "S1-1 S1-2", "S2": "S2-1"}
    assert not (out / "segments").exists() and not (out / "utt2session").exists()


def test_segments_stay_segments(tmp_path: Path) -> None:
    wav = tmp_path / "audio/a.wav"
    segments = "S1-1 rec1 0 0.25\nS1-2 rec1 0.25 -1\nS2-1 rec1 0.5 0.75\n"
    data = write(tmp_path, wav_scp=f"rec0 {wav}\nrec1 {wav}\n", segments=segments)
    result, out = run(data)
    assert result.status == 0
    assert (out / "segments").read_text() == segments
    assert prepare.table(out / "wav.scp") == {"rec1": str(wav)}
    assert prepare.table(out / "utt2dur") == {"S1-1": "0.25", "S1-2": "0.75", "S2-1": "0.25"}


def test_shell_commands_need_consent_and_are_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    data = write(
        tmp_path, wav_scp=f"S1-1 touch {trap}; cat x |\nS1-2 {tmp_path}/audio/b.wav\nS2-1 {tmp_path}/audio/a.wav\n"
    )
    result, _ = run(data)
    assert result.status == 2 and "--allow_pipes true" in result.err and "S1-1 touch" in result.err
    result, _ = run(data, "--allow_pipes", "true")
    assert result.status == 2 and "utt2dur" in result.err
    (data / "utt2dur").write_text("S1-1 1.5\n")
    result, out = run(data, "--allow_pipes", "true")
    assert result.status == 0 and prepare.table(out / "utt2dur")["S1-1"] == "1.5"
    assert prepare.table(out / "wav.scp")["S1-1"] == f"touch {trap}; cat x |"
    assert not trap.exists()


def test_classes_language_and_recordings_that_go(tmp_path: Path) -> None:
    data = write(tmp_path, text="S1-1 für 2\nS1-2\nS2-1 так\n", lang="de\n")
    result, out = run(data, "--classes", "joy")
    assert result.status == 0 and (out / "lang").read_text() == "de\n"
    assert prepare.table(out / "text") == {"S1-1": "FÜR ZWEI", "S1-2": ""}
    assert list(prepare.table(out / "wav.scp")) == ["S1-1", "S1-2"]
    assert prepare.dropped(out) == [["S2-1", "class sad is not asked for", f"{data / 'utt2spk'}:3"]]


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"utt2emo": ""}, "has no utt2emo"),
        ({"utt2emo": "S2-1 sad\nS1-1 joy\n"}, "utt2emo:2"),
        ({"utt2emo": "S1-1 very sad\n"}, "'very sad'"),
        ({"utt2spk": ""}, "utt2spk"),
        ({"wav_scp": "S1-1 nowhere/a.wav\n"}, "3 broken"),
        ({"segments": "S1-1 S1-1 0 9\nS1-2 S1-2 0.5 0.5\n"}, "3 broken"),
        ({"segments": "S1-1 S1-1 x y\nS1-2 S1-2\nS2-1 rec9 0 1\n"}, "3 broken"),
    ],
)
def test_wrong_input(tmp_path: Path, tables: dict[str, str], words: str) -> None:
    result, _ = run(write(tmp_path, **tables))
    assert result.status == 2 and words in result.err and "Traceback" not in result.err


def test_no_directory_and_its_own_output(tmp_path: Path) -> None:
    data = write(tmp_path)
    assert "no data directory" in run(tmp_path / "nowhere")[0].err
    before = {path.name: path.read_text() for path in data.iterdir()}
    result = prepare.run("prepare_kaldi", "--corpus_dir", data, "--out", f"{data}/../train")
    assert result.status == 2 and "overwritten" in result.err
    assert {path.name: path.read_text() for path in data.iterdir()} == before
