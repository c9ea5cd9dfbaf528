import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from datadirs import contents, make_data, noise, rows_of, write_wav
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sermtl.audio.headers import check_recording
from sermtl.corpus.corpus import load_corpus
from sermtl.corpus.fix import fix
from sermtl.corpus.validate import validate
from sermtl.errors import UserError
from sermtl.fileio.tables import read_list, read_table, write_list, write_table

ROOT = Path(__file__).parents[2]
fuzzing = settings(max_examples=40)
# Lines of the kinds that real tables hold, whole and damaged.
damaged_line = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([b"", b" ", b"s0-00", b"s0-00 s0", b"s0-01 s0", b"s1-00 s1", b"s1-00  s1", b"s1-01\ts1",
                     b"s1-00 s0", b"s0-00 s0\r", b"\xef\xbb\xbfs0-00 s0", b"\xff s0", b"s1-00 0.5",
                     "s1-00 \u00fc\u200b".encode(), b"s0-00 s0-01 0 1", b"s1-00 nan"]),
)  # fmt: skip
damaged_table = st.lists(damaged_line, max_size=8).map(b"\n".join)
key = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8)
value = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\n\r"), max_size=12)


def tool(name, *words, cwd=ROOT, **options):
    path = f"{ROOT / 'utils'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [ROOT / "utils" / name, *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=os.environ | {"PATH": path}, capture_output=True, text=True, **options)


def faults(data, **options):
    return "\n".join(validate(data, **options)[0])


@given(st.dictionaries(key, value, max_size=8))
@fuzzing
def test_a_table_comes_back_as_it_was_written(tmp_path, table):
    write_table(tmp_path / "table", table)
    assert read_table(tmp_path / "table") == {k: v.strip(" \t") for k, v in sorted(table.items())}
    lines = (tmp_path / "table").read_bytes().split(b"\n")[:-1]
    assert lines == sorted(lines, key=lambda line: line.split(b" ")[0])


@pytest.mark.parametrize(
    "key, value", [("a", "b\nc"), ("a", "b\r"), ("a b", "c"), ("", "c"), ("a", "\udcff"), ("\t", "")]
)
def test_what_would_break_a_table_is_not_written(tmp_path, key, value):
    (tmp_path / "table").write_text("a old\n")
    with pytest.raises(UserError, match="table"):
        write_table(tmp_path / "table", {key: value})
    assert (tmp_path / "table").read_text() == "a old\n"


@pytest.mark.parametrize(
    "content, message",
    [(b"b 1\na 2\n", "table:2: key 'a' is out of byte order"), (b"a 1\na 2\n", "table:2: key 'a' is repeated"),
     (b"a 1\n\nb 2\n", "table:2: an empty line"), (b"a 1\nb \xff\n", "table:2: not UTF-8"),
     (b"\xef\xbb\xbfa 1\n", "table:1: begins with a byte order mark .BOM.: save it as UTF-8 without"),
     (b" a 1\n", "table:1: an empty line or a line without a key"),
     ("\u00e9 1\nz 1\n".encode(), "table:2: key 'z' is out of byte order")],
)  # fmt: skip
def test_reading_names_the_line_that_is_wrong(tmp_path, content, message):
    (tmp_path / "table").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_table(tmp_path / "table")


@pytest.mark.parametrize("content", [b"a  1 2\nb\n", b"a\t1 2 \nb \n", b"a 1 2\r\nb\r\n", b"a \t 1 2\t\r\nb  \r\n"])
def test_blanks_of_any_number_separate_and_lines_may_end_as_windows_ends_them(tmp_path, content):
    (tmp_path / "table").write_bytes(content)
    assert read_table(tmp_path / "table") == {"a": "1 2", "b": ""}


def test_lists_are_sorted_and_may_be_empty(tmp_path):
    write_list(tmp_path / "list", ["b", "a", "b"])
    assert (tmp_path / "list").read_text() == "a\nb\n" and read_list(tmp_path / "list") == ["a", "b"]
    write_list(tmp_path / "list", [])
    assert (tmp_path / "list").read_bytes() == b"" and read_list(tmp_path / "list") == []


