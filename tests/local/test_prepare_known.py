"""RAVDESS, CREMA-D and MSP-Podcast: trees with the names and layout of the distributions, and wrong ones."""

from __future__ import annotations

import csv
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import prepare
import pytest

from sermtl.corpus.corpus import load_corpus
from sermtl.corpus.lists import read_split

SENTENCES = "IEO TIE IOM IWW TAI MTI IWL ITH DFA ITS TSI WSI".split()


def linked(root: Path, names: list[str]) -> Path:
    """A tree of these files, all of which are one waveform."""
    audio = prepare.write_wav(root.with_name("tone.wav"), 800)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(audio)
    return root


def ravdess_names(actors: range = range(1, 25)) -> list[str]:
    """The 60 names of speech of each actor."""
    codes = [(e, i, s, r) for e in range(1, 9) for i in (1, 2) if e > 1 or i == 1 for s in (1, 2) for r in (1, 2)]
    return [f"Actor_{a:02d}/03-01-{e:02d}-{i:02d}-{s:02d}-{r:02d}-{a:02d}.wav" for a in actors for e, i, s, r in codes]


def crema_d_names() -> list[str]:
    """82 names of each of 91 actors, less 20 so that the published counts are left."""
    names = []
    for actor, sentence in itertools.product(range(1001, 1092), SENTENCES):
        names.append(f"{actor}_{sentence}_NEU_XX")
        for emotion in ("ANG", "DIS", "FEA", "HAP", "SAD"):
            levels = ("LO", "MD", "HI") if sentence == "IEO" else ("XX",)
            names += [f"{actor}_{sentence}_{emotion}_{level}" for level in levels]
    lost = {f"{actor}_WSI_NEU_XX" for actor in range(1001, 1006)}
    lost |= {
        f"{actor}_WSI_{emotion}_XX" for actor in (1007, 1008, 1009) for emotion in ("ANG", "DIS", "FEA", "HAP", "SAD")
    }
    kept = [name for name in names if name not in lost]
    return [name if name != "1040_ITH_SAD_XX" else "1040_ITH_SAD_X" for name in kept]


def run(corpus: str, root: Path, *options: str) -> tuple[prepare.Result, Path]:
    out = root.parent / "data"
    return prepare.run(f"prepare_{corpus}", "--corpus_dir", root, "--out", out, *options), out


def test_ravdess_has_the_published_counts_and_what_its_names_say(tmp_path: Path) -> None:
    songs = ["Actor_01/03-02-01-01-01-01-01.wav", "Actor_01/01-01-01-01-01-01-01.wav"]
    root = linked(
        tmp_path / "ravdess", ravdess_names() + songs + ["Actor_01/notes.wav", "Actor_01/03-01-09-01-01-01-01.wav"]
    )
    result, out = run("ravdess", root)
    assert result.status == 0 and result.err == "" and "are the published ones" in result.out
    names = "calm happy sad angry fearful disgust surprised".split()
    assert Counter(prepare.table(out / "utt2emo").values()) == {"neutral": 96, **dict.fromkeys(names, 192)}
    speakers, genders = prepare.table(out / "utt2spk"), prepare.table(out / "spk2gender")
    assert set(Counter(speakers.values()).values()) == {60} and genders["01"] == "m" and genders["24"] == "f"
    assert prepare.table(out / "text")["12-03-01-06-01-02-01-12"] == "DOGS ARE SITTING BY THE DOOR"
    assert prepare.table(out / "utt2style")["12-03-01-06-02-01-01-12"] == "strong"
    assert Counter(reason for _, reason, _ in prepare.dropped(out)) == {
        "song": 1, "sound of a video, which is also an audio-only file": 1, "not a name of RAVDESS": 1,
        "unknown emotion 09 in the name": 1,
    }  # fmt: skip


def test_half_a_ravdess_is_reported_with_what_is_missing(tmp_path: Path) -> None:
    root = linked(tmp_path / "a", [f"Audio_Speech_Actors_01-24/{name}" for name in ravdess_names(range(1, 13))[1:]])
    result, out = run("ravdess", root, "--classes", "neutral happy")
    assert result.status == 0 and len(prepare.table(out / "text")) == 12 * 12 - 1
    assert "is a partial copy" in result.err and "all of speaker 13" in result.err and "speaker 12" not in result.err
    assert "class neutral: 47 utterances, published 96" in result.err and "class sad" not in result.err


def test_crema_d_has_the_published_counts_genders_and_sentences(tmp_path: Path) -> None:
    names = crema_d_names()
    root = linked(tmp_path / "CREMA-D", [f"AudioWAV/{name}.wav" for name in names])
    people = "".join(f"{n},40,{'Male' if n % 2 else 'Female'},Caucasian,Not Hispanic\n" for n in range(1001, 1092))
    (root / "VideoDemographics.csv").write_text(f"ActorID,Age,Sex,Race,Ethnicity\n{people}")
    listed = "".join(f'{number},"{name}"\n' for number, name in enumerate(names, 1))
    (root / "SentenceFilenames.csv").write_text(f'"Stimulus_Number","Filename"\n{listed}')
    result, out = run("crema_d", root)
    assert result.status == 0 and result.err == "" and "are the published ones" in result.out
    counts = Counter(prepare.table(out / "utt2emo").values())
    assert counts == {"neutral": 1087, **dict.fromkeys("anger disgust fear happy sad".split(), 1271)}
    assert counts.total() == 7442 and len(prepare.table(out / "spk2gender")) == 91
    assert prepare.table(out / "spk2gender")["1002"] == "f" and len(set(prepare.table(out / "text").values())) == 12
    assert prepare.table(out / "text")["1001-1001_DFA_ANG_XX"] == "DON'T FORGET A JACKET"
    (root / "AudioWAV/1001_DFA_ANG_XX.wav").unlink()
    (root / "AudioWAV/1001_ZZZ_ANG_XX.wav").write_bytes(b"")
    (root / "VideoDemographics.csv").unlink()
    result, out = run("crema_d", root, "--classes", "anger sad", "--label_map", "sad=sad")
    assert result.status == 0 and prepare.dropped(out)[0][:2] == ["1001_ZZZ_ANG_XX", "unknown text ZZZ in the name"]
    assert "partial copy" in result.err and "1001_DFA_ANG_XX, which" in result.err
    assert "what it says of Sex is not known" in result.err and not (out / "spk2gender").exists()


