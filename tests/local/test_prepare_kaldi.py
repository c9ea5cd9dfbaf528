"""Data directories that Kaldi or ESPnet made."""

from __future__ import annotations

from pathlib import Path

import datadirs
import kaldiio
import numpy as np
import prepare
import pytest
import soundfile
from datadirs import contents

from sermtl.audio.segments import audio_spans, read_all
from sermtl.corpus.duplicate_audio import same_audio
from sermtl.corpus.validate import validate


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
    opposite = np.random.default_rng(0).normal(0, 3000, (16000, 1)).astype(np.int16) * np.array([[1, -1]], np.int16)
    soundfile.write(audio / "opposite.wav", opposite, 16000)
    (data / "wav.scp").write_text(f"S1-1 cat {audio}/opposite.wav |\n{rest}")
    assert "out of phase" in run(data, "--allow_pipes", "true")[0].err
    assert run(data, "--allow_pipes", "true", "--channel", "1")[0].status == 0
    (data / "reco2file_and_channel").write_text("S1-1 opposite B\n")
    assert run(data, "--allow_pipes", "true")[0].status == 0
    (data / "reco2file_and_channel").unlink()
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


def two_channels(folder: Path, channels: str = "") -> Path:
    """Two calls of a speaker on each side, whose segments overlap."""
    sides = {}
    for call in ("c1", "c2"):
        random = np.random.default_rng(len(sides))
        sides[call] = random.integers(-9000, 9000, (16000, 2)).astype(np.int16)
        datadirs.write_wav(folder / f"{call}.wav", sides[call])
    keys = {f"{call}-{side}": folder / f"{call}.wav" for call in sides for side in "AB"}
    return write(
        folder,
        wav_scp="".join(f"{key} {path}\n" for key, path in keys.items()),
        segments="S1-1 c1-A 0 0.5\nS1-2 c2-A 0 0.5\nS2-1 c1-B 0.25 0.75\nS2-2 c2-B 0.3 -1\n",
        reco2file_and_channel=channels,
    )


@pytest.mark.parametrize("names", ["AB", "12"])
def test_the_channel_of_a_recording_is_obeyed(tmp_path: Path, names: str) -> None:
    table = "".join(
        f"c{call}-{side} call{call} {name}\n" for call in "12" for side, name in zip("AB", names, strict=True)
    )
    result, out = run(two_channels(tmp_path, table))
    assert result.status == 0, result.err
    assert (out / "reco2file_and_channel").read_text() == table and validate(out)[0] == []
    found = dict(read_all(audio_spans(out), allow_pipes=False))
    for utt, call, side, first, last in (
        ("S1-1", "c1", 0, 0, 8000),
        ("S2-1", "c1", 1, 4000, 12000),
        ("S2-2", "c2", 1, 4800, 16000),
    ):
        samples, _ = soundfile.read(tmp_path / f"{call}.wav", dtype="int16")
        assert np.array_equal(found[utt], samples[first:last, side])
    assert len({*same_audio(out, ["S1-1", "S1-2", "S2-1", "S2-2"])}) == 4


def test_the_same_span_of_two_channels_is_no_copy(tmp_path: Path) -> None:
    data = two_channels(tmp_path, "c1-A c1 A\nc1-B c1 B\nc2-A c2 A\nc2-B c2 B\n")
    (data / "segments").write_text("S1-1 c1-A 0 0.5\nS1-2 c2-A 0 0.5\nS2-1 c1-B 0 0.5\nS2-2 c1-B 0 0.5\n")
    out = run(data)[1]
    codes = same_audio(out, ["S1-1", "S2-1", "S2-2"])
    assert codes[0] != codes[1] == codes[2]


