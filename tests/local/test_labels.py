"""Labels of any corpus: their map, their spelling, and those that are no classes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import prepare
import pytest

from checks import spelling_variants  # isort: skip


def run(folder: Path, emotions: list[str], *options: str, speakers: tuple[str, ...] = ("A",)) -> prepare.Result:
    """Prepare a manifest with one utterance an emotion, of the speakers in turn."""
    prepare.write_wav(folder / "a.wav")
    lines = ["utt\tpath\tspeaker\temotion\ttext"]
    lines += [f"{n:02d}\ta.wav\t{speakers[n % len(speakers)]}\t{emotion}\t" for n, emotion in enumerate(emotions)]
    (folder / "m.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return prepare.run("prepare_manifest", "--manifest", folder / "m.tsv", "--out", folder / "data", *options)


def counts(folder: Path) -> dict[str, int]:
    return dict(Counter(prepare.table(folder / "data/utt2emo").values()))


def test_a_map_on_the_command_line_joins_and_the_rest_stays(tmp_path: Path) -> None:
    emotions = ["excited", "happy", "anger", "sad", "sad", ""]
    result = run(tmp_path, emotions, "--label_map", "excited=happy anger=angry gone=x", "--classes", "happy angry")
    assert result.status == 0 and counts(tmp_path) == {"happy": 2, "angry": 1, "": 1}
    assert "excited 1 + happy 1 -> happy 2" in result.out and "anger 1 -> angry 1" in result.out
    assert "names gone, which no utterance has" in result.out
    assert [row[:2] for row in prepare.dropped(tmp_path / "data")] == [
        [f"A-0{n}", "class sad is not asked for"] for n in (3, 4)
    ]


@pytest.mark.parametrize(
    "lines", ["very angry\tanger\n\nhappy\tjoy  of life\n", "\ufeffvery angry\tanger\r\nhappy\tjoy of life"]
)
def test_a_map_in_a_file_and_labels_with_blanks(tmp_path: Path, lines: str) -> None:
    (tmp_path / "map.tsv").write_text(lines, encoding="utf-8", newline="")
    result = run(tmp_path, ["very angry", "anger", "happy", "so  so"], "--label_map", str(tmp_path / "map.tsv"))
    assert result.status == 0 and counts(tmp_path) == {"anger": 2, "joy of life": 1, "so so": 1}
    result = run(tmp_path, ["very angry", "sad", "so so"], "--classes", "very angry, so so")
    assert result.status == 0 and counts(tmp_path) == {"very angry": 1, "so so": 1}


def test_spellings_of_labels_are_warned_of_with_the_map_that_joins_them(tmp_path: Path) -> None:
    result = run(tmp_path, ["anger", "Anger", "anger", "sad", "not_sad", "not sad"])
    assert result.status == 0 and len(counts(tmp_path)) == 5
    assert "Anger 1, anger 2; --label_map 'Anger=anger' joins them" in result.err
    given = result.err.split("not sad 1, not_sad 1; --label_map '")[1].split("'")[0]
    result = run(tmp_path, ["anger", "Anger", "not_sad", "not sad"], "--label_map", f"Anger=anger,{given}")
    assert "differ in spelling" not in result.err and len(counts(tmp_path)) == 2


def test_spellings_of_speakers_are_warned_of_as_a_possible_leak(tmp_path: Path) -> None:
    result = run(tmp_path, ["anger", "sad"] * 4, speakers=("Spk03", "spk03", "spk04", "spk05"))
    assert (
        result.status == 0 and "Spk03 spk03; if they are one person, the voice may be in training and in" in result.err
    )
    assert "spk04" not in result.err


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["a b", "A_b", "a.B-", "ab", "abc"], [["A_b", "a b", "a.B-", "ab"]]),
        (["caf\u00e9", "cafe\u0301", "cafe"], [["cafe\u0301", "caf\u00e9"]]),
        (["spk3", "spk03", "spk_003", "spk30"], [["spk03", "spk3", "spk_003"]]),
        (["1_11", "11_1", "111", "1-011"], [["1-011", "1_11"]]),
        (["0", "00", "10"], [["0", "00"]]),
    ],
)
def test_what_counts_as_another_spelling(names: list[str], groups: list[list[str]]) -> None:
    assert spelling_variants(names) == groups


@pytest.mark.parametrize(
    ("emotions", "options", "message"),
    [
        (["1.000", "1,125", "-2", "neutral"], (), "3 of 4 labels are numbers: 1.000, 1,125, -2"),
        (
            ["anger;surprise", "sad|fear", "sad"],
            (),
            "2 of 3 labels are combinations of emotions: anger;surprise, sad|fear",
        ),
        ([f"c{n}" for n in "abcdefghijklmnopqrstu"], (), "21 labels, and --max_classes is 20: ca, cb"),
        (["a", "b", "c"], ("--max_classes", "2"), "3 labels, and --max_classes is 2"),
        (["a", "b"], ("--label_map", "a=b=c"), "'a=b=c' of 'a=b=c' is no pair"),
        (["a", "b"], ("--label_map", "nofile.tsv"), "an existing file"),
        (["a", "b"], ("--label_map", "a=b a=c"), "names a more than once"),
    ],
)
def test_what_is_no_class_is_refused_with_what_to_do(
    tmp_path: Path, emotions: list[str], options: tuple[str, ...], message: str
) -> None:
    result = run(tmp_path, emotions, *options)
    assert result.status == 2 and message in result.err and "Traceback" not in result.err
    assert not (tmp_path / "data/utt2emo").exists()


def test_numbers_and_combinations_are_named_by_a_map(tmp_path: Path) -> None:
    (tmp_path / "map").write_text("0 neutral\n1 happy\nanger;surprise anger\n")
    result = run(
        tmp_path,
        ["0", "1", "anger;surprise", "2"],
        "--label_map",
        str(tmp_path / "map"),
        "--classes",
        "neutral happy anger",
    )
    assert result.status == 0 and counts(tmp_path) == {"neutral": 1, "happy": 1, "anger": 1}
