import os
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile
from datadirs import contents, make_data, rows_of
from small_corpus import run_program

from sermtl.audio import features, read, resample
from sermtl.bin import dump as program
from sermtl.fileio.ark import ArkWriter, read_audio_entry
from sermtl.fileio.tables import read_table, write_table


@pytest.fixture
def data(tmp_path):
    """Twelve utterances of 0.1 s of noise each."""
    return make_data(tmp_path / "data", rows_of(speakers=2, each=6), audio=True)


def words(data, out, feats_type="raw", nj=3, **options):
    extra = [word for name, value in options.items() for word in (f"--{name}", value)]
    return ["--data", data, "--out", out, "--feats_type", feats_type, "--nj", nj, *extra]


def dump(data, out, nj=3, **options):
    codes = [run_program(program.main, "part", *words(data, out, nj=nj, **options), "--job", n + 1) for n in range(nj)]
    return [*codes, run_program(program.main, "merge", *words(data, out, nj=nj, **options))]


def wav_of(data, utterance):
    return Path(read_table(data / "wav.scp")[utterance])


@pytest.mark.parametrize("nj", [1, 3, 12, 20])
def test_every_utterance_comes_through_whatever_the_number_of_jobs(data, tmp_path, nj):
    out = tmp_path / "dump"
    assert set(dump(data, out, nj=nj)) == {0}
    scp, lengths = read_table(out / "wav.scp"), read_table(out / "utt2num_samples")
    assert list(scp) == list(lengths) == list(read_table(data / "wav.scp"))
    for utterance, entry in scp.items():
        samples, _ = soundfile.read(wav_of(data, utterance), dtype="int16")
        assert np.array_equal(read_audio_entry(entry, utterance), samples)
        assert int(lengths[utterance]) == len(samples)
    assert {key: len(value) for key, (_, value) in kaldiio.load_scp(str(out / "wav.scp")).items()} == {
        key: int(value) for key, value in lengths.items()
    }


def test_features_are_those_of_the_audio(data, tmp_path):
    out = tmp_path / "dump"
    assert set(dump(data, out, feats_type="fbank")) == {0}
    theirs = kaldiio.load_scp(str(out / "feats.scp"))
    frames = read_table(out / "utt2num_frames")
    for utterance in frames:
        expected = features.fbank(read.read_recording(wav_of(data, utterance)))
        assert np.array_equal(theirs[utterance], expected) and int(frames[utterance]) == len(expected)


def test_perturbed_copies_have_distinct_ids(data, tmp_path):
    out = tmp_path / "dump_sp0.9"
    assert set(dump(data, out, speed=0.9)) == {0}
    scp = read_table(out / "wav.scp")
    assert list(scp) == [f"sp0.9-{utterance}" for utterance in read_table(data / "wav.scp")]
    slow = read_audio_entry(scp["sp0.9-s0-00"])
    assert np.array_equal(slow, resample.change_speed(read.read_recording(wav_of(data, "s0-00")), 0.9))
    assert len(slow) == pytest.approx(1600 / 0.9, abs=1)


def test_all_broken_files_are_listed_at_once_and_nothing_half_made_is_left(data, tmp_path, capsys):
    out = tmp_path / "dump"
    wav_of(data, "s0-01").unlink()
    wav_of(data, "s0-03").write_bytes(b"")
    cut = wav_of(data, "s1-02")
    cut.write_bytes(cut.read_bytes()[:1000])
    write_table(data / "wav.scp", read_table(data / "wav.scp") | {"s1-04": f"touch {tmp_path}/ran |"})
    assert dump(data, out, nj=1) == [2, 2]
    message = capsys.readouterr().err
    assert f"4 of 12 utterances of {data} cannot be read" in message
    for utterance in ("s0-01", "s0-03", "s1-02", "s1-04"):
        assert f"  {utterance}: " in message
    for reason in ("no such file", "not readable", "truncated", "a shell command"):
        assert reason in message
    assert not (tmp_path / "ran").exists() and contents(out) == {}


def stamps(out):
    return {path.name: path.stat().st_mtime_ns for path in (out / "parts").glob("*.ark")}


