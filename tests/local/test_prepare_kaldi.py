"""Data directories that Kaldi or ESPnet made."""

from __future__ import annotations

from pathlib import Path

import prepare
import pytest
from datadirs import contents


def write(folder: Path, **tables: str) -> Path:
    """A directory with four utterances of two speakers; an empty value leaves a table out."""
    a, b = (prepare.write_wav(folder / f"audio/{name}.wav", samples=16000) for name in "ab")
    default = {
        "wav.scp": f"S1-1 {a}\nS1-2 {b}\nS2-1 {a}\nS2-2 {b}\n",
        "utt2spk": "S1-1 S1\nS1-2 S1\nS2-1 S2\nS2-2 S2\n",
        "text": "S1-1 hello, you\nS1-2\nS2-1 two & 3\nS2-2\n",
        "utt2emo": "S1-1 joy\nS2-1 sad\nS2-2 sad\n",
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
    assert prepare.table(out / "utt2emo") == {"S1-1": "joy", "S1-2": "", "S2-1": "sad", "S2-2": "sad"}
    assert prepare.table(out / "text") == {"S1-1": "HELLO YOU", "S1-2": "", "S2-1": "TWO AND THREE", "S2-2": ""}
    assert prepare.table(out / "utt2dur") == dict.fromkeys(("S1-1", "S1-2", "S2-1", "S2-2"), "1.0")
    assert prepare.table(out / "spk2utt") == {"S1": "S1-1 S1-2", "S2": "S2-1 S2-2"}
    assert not (out / "segments").exists() and not (out / "utt2session").exists()


def test_segments_stay_segments(tmp_path: Path) -> None:
    wav = tmp_path / "audio/a.wav"
    segments = "S1-1 rec1 0 0.25\nS1-2 rec1 0.25 -1\nS2-1 rec1 0.5 0.75\nS2-2 rec1 0.75 1\n"
    data = write(tmp_path, wav_scp=f"rec0 {wav}\nrec1 {wav}\n", segments=segments)
    result, out = run(data)
    assert result.status == 0
    assert (out / "segments").read_text() == segments
    assert prepare.table(out / "wav.scp") == {"rec1": str(wav)}
    assert prepare.table(out / "utt2dur") == {"S1-1": "0.25", "S1-2": "0.75", "S2-1": "0.25", "S2-2": "0.25"}
    (data / "wav.scp").write_text(f"rec1 cat {wav} |\n")
    before = (out / "utt2dur").read_text()
    result, out = run(data, "--allow_pipes", "true")
    assert result.status == 0 and (out / "utt2dur").read_text() == before


def test_shell_commands_need_consent_and_are_run_where_their_duration_is_not_known(tmp_path: Path) -> None:
    trap, audio = tmp_path / "trap", tmp_path / "audio"
    rest = f"S1-2 {audio}/b.wav\nS2-1 {audio}/a.wav\nS2-2 {audio}/b.wav\n"
    data = write(tmp_path, wav_scp=f"S1-1 touch {trap}; cat {audio}/a.wav |\n{rest}")
    result, _ = run(data)
    assert result.status == 2 and "--allow_pipes true" in result.err and "S1-1 touch" in result.err
    for table in ("utt2dur", "reco2dur"):
        (data / table).write_text("S1-1 1.5\n")
        result, out = run(data, "--allow_pipes", "true")
        assert result.status == 0 and prepare.table(out / "utt2dur")["S1-1"] == "1.5"
        assert prepare.table(out / "wav.scp")["S1-1"] == f"touch {trap}; cat {audio}/a.wav |"
        assert not trap.exists()
        (data / table).unlink()
    result, out = run(data, "--allow_pipes", "true")
    assert result.status == 0 and prepare.table(out / "utt2dur")["S1-1"] == "1.0" and trap.exists()
    (data / "wav.scp").write_text(f"S1-1 cat nothing |\n{rest}")
    result, out = run(data, "--allow_pipes", "true")
    assert result.status == 2 and "S1-1: cat nothing |: ended with status 1" in result.err


def test_classes_language_and_recordings_that_go(tmp_path: Path) -> None:
    data = write(tmp_path, text="S1-1 für 2\nS1-2\nS2-1 так\nS2-2\n", lang="de\n")
    result, out = run(data, "--classes", "joy")
    assert result.status == 0 and (out / "lang").read_text() == "de\n"
    assert prepare.table(out / "text") == {"S1-1": "FÜR ZWEI", "S1-2": ""}
    assert list(prepare.table(out / "wav.scp")) == ["S1-1", "S1-2"]
    assert prepare.dropped(out) == [
        [f"S2-{n}", "class sad is not asked for", f"{data / 'utt2spk'}:{n + 2}"] for n in (1, 2)
    ]


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"utt2emo": ""}, "has no utt2emo"),
        ({"utt2emo": "S2-1 sad\nS1-1 joy\n"}, "utt2emo:2"),
        ({"utt2emo": "S1-1 very\x07sad\n"}, "'very\\x07sad'"),
        ({"utt2emo": "S1-1 sad/angry\nS2-1 sad\n"}, "1 of 2 labels are combinations"),
        ({"utt2spk": ""}, "utt2spk"),
        ({"wav_scp": "S1-1 nowhere/a.wav\n"}, "4 broken"),
        ({"segments": "S1-1 S1-1 0 9\nS1-2 S1-2 0.5 0.5\n"}, "4 broken"),
        ({"segments": "S1-1 S1-1 x y\nS1-2 S1-2\nS2-1 rec9 0 1\n"}, "4 broken"),
    ],
)
def test_wrong_input(tmp_path: Path, tables: dict[str, str], words: str) -> None:
    result, _ = run(write(tmp_path, **tables))
    assert result.status == 2 and words in result.err and "Traceback" not in result.err


def test_unknown_speakers_of_a_kaldi_directory(tmp_path: Path) -> None:
    data = write(tmp_path, utt2spk="S1-1 S1\nS1-2 S1\nS2-1 S2-1\nS2-2 unknown\n", spk2gender="")
    assert "learned (2)" in run(data)[0].err
    result, out = run(data, "--speakers", "known")
    assert result.status == 0
    assert prepare.table(out / "utt2spk") == {"S1-1": "S1", "S1-2": "S1", "S2-1": "S2-1", "S2-2": "S2-2"}


def test_no_directory_and_its_own_output(tmp_path: Path) -> None:
    data = write(tmp_path)
    assert "no data directory" in run(tmp_path / "nowhere")[0].err
    before = contents(data)
    result = prepare.run("prepare_kaldi", "--corpus_dir", data, "--out", f"{data}/../train")
    assert result.status == 2 and "overwritten" in result.err
    assert contents(data) == before