def test_a_right_directory_is_validated(tmp_path):
    data = make_data(tmp_path / "data", rows_of(), audio=True)
    done = tool("validate_data_dir.sh", data)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"validate_data_dir.sh: successfully validated {data}: 32 utterances, 4 speakers\n"


def test_unlabelled_and_silent_utterances_are_right(tmp_path):
    rows = rows_of()
    rows[0]["utt2emo"] = rows[1]["text"] = ""
    assert not faults(make_data(tmp_path, rows, audio=True))


def replaced(old, new):
    return lambda path: path.write_bytes(path.read_bytes().replace(old, new, 1))


@pytest.mark.parametrize(
    "table, damage, message",
    [
        ("text", Path.unlink, "text: no such file"),
        ("utt2spk", Path.unlink, "utt2spk: no such file"),
        ("utt2spk", lambda path: path.write_text(""), "utt2spk has no utterance"),
        ("utt2emo", replaced(b"s1-03 sad\n", b""), "utt2emo lacks what utt2spk has:\n    s1-03"),
        ("utt2emo", replaced(b"s1-03 sad\n", b"s1-03 sad\ns1-03x sad\n"), "utt2spk lacks what utt2emo has"),
        ("utt2emo", replaced(b"s1-03 sad\n", b"s1-03 very\x07sad\n"), "unprintable character:\n    12: "),
        ("utt2session", replaced(b"s1-03 0\n", b"s1-03 0 1\n"), "one word or none:\n    12: 's1-03 0 1'"),
        ("utt2dur", replaced(b"0.1000", b"-1"), "utt2dur: expected a number above 0:\n    1: "),
        ("utt2dur", replaced(b"0.1000", b"nan"), "utt2dur: expected a number above 0:\n    1: "),
        ("utt2dur", replaced(b"0.1000", b"0.5000"), "s0-00: 0.10 s of audio, but 0.50 s in utt2dur"),
        ("text", replaced(b"s0-01 WORD", b"s0-01 W\xffRD"), "text: not UTF-8:\n    2: "),
        ("text", replaced(b"s0-01 WORD", "s0-01 W\u200bORD".encode()), "text: unprintable character:\n    2: "),
        ("text", replaced(b"s0-01 WORD", "s0-01 W\u00a0ORD".encode()), "text: unprintable character:\n    2: "),
        ("text", replaced(b"s0-01 WORD", b" s0-01 WORD"), "text: no printable key at the beginning:\n    2: "),
        ("text", replaced(b"s0-00", b"\xef\xbb\xbfs0-00"), "text: begins with a byte order mark (BOM)"),
        ("text", replaced(b"\n", b"\n\n"), "text: empty line:\n    2: "),
        ("text", replaced(b"s0-00", b"s0-09"), "text: out of byte order:\n    2: s0-01 after s0-09"),
        ("utt2session", replaced(b"s0-01", b"s0-00"), "utt2session: repeated key:\n    2: s0-00 0"),
        ("spk2utt", replaced(b"s1 s1-00 s1-01", b"s1 s1-01 s1-00"), "spk2utt is not what utt2spk gives:\n    s1"),
        ("spk2utt", replaced(b"s1 ", b"s1x "), "s1 (no line)\n    s1x (not in utt2spk)"),
        ("spk2gender", lambda path: path.write_text("s0 f\ns1 m\ns2 f\n"), "lacks what utt2spk has:\n    s3"),
        ("utt2spk", replaced(b"s0-01 s0", b"s0-01 0"), "no prefix of the utterance id:\n    s0-01 0"),
        ("wav.scp", replaced(b".wav", b".WAV"), "s0-00: no such file"),
        ("wav.scp", replaced(b".wav", b".wav |"), "s0-00: a shell command, refused unless --allow_pipes true"),
        ("wav/s2-02.wav", lambda path: path.write_bytes(b""), "s2-02: not readable as audio"),
        ("wav/s2-02.wav", lambda path: path.write_bytes(b"no audio" * 9), "s2-02: not readable as audio"),
        ("wav/s2-02.wav", lambda path: path.write_bytes(path.read_bytes()[:-9]), "truncated: 9 bytes are missing"),
        ("wav/s2-02.wav", lambda path: write_wav(path, noise(0, 0)), "s2-02: not readable as audio"),
    ],
)  # fmt: skip
def test_each_fault_is_shown_with_its_line(tmp_path, table, damage, message):
    data = make_data(tmp_path, rows_of(), audio=True)
    damage(data / table)
    assert message in faults(data)


