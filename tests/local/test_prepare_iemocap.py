"""IEMOCAP: the published counts, the additional files of the real tree, broken copies."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from itertools import cycle
from pathlib import Path

import prepare
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sermtl.bin import folds as folds_program

CLASSES = ("neu", "hap", "ang", "sad")
# Published: real speaker or prefix, all, then neu hap ang sad.
SPEAKERS = """01F 528 171 132 147 78; 01M 557 213 146 82 116; 02F 481 135 166 67 113; 02M 542 227 161 70 84;
03F 522 130 128 92 172; 03M 629 190 158 148 133; 04F 528 76 185 205 62; 04M 503 182 118 122 81;
05F 590 221 159 78 132; 05M 651 163 283 92 113"""
PREFIXES = """01F 507 226 117 97 67; 01M 578 158 161 132 127; 02F 505 209 148 65 83; 02M 518 153 179 72 114;
03F 536 156 145 88 147; 03M 615 164 141 152 158; 04F 553 128 174 177 74; 04M 478 130 129 150 69;
05F 644 192 236 78 138; 05M 597 192 206 92 107"""


def rows(text: str) -> dict[str, list[int]]:
    words = (row.split() for row in text.split(";"))
    return {name: [int(n) for n in numbers] for name, *numbers in words}


def published_tree(root: Path, audio: Path) -> None:
    """The real ids' forms with the real counts by speaker and prefix; 4,508 turns of other labels."""
    others = iter(["xxx"] * 2507 + ["fru"] * 1849 + ["sur"] * 107 + ["fea"] * 40 + ["oth"] * 3 + ["dis"] * 2)
    happy, left, exc = cycle(["exc"] * 7 + ["hap"] * 4), 10039 - 5531, 1041
    for session in range(1, 6):
        for marker in "FM":
            dialogs = [f"Ses{session:02d}{marker}_{kind}" for kind in ("impro01", "impro05a", "script01_1b")]
            turns: dict[str, list[tuple[str, str, str]]] = {dialog: [] for dialog in dialogs}

            def add(speaker: str, code: str, text: str, turns: dict[str, list[tuple[str, str, str]]] = turns) -> None:
                dialog = min(turns, key=lambda d: len(turns[d]))
                turns[dialog].append((f"{dialog}_{speaker}{len(turns[dialog]):03d}", code, text))

            for place, emotion in enumerate(CLASSES, 1):
                # Any joint table with these margins: as many as fit under the speaker's own markers.
                name = f"{session:02d}"
                own = min(rows(SPEAKERS)[f"{name}F"][place], rows(PREFIXES)[f"{name}F"][place])
                women = own if marker == "F" else rows(SPEAKERS)[f"{name}F"][place] - own
                men = rows(PREFIXES)[f"{name}{marker}"][place] - women
                for speaker, count in (("F", women), ("M", men)):
                    for _ in range(count):
                        code = emotion
                        if emotion == "hap" and (next(happy) == "exc" and exc):
                            code, exc = "exc", exc - 1
                        add(speaker, code, "Excuse me.")
            for _ in range(min(left, 451)):
                add("F", next(others), "What?")
            left -= 451
            for dialog, content in turns.items():
                prepare.write_dialog(root, dialog, content, audio)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, prepare.Result]:
    folder = tmp_path_factory.mktemp("published")
    root, out = folder / "IEMOCAP_full_release", folder / "data"
    published_tree(root, prepare.write_wav(folder / "audio.wav"))
    return root, out, prepare.run("prepare_iemocap", "--corpus_dir", root, "--out", out)


def test_the_published_counts_come_out(published: tuple[Path, Path, prepare.Result]) -> None:
    _, out, result = published
    assert result.status == 0 and result.err == ""
    assert "are the published ones" in result.out
    emotions, speakers = prepare.table(out / "utt2emo"), prepare.table(out / "utt2spk")
    papers, folds = prepare.table(out / "utt2paper"), prepare.table(out / "spk2fold")
    assert Counter(emotions.values()) == {"neu": 1708, "hap": 1636, "ang": 1103, "sad": 1084}
    by_speaker = Counter((folds[speakers[utt]], emotion) for utt, emotion in emotions.items())
    by_prefix = Counter((papers[utt], emotion) for utt, emotion in emotions.items())
    for counts, text in ((by_speaker, SPEAKERS), (by_prefix, PREFIXES)):
        for name, (total, *row) in rows(text).items():
            assert [counts[name, emotion] for emotion in CLASSES] == row
            assert sum(row) == total


