"""The synthetic corpus: whole, the same every time, and with its emotions in the sound alone."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import prepare
import pytest
import soundfile
from datadirs import contents
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

RELEASE = "IEMOCAP_full_release"


def make(out: Path) -> str:
    """Make the corpus in a new process, as espeak-ng keeps state between calls."""
    command = [sys.executable, prepare.LOCAL / "make_mini.py", "--out", out]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus and its data directory, side by side."""
    folder = tmp_path_factory.mktemp("mini")
    make(folder / RELEASE)
    options = ("--corpus_dir", folder / RELEASE, "--out", folder / "data", "--known_counts", "false")
    result = prepare.run("prepare_iemocap", *options)
    assert result.status == 0 and result.err == ""
    return folder


def test_the_same_bytes_every_time_and_no_work_the_second_time(mini: Path, tmp_path: Path) -> None:
    again = tmp_path / RELEASE
    assert "made" in make(again)
    assert contents(again) == contents(mini / RELEASE)
    (again / "Session1/kept").touch()
    assert "exists already" in make(again)
    assert (again / "Session1/kept").exists()


def test_another_version_is_replaced_and_a_foreign_folder_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import make_mini

    few = dict([*make_mini.dialogs().items()][:1])
    monkeypatch.setattr(make_mini, "dialogs", lambda: few)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("Dear")
    result = prepare.run("make_mini", "--out", tmp_path / "mine")
    assert result.status == 2 and "was not made by" in result.err
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "letter.txt"]
    old = tmp_path / RELEASE
    old.mkdir()
    (old / ".mini-version").write_text("another")
    (old / "stale.txt").touch()
    assert prepare.run("make_mini", "--out", old).status == 0
    assert not (old / "stale.txt").exists() and (old / "Session1").is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == [RELEASE, "mine"]


def test_nothing_half_made_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import make_mini

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(make_mini, "write_dialog", fail)
    with pytest.raises(KeyboardInterrupt):
        make_mini.make(tmp_path / RELEASE)
    assert list(tmp_path.iterdir()) == []


def test_five_sessions_ten_speakers_four_classes(mini: Path) -> None:
    data = mini / "data"
    emotions, speakers = prepare.table(data / "utt2emo"), prepare.table(data / "utt2spk")
    assert len(emotions) == 242
    assert Counter(emotions.values()) == {"neu": 60, "hap": 62, "ang": 60, "sad": 60}
    names = [f"Ses0{session}{letter}" for session in range(1, 6) for letter in "FM"]
    assert sorted(set(speakers.values())) == names
    counts = Counter((speakers[utt], emotion) for utt, emotion in emotions.items())
    assert min(counts.values()) >= 6 and len(counts) == 40
    assert {speakers[utt] == f"Ses{paper}" for utt, paper in prepare.table(data / "utt2paper").items()} == {True, False}
    assert Counter(prepare.table(data / "utt2style").values())["scripted"] == 120


def test_every_sentence_occurs_with_every_emotion(mini: Path) -> None:
    emotions = prepare.table(mini / "data/utt2emo")
    by_text = defaultdict(Counter)
    for utt, text in prepare.table(mini / "data/text").items():
        by_text[text][emotions[utt]] += 1
    assert by_text.pop("") == {"hap": 2}
    assert len(by_text) == 20
    assert all(counts == dict.fromkeys(("neu", "hap", "ang", "sad"), 3) for counts in by_text.values())


def test_it_holds_what_the_real_tree_holds(mini: Path) -> None:
    root = mini / RELEASE
    names = [path.name for path in root.rglob("*") if path.is_file()]
    assert any(name.startswith("._") and name.endswith(".wav") for name in names)
    assert any(name.endswith(".WAV") for name in names)
    assert any("impro05a" in name for name in names) and any("script01_1b" in name for name in names)
    transcripts = b"".join(path.read_bytes() for path in root.rglob("transcriptions/Ses*.txt"))
    with pytest.raises(UnicodeDecodeError):
        transcripts.decode("utf-8")
    for tag in (b"[LAUGHTER]", b"{LG}", b"++BREATHING++"):
        assert tag in transcripts
    lines = transcripts.splitlines()
    assert any(b"XX" in line for line in lines) and b"" in lines
    assert any(line and b"[0" not in line for line in lines)
    codes = b"".join(path.read_bytes() for path in root.rglob("EmoEvaluation/Ses*.txt"))
    assert all(f"\t{code}\t".encode() in codes for code in ("xxx", "fru", "exc", "hap", "sur", "fea", "oth", "dis"))
    reasons = Counter(reason for _, reason, _ in prepare.dropped(mini / "data"))
    assert reasons["class xxx is not asked for"] == 6 and reasons["class fru is not asked for"] == 6
    assert reasons["transcript line without label and audio"] == 20


def test_tags_do_not_reach_the_text(mini: Path) -> None:
    words = " ".join(prepare.table(mini / "data/text").values()).split()
    assert not {"LAUGHTER", "LG", "BREATHING"} & set(words)
    assert {"TWO", "AND", "IT'S", "DON'T", "O'CLOCK"} <= set(words)


def sound(path: str) -> list[float]:
    """Duration, spectral tilt and its spread, zero crossings: of audio at one level."""
    samples, rate = soundfile.read(path)
    assert rate == 16000 and samples.ndim == 1
    samples = samples / samples.std()
    frames = np.lib.stride_tricks.sliding_window_view(samples, 400)[::160] * np.hanning(400)
    power = np.abs(np.fft.rfft(frames)) ** 2 + 1e-3
    loud = power.sum(1) > np.median(power.sum(1)) / 4
    tilt = np.log(power[loud, 25:].sum(1) / power[loud, :25].sum(1))
    crossings = np.mean(np.diff(np.sign(samples)) != 0)
    return [len(samples) / rate, tilt.mean(), tilt.std(), crossings]


def test_emotions_of_an_unseen_speaker_can_be_recognised(mini: Path) -> None:
    emotions, speakers = prepare.table(mini / "data/utt2emo"), prepare.table(mini / "data/utt2spk")
    paths = prepare.table(mini / "data/wav.scp")
    features = np.array([sound(path) for path in paths.values()])
    durations = features[:, 0]
    assert 0.5 < durations.min() and durations.max() < 3.0 and durations.sum() < 400
    labels = np.array([emotions[utt] for utt in paths])
    groups = [speakers[utt] for utt in paths]
    guesses = cross_val_predict(LinearDiscriminantAnalysis(), features, labels, groups=groups, cv=LeaveOneGroupOut())
    right = Counter(speaker for speaker, hit in zip(groups, guesses == labels, strict=True) if hit)
    assert np.mean(guesses == labels) > 0.85
    assert min(right[speaker] / groups.count(speaker) for speaker in right) > 0.7