def test_whole_parts_are_kept_and_those_of_changed_audio_are_made_again(data, tmp_path, capsys):
    out = tmp_path / "dump"
    dump(data, out)
    before, first = stamps(out), (out / "wav.scp").read_bytes()
    assert set(dump(data, out)) == {0}
    assert stamps(out) == before and (out / "wav.scp").read_bytes() == first
    assert capsys.readouterr().out.count("nothing changed: ") == 4
    soundfile.write(wav_of(data, "s0-05"), np.arange(900, dtype=np.int16), 16000)
    assert set(dump(data, out)) == {0}
    changed = {name for name, stamp in stamps(out).items() if stamp != before[name]}
    assert changed == {"2.ark"}
    assert read_audio_entry(read_table(out / "wav.scp")["s0-05"]).tolist() == [*range(900)]
    assert read_table(out / "utt2num_samples")["s0-05"] == "900"


def test_other_settings_make_the_parts_again(data, tmp_path, capsys):
    out = tmp_path / "dump"
    dump(data, out)
    dump(data, out, speed=1.1)
    assert "nothing changed" not in capsys.readouterr().out
    assert list(read_table(out / "wav.scp"))[0].startswith("sp1.1-")


@pytest.mark.parametrize("damage", ["cut", "removed", "longer", "older than its audio"])
def test_a_damaged_part_is_refused_and_made_again(data, tmp_path, capsys, damage):
    out = tmp_path / "dump"
    dump(data, out)
    ark = out / "parts" / "2.ark"
    content = ark.read_bytes()
    if damage == "removed":
        ark.unlink()
    elif damage == "older than its audio":
        os.utime(wav_of(data, "s1-00"), ns=(1, 1))
    else:
        ark.write_bytes(content[:-2] if damage == "cut" else content + b"\0")
    assert run_program(program.main, "merge", *words(data, out)) == 2
    assert "2.ark is missing, truncated or older" in capsys.readouterr().err
    assert set(dump(data, out)) == {0} and ark.read_bytes() == content


@pytest.mark.parametrize("damage", [lambda values: values + 1, lambda values: values[:-1]])
def test_what_was_written_is_read_back(data, tmp_path, monkeypatch, capsys, damage):
    write = ArkWriter.write_audio

    def faulty(writer, key, values):
        write(writer, key, damage(values) if key == "s0-03" else values)

    monkeypatch.setattr(ArkWriter, "write_audio", faulty)
    assert dump(data, tmp_path / "dump", nj=1) == [2, 2]
    assert "s0-03 is not what was written there" in capsys.readouterr().err
    monkeypatch.undo()
    assert dump(data, tmp_path / "dump", nj=1) == [0, 0]


def test_of_many_broken_files_the_message_names_the_first_ten_and_the_log_all(data, tmp_path, capsys):
    for utterance in read_table(data / "wav.scp"):
        wav_of(data, utterance).write_bytes(b"RIFF")
    assert dump(data, tmp_path / "dump", nj=1)[0] == 2
    out, message = capsys.readouterr()
    assert out.count(".wav: ") == 12 and message.startswith(f"error: 12 of 12 utterances of {data} cannot be read")
    *named, more = message.splitlines()[1:12]
    assert all(".wav: " in line for line in named) and more == "  ... and 2 more, all listed above in this log"


def test_a_recording_of_many_segments_is_read_once_though_it_be_broken(data, tmp_path, monkeypatch, capsys):
    (tmp_path / "long.wav").write_bytes(b"no audio")
    write_table(data / "wav.scp", {"rec": tmp_path / "long.wav"})
    write_table(data / "segments", {"s0-00": "rec 0 1", "s0-01": "rec 1 2", "s1-00": "rec 2 3"})
    real, calls = read.read_recording, []
    monkeypatch.setattr(read, "read_recording", lambda *words: calls.append(words) or real(*words))
    assert dump(data, tmp_path / "dump", nj=1) == [2, 2]
    assert "3 of 3 utterances" in capsys.readouterr().err and len(calls) == 1


def test_a_merge_needs_every_part(data, tmp_path, capsys):
    out = tmp_path / "dump"
    assert run_program(program.main, "part", *words(data, out), "--job", 1) == 0
    assert run_program(program.main, "merge", *words(data, out)) == 2
    assert "parts/2.ark" in capsys.readouterr().err and not (out / "wav.scp").exists()
    assert run_program(program.main, "part", *words(data, out), "--job", 4) == 2
    assert "--job 4" in capsys.readouterr().err