def podcast(root: Path, changes: dict[int, dict[str, str]] | None = None, release: str = "1.11") -> Path:
    """Twelve turns: two speakers and an unknown one, four partitions."""
    rows = []
    parts = ["Train"] * 6 + ["Development"] * 2 + ["Test1"] * 2 + ["Test2"] * 2
    for number, part in enumerate(parts):
        speaker = ("97", "9", "Unknown")[number % 3]
        name = f"MSP-PODCAST_0001_{number:04d}"
        rows.append({"FileName": f"{name}.wav", "EmoClass": "ANSH"[number % 4], "EmoAct": "4.0", "EmoVal": "4.0",
                     "EmoDom": "4.0", "SpkrID": speaker, "Gender": "Male" if speaker == "97" else "Female",
                     "Split_Set": part} | (changes or {}).get(number, {}))  # fmt: skip
        prepare.write_wav(root / "Audios" / f"{name}.wav")
        (root / "Transcripts").mkdir(exist_ok=True)
        (root / "Transcripts" / f"{name}.txt").write_text("So that's that.\n")
    (root / "Labels").mkdir(exist_ok=True)
    with open(root / "Labels/labels_consensus.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (root / "readme.txt").write_text(f"#   MSP-PODCAST Database\n#   Release {release} (June 1, 2023)\n")
    return root


def test_msp_podcast_gives_its_partitions_as_lists_and_a_fold_for_each_test(tmp_path: Path) -> None:
    changes = {0: {"EmoClass": "X"}, 1: {"EmoClass": "Q"}}
    root = podcast(tmp_path / "MSP", changes)
    prepare.write_wav(root / "Audios/MSP-PODCAST_9999_0001.wav")
    result, out = run("msp_podcast", root, "--speakers", "known")
    assert result.status == 0
    assert "Train: 6 utterances, published 84030" in result.err and "Test2: 2 utterances, published 14815" in result.err
    speakers = prepare.table(out / "utt2spk")
    assert speakers["97-MSP-PODCAST_0001_0003"] == "97" and prepare.table(out / "spk2gender")["97"] == "m"
    assert speakers["unknown-MSP-PODCAST_0001_0002"] == "unknown-MSP-PODCAST_0001_0002"
    assert set(prepare.table(out / "text").values()) == {"SO THAT'S THAT"}
    assert Counter(prepare.table(out / "utt2split").values()) == {"Train": 4, "Development": 2, "Test1": 2, "Test2": 2}
    assert {row[1] for row in prepare.dropped(out)} == {
        "class no-agreement is not asked for", "unknown emotion code Q", "no label"
    }  # fmt: skip
    corpus = load_corpus(out)
    folds, notes = read_split(corpus, None)
    assert list(folds) == ["test1", "test2"] and notes == []
    for name, numbers in (("test1", "89"), ("test2", ["10", "11"])):
        train, dev, test = ([corpus.utts[row][-4:] for row in rows] for rows in folds[name])
        assert sorted(train) == ["0002", "0003", "0004", "0005"] and sorted(dev) == ["0006", "0007"]
        assert sorted(test) == [f"{int(n):04d}" for n in numbers]


def test_another_release_of_msp_podcast_is_not_compared(tmp_path: Path) -> None:
    root = podcast(tmp_path / "MSP", release="2.0")
    (root / "Transcripts/MSP-PODCAST_0001_0000.txt").unlink()
    result, _ = run("msp_podcast", root, "--speakers", "known")
    assert result.status == 0 and "published" not in result.err and "nothing was compared" in result.out
    assert "1 utterances have no transcript, first 97-MSP-PODCAST_0001_0000" in result.err


def without(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).unlink()


@pytest.mark.parametrize(
    ("corpus", "spoil", "words"),
    [
        ("msp_podcast", without("Labels/labels_consensus.csv"), "holds Labels/, Audios/ and Transcripts/"),
        ("msp_podcast", without("Audios/MSP-PODCAST_0001_0003.wav"), "MSP-PODCAST_0001_0003.wav: no such file"),
        (
            "msp_podcast",
            lambda root: (root / "Labels/labels_consensus.csv").write_text("FileName,EmoClass\n"),
            "labels_consensus.csv:1: the header lacks Gender SpkrID Split_Set",
        ),
        ("ravdess", lambda root: None, "holds no Actor_12/03-01-06-01-02-01-12.wav"),
        ("crema_d", lambda root: None, "holds no AudioWAV/1001_DFA_ANG_XX.wav"),
    ],
)
def test_a_wrong_folder_says_what_is_needed(
    tmp_path: Path, corpus: str, spoil: Callable[[Path], None], words: str
) -> None:
    root = podcast(tmp_path / "MSP")
    spoil(root)
    result, _ = run(corpus, root, "--speakers", "known")
    assert result.status == 2 and words in result.err and "Traceback" not in result.err
