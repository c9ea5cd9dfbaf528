"""local/combine_data.sh: several data directories made one, whose folds hold out corpora."""

from __future__ import annotations

from pathlib import Path

import prepare
import pytest
from small_corpus import run_program

from sermtl.bin import folds
from sermtl.fileio.tables import read_list


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    """Two directories with the same utterance and speaker ids; the second has segments, sessions, other labels."""
    wavs = [prepare.write_wav(tmp_path / f"{number}.wav") for number in range(4)]
    recording = prepare.write_wav(tmp_path / "recording.wav", 16000)
    tables = {
        "a": {
            "wav.scp": [f"1-{n} {wav}" for n, wav in enumerate(wavs)],
            "utt2spk": ["1-0 1", "1-1 1", "1-2 1", "1-3 unknown"],
            "utt2emo": ["1-0 joy", "1-1 sad", "1-2 joy", "1-3 sad"],
            "utt2dur": [f"1-{n} 0.1" for n in range(4)],
            "text": ["1-0 ONE"],
            "spk2gender": ["1 f"],
            "lang": ["en"],
        },
        "b": {
            "wav.scp": [f"rec {recording}"],
            "segments": ["1-0 rec 0 0.5", "1-1 rec 0.5 1"],
            "utt2spk": ["1-0 1", "1-1 1"],
            "utt2emo": ["1-0 happy", "1-1 sad"],
            "utt2dur": ["1-0 0.5", "1-1 0.5"],
            "utt2session": ["1-0 s", "1-1 s"],
        },
    }
    for name, files in tables.items():
        (tmp_path / name).mkdir()
        for table, lines in files.items():
            (tmp_path / name / table).write_text("".join(f"{line}\n" for line in lines))
    return [tmp_path / "a", tmp_path / "b"]


def combine(*words: object) -> prepare.Result:
    return prepare.run("combine_data", *map(str, words))


def test_a_combined_directory_is_prepared_and_divided_by_corpus(sources: list[Path], tmp_path: Path) -> None:
    out, data = tmp_path / "a+b", tmp_path / "data"
    result = combine("--label_map", "b", "happy=joy", *sources, out)
    assert result.status == 0 and "6 utterances, 2 speakers" in result.out and "happy 1 -> joy 1" in result.out
    assert prepare.table(out / "utt2emo") == {
        "a-1-0": "joy", "a-1-1": "sad", "a-1-2": "joy", "a-1-3": "sad", "b-1-0": "joy", "b-1-1": "sad",
    }  # fmt: skip
    assert prepare.table(out / "utt2spk")["a-1-3"] == "a-1-3"  # an unknown speaker stays unknown
    assert prepare.table(out / "segments")["b-1-1"] == "b-rec 0.5 1"
    assert prepare.table(out / "utt2corpus") == {
        f"{c}-1-{n}": c for c, count in (("a", 4), ("b", 2)) for n in range(count)
    }
    assert prepare.table(out / "utt2session") == {f"a-1-{n}": "" for n in range(4)} | {"b-1-0": "b-s", "b-1-1": "b-s"}
    assert prepare.table(out / "spk2gender") == {"a-1": "f", "a-1-3": "u", "b-1": "u"}
    assert (out / "lang").read_text() == "und\n"

    prepared = prepare.run("prepare_kaldi", "--corpus_dir", out, "--out", data, "--speakers", "known")
    assert prepared.status == 0, prepared.err
    durations = prepare.table(data / "utt2dur")
    assert (durations["a-1-0"], durations["b-1-1"]) == ("0.1", "0.5")
    assert run_program(folds.main, "--data", data, "--protocol", "corpus") == 0
    assert read_list(data / "folds/corpus/folds") == ["a", "b"]
    assert read_list(data / "folds/corpus/b/test") == ["b-1-0", "b-1-1"]
    assert read_list(data / "folds/corpus/b/train") == ["a-1-0", "a-1-1", "a-1-2", "a-1-3"]

    # Combined again without segments and sessions: none of the first time is left.
    (tmp_path / "c").mkdir()
    for table in ("wav.scp", "utt2spk", "utt2emo", "utt2dur"):
        (tmp_path / "c" / table).write_text((sources[0] / table).read_text())
    assert combine(sources[0], tmp_path / "c", out).status == 0
    assert not (out / "segments").exists() and not (out / "utt2session").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "b"], "give two directories or more"),
        (["a", "a", "out"], "give two directories or more"),
        (["a", "b", "a"], "then another one to write"),
        (["a", "nowhere", "out"], "no data directory"),
        (["--label_map", "c", "x=y", "a", "b", "out"], "no source has this name; they are a b"),
        (["--label_map", "a", "x", "a", "b", "out"], "'x' of 'x' is no pair"),
        (
            ["--label_map", "b", "happy=glad sad=blue", "a", "b", "out"],
            "a has joy sad, none of the others' labels (blue glad)",
        ),
    ],
)
def test_wrong_sources_and_maps(sources: list[Path], tmp_path: Path, words: list[str], message: str) -> None:
    places = {word: tmp_path / word for word in ("a", "b", "out", "nowhere")}
    maps = words[:3] if words[0] == "--label_map" else []
    result = combine(*maps, *(places[word] for word in words[len(maps) :]))
    assert result.status == 2 and message in result.err and "Traceback" not in result.err
    assert not (tmp_path / "out").exists()


def test_a_missing_table_and_ids_that_clash(sources: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "a-1"
    other.mkdir()
    for table in ("wav.scp", "utt2spk", "utt2emo", "utt2dur"):
        (other / table).write_text((sources[0] / table).read_text().replace("1-", ""))
    (other / "utt2spk").write_text("0 3\n1 3\n2 3\n3 3\n")
    result = combine(sources[0], other, tmp_path / "out")
    assert result.status == 2 and "speaker a-1-3 would be in a and a-1" in result.err
    (other / "utt2spk").write_text("0 2\n1 2\n2 2\n3 2\n")
    result = combine(sources[0], other, tmp_path / "out")
    assert result.status == 2 and "4 utterance ids occur twice" in result.err and "a-1-0: " in result.err
    (other / "utt2dur").write_text("0 0.1\n")
    result = combine(sources[0], other, tmp_path / "out")
    assert result.status == 2 and "a-1: utt2dur or segments lacks 3 utterances" in result.err
    for table in ("wav.scp", "utt2emo", "utt2dur"):
        (sources[1] / table).rename(tmp_path / "gone")
        result = combine(*sources, tmp_path / "out")
        assert result.status == 2 and f"b/{table}" in result.err.replace("b has no ", "b/")
        (tmp_path / "gone").rename(sources[1] / table)
    assert not (tmp_path / "out").exists()