def test_a_killed_part_leaves_the_old_one_whole(data, tmp_path, monkeypatch):
    out = tmp_path / "dump"
    dump(data, out)
    before = contents(out)
    os.utime(wav_of(data, "s0-00"), ns=(1, 1))
    real, calls = read.read_recording, []

    def killed(path, *rest):
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(path, *rest)

    monkeypatch.setattr(read, "read_recording", killed)
    with pytest.raises(KeyboardInterrupt):
        run_program(program.main, "part", *words(data, out), "--job", 1)
    assert contents(out) == before


def test_audio_of_any_kind_comes_in_as_16_khz_mono(tmp_path):
    rows = rows_of(speakers=1, each=4)
    data = make_data(tmp_path / "data", rows, audio=True)
    tone = 0.3 * np.sin(np.arange(44100) / 20)
    kinds = {"s0-00": ("a.flac", 44100, tone), "s0-01": ("b.wav", 8000, tone[:8000]), "s0-02": ("c.wav", 48000, tone)}
    table = read_table(data / "wav.scp")
    for utterance, (name, rate, samples) in kinds.items():
        soundfile.write(tmp_path / name, np.stack([samples, samples], 1), rate)
        table[utterance] = str(tmp_path / name)
    write_table(data / "wav.scp", table)
    assert set(dump(data, tmp_path / "dump", nj=1)) == {0}
    lengths = read_table(tmp_path / "dump" / "utt2num_samples")
    assert [int(lengths[utterance]) for utterance in lengths] == [16000, 16000, 14700, 1600]


def test_a_part_streams(tmp_path, monkeypatch):
    """What it has read is written before it reads on."""
    real, sizes = read.read_recording, []

    def watched(path, *rest):
        sizes.append(sum(file.stat().st_size for file in (tmp_path / "dump" / "parts").glob(".*.tmp")))
        return real(path, *rest)

    rows = rows_of(speakers=1, each=8)
    data = make_data(tmp_path / "data", rows)
    for row in rows:
        soundfile.write(tmp_path / f"{row['utt']}.wav", np.arange(100_000).astype(np.int16), 16000)
    write_table(data / "wav.scp", {row["utt"]: tmp_path / f"{row['utt']}.wav" for row in rows})
    monkeypatch.setattr(read, "read_recording", watched)
    assert run_program(program.main, "part", *words(data, tmp_path / "dump", nj=1)) == 0
    assert len(sizes) == 8 and sizes[-1] > 6 * 200_000


def archive_of(data, folder):
    """The data directory's audio as entries of one Kaldi archive, in its wav.scp."""
    pieces = {key: soundfile.read(path, dtype="int16") for key, path in read_table(data / "wav.scp").items()}
    kaldiio.save_ark(str(folder / "wav.ark"), {k: (r, s) for k, (s, r) in pieces.items()}, scp=str(folder / "wav.scp"))
    write_table(data / "wav.scp", read_table(folder / "wav.scp"))
    return {key: samples for key, (samples, _) in pieces.items()}


def dumped(out):
    return {key: read_audio_entry(entry) for key, entry in read_table(out / "wav.scp").items()}


def test_archives_are_read_at_their_offsets(data, tmp_path, capsys):
    pieces = archive_of(data, tmp_path)
    out = tmp_path / "dump"
    assert set(dump(data, out)) == {0}
    assert {key: samples.tolist() for key, samples in dumped(out).items()} == {k: v.tolist() for k, v in pieces.items()}
    # Another archive under the same name is another input.
    os.utime(tmp_path / "wav.ark", ns=(1, 1))
    capsys.readouterr()
    dump(data, out)
    assert "nothing changed" not in capsys.readouterr().out
    content = (tmp_path / "wav.ark").read_bytes()
    (tmp_path / "wav.ark").write_bytes(content[:-100])
    assert dump(data, out)[-2:] == [2, 2]
    assert "s1-05" in capsys.readouterr().err


