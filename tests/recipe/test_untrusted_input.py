"""Files of other people: audio of every kind and defect, settings, stamps, weights. Nothing in them is run."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from datadirs import write_wav
from hypothesis import given, settings
from hypothesis import strategies as st
from prepare import run as run_local
from small_corpus import make_small_corpus, run_program
from small_model import save_model
from upstreams import transformers_model

from sermtl.audio.headers import check_recording, header_seconds
from sermtl.audio.read import read_recording
from sermtl.bin import decode as decode_program
from sermtl.bin import dump as dump_program
from sermtl.bin import train as train_program
from sermtl.config import DecodeConfig, TrainConfig, load_config, read_yaml
from sermtl.corpus.validate import validate
from sermtl.errors import UserError
from sermtl.fileio.stamp import NAME, read_stamp
from sermtl.fileio.tables import read_table
from sermtl.model.upstreams.load import load_upstream
from sermtl.score.score_files import read_scores, read_utterances

TONE = 0.3 * np.sin(np.arange(4800) / 7)


# Audio


@pytest.mark.parametrize(
    ("name", "rate", "channels", "subtype"),
    [
        ("8 bit.wav", 16000, 1, "PCM_U8"),
        ("24 bit.wav", 16000, 1, "PCM_24"),
        ("float.wav", 16000, 1, "FLOAT"),
        ("alaw.wav", 8000, 1, "ALAW"),
        ("192 kHz.wav", 192000, 1, "PCM_16"),
        ("8 channels.wav", 44100, 8, "PCM_16"),
        ("8 channels.flac", 16000, 8, "PCM_16"),
        ("10 ms.wav", 16000, 1, "PCM_16"),
        ("flac, called.wav", 16000, 1, "FLAC"),
        ('it\'s "quoted", $(so) `to` say; & more | *?.wav', 16000, 1, "PCM_16"),
    ],
)
def test_audio_that_is_handled(tmp_path: Path, name: str, rate: int, channels: int, subtype: str) -> None:
    path = tmp_path / name
    samples = TONE[:160] if "10 ms" in name else TONE
    options = {"format": "FLAC"} if subtype == "FLAC" else {"subtype": subtype}
    soundfile.write(path, np.repeat(samples[:, None], channels, 1), rate, **options)
    seconds = len(samples) / rate
    assert check_recording(("u", str(path), seconds, None)) is None
    read = read_recording(path)
    assert read.dtype == np.int16 and len(read) == pytest.approx(seconds * 16000, abs=1)
    if rate == 16000:
        coarse = {"PCM_U8": 260}.get(subtype, 2)
        assert np.abs(read - np.round(samples * 32767)).max() <= coarse


def test_three_hours_are_read(tmp_path: Path) -> None:
    count = 3 * 3600 * 16000
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + 2 * count, b"WAVE", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16,
                       b"data", 2 * count)  # fmt: skip
    (tmp_path / "long.wav").write_bytes(head)
    os.truncate(tmp_path / "long.wav", 42 + 2 * count)  # takes no room on the disk
    with open(tmp_path / "long.wav", "ab") as file:
        file.write(b"\1\0")  # the last sample; all others are zero
    assert header_seconds(str(tmp_path / "long.wav")) == 10800
    assert len(read_recording(tmp_path / "long.wav")) == count


@pytest.mark.parametrize("feats_type", ["raw", "fbank"])
def test_near_silence_and_10_ms_go_through_every_stage(tmp_path: Path, feats_type: str) -> None:
    corpus = make_small_corpus(tmp_path)
    for speaker in ("s0", "s1"):  # of the test list, and of the training list
        write_wav(tmp_path / "wav" / f"{speaker}-00.wav", np.arange(4800, dtype=np.int16) // 2400)
        write_wav(tmp_path / "wav" / f"{speaker}-01.wav", np.arange(160, dtype=np.int16))
    assert validate(corpus.data)[0] == []
    dump = corpus.dump_audio(feats_type)
    assert read_table(dump / "utt2num_samples")["s1-01"] == "160"
    words = ["--config", corpus.config(feats_type), *corpus.arguments(tmp_path / "exp"), "--set", "epochs=2"]
    assert run_program(train_program.main, *words) == 0
    for line in (tmp_path / "exp/s0/history.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert record["train"]["nonfinite"] == 0 and np.isfinite(record["train"]["loss_ser"])
    words = ["--config", Path(__file__).parents[2] / "conf/decode.yaml", *corpus.arguments(tmp_path / "exp")]
    assert run_program(decode_program.main, *words) == 0
    posteriors = read_table(tmp_path / "exp/s0/decode_test/emo_post")
    assert all(sum(map(float, posteriors[utt].split())) == pytest.approx(1, abs=1e-5) for utt in ("s0-00", "s0-01"))


def strange(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.wav"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "dangling":
        path.symlink_to("nowhere")
    else:
        soundfile.write(path, TONE, 16000)
        content = path.read_bytes()
        path.write_bytes(content[:40] + struct.pack("<I", 2 * len(TONE) + 2000) + content[44:])
    return path


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "dangling", "header says more"])
def test_what_is_no_whole_file_is_refused_by_name_and_nobody_waits(tmp_path: Path, kind: str) -> None:
    path = strange(tmp_path, kind)
    with pytest.raises(UserError, match=path.name):
        read_recording(path)
    assert path.name in str(check_recording(("u", str(path), None, None)))


FORMATS = [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAVEX", "FLOAT"), ("RF64", "PCM_16"), ("AIFF", "PCM_16"),
           ("NIST", "PCM_16")]  # fmt: skip


@pytest.mark.parametrize("endian", ["FILE", "BIG"])
@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
def test_a_cut_recording_is_refused_by_its_header_and_a_whole_one_read(
    tmp_path: Path, kind: str, subtype: str, endian: str
) -> None:
    path = tmp_path / "x.audio"
    if not soundfile.check_format(kind, subtype, endian):
        pytest.skip("no such format")
    soundfile.write(path, TONE[:4001], 16000, format=kind, subtype=subtype, endian=endian)
    assert len(read_recording(path)) == 4001 and check_recording(("u", str(path), None, None)) is None
    os.truncate(path, path.stat().st_size - 2000)
    with pytest.raises(UserError, match="x.audio: truncated: .* bytes are missing"):
        read_recording(path)
    assert "truncated" in str(check_recording(("u", str(path), None, None)))


def wav_with(before: bytes = b"", after: bytes = b"", counted: int = 2 * len(TONE)) -> bytes:
    samples = np.round(TONE * 32767).astype("<i2").tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16)
    body = b"WAVE" + form + before + struct.pack("<4sI", b"data", counted) + samples + after
    return struct.pack("<4sI", b"RIFF", len(body)) + body


def test_a_wav_whose_header_counts_half_of_its_audio_is_refused_and_other_chunks_are_not(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    notes = struct.pack("<4sI", b"iXML", 6001) + b"<" * 6002
    for legal in (wav_with(), wav_with(notes), wav_with(after=notes), wav_with(after=b"\0" * 3000),
                  wav_with(after=b"TAG" + b"x" * 2000), wav_with(after=b"\n")):  # fmt: skip
        path.write_bytes(legal)
        assert len(read_recording(path)) == len(TONE)
    path.write_bytes(wav_with(notes)[:-100])
    with pytest.raises(UserError, match="truncated: 100 bytes are missing"):
        read_recording(path)
    path.write_bytes(wav_with(counted=len(TONE)))
    with pytest.raises(UserError, match="the length in its header is wrong: 4800 bytes follow the audio"):
        read_recording(path)
    assert "the length in its header is wrong" in str(check_recording(("u", str(path), None, None)))


@pytest.mark.parametrize("output", [[], ["--json"], ["--tsv"]])
def test_prediction_hears_names_of_any_bytes_and_waits_for_no_pipe(tmp_path: Path, output: list[str]) -> None:
    save_model(tmp_path / "model")
    heard = tmp_path / "heard"
    heard.mkdir()
    for name in (b"a.wav", b"bad\xff.wav", b"two\nlines.wav"):
        soundfile.write(os.path.join(os.fsencode(heard), name), TONE, 16000)
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "list.scp").write_text(f"u {tmp_path}/pipe.wav\n")
    words = ["--model", tmp_path / "model", *output, heard, tmp_path / "pipe.wav", tmp_path / "list.scp"]
    done = subprocess.run(
        [sys.executable, "-m", "sermtl.bin.predict", *words], capture_output=True, timeout=100, check=False
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.count(b"pipe.wav: a folder, a named pipe or the like, no file") == 2
    assert b"3 of 5 files" in done.stderr
    lines = done.stdout.decode().splitlines()
    if output == ["--json"]:
        assert [Path(json.loads(line)["path"]).name for line in lines] == ["a.wav", "bad\udcff.wav", "two\nlines.wav"]
    elif output == ["--tsv"]:
        assert len(lines) == 4 and "bad\\udcff.wav" in lines[2] and "two\\nlines.wav" in lines[3]
    else:
        assert "bad\\udcff.wav" in done.stdout.decode()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_audio_without_permission_is_refused_by_name(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", TONE, 16000)
    (tmp_path / "x.wav").chmod(0)
    with pytest.raises(UserError, match="x.wav: Permission denied"):
        read_recording(tmp_path / "x.wav")


def test_every_defect_of_a_manifest_is_listed_and_the_rest_is_dumped(tmp_path: Path) -> None:
    names = ["plain", "a b", "c'd\"e", "f,g", "h$(touch X)", "i;j|k", "ü"]
    rows = ["utt\tpath\tspeaker\temotion\ttext"]
    for speaker in "st":
        for number, name in enumerate(names):
            soundfile.write(tmp_path / f"{speaker}{name}.wav", TONE * (number + 1) / 9, 16000)
            rows.append(f"{speaker}-{number}\t{speaker}{name}.wav\t{speaker}\t{'neu' if number % 2 else 'ang'}\tyes")
    broken = [strange(tmp_path, kind).name for kind in ("pipe", "folder", "dangling", "header says more")]
    rows += [f"s-x{number}\t{name}\ts\tang\tyes" for number, name in enumerate(broken)]
    (tmp_path / "my.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    words = ["--out", tmp_path / "data", "--manifest", tmp_path / "my.tsv"]
    refused = run_local("prepare_manifest", *words)
    assert refused.status == 2 and all(name in refused.err for name in broken), refused.err
    assert run_local("prepare_manifest", *words, "--skip_broken", "true").status == 0
    assert run_program(dump_program.main, "part", "--data", tmp_path / "data", "--out", tmp_path / "dump",
                       "--feats_type", "raw") == 0  # fmt: skip
    assert len(read_table(tmp_path / "dump/parts/1.scp")) == 2 * len(names)


# Settings


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB + "alpha: *i\n",
        "alpha: !!python/object/apply:os.system ['touch {X}']\n",
        "alpha: !!python/name:os.system\n",
        "alpha: !!bool maybe\n",
        "alpha: !!int x\n",
        "alpha: 2001-99-99\n",
        f"epochs: {'9' * 9999}\n",
        "[" * 99999,
        "? [a]\n: b\n",
        f"upstream: [{'x, ' * 9999}]\n",
        "\x00",
    ],
)
def test_bombs_and_tags_are_refused_in_few_words(tmp_path: Path, text: str) -> None:
    path = tmp_path / "conf.yaml"
    path.write_text(text.replace("{X}", str(tmp_path / "planted")))
    with pytest.raises(UserError) as error:
        load_config(TrainConfig, path)
    assert "conf.yaml" in str(error.value) and len(str(error.value)) < 2000
    assert not (tmp_path / "planted").exists()


KEYS = st.sampled_from([*TrainConfig.__dataclass_fields__, "batch_size", "nothing"])
VALUES = st.one_of(
    st.text(max_size=20), st.integers().map(str), st.floats().map(str), st.just("[1, 2]"), st.just("{a: b}")
)


@settings(max_examples=150)
@given(
    st.one_of(st.text(max_size=80), st.tuples(KEYS, VALUES).map(": ".join)),
    st.lists(st.tuples(KEYS, VALUES).map("=".join), max_size=2),
)
def test_any_settings_are_loaded_or_refused(
    tmp_path_factory: pytest.TempPathFactory, text: str, overrides: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    for cls in (TrainConfig, DecodeConfig):
        try:
            load_config(cls, path, overrides)
        except UserError:
            pass


# Results and stamps


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from("code settings inputs outputs ser asr labels confusion n x".split()), inner, max_size=6
    ),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=150)
@given(JSON)
def test_any_json_is_taken_or_refused(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.getbasetemp() / NAME
    path.write_text(json.dumps(value))
    assert isinstance(read_stamp(path), dict)
    for read in (read_scores, read_utterances, read_yaml):
        try:
            read(path)
        except UserError:
            pass


# Weights


class Planted:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.where}",)

    def __init__(self, where: Path) -> None:
        self.where = where


@pytest.mark.parametrize("where", ["config.json", "preprocessor_config.json"])
def test_nobody_is_asked_whether_to_run_the_code_of_an_upstream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    planted = tmp_path / "planted"
    (tmp_path / "evil.py").write_text(f"open({str(planted)!r}, 'w')\nclass Made: ...\n")
    names = ("AutoConfig", "AutoModel", "AutoFeatureExtractor")
    brings = {"auto_map": dict.fromkeys(names, "evil.Made"), "feature_extractor_type": "Made", "model_type": "evil"}
    if where == "preprocessor_config.json":
        transformers_model("wav2vec2").save_pretrained(tmp_path)
    (tmp_path / where).write_text(json.dumps(brings))
    if where == "config.json":
        with pytest.raises(UserError, match="cannot be loaded"):
            load_upstream(str(tmp_path))
    else:
        assert load_upstream(str(tmp_path)).normalize
    assert not planted.exists()


@pytest.mark.parametrize("zipped", [False, True])
def test_an_upstream_that_brings_code_is_refused_or_read_without_it(tmp_path: Path, zipped: bool) -> None:
    planted = tmp_path / "planted"
    (tmp_path / "config.json").write_text(json.dumps({
        "model_type": "wav2vec2", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"},
        "trust_remote_code": True, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "conv_dim": [8], "conv_kernel": [10], "conv_stride": [5], "num_feat_extract_layers": 1,
    }))  # fmt: skip
    (tmp_path / "evil.py").write_text(f"open({str(planted)!r}, 'w')\nclass Config: ...\nclass Model: ...\n")
    if zipped:
        torch.save({"x": Planted(planted)}, tmp_path / "pytorch_model.bin")
    else:
        (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Planted(planted)}))
    with pytest.raises(UserError):
        load_upstream(str(tmp_path))
    assert not planted.exists()