def test_all_broken_recordings_are_listed_at_once(tmp_path):
    data = make_data(tmp_path / "data", rows_of(), audio=True)
    broken = [f"s2-{n:02d}" for n in range(8)] + ["s3-00"]
    for utt in broken:
        (data / "wav" / f"{utt}.wav").write_bytes(b"RIFF")
    done = tool("validate_data_dir.sh", data)
    assert done.returncode == 1 and done.stdout == ""
    assert [line.split(":")[0].strip() for line in done.stderr.splitlines()[1:-1]] == broken
    assert "(9 lines)" in done.stderr and "fix_data_dir.sh" in done.stderr


def test_options_relax_the_check(tmp_path):
    rows = [row | {"utt2spk": "x" + row["utt2spk"]} for row in rows_of()]
    data = make_data(tmp_path / "data", rows, audio=True)
    (data / "text").unlink()
    (data / "wav.scp").write_text("".join(f"{utt} sox x.wav -t wav - |\n" for utt in read_table(data / "utt2spk")))
    assert tool("validate_data_dir.sh", data).returncode == 1
    options = ("--no-text", "--no_spk_sort", "--no-feats")
    assert tool("validate_data_dir.sh", *options, "--allow_pipes", "true", data).returncode == 0
    (data / "wav.scp").unlink()
    assert tool("validate_data_dir.sh", *options, "--no-wav", data).returncode == 0
    assert tool("validate_data_dir.sh", tmp_path / "nowhere").returncode == 1


def test_archives_segments_and_flac_are_read(tmp_path):
    data = make_data(tmp_path, rows_of(1, 3), audio=True)
    first, second = ((data / "wav" / f"s0-0{n}.wav").read_bytes() for n in (0, 1))
    ark = tmp_path / "a.ark"
    ark.write_bytes(b"s0-00 " + first + b"s0-01 " + second)
    soundfile.write(tmp_path / "c.flac", noise(1), 16000)
    scp = {"s0-00": f"{ark}:6", "s0-01": f"{ark}:{12 + len(first)}", "s0-02": str(tmp_path / "c.flac")}
    write_table(data / "wav.scp", scp)
    assert not faults(data)
    ark.write_bytes(ark.read_bytes()[:-100])
    assert "s0-01: not readable as audio" in faults(data) and "100 bytes are missing" in faults(data)
    write_table(data / "wav.scp", scp | {"s0-01": f"{ark}:7"})
    assert "s0-01: not readable as audio" in faults(data)
    write_table(data / "wav.scp", {"rec": str(tmp_path / "c.flac")})
    write_table(data / "segments", {"s0-00": "rec 0 0.05", "s0-01": "rec 0.05 0.1", "s0-02": "rec 0.05 -1"})
    assert not faults(data)
    write_table(data / "segments", {"s0-00": "rec 0 9.5", "s0-01": "gone 0.05 0.1", "s0-02": "rec 0.05 0.01"})
    assert "segments go to 9.50 s" in faults(data) and "wav.scp lacks what segments has:\n    gone" in faults(data)
    assert "a later end in seconds:\n    3: " in faults(data)


def test_many_recordings_are_checked_by_several_processes(tmp_path, monkeypatch):
    data = make_data(tmp_path, rows_of(), audio=True)
    (data / "wav" / "s1-01.wav").unlink()
    alone = faults(data)
    monkeypatch.setattr("sermtl.audio.headers.POOL_FROM", 2)
    assert faults(data, nj=2) == alone != ""


@given(st.binary(max_size=200), st.integers(0, 300))
@example(b"", 44)
@fuzzing
def test_no_audio_file_makes_the_check_itself_fail(tmp_path, content, cut):
    wav = write_wav(tmp_path / "a.wav", noise(0, 100)).read_bytes()
    for name in ("a.wav", "a.raw", "a.mp3"):
        (tmp_path / name).write_bytes(wav[:cut] + content)
        for entry in (tmp_path / name, f"{tmp_path / name}:0", f"{tmp_path / name}:{'9' * 30}"):
            assert isinstance(check_recording(("utt", str(entry), None, None)), (str, type(None)))