@pytest.mark.parametrize("channels", ["", "c1-A c1 A\nc1-B c1 A\nc2-A c2 A\nc2-B c2 B\n"])
def test_two_speakers_in_one_channel_are_refused(tmp_path: Path, channels: str) -> None:
    result, _ = run(two_channels(tmp_path, channels))
    assert result.status == 2
    assert f"segments of two recordings share the sound of one file ({1 if channels else 2})" in result.err
    assert f"S1-1 (recording c1-A) and S2-1 (recording c1-B) in {tmp_path / 'c1.wav'}" in result.err
    assert "reco2file_and_channel: `recording file A`" in result.err


def test_a_channel_that_is_none_is_refused(tmp_path: Path) -> None:
    result, _ = run(two_channels(tmp_path, "c1-A c1 A\nc1-B c1 left\n"))
    assert result.status == 2 and "reco2file_and_channel:2: expected `recording file channel`" in result.err


def test_one_channel_may_have_segments_that_overlap(tmp_path: Path) -> None:
    wav = prepare.write_wav(tmp_path / "m.wav", samples=16000)
    segments = "S1-1 r 0 0.5\nS1-2 r 0.4 0.9\nS2-1 r 0.3 0.6\nS2-2 r 0.8 1\n"
    assert run(write(tmp_path, wav_scp=f"r {wav}\n", segments=segments))[0].status == 0
    apart = "S1-1 q 0 0.5\nS1-2 q 0.6 0.7\nS2-1 r 0.5 0.6\nS2-2 r 0.8 1\n"
    assert run(write(tmp_path, wav_scp=f"q {wav}\nr {wav}\n", segments=apart))[0].status == 0
    for channels in ("", "q m A\nr m B\n"):  # the file has one channel
        both = apart.replace("0.8 1", "0.1 0.3")
        data = write(tmp_path, wav_scp=f"q {wav}\nr {wav}\n", segments=both, reco2file_and_channel=channels)
        assert run(data)[0].status == 2


def test_durations_leave_out(tmp_path: Path) -> None:
    data = write(tmp_path)
    prepare.write_wav(tmp_path / "audio/b.wav", samples=32000)
    (data / "wav.scp").write_text(
        "".join(f"S{s}-{n} {tmp_path}/audio/{'ab'[n > 2]}.wav\n" for s in (1, 2) for n in (1, 2, 3))
    )
    (data / "utt2spk").write_text("".join(f"S{s}-{n} S{s}\n" for s in (1, 2) for n in (1, 2, 3)))
    (data / "utt2emo").write_text("S1-1 joy\nS2-1 sad\nS2-3 sad\n")
    (data / "text").unlink()
    result, out = run(data, "--max_seconds", "1.5")
    assert result.status == 0 and list(prepare.table(out / "utt2spk")) == ["S1-1", "S1-2", "S2-1", "S2-2"]
    assert [row[:2] for row in prepare.dropped(out)] == [
        [f"S{s}-3", "2.00 s: longer than --max_seconds"] for s in (1, 2)
    ]
    assert "dropped 2: longer than --max_seconds" in result.out
    assert "shortest 1.00 s, median 1.00 s, longest 1.00 s" in result.out


@pytest.mark.parametrize("gap", ["  ", "\t", " \t "])
@pytest.mark.parametrize("end", ["", " ", "\r", " \r"])
def test_any_blanks_separate_and_any_may_end_a_line(tmp_path: Path, gap: str, end: str) -> None:
    wav = tmp_path / "audio/a.wav"
    segments = "S1-1 rec1 0 0.25\nS1-2 rec1 0.25 -1\nS2-1 rec1 0.5 0.75\nS2-2 rec1 0.75 1\n"
    data = write(tmp_path, wav_scp=f"rec1 {wav}\n", segments=segments, lang="de\n")
    plain, out = run(data)
    before = contents(out)
    for table in data.iterdir():
        table.write_bytes(table.read_bytes().replace(b" ", gap.encode()).replace(b"\n", end.encode() + b"\n"))
    result, out = run(data)
    assert result.status == plain.status == 0, result.err
    after = contents(out)
    assert {name for name in before if before[name].split() != after[name].split()} == set()
    assert validate(out)[0] == [] and [span.end for span in audio_spans(out)] == [0.25, -1, 0.75, 1]