def test_segments_are_cut_out_of_their_recordings(data, tmp_path, capsys):
    recording = np.arange(-16000, 16000).astype(np.int16)
    soundfile.write(tmp_path / "long.wav", recording, 16000)
    write_table(data / "wav.scp", {"rec": tmp_path / "long.wav"})
    spans = {"s0-00": "rec 0.0 0.5", "s0-01": "rec 0.25 0.75", "s1-00": "rec 1.5 -1"}
    write_table(data / "segments", spans)
    assert set(dump(data, tmp_path / "dump", nj=2)) == {0}
    cut = dumped(tmp_path / "dump")
    assert list(cut) == list(spans)
    assert np.array_equal(cut["s0-01"], recording[4000:12000]) and np.array_equal(cut["s1-00"], recording[24000:])
    write_table(data / "segments", spans | {"s1-01": "rec 3.0 4.0", "s1-02": "rec 1.0 1.0"})
    assert dump(data, tmp_path / "dump", nj=1) == [2, 2]
    message = capsys.readouterr().err
    assert "2 of 5" in message and "s1-01" in message and "s1-02" in message and "2.00 s" in message
    write_table(data / "segments", {"s0-00": "other 0.0 0.5"})
    assert dump(data, tmp_path / "dump", nj=1) == [2, 2]
    assert "recording other is not in" in capsys.readouterr().err


def test_commands_run_only_with_consent(data, tmp_path, capsys):
    path = wav_of(data, "s0-00")
    table = read_table(data / "wav.scp")
    write_table(data / "wav.scp", table | {"s0-00": f"cat {path} | cat |"})
    assert dump(data, tmp_path / "dump", nj=1) == [2, 2]
    assert "--allow_pipes" in capsys.readouterr().err
    assert run_program(program.main, "part", *words(data, tmp_path / "dump", nj=1, allow_pipes="true")) == 0
    assert run_program(program.main, "merge", *words(data, tmp_path / "dump", nj=1)) == 0
    samples, _ = soundfile.read(path, dtype="int16")
    assert np.array_equal(dumped(tmp_path / "dump")["s0-00"], samples)
    capsys.readouterr()
    for command, reason in (
        (f"head -c 900 {path} |", "truncated"),
        ("false | cat |", "status 1"),
        ("echo no |", "audio"),
    ):
        write_table(data / "wav.scp", table | {"s0-00": command})
        assert run_program(program.main, "part", *words(data, tmp_path / "dump", nj=1, allow_pipes="true")) == 2
        message = capsys.readouterr().err
        assert "s0-00" in message and reason in message


def test_what_holds_nothing_is_listed_and_a_quiet_file_keeps_its_bits(data, tmp_path, capsys):
    wave = 0.2 * np.sin(np.arange(8000) / 9)
    quiet = (wave / 32768).astype(np.float32)
    soundfile.write(wav_of(data, "s0-01"), quiet, 16000, subtype="FLOAT")
    assert set(dump(data, tmp_path / "dump")) == {0}
    assert f"{wav_of(data, 's0-01')}: so quiet that it is kept as float32" in capsys.readouterr().err
    assert np.array_equal(read_audio_entry(read_table(tmp_path / "dump/wav.scp")["s0-01"]), quiet)
    loud, faint = tmp_path / "loud.wav", wav_of(data, "s0-01")
    soundfile.write(loud, wave, 16000, subtype="FLOAT")
    apart = features.fbank(read.read_recording(faint)) - features.fbank(read.read_recording(loud))
    assert np.median(apart) == pytest.approx(-2 * np.log(32768), abs=0.5), "the same spectrum, as much lower"
    soundfile.write(wav_of(data, "s0-00"), wave * 32768, 16000, subtype="FLOAT")
    soundfile.write(wav_of(data, "s0-03"), np.zeros(8000), 16000)
    soundfile.write(wav_of(data, "s1-00"), np.stack([wave, -wave], 1), 16000)
    assert dump(data, tmp_path / "dump", nj=1)[0] == 2
    message = capsys.readouterr().err
    assert "3 of 12 utterances" in message
    for utterance, what in (("s0-00", "floats up to 65"), ("s0-03", "holds nothing"), ("s1-00", "removes 100.0 %")):
        assert f"{utterance}: {wav_of(data, utterance)}: " in message and what in message


def test_a_channel_of_the_table_is_dumped(data, tmp_path):
    samples = np.random.default_rng(5).integers(-9000, 9000, (1600, 2)).astype(np.int16)
    soundfile.write(wav_of(data, "s0-01"), samples, 16000)
    for channel, expected in (("1", samples[:, 0]), ("B", samples[:, 1])):
        write_table(data / "reco2file_and_channel", {"s0-01": f"s0-01 {channel}"})
        assert set(dump(data, tmp_path / "dump")) == {0}
        assert np.array_equal(read_audio_entry(read_table(tmp_path / "dump/wav.scp")["s0-01"]), expected)