@given(damaged_table, damaged_table, damaged_table, damaged_table)
@fuzzing
def test_no_table_makes_a_tool_fail_with_a_traceback(tmp_path_factory, utt2spk, text, emotion, more):
    data = tmp_path_factory.mktemp("fuzz")
    tables = {"utt2spk": utt2spk, "text": text, "utt2emo": emotion, "segments": more, "spk2gender": more,
              "spk2utt": more, "wav.scp": more, "utt2dur": text}  # fmt: skip
    for name, content in tables.items():
        (data / name).write_bytes(content)
    for name, content in tables.items():
        try:
            assert len(read_table(data / name)) == content.rstrip(b"\n").count(b"\n") + bool(content)
        except UserError as error:
            assert str(data / name) in str(error)
    assert all(isinstance(line, str) for line in validate(data)[0])
    try:
        load_corpus(data)
    except UserError as error:
        assert str(data) in str(error)


@given(st.lists(damaged_line, max_size=6), st.lists(damaged_line, max_size=6))
@fuzzing
def test_fix_leaves_what_validate_accepts(tmp_path_factory, extra_text, extra_emotions):
    data = make_data(tmp_path_factory.mktemp("fix"), [row for row in rows_of(2, 4) if row["utt"] != "s0-00"])
    for name, extra in (("text", extra_text), ("utt2emo", extra_emotions)):
        lines = (data / name).read_bytes().splitlines()
        (data / name).write_bytes(b"\n".join(extra + lines[::-1]) + b"\n")
    kept, before, _ = fix(data)
    assert (kept, before) == (7, 7)
    left = "\n".join(line for line in validate(data, wav=False)[0] if not line.startswith("    "))
    assert "order" not in left and "lacks" not in left and "key" not in left and "UTF-8" not in left
    assert fix(data) == (7, 7, [])


def test_fix_sorts_intersects_keeps_originals_and_says_so(tmp_path):
    data = make_data(tmp_path / "data", rows_of(), audio=True)
    text = (data / "text").read_text().splitlines(keepends=True)
    original = "".join(reversed(text[2:])) + "zz-00 NOBODY\n"
    (data / "text").write_text(original)
    write_table(data / "spk2gender", {"s0": "f", "s1": "m", "s2": "f", "s9": "f"})
    emotions = (data / "utt2emo").read_bytes()
    done = tool("fix_data_dir.sh", data)
    assert done.returncode == 0
    assert done.stdout.startswith("fix_data_dir.sh: kept 22 utterances out of 32; ")
    assert "text lacks 2 utterances, first s0-00" in done.stderr
    assert "spk2gender lacks the speaker of 8 utterances, first s3-00" in done.stderr
    assert (data / ".backup" / "text").read_text() == original
    assert (data / ".backup" / "utt2emo").read_bytes() == emotions
    assert read_table(data / "spk2gender") == {"s0": "f", "s1": "m", "s2": "f"}
    assert tool("validate_data_dir.sh", data).returncode == 0


def test_fix_refuses_to_leave_nothing(tmp_path):
    data = make_data(tmp_path / "data", rows_of())
    (data / "utt2emo").write_text("other ang\n")
    before = contents(data)
    done = tool("fix_data_dir.sh", data)
    assert (
        done.returncode == 2 and "utt2emo lacks 32 utterances" in done.stderr and "nothing was changed" in done.stderr
    )
    assert contents(data) == before


@pytest.mark.slow
def test_a_hundred_thousand_rows_divide_within_300_megabytes(tmp_path):
    rows = rows_of(speakers=500, each=200)
    data = make_data(tmp_path / "data", rows)
    # not ru_maxrss, which a child inherits from a large parent
    program = "import re; from sermtl.bin.folds import main; main();"
    program += "print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])"
    done = subprocess.run(
        [sys.executable, "-c", program, "--data", data, "--protocol", "kfold10", "--dev_ratio", "0.1"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout.split()[-1]) < 300_000
