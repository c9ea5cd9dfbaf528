"""Any corpus from a TSV."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
import prepare
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from sermtl.audio.segments import audio_spans

HEADER = "utt\tpath\tspeaker\temotion\ttext"


def write(folder: Path, *lines: str | bytes, header: str = HEADER) -> Path:
    for name in ("a.wav", "b c.wav"):
        prepare.write_wav(folder / "audio" / name)
    file = folder / "my.tsv"
    rows = [line.encode() if isinstance(line, str) else line for line in (header, *lines)]
    file.write_bytes(b"\n".join(rows) + b"\n")
    return file


def run(manifest: Path, *options: str) -> tuple[prepare.Result, Path]:
    out = manifest.parent / "data"
    return prepare.run("prepare_manifest", "--manifest", manifest, "--out", out, *options), out


def test_columns_in_any_order_and_unknown_ones(tmp_path: Path) -> None:
    manifest = write(
        tmp_path,
        "Hi, \u201cyou\u201d 2\tm\tjoy\t0.1\taudio/a.wav\tA\t1\ts1",
        '"Ho\tmale\tcalm\t0.1\taudio/b c.wav\tA\tA-2\ts2',
        "\r",
        "\tF\t\t0.1\taudio/a.wav\tB\t1\ts1",
        "\tF\t\t0.1\taudio/b c.wav\tB\t2\ts1\t",
        header="\ufefftext\tgender\temotion\tseconds\tpath\tspeaker\tutt\tsession\r",
    )
    result, out = run(manifest)
    assert result.status == 0 and "not used: seconds" in result.err
    assert prepare.table(out / "text") == {"A-1": "HI YOU TWO", "A-2": "HO", "B-1": "", "B-2": ""}
    assert prepare.table(out / "utt2emo") == {"A-1": "joy", "A-2": "calm", "B-1": "", "B-2": ""}
    assert prepare.table(out / "wav.scp")["A-2"] == str(tmp_path / "audio/b c.wav")
    assert prepare.table(out / "utt2session") == {"A-1": "s1", "A-2": "s2", "B-1": "s1", "B-2": "s1"}
    assert prepare.table(out / "spk2gender") == {"A": "m", "B": "f"}
    assert prepare.table(out / "spk2utt") == {"A": "A-1 A-2", "B": "B-1 B-2"}
    assert (out / "lang").read_text() == "en\n"


def test_channels(tmp_path: Path) -> None:
    lines = [f"{n}\taudio/a.wav\tA\tjoy\thi\t{channel}" for n, channel in enumerate(["", "1", "B", "mean"])]
    result, out = run(write(tmp_path, *lines, header=HEADER + "\tchannel"))
    assert result.status == 0, result.err
    assert {span.name: span.channel for span in audio_spans(out)} == {"A-0": 0, "A-1": 1, "A-2": 2, "A-3": 0}
    result, out = run(tmp_path / "my.tsv", "--channel", "2")
    assert [span.channel for span in audio_spans(out)] == [2, 1, 2, 0]
    result, out = run(write(tmp_path, *(line.rpartition("\t")[0] for line in lines)))
    assert not (out / "reco2file_and_channel").exists()
    result, out = run(write(tmp_path, lines[0], lines[1] + "st", header=HEADER + "\tchannel"))
    assert result.status == 2 and "my.tsv:3" in result.err
    assert "channel '1st' is neither a number from 1 nor mean" in result.err
    assert run(tmp_path / "my.tsv", "--channel", "0")[0].status == 2


def test_tables_of_an_earlier_run_do_not_stay(tmp_path: Path) -> None:
    manifest = write(tmp_path, *(f"{n}\taudio/a.wav\tA\tjoy\thi\ts" for n in "12"), header=HEADER + "\tsession")
    assert (run(manifest)[1] / "utt2session").exists()
    result, out = run(write(tmp_path, *(f"{n}\taudio/a.wav\tA\tjoy\thi" for n in "12")))
    assert result.status == 0
    assert not (out / "utt2session").exists() and not (out / "spk2gender").exists()


@pytest.mark.parametrize(
    ("text", "options", "lang", "words"),
    [
        ("Für 3 Tüten", ["--lang", "de"], "de", "FÜR DREI TÜTEN"),
        ("Für 3 Tüten", [], "und", "FÜR 3 TÜTEN"),
        ("Ёжик & я", ["--lang", "ru"], "ru", "ЁЖИК И Я"),
        ("caf\u00e9", ["--lang", "en"], "en", "CAFE"),
        ("It\u2019s \u2014 ok", [], "en", "IT'S OK"),
    ],
)
def test_language(tmp_path: Path, text: str, options: list[str], lang: str, words: str) -> None:
    result, out = run(write(tmp_path, *(f"{n}\taudio/a.wav\tA\tjoy\t{text}" for n in "12")), *options)
    assert result.status == 0
    assert (out / "lang").read_text() == f"{lang}\n"
    assert prepare.table(out / "text") == {"A-1": words, "A-2": words}
    assert ("--lang" in result.err) == (lang == "und" or text == "caf\u00e9")


def test_any_rate_channels_and_format(tmp_path: Path) -> None:
    manifest = write(tmp_path, "1\tx.wav\tA\tjoy\t", "2\ty.flac\tA\tsad\t", "3\tz.WAV\tA\tsad\t")
    prepare.write_wav(tmp_path / "x.wav", samples=22050, rate=44100, channels=2)
    soundfile.write(tmp_path / "y.flac", np.zeros(4000), 8000)
    soundfile.write(tmp_path / "z.WAV", np.zeros(48000), 192000, subtype="FLOAT", format="WAV")
    result, out = run(manifest)
    assert result.status == 0 and "alpha 0" in result.err
    assert prepare.table(out / "utt2dur") == {"A-1": "0.5", "A-2": "0.5", "A-3": "0.25"}


def test_classes(tmp_path: Path) -> None:
    manifest = write(tmp_path, "1\taudio/a.wav\tA\tjoy\t", "2\taudio/a.wav\tA\tsad\t", "3\taudio/a.wav\tA\t\tno label")
    result, out = run(manifest, "--classes", "sad")
    assert result.status == 0 and prepare.table(out / "utt2emo") == {"A-2": "sad", "A-3": ""}
    assert prepare.dropped(out) == [["A-1", "class joy is not asked for", f"{manifest}:2"]]
    assert "it has joy sad" in run(manifest, "--classes", "sad anger")[0].err


@pytest.mark.parametrize("alike", [False, True])
def test_unknown_speakers_are_refused_left_out_or_their_utterances_speakers(tmp_path: Path, alike: bool) -> None:
    unknown = ["unknown"] * 3 if alike else ["", "?", "Unknown"]
    lines = [f"{n}\taudio/a.wav\t{speaker}\tjoy\t" for n, speaker in enumerate([*unknown, "A", "A", "B"], 1)]
    manifest = write(tmp_path, *lines)
    result, out = run(manifest)
    assert result.status == 2 and "single utterance, from which no speaker is learned (4)" in result.err
    assert "--speakers known" in result.err and "random5" in result.err and not out.joinpath("utt2spk").exists()
    result, out = run(manifest, "--speakers", "known")
    assert result.status == 0 and "the speakers of 4 of 6 utterances are unknown" in result.err
    own = {name: name for name in ("unknown-1", "unknown-2", "unknown-3")}
    assert prepare.table(out / "utt2spk") == {"A-4": "A", "A-5": "A", "B-6": "B"} | own
    assert "6 utterances, 1 speakers" in result.out
    result, out = run(manifest, "--skip_broken", "true")
    assert prepare.table(out / "utt2spk") == {"A-4": "A", "A-5": "A"}


def test_a_split_column_becomes_a_table(tmp_path: Path) -> None:
    lines = [f"{n}\taudio/a.wav\tA\tjoy\t\t{split}" for n, split in enumerate(("train", "Dev", ""))]
    _, out = run(write(tmp_path, *lines, header=HEADER + "\tsplit"))
    assert prepare.table(out / "utt2split") == {"A-0": "train", "A-1": "Dev", "A-2": ""}


BROKEN = {
    "1\tgone.wav\tA\tjoy\t": "no such file",
    "2\tempty.wav\tA\tjoy\t": "empty",
    "3\tletter.wav\tA\tjoy\t": "audio",
    "4\tshort.wav\tA\tjoy\t": "truncated",
    "5\tshort.flac\tA\tjoy\t": "truncated",
    "6\taudio\tA\tjoy\t": "audio",
    "7\taudio/a.wav\tA": "3 fields",
    "8\taudio/a.wav\tA\tjoy\ta tab\tin the text": "6 fields",
    "\taudio/a.wav\tA\tjoy\t": "no utt",
    "9\t\tA\tjoy\t": "no path",
    "a b\taudio/a.wav\tA\tjoy\t": "not one printable word",
    "12\taudio/a.wav\tA\tvery\x07sad\t": "emotion 'very\\x07sad'",
    "13\taudio/a.wav\t../x\tsad\t": "speaker '../x'",
    "14\techo hi |\tA\tsad\t": "wav.scp",
    "ok\taudio/a.wav\tA\tsad\t": "the same utt and speaker as",
    "16\taudio/a\x07.wav\tA\tsad\t": "control character",
    b"17\taudio/\xff.wav\tA\tsad\t": "not UTF-8",
}


def break_files(folder: Path) -> None:
    (folder / "empty.wav").write_bytes(b"")
    (folder / "letter.wav").write_bytes(b"Dear Sir or Madam, " * 20)
    (folder / "short.wav").write_bytes((folder / "audio/a.wav").read_bytes()[:1000])
    noise = np.random.default_rng(0).standard_normal(16000) / 9
    buffer = io.BytesIO()
    soundfile.write(buffer, noise, 16000, format="FLAC")
    (folder / "short.flac").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])


def test_all_that_is_broken_is_listed_at_once(tmp_path: Path) -> None:
    manifest = write(tmp_path, "ok\taudio/a.wav\tA\tjoy\t", "ok2\taudio/a.wav\tA\tjoy\t", *BROKEN)
    break_files(tmp_path)
    result, out = run(manifest)
    assert result.status == 2 and f"{len(BROKEN)} broken" in result.err and "Traceback" not in result.err
    lines = result.err.splitlines()
    for number, reason in enumerate(BROKEN.values(), 4):
        line = next(line for line in lines if f"({manifest}:{number})" in line)
        assert reason in line
    result, out = run(manifest, "--skip_broken", "true")
    assert result.status == 0 and list(prepare.table(out / "text")) == ["A-ok", "A-ok2"]
    assert len(prepare.dropped(out)) == len(BROKEN)


@pytest.mark.parametrize(
    ("header", "lines", "words"),
    [
        ("utt\tpath\tspeaker\temotion", ["1\taudio/a.wav\tA\tjoy"], "my.tsv:1: the header lacks text"),
        ("1\taudio/a.wav\tA\tjoy\thi", [], "my.tsv:1: the header lacks utt path"),
        (HEADER + "\tutt", [], "a column occurs twice"),
        (HEADER, [], "my.tsv has no utterance"),
        (HEADER, ["1\taudio/a.wav\tA\t\thi"], "no utterance has an emotion"),
        (
            HEADER + "\tgender",
            ["1\taudio/a.wav\tA\tx\t\tm", "2\taudio/a.wav\tA\tx\t\tf"],
            "another gender of speaker A",
        ),
        (HEADER + "\tgender", ["1\taudio/a.wav\tA\tx\t\t7"], "neither m nor f"),
        (
            HEADER,
            [
                f"{utt}\taudio/a.wav\t{speaker}\tx\t"
                for utt, speaker in (("1", "a-a"), ("2", "a-a"), ("b", "a"), ("0", "a"))
            ],
            "sort in another",
        ),
        (HEADER, [f"{utt}\taudio/a.wav\tA{utt}\tx\t" for utt in "12"], "A2: A2-2 ({manifest}:3)"),
    ],
)
def test_a_wrong_manifest_is_explained(tmp_path: Path, header: str, lines: list[str], words: str) -> None:
    manifest = write(tmp_path, *lines, header=header)
    result, _ = run(manifest)
    assert result.status == 2 and words.replace("{manifest}", str(manifest)) in result.err
    assert "Traceback" not in result.err


def test_speakers_of_one_utterance_are_left_out_on_request(tmp_path: Path) -> None:
    lines = [f"{n}\taudio/a.wav\t{speaker}\tjoy\t" for n, speaker in enumerate("ABBC")]
    result, out = run(write(tmp_path, *lines), "--skip_broken", "true")
    assert result.status == 0 and list(prepare.table(out / "utt2spk")) == ["B-1", "B-2"]
    assert [row[:2] for row in prepare.dropped(out)] == [
        [utt, "the only utterance of its speaker"] for utt in ("A-0", "C-3")
    ]


def test_missing_and_empty_manifest_and_odd_language(tmp_path: Path) -> None:
    message = run(tmp_path / "none.tsv")[0].err
    assert f"{tmp_path}/none.tsv: no such file; a relative path is looked for from {Path.cwd()}" in message
    (tmp_path / "empty.tsv").write_bytes(b"\n\n")
    assert "is empty" in run(tmp_path / "empty.tsv")[0].err
    manifest = write(tmp_path, *(f"{n}\taudio/a.wav\tA\tjoy\t" for n in "12"))
    assert "such as en, de, ru" in run(manifest, "--lang", "../x")[0].err


FIELD = st.one_of(
    st.sampled_from(["A", "audio/a.wav", "joy", "", "x y", '"', "1", "..", "\x85", "\u2028"]), st.text(max_size=6)
)
LINE = st.one_of(
    st.lists(FIELD, min_size=4, max_size=6).map("\t".join).map(lambda s: s.encode("utf-8", "replace")),
    st.binary(max_size=30),
)


@given(st.lists(LINE, max_size=6))
@settings(max_examples=40)
def test_fuzzed_manifests_never_crash_and_never_lose_a_line(lines: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        manifest = write(Path(folder), *(f"ok{n}\taudio/a.wav\tZ\tjoy\t" for n in "12"), *lines)
        result, out = run(manifest, "--skip_broken", "true")
        assert result.status in (0, 2) and "Traceback" not in result.err
        if result.status:
            assert "sort in another order" in result.err
            return
        content = b"\n".join(lines).split(b"\n")
        written = sum(bool(line.decode("utf-8", "replace").strip()) for line in content)
        assert 2 + written == len(prepare.table(out / "utt2spk")) + len(prepare.dropped(out))


def test_a_word_of_another_script_leaves_an_english_corpus_english(tmp_path: Path) -> None:
    lines = [f"{n}\taudio/a.wav\tA\tjoy\tthese are five plain words" for n in range(30)]
    result, out = run(write(tmp_path, *lines, "x\taudio/a.wav\tA\tjoy\tshe said \u0434\u0430 twice"))
    assert result.status == 0 and (out / "lang").read_text() == "en\n"
    assert (
        f"1 transcripts lose letters outside A to Z (give --lang if it is another):\n  A-x ({tmp_path}/my.tsv:32)"
        in result.err
    )
    assert prepare.table(out / "text")["A-x"] == "SHE SAID TWICE"
    for text in (
        "a few words d\u00e9j\u00e0 vu",
        "\u0434\u0430 \u0434\u0430 \u0434\u0430 \u0434\u0430 \u0434\u0430",
    ):  # accents; many
        assert (run(write(tmp_path, *lines, f"x\taudio/a.wav\tA\tjoy\t{text}"))[1] / "lang").read_text() == "und\n"