@pytest.mark.parametrize(("protocol", "counts"), [("paper", PREFIXES), ("speaker", SPEAKERS)])
def test_the_published_folds_come_out(
    published: tuple[Path, Path, prepare.Result], protocol: str, counts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out, _ = published
    # One file stands for all recordings of this tree.
    monkeypatch.setattr("sys.argv", ["folds", "--data", str(out), "--protocol", protocol, "--copies", "keep"])
    assert folds_program.main() == 0
    emotions, utts = prepare.table(out / "utt2emo"), set(prepare.table(out / "utt2spk"))
    names = (out / "folds" / protocol / "folds").read_text().split()
    assert names == sorted(rows(counts))
    for name, (total, *row) in rows(counts).items():
        lists = {p: set(prepare.table(out / "folds" / protocol / name / p)) for p in ("train", "dev", "test")}
        assert [Counter(emotions[utt] for utt in lists["test"])[emotion] for emotion in CLASSES] == row
        assert len(lists["test"]) == total and not lists["dev"]
        assert lists["train"] == utts - lists["test"] and len(utts) == 5531
        audit = json.loads((out / "folds" / protocol / name / "audit.json").read_text())
        assert audit["speaker_dependent"] == (protocol == "paper") and audit["utterances_test"] == total


def test_nothing_is_dropped_without_its_reason(published: tuple[Path, Path, prepare.Result]) -> None:
    _, out, result = published
    lines = prepare.dropped(out)
    assert len(lines) == 10039 - 5531
    assert all(Path(where.rpartition(":")[0]).is_file() and reason for _, reason, where in lines)
    counts = Counter(reason for _, reason, _ in lines)
    for reason, count in counts.items():
        assert f"dropped {count}: {reason}" in result.out


def test_every_table_has_every_utterance(published: tuple[Path, Path, prepare.Result]) -> None:
    _, out, _ = published
    utts = set(prepare.table(out / "utt2spk"))
    names = ("wav.scp", "text", "utt2emo", "utt2session", "utt2dur", "utt2style", "utt2paper")
    assert all(set(prepare.table(out / name)) == utts for name in names)
    assert set(prepare.table(out / "utt2dur").values()) == {"0.1"}
    assert set(prepare.table(out / "utt2session").values()) == {f"Ses0{n}" for n in range(1, 6)}
    styles = prepare.table(out / "utt2style")
    assert {("_script" in utt, style) for utt, style in styles.items()} == {(True, "scripted"), (False, "improvised")}
    assert prepare.table(out / "spk2gender")["Ses03M"] == "m"
    assert (out / "lang").read_text() == "en\n"


def test_happy_and_excited_apart(published: tuple[Path, Path, prepare.Result], tmp_path: Path) -> None:
    root = published[0]
    options = ("--classes", "hap exc", "--merge_excited", "false")
    result = prepare.run("prepare_iemocap", "--corpus_dir", root, "--out", tmp_path, *options)
    assert result.status == 0 and "are the published ones" in result.out
    assert Counter(prepare.table(tmp_path / "utt2emo").values()) == {"hap": 595, "exc": 1041}


def test_the_six_classes_of_the_literature(published: tuple[Path, Path, prepare.Result], tmp_path: Path) -> None:
    options = ("--classes", "neu hap exc ang sad fru", "--merge_excited", "false")
    result = prepare.run("prepare_iemocap", "--corpus_dir", published[0], "--out", tmp_path, *options)
    assert result.status == 0 and result.err == "" and "are the published ones" in result.out
    four = {"neu": 1708, "ang": 1103, "sad": 1084}
    counts = Counter(prepare.table(tmp_path / "utt2emo").values())
    assert counts == {**four, "hap": 595, "exc": 1041, "fru": 1849} and counts.total() == 7380


def test_the_five_classes_of_the_literature(published: tuple[Path, Path, prepare.Result], tmp_path: Path) -> None:
    options = ("--classes", "neu hap ang sad fru")
    result = prepare.run("prepare_iemocap", "--corpus_dir", published[0], "--out", tmp_path, *options)
    assert result.status == 0 and result.err == "" and "are the published ones" in result.out
    assert Counter(prepare.table(tmp_path / "utt2emo").values())["fru"] == 1849


def test_a_label_map_in_place_of_merging(published: tuple[Path, Path, prepare.Result], tmp_path: Path) -> None:
    options = ("--classes", "happy sad", "--merge_excited", "false", "--label_map", "hap=happy exc=happy")
    result = prepare.run("prepare_iemocap", "--corpus_dir", published[0], "--out", tmp_path, *options)
    assert result.status == 0 and "exc 1041 + hap 595 -> happy 1636" in result.out
    assert Counter(prepare.table(tmp_path / "utt2emo").values()) == {"happy": 1636, "sad": 1084}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two dialogs of two sessions, eight turns each."""
    root = tmp_path / "IEMOCAP_full_release"
    for dialog in ("Ses01F_impro05a", "Ses02M_script01_1b"):
        codes = ("neu", "exc", "ang", "sad")
        turns = [(f"{dialog}_{s}{n:03d}", code, "Excuse me.") for s in "FM" for n, code in enumerate(codes)]
        prepare.write_dialog(root, dialog, turns)
    return root


def run(root: Path, *options: str) -> tuple[prepare.Result, Path]:
    out = root.parent / "data"
    return prepare.run("prepare_iemocap", "--corpus_dir", root, "--out", out, "--known_counts", "false", *options), out


LABELS = "dialog/EmoEvaluation/Ses01F_impro05a.txt"
TEXTS = "dialog/transcriptions/Ses01F_impro05a.txt"
WAVS = "sentences/wav/Ses01F_impro05a"


def test_the_real_speaker_is_in_the_last_part(small: Path) -> None:
    result, out = run(small)
    assert result.status == 0
    speakers = prepare.table(out / "utt2spk")
    assert len(speakers) == 16
    assert speakers["Ses01M-Ses01F_impro05a_M002"] == "Ses01M"
    assert speakers["Ses02F-Ses02M_script01_1b_F000"] == "Ses02F"
    assert prepare.table(out / "utt2paper")["Ses02F-Ses02M_script01_1b_F000"] == "02M"
    assert all(utt.startswith(f"{speaker}-") for utt, speaker in speakers.items())


def test_additional_files_of_the_real_tree_change_nothing(small: Path) -> None:
    _, out = run(small)
    clean = {path.name: path.read_bytes() for path in out.iterdir()}
    session = small / "Session1"
    for file in (LABELS, TEXTS, f"{WAVS}/Ses01F_impro05a_F000.wav"):
        path = session / file
        (path.parent / f"._{path.name}").write_bytes(b"\0\5\x16\7Mac OS X")
    (small / "._Session1").write_bytes(b"\0\5\x16\7")
    (small / ".DS_Store").write_bytes(b"\0")
    for folder in ("Categorical", "Attribute", "Self-evaluation"):
        (session / "dialog/EmoEvaluation" / folder).mkdir()
        (session / "dialog/EmoEvaluation" / folder / "Ses01F_impro05a_e2_cat.txt").write_text("[0 - 1]\tx\tneu\t[]\n")
    labels = (session / LABELS).read_text()
    (session / LABELS).write_bytes(b"\n \r\n" + labels.replace("\n\n", "\n\n\n").encode())
    (session / TEXTS).write_bytes(b"\n\n" + (session / TEXTS).read_bytes().replace(b"\n", b"\r\n\r\n"))
    result, _ = run(small)
    assert result.status == 0 and result.err.count("warning") == 1
    moved = {"dropped.tsv", "wav.scp"}
    assert {p.name: p.read_bytes() for p in out.iterdir() if p.name not in moved} == {
        name: content for name, content in clean.items() if name not in moved
    }


def test_transcripts_with_odd_bytes_no_times_and_tags(small: Path) -> None:
    lines = [
        b"Ses01F_impro05a_F000: It\x92s fine.",
        b"Ses01F_impro05a_F001 [000.0-001.0]: [LAUGHTER] {LG}",
        b"Ses01F_impro05a_F002[000.0-001.0]:Caf\xe9 & 2 [GARBAGE] teas",
        "Ses01F_impro05a_F003 [000.0-001.0]: It\u2019s \u2014 well: so".encode(),
        b"Ses01F_impro05a_MXX0 [000.0-001.0]: Yeah.",
        b"M: And who is that?",
    ]
    (small / "Session1" / TEXTS).write_bytes(b"\n".join(lines) + b"\n")
    result, out = run(small)
    assert result.status == 0
    text = prepare.table(out / "text")
    found = [text[f"Ses01F-Ses01F_impro05a_F00{n}"] for n in range(4)]
    assert found == ["IT'S FINE", "", "CAFE AND TWO TEAS", "IT'S WELL SO"]
    assert text["Ses01M-Ses01F_impro05a_M000"] == ""
    assert "4 utterances have no transcript" in result.err
    reasons = {utt: (reason, where) for utt, reason, where in prepare.dropped(out)}
    assert reasons["Ses01F_impro05a_MXX0"][1].endswith(f"{TEXTS}:5")
    assert reasons["-"] == ("transcript line without a turn", f"{small / 'Session1' / TEXTS}:6")


def test_turns_without_audio_or_label(small: Path) -> None:
    session = small / "Session1"
    with open(session / LABELS, "a") as file:
        file.write("[9.0 - 9.5]\tSes01F_impro05a_MXX0\tneu\t[2.5, 2.5, 2.5]\n")
        file.write("[9.0 - 9.5]\tSes01F_impro05a_F009\txxx\t[2.5, 2.5, 2.5]\n")
    prepare.write_wav(session / WAVS / "Ses01F_impro05a_FXX1.wav")
    result, out = run(small)
    assert result.status == 0 and len(prepare.table(out / "text")) == 16
    reasons = {utt: reason for utt, reason, _ in prepare.dropped(out)}
    assert reasons == {
        "Ses01F_impro05a_MXX0": "no audio",
        "Ses01F-Ses01F_impro05a_F009": "class xxx is not asked for",
        "Ses01F_impro05a_FXX1": "no label",
    }


def test_suffixes_in_capitals_and_links(small: Path) -> None:
    session = small / "Session1"
    (session / LABELS).rename((session / LABELS).with_suffix(".TXT"))
    wav = session / WAVS / "Ses01F_impro05a_F000.wav"
    wav.rename(wav.with_suffix(".WAV"))
    elsewhere = small.parent / "disk2"
    shutil.move(small / "Session2", elsewhere)
    (small / "Session2").symlink_to(elsewhere)
    result, out = run(small)
    assert result.status == 0
    assert prepare.table(out / "wav.scp")["Ses01F-Ses01F_impro05a_F000"] == str(wav.with_suffix(".WAV"))
    assert len(prepare.table(out / "utt2spk")) == 16


def test_a_partial_copy_works_and_names_what_is_missing(small: Path) -> None:
    turns = [("Ses01M_impro02_F000", "neu", "Yes.")]
    prepare.write_dialog(small, "Ses01M_impro02", turns, wavs=False)
    shutil.rmtree(small / "Session2/dialog/transcriptions")
    result, out = run(small)
    assert result.status == 0 and len(prepare.table(out / "text")) == 16
    for name in ("Session3", "Session4", "Session5", "Session1/sentences/wav/Ses01M_impro02", "dialog/transcriptions"):
        assert str(name) in result.err
    assert [row[:2] for row in prepare.dropped(out)] == [["Ses01M_impro02_F000", "no audio"]]


def test_every_count_that_differs_is_listed(small: Path) -> None:
    out = small.parent / "data"
    result = prepare.run("prepare_iemocap", "--corpus_dir", small, "--out", out)
    assert result.status == 0
    assert "speaker 01F neu: 1 utterances, published 171" in result.err
    assert "prefix 02M hap: 2 utterances, published 179" in result.err
    assert "class sad: 4 utterances, published 1084" in result.err
    assert "speaker 03F" not in result.err and "Session3" in result.err


def test_all_broken_files_are_listed_at_once(small: Path) -> None:
    wavs = small / "Session1" / WAVS
    names = [f"Ses01F_impro05a_{turn}" for turn in ("F000", "F001", "F002", "F003", "M000", "M001")]
    whole = (wavs / f"{names[0]}.wav").read_bytes()
    (wavs / f"{names[0]}.wav").unlink()
    (wavs / f"{names[1]}.wav").write_bytes(b"")
    (wavs / f"{names[2]}.wav").write_bytes(whole[:2000])
    (wavs / f"{names[3]}.wav").write_bytes(b"not audio at all, but a letter to the editor")
    (wavs / f"{names[4]}.wav").write_bytes(whole[:44][:40] + b"\0\0\0\0")
    labels = (small / "Session1" / LABELS).read_text()
    (small / "Session1" / LABELS).write_text(labels.replace(f"{names[5]}\t", "Ses01F_impro05a_MXX9\t"))
    result, out = run(small)
    assert result.status == 2 and "6 broken or missing" in result.err
    for name, reason in zip(
        names, ("no such file", "empty", "truncated", "audio", "no samples", "no label"), strict=True
    ):
        line = next(line for line in result.err.splitlines() if name in line)
        assert reason in line and ("Session1" in line)
    assert f"{LABELS}:3" in result.err
    assert not (out / "wav.scp").exists() and len((out / "broken.txt").read_text().splitlines()) == 6
    result, _ = run(small, "--skip_broken", "true")
    assert result.status == 0 and "6 broken utterances are left out" in result.err
    assert len(prepare.table(out / "text")) == 10
    assert {row[0].rpartition("-")[2] for row in prepare.dropped(out)} >= set(names)


def test_a_wrong_folder_says_what_to_do(small: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other/stuff").mkdir(parents=True)
    no_labels = tmp_path / "copies/unlabelled"
    shutil.copytree(small / "Session1/sentences", no_labels / "Session1/sentences")
    for folder, words in (
        (tmp_path / "nowhere", "no corpus folder"),
        (tmp_path / "empty", "is empty"),
        (tmp_path / "other", "holds no Session folder"),
        (tmp_path, f"did you mean --corpus_dir {small}"),
        (small / "Session1", f"did you mean --corpus_dir {small}"),
        (no_labels, "no label file"),
    ):
        result, out = run(folder)
        assert result.status == 2 and words in result.err and "Traceback" not in result.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--classes", "neu foo"], "out of ang hap neu"),
        (["--classes", ""], "out of ang hap neu"),
        (["--classes", "neu neu"], "each once"),
        (["--classes", "hap exc"], "--merge_excited false"),
        (["--merge_excited", "yes"], "neither true nor false"),
        (["--classes", "fea"], "has no utterance of fea"),
        (["--classes", "neu fea dis"], "has no utterance of fea dis"),
    ],
)
def test_wrong_options(small: Path, options: list[str], words: str) -> None:
    result, _ = run(small, *options)
    assert result.status == 2 and words in result.err


LINE = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"[1.0 - 2.0]\tSes01F_impro05a_F000\tneu\t[2.5, 2.5, 2.5]",
            b"[1.0 - 2.0]\tSes01F_impro05a_F000\tang\t[2.5, 2.5, 2.5]",
            b"[1.0 - 2.0]\tSes01F_impro05a_F001\tjoy\t[2.5, 2.5, 2.5]",
            b"[1.0 - 2.0]\tSes01F_impro05a_F077\tneu",
            b"[1.0 - \tSes01F_impro05a_F002\tsad",
            b"[1.0 - 2.0]\t../../etc/passwd\tsad\t[]",
            b"[",
            b"Ses01F_impro05a_F000 [1-2]: so\xff",
            b"Ses01F_impro05a_F000: and: so",
            b"Ses01F_impro05a_F000",
        ]
    ),
)


@given(st.lists(LINE, max_size=8), st.lists(LINE, max_size=8))
@settings(max_examples=40)
def test_fuzzed_lines_never_crash_and_never_vanish(labels: list[bytes], texts: list[bytes]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "tree"
        turns = [(f"Ses01F_impro05a_F00{n}", "neu", "Yes.") for n in range(3)]
        prepare.write_dialog(root, "Ses01F_impro05a", turns)
        (root / "Session1" / LABELS).write_bytes(b"\n".join(labels))
        (root / "Session1" / TEXTS).write_bytes(b"\n".join(texts))
        result, out = run(root, "--skip_broken", "true", "--classes", "neu")
        assert result.status in (0, 2) and "Traceback" not in result.err
        if result.status:
            assert "no utterance" in result.err
            return
        used = {path.rpartition("/")[2][:-4] for path in prepare.table(out / "wav.scp").values()}
        lost = "\n".join("\t".join(row) for row in prepare.dropped(out))
        assert all(turn in used or turn in lost for turn, _, _ in turns)
        starts = [line.lstrip() for line in b"\n".join(labels).split(b"\n")]
        assert lost.count(f"{LABELS}:") + len(used) >= sum(line.startswith(b"[") for line in starts)
