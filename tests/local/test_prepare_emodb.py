"""EMO-DB: the real files where SERMTL_TEST_DATA names them, and made-up ones in its layout."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import prepare
import pytest
import soundfile

LETTERS = {"W": "anger", "L": "boredom", "E": "disgust", "A": "fear", "F": "happiness", "N": "neutral", "T": "sadness"}


@pytest.fixture
def made_up(tmp_path: Path) -> Path:
    """Every speaker with every emotion once."""
    for speaker in ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16"):
        for letter in LETTERS:
            prepare.write_wav(tmp_path / "emodb/wav" / f"{speaker}a01{letter}a.wav")
    return tmp_path / "emodb"


def run(root: Path, *options: str) -> tuple[prepare.Result, Path]:
    out = root.parent / "data"
    return prepare.run("prepare_emodb", "--corpus_dir", root, "--out", out, *options), out


def test_the_real_files(test_data: Path, tmp_path: Path) -> None:
    result = prepare.run("prepare_emodb", "--corpus_dir", test_data / "emodb", "--out", tmp_path)
    assert result.status == 0 and result.err == ""
    emotions = prepare.table(tmp_path / "utt2emo")
    assert Counter(emotions.values()) == {"anger": 127, "happiness": 71, "neutral": 79, "sadness": 62}
    assert all(LETTERS[utt.partition("-")[2][5]] == emotion for utt, emotion in emotions.items())
    assert prepare.table(tmp_path / "text")["03-03a04Wc"] == "HEUTE ABEND KÖNNTE ICH ES IHM SAGEN"
    genders = prepare.table(tmp_path / "spk2gender")
    assert sorted(s for s, g in genders.items() if g == "m") == ["03", "10", "11", "12", "15"] and len(genders) == 10
    assert not (tmp_path / "utt2session").exists()  # nobody was recorded together
    seconds = prepare.table(tmp_path / "utt2dur")
    assert sum(map(float, seconds.values())) / 3600 == pytest.approx(0.265, abs=0.001)
    for utt in ("03-03a01Wa", "16-16b10Wb"):
        info = soundfile.info(prepare.table(tmp_path / "wav.scp")[utt])
        assert float(seconds[utt]) == pytest.approx(info.duration, abs=1e-6)
    assert (tmp_path / "lang").read_text() == "de\n"


def test_all_seven_classes(made_up: Path) -> None:
    result, out = run(made_up, "--classes", " ".join(LETTERS.values()))
    assert result.status == 0
    assert Counter(prepare.table(out / "utt2emo").values()) == dict.fromkeys(LETTERS.values(), 10)


def test_a_label_map_renames_and_joins(made_up: Path) -> None:
    result, out = run(made_up, "--label_map", "anger=angry boredom=neutral", "--classes", "angry neutral sadness")
    assert result.status == 0
    assert Counter(prepare.table(out / "utt2emo").values()) == {"angry": 10, "neutral": 20, "sadness": 10}
    assert "boredom 10 + neutral 10 -> neutral 20" in result.out
    result, out = run(made_up, "--label_map", "anger=angry")
    assert set(prepare.table(out / "utt2emo").values()) == {"angry", "happiness", "neutral", "sadness"}
    assert "out of angry boredom" in run(made_up, "--label_map", "anger=angry", "--classes", "anger sadness")[0].err


def test_other_classes_and_foreign_files_are_dropped_with_reasons(made_up: Path) -> None:
    for name in ("notes.wav", "99a01Wa.wav", "03a03Wa.wav", "._03a01Wa.wav"):
        prepare.write_wav(made_up / "wav" / name)
    (made_up / "wav/03a01Wa.wav").rename(made_up / "wav/03a01Wa.WAV")
    result, out = run(made_up / "wav")
    assert result.status == 0
    assert prepare.table(out / "wav.scp")["03-03a01Wa"].endswith("WAV")
    reasons = Counter(reason for _, reason, _ in prepare.dropped(out))
    assert reasons.pop("not a name of EMO-DB") == 1
    assert reasons.pop("unknown speaker 99 in the name") == reasons.pop("unknown text a03 in the name") == 1
    assert reasons == {f"class {name} is not asked for": 10 for name in ("boredom", "disgust", "fear")}


def test_a_partial_copy_is_reported(made_up: Path) -> None:
    for path in (made_up / "wav").glob("16*"):
        path.unlink()
    result, _ = run(made_up)
    assert result.status == 0 and "16" in result.err


def test_wrong_input(made_up: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (made_up / "wav/03a01Wa.wav").write_bytes(b"")
    (made_up / "wav/08a01Na.wav").write_bytes(b"RIFF")
    for path in (made_up / "wav").glob("*L?.wav"):
        path.unlink()
    for folder, options, words in (
        (tmp_path / "nowhere", [], ["no corpus folder"]),
        (tmp_path / "empty", [], ["is empty"]),
        (tmp_path, [], ["holds no wav/03a01Wa.wav"]),
        (made_up, ["--classes", "anger joy"], ["out of anger boredom"]),
        (made_up, ["--classes", "anger boredom"], ["no utterance of boredom"]),
        (made_up, [], ["2 broken", "03-03a01Wa: ", "08-08a01Na: "]),
    ):
        result, _ = run(folder, *options)
        assert result.status == 2 and all(word in result.err for word in words), result.err