def test_a_missing_file_is_named_with_table_and_line(tmp_path: Path) -> None:
    result, _ = run(
        write(tmp_path, wav_scp=f"S1-1 {tmp_path}/audio/a.wav\nS1-2 /no/x.wav\nS2-1 /no/y.wav\nS2-2 /no/z.wav\n")
    )
    assert result.status == 2 and "3 broken or missing" in result.err
    assert f"\n  S1-2: /no/x.wav: no such file ({tmp_path}/train/wav.scp:2)\n" in result.err
    segments = "S1-1 r 0 0.5\nS1-2 r 0.5 1\nS2-1 q 0 1\nS2-2 q 1 2\n"
    result, _ = run(write(tmp_path, wav_scp=f"q /no/x.wav\nr {tmp_path}/audio/a.wav\n", segments=segments))
    assert f"S2-1: recording q: /no/x.wav: no such file ({tmp_path}/train/wav.scp:1)" in result.err
    assert f"{tmp_path}/train/segments:3" in result.err


def test_ids_without_their_speaker_are_called_so(tmp_path: Path) -> None:
    result, _ = run(write(tmp_path, utt2spk="S1-1 anna\nS1-2 anna\nS2-1 S2\nS2-2 S2\n", spk2gender=""))
    assert result.status == 2
    assert "2 utterance ids do not begin with their speaker's id" in result.err
    assert f"S1-1 of speaker anna ({tmp_path}/train/utt2spk:1)" in result.err


def test_a_byte_order_mark_is_called_so(tmp_path: Path) -> None:
    data = write(tmp_path)
    (data / "utt2emo").write_bytes(b"\xef\xbb\xbf" + (data / "utt2emo").read_bytes())
    result, _ = run(data)
    assert result.status == 2 and "utt2emo:1: begins with a byte order mark (BOM)" in result.err


@pytest.mark.parametrize("form", ["FLAC", "WAV"])
def test_audio_in_arks_of_espnet_is_prepared(tmp_path: Path, form: str) -> None:
    random = np.random.default_rng(0)
    audio = {utt: random.integers(-9000, 9000, 8000).astype(np.int16) for utt in ("S1-1", "S1-2", "S2-1", "S2-2")}
    for n, (utt, samples) in enumerate(audio.items()):
        kaldiio.save_ark(
            str(tmp_path / "data.ark"), {utt: (16000, samples)}, scp=str(tmp_path / "data.scp"), append=n > 0,
            write_function="soundfile", write_kwargs={"format": form},
        )  # fmt: skip
    result, out = run(write(tmp_path, wav_scp=(tmp_path / "data.scp").read_text()))
    assert result.status == 0, result.err
    assert validate(out)[0] == [] and set(prepare.table(out / "utt2dur").values()) == {"0.5"}
    for utt, samples in read_all(audio_spans(out), allow_pipes=False):
        assert np.array_equal(samples, audio[utt])


@pytest.mark.parametrize(("long", "parts", "size"), [(32000, "1 part", 8), (16000 * 60, "2 parts", 60)])
def test_the_memory_of_the_longest_update_is_reported(tmp_path: Path, long: int, parts: str, size: int) -> None:
    data = write(tmp_path)
    wav = prepare.write_wav(tmp_path / "audio/long.wav", samples=long)
    (data / "wav.scp").write_text((data / "wav.scp").read_text().replace(f"S2-2 {tmp_path}/audio/b.wav", f"S2-2 {wav}"))
    result, _ = run(data)
    assert result.status == 0, result.err
    assert f"longest {long / 16000:.2f} s; the 8 longest are computed in {parts} of up to {size} s" in result.out
    assert f"takes about {1.9 + 0.105 * size:.1f} GB;" in result.out
