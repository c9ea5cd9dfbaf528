"""Prediction: files and waveforms in, emotions, transcripts and timelines out."""

from __future__ import annotations

import doctest
import io
import json
import os
import signal as os_signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from datadirs import write_wav
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score
from small_corpus import make_small_corpus, run_program, speech
from small_model import DATA2VEC_GEOMETRY, LABELS, OWN_FRONTS, copy_of, save_model

from sermtl import Result, Speech2Emotion
from sermtl.audio.read import read_recording
from sermtl.audio.stream import as_samples
from sermtl.bin import predict as program
from sermtl.data.dataset import FoldDataset
from sermtl.data.fold_data import read_dump
from sermtl.errors import UserError
from sermtl.fileio.tables import write_table
from sermtl.inference import predict
from sermtl.inference.decode import decode
from sermtl.inference.inputs import Item, find_audio
from sermtl.inference.output import segment_lines, table_lines, tsv_lines
from sermtl.inference.windows import Segment
from sermtl.model.trained_model import load_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Model directories: raw, fbank, and a second raw one."""
    root = tmp_path_factory.mktemp("models")
    return {
        "raw": save_model(root / "exp" / "a"),
        "other": save_model(root / "exp" / "b", seed=1),
        "fbank": save_model(root / "f", "fbank"),
        "data2vec": save_model(root / "d", geometry=DATA2VEC_GEOMETRY),
        "exp": root / "exp",
    }


@pytest.fixture(scope="module")
def raw(models):
    return Speech2Emotion.from_pretrained(models["raw"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Recordings of 0.3 to 2 s, one a level deeper, beside what is no recording."""
    root = tmp_path_factory.mktemp("audio")
    for n in range(6):
        write_wav(root / ("deep" if n == 3 else "") / f"{n}.wav", speech(n, 4800 + 5000 * (n * 5 % 6)))
    (root / "._0.wav").write_bytes(b"what macOS leaves")
    return root


def close(a: Result, b: Result, tolerance=1e-5):
    same = np.allclose(list(a.scores.values()), list(b.scores.values()), atol=tolerance)
    return same and np.allclose(a.embedding, b.embedding, atol=10 * tolerance) and a.text == b.text


# The interface in Python


def test_the_example_of_the_class_runs(models):
    failed, attempted = doctest.testmod(predict, extraglobs={"fold": models["raw"]})
    assert (failed, attempted) == (0, 4)


def test_all_kinds_of_waveforms_mean_the_same(raw):
    samples_S = speech(1)
    floats_S = samples_S.astype(np.float32) / 32768
    result = raw(samples_S, 16000)
    assert isinstance(result, Result) and result.emotion == max(result.scores, key=result.scores.get)
    assert list(result.scores) == LABELS and sum(result.scores.values()) == pytest.approx(1)
    assert result.seconds == 1.0 and result.embedding.shape == (16,) and result.embedding.dtype == np.float32
    kinds = (floats_S, floats_S.astype(np.float64), floats_S.tolist(), floats_S[None], torch.from_numpy(floats_S),
             torch.from_numpy(samples_S), samples_S[:, None])  # fmt: skip
    assert all(close(raw(kind, 16000), result) for kind in kinds)
    for kind in (torch.bfloat16, torch.float16):
        coarse_S = torch.from_numpy(floats_S).to(kind)
        assert close(raw(coarse_S, 16000), raw(coarse_S.float().numpy(), 16000))
    many = raw([samples_S, torch.from_numpy(floats_S), speech(2)], 16000)
    assert [close(one, result) for one in many] == [True, True, False]
    assert raw([], 16000) == []


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_other_rates_are_resampled(raw, rate):
    def tones(rate):
        time_S = np.arange(2 * rate) / rate
        tones_S = sum(np.sin(2 * np.pi * hertz * time_S + hertz) for hertz in (440, 1200, 2500))
        return 0.2 * tones_S * np.sin(np.pi * time_S / 2) ** 2

    apart_S = as_samples(tones(rate), rate, "fast").astype(int) - as_samples(tones(16000), 16000, "slow")
    assert np.abs(apart_S).max() < 100
    result, wanted, wrong = raw(tones(rate), rate), raw(tones(16000), 16000), raw(tones(rate), 16000)
    assert result.seconds == 2.0
    assert result.scores == pytest.approx(wanted.scores, abs=1e-3) != wrong.scores


@pytest.mark.parametrize(
    ("waveform", "rate", "message"),
    [
        (np.zeros(0, np.float32), 16000, "the waveform is empty"),
        ([np.zeros(9, np.int16), torch.zeros(0)], 16000, "waveform 1 is empty"),
        (np.array([0.1, np.nan]), 16000, "NaN or infinite"),
        (np.array([0.1, np.inf]), 16000, "NaN or infinite"),
        (np.array([3e4, -2e4]), 16000, "divide by 32768"),
        (np.array([0.1, -2.1]), 16000, "floats up to 2.1"),
        (np.zeros((2, 100)), 16000, "average its channels"),
        (np.arange(100), 16000, "give int16"),
        (np.zeros(100), 0, "sampling rate of 0"),
    ],
)  # fmt: skip
def test_wrong_waveforms_are_refused_by_name(raw, waveform, rate, message):
    with pytest.raises(UserError, match=message):
        raw(waveform, rate)


def test_floats_a_little_beyond_1_are_clipped(raw):
    loud_S = 1.9 * np.sin(np.arange(16000) / 9)
    assert close(raw(loud_S, 16000), raw(loud_S.clip(-1, 1), 16000))


@pytest.mark.parametrize("wrong", [{"hop": 0}, {"hop": -1}, {"window": 1, "hop": 2}, {"window": 0}, {"hop": 11}])
def test_a_wrong_window_or_hop_is_refused_for_short_audio_too(raw, folder, wrong):
    for call in (lambda: raw(speech(0), 16000, **wrong), lambda: list(raw.files([folder / "0.wav"], **wrong))):
        with pytest.raises(UserError, match="a window is 0.1 s or more, a hop above 0 and at most that"):
            call()


def test_a_single_sample_and_silence_are_accepted(raw, models):
    for model in (raw, Speech2Emotion.from_pretrained(models["fbank"])):
        for samples_S in (np.ones(1, np.int16), np.zeros(16000, np.int16)):
            assert np.isfinite(list(model(samples_S, 16000).scores.values())).all()


@pytest.mark.parametrize("feats_type", ["raw", "fbank"])
def test_files_give_what_stage_4_decodes_from_the_dump(tmp_path, feats_type):
    corpus = make_small_corpus(tmp_path)
    directory = save_model(tmp_path / "model", feats_type)
    trained = load_model(directory, CPU)
    dumped = read_dump(corpus.dump / feats_type, feats_type)
    dataset = FoldDataset(list(dumped.values()), trained.front_end, None)
    decoded = {item.utterance: item for item in decode(trained, dataset, 5, CPU)}
    model = Speech2Emotion.from_pretrained(directory)
    paths = {utt: str(tmp_path / "wav" / f"{utt}.wav") for utt in dumped}
    for utt, (path, result) in zip(paths, model.files(paths.values()), strict=True):
        assert path == paths[utt]
        np.testing.assert_allclose(list(result.scores.values()), decoded[utt].posteriors_C, atol=1e-5)
        np.testing.assert_allclose(result.embedding, decoded[utt].embedding_D, atol=1e-4)
        assert result.text == decoded[utt].text
    assert len({d.text for d in decoded.values()}) > 3


@pytest.fixture
def threads():
    """Two CPU threads, also where there is one core."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["raw", "fbank", "data2vec"])
def test_results_do_not_depend_on_the_batch(models, threads, monkeypatch, name):
    monkeypatch.setattr("sermtl.inference.predict.BATCH", 3)  # seven batches, two at a time
    model = Speech2Emotion.from_pretrained(models[name])
    recordings = [speech(n, 5000 + 3000 * n) for n in range(20)]
    together = model(recordings, 16000)
    assert all(close(one, model(samples_S, 16000)) for one, samples_S in zip(together, recordings, strict=True))


def test_several_models_are_averaged_with_their_spread(models, raw):
    other = Speech2Emotion.from_pretrained(models["other"])
    both = Speech2Emotion.from_pretrained([models["raw"], models["other"]])
    all_folds = Speech2Emotion.from_pretrained(models["exp"])
    samples_S = speech(5)
    single = np.array([list(model(samples_S, 16000).scores.values()) for model in (raw, other)])
    for model in (both, all_folds):
        result = model(samples_S, 16000)
        np.testing.assert_allclose(list(result.scores.values()), single.mean(0), atol=1e-6)
        np.testing.assert_allclose(list(result.spread.values()), single.std(0, ddof=1), atol=1e-6)
    assert raw(samples_S, 16000).spread is None


def test_models_of_other_classes_are_not_averaged(tmp_path, models):
    save_model(tmp_path / "m", labels=["calm", "loud"])
    with pytest.raises(UserError, match="different classes"):
        Speech2Emotion.from_pretrained([models["raw"], tmp_path / "m"])


# The program


def lines_of(capsys):
    captured = capsys.readouterr()
    return captured.out.splitlines(), captured.err.splitlines()


def test_json_is_an_object_a_file(models, raw, folder, capsys):
    assert run_program(program.main, "--model", models["raw"], "--json", folder) == 0
    out, err = lines_of(capsys)
    records = [json.loads(line) for line in out]
    assert [r["path"] for r in records] == [
        str(folder / name) for name in ("0.wav", "1.wav", "2.wav", "4.wav", "5.wav", "deep/3.wav")
    ]
    for record in records:
        assert set(record) == {"path", "emotion", "scores", "text", "seconds"}
        alone = raw(read_recording(record["path"]), 16000)
        assert record["emotion"] == alone.emotion and record["text"] == alone.text
        assert record["scores"] == pytest.approx(alone.scores, abs=2e-6)
        assert record["seconds"] == pytest.approx(soundfile.info(record["path"]).duration, abs=1e-4)
    assert "6 of 6 files" in err[-1] and "real-time factor" in err[-1] and len(err) == 1


def test_predictions_are_scored_against_a_reference(models, folder, tmp_path, capsys):
    assert run_program(program.main, "--model", models["raw"], "--tsv", folder) == 0
    rows = [line.split("\t")[:2] for line in lines_of(capsys)[0][1:]]
    guesses = {Path(path).stem: emotion for path, emotion in rows}
    truth = {name: LABELS[int(name) % 4] for name in "01234"} | {"absent": "neu"}  # 5 has none
    write_table(table := tmp_path / "utt2emo", truth)
    assert run_program(program.main, "--model", models["raw"], folder, "--ref", table) == 0
    out, err = lines_of(capsys)
    kept = [truth[name] for name in "01234"], [guesses[name] for name in "01234"]
    wa, ua = accuracy_score(*kept), recall_score(*kept, labels=LABELS, average="macro", zero_division=0)
    assert len(out) == 7 and f"5 of 6 recordings have a reference: WA {wa:.4f}  UA {ua:.4f}" in err
    counts = [line.split() for line in err[-5:]]
    assert [row[0] for row in counts] == [*LABELS, "all"]
    assert [list(map(int, row[1:5])) for row in counts[:4]] == confusion_matrix(*kept, labels=LABELS).tolist()
    for content, message in (("0 joy\n", "unknown emotion class 'joy'"), ("7 neu\n", "--ref has no emotion of any")):
        table.write_text(content)
        assert run_program(program.main, "--model", models["raw"], folder, "--ref", table) == 2
        assert message in capsys.readouterr().err


def test_a_bar_moves_on_a_terminal_only(models, folder, capsys, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    assert run_program(program.main, "--model", models["raw"], "--json", folder) == 0
    assert "0/6 [" in sys.stderr.getvalue() and "6 of 6 files" in sys.stderr.getvalue()
    assert len(capsys.readouterr().out.splitlines()) == 6


def test_tsv_has_a_column_a_class(models, folder, capsys):
    words = ["--model", models["raw"], "--model", models["other"], "--tsv", folder / "0.wav"]
    assert run_program(program.main, *words) == 0
    head, row = (line.split("\t") for line in lines_of(capsys)[0])
    assert head == ["path", "emotion", "seconds", *LABELS, *(f"{label}_sd" for label in LABELS), "text"]
    values = dict(zip(head, row, strict=True))
    assert values["emotion"] == max(LABELS, key=lambda label: float(values[label]))


def test_the_table_is_aligned_and_names_the_classes(models, folder, capsys):
    assert run_program(program.main, "--model", models["raw"], folder, "--window", 0.5) == 0
    out, _ = lines_of(capsys)
    assert all(label in out[0] for label in LABELS)
    rows = [line for line in out[1:] if " to " not in line]
    assert len(rows) == 6 and all(name in row for name, row in zip("01245", rows, strict=False))
    ends = {len(line) for line in out if " to " in line}
    assert ends == {out[0].index("sad") + 3}, "segments end in the last class's column"


def test_audio_that_holds_nothing_is_listed_and_a_channel_can_be_chosen(models, tmp_path, capsys):
    wave = speech(3, 20000).astype(np.float32) / 32768
    for name, samples in (("scale", wave * 32768), ("zero", wave * 0), ("phase", np.stack([wave, -wave], 1))):
        soundfile.write(tmp_path / f"{name}.wav", samples, 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "long.wav", np.tile(np.stack([wave, -wave], 1), (60, 1)), 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "good.wav", wave, 16000, subtype="FLOAT")
    assert run_program(program.main, "--model", models["raw"], "--json", tmp_path) == 1
    out, err = lines_of(capsys)
    wanted = json.loads(out[0])
    assert [json.loads(line)["path"] for line in out] == [str(tmp_path / "good.wav")]
    text = "\n".join(err)
    for what in ("scale.wav: floats up to", "zero.wav: holds nothing", "phase.wav: averaging", "long.wav: averaging"):
        assert what in text
    words = ["--model", models["raw"], "--json", "--channel", 1]
    assert run_program(program.main, *words, tmp_path / "phase.wav", tmp_path / "long.wav") == 0
    out, _ = lines_of(capsys)
    assert json.loads(out[0])["scores"] == pytest.approx(wanted["scores"], abs=1e-4)
    assert json.loads(out[1])["seconds"] == 75


def test_quiet_floats_lose_nothing_in_one_piece_or_in_windows(models, tmp_path, raw):
    wave = speech(3, 20000).astype(np.float32) / 32768
    for name, scale in (("loud", 1), ("quiet", 2.0**-9), ("quieter", 2.0**-12)):
        soundfile.write(tmp_path / f"{name}.wav", wave * scale, 16000, subtype="FLOAT")
    for window in (None, 0.6):
        loud, quiet, quieter = (r for _, r in raw.files(sorted(tmp_path.glob("*.wav")), window))
        assert quiet.scores == pytest.approx(loud.scores, abs=2e-3)
        assert quieter.scores == pytest.approx(loud.scores, abs=2e-2)


def test_a_list_gives_its_names(models, folder, tmp_path, capsys):
    (tmp_path / "list.scp").write_text(f"utt-a {folder / '0.wav'}\nutt-b {folder / '1.wav'}\n")
    assert run_program(program.main, "--model", models["raw"], "--json", tmp_path / "list.scp") == 0
    assert [json.loads(line)["utt"] for line in lines_of(capsys)[0]] == ["utt-a", "utt-b"]


def test_files_that_cannot_be_read_are_listed_and_the_others_go_through(models, folder, tmp_path, capsys):
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "cut.wav").write_bytes((folder / "0.wav").read_bytes()[:3000])
    (tmp_path / "list.scp").write_text(f"a touch {tmp_path}/ran |\nb {folder / '1.wav'}\n")
    bad = [tmp_path / "text.wav", tmp_path / "cut.wav", tmp_path / "absent.wav", tmp_path / "list.scp"]
    assert run_program(program.main, "--model", models["raw"], "--json", *bad, folder / "0.wav") == 1
    out, err = lines_of(capsys)
    assert [json.loads(line)["path"] for line in out] == [str(folder / "1.wav"), str(folder / "0.wav")]
    text = "\n".join(err[-4:])
    for what in ("text.wav: not readable as audio", "cut.wav: truncated", "absent.wav: no such file", "shell command"):
        assert what in text
    assert "2 of 6 files" in err[-5] and not (tmp_path / "ran").exists()


def test_a_long_file_that_breaks_off_is_listed_too(models, tmp_path, capsys):
    path = tmp_path / "long.flac"
    soundfile.write(path, np.zeros(16000 * 70), 16000)
    path.write_bytes(path.read_bytes()[:-2000])
    assert run_program(program.main, "--model", models["raw"], path) == 1
    assert "long.flac" in lines_of(capsys)[1][-1]


def test_segments_and_pictures_are_written(models, folder, tmp_path, capsys):
    timeline, pictures = tmp_path / "out.tsv", tmp_path / "pictures"
    words = ["--model", models["raw"], "--window", 0.6, "--hop", 0.2, "--timeline", timeline, "--plot"]
    assert run_program(program.main, *words, tmp_path / "one.png", folder / "1.wav") == 0
    head, *rows = [line.split("\t") for line in timeline.read_text().splitlines()]
    assert head == ["path", "start", "end", "emotion", *LABELS]
    assert float(rows[0][1]) == 0 and float(rows[-1][2]) == pytest.approx((4800 + 25000) / 16000, abs=1e-3)
    assert run_program(program.main, *words[:2], "--plot", pictures, folder / "0.wav", folder / "deep") == 0
    assert sorted(file.name for file in pictures.iterdir()) == ["0.png", "3.png"]
    from matplotlib import image

    for file in (tmp_path / "one.png", pictures / "3.png"):
        picture = image.imread(file)
        assert picture.shape[1] > 900 and len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 50
    assert run_program(program.main, *words[:2], "--plot", tmp_path / "a.png", folder) == 2


def test_each_recording_has_its_own_picture(models, folder, tmp_path):
    write_wav(tmp_path / "0.wav", speech(9))
    pictures = tmp_path / "pictures"
    words = ["--plot", pictures, folder / "0.wav", folder / "0.wav", tmp_path / "0.wav"]
    assert run_program(program.main, "--model", models["raw"], *words) == 0
    drawn = {file.name: file.read_bytes() for file in pictures.iterdir()}
    assert drawn.keys() == {"0.png", "0-2.png", "0-3.png"}
    assert drawn["0.png"] == drawn["0-2.png"] != drawn["0-3.png"]


@pytest.mark.parametrize(
    ("option", "target", "message"),
    [
        ("--timeline", "FILE/out.tsv", "cannot write"),
        ("--timeline", "FOLDER", "a folder of that name is there"),
        ("--plot", "FILE/pictures", "cannot write"),
        ("--plot", "FILE", "cannot write"),
        ("--plot", "out.jpg", "pictures are PNG"),
    ],
)
def test_a_target_that_cannot_be_written_is_reported_before_the_work(folder, tmp_path, capsys, option, target, message):
    (tmp_path / "FILE").write_text("mine")
    (tmp_path / "FOLDER").mkdir()
    words = ["--model", tmp_path / "no-model", option, tmp_path / target, folder / "0.wav"]
    assert run_program(program.main, *words) == 2
    out, err = lines_of(capsys)
    assert out == [] and len(err) == 1 and message in err[0] and (tmp_path / "FILE").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "message"), [(["AUDIO"], "is no model: it holds neither"), (["/no/such/dir"], "no such directory")]
)
def test_a_folder_that_is_no_model_is_reported(folder, capsys, words, message):
    model = [folder if word == "AUDIO" else word for word in words]
    assert run_program(program.main, "--model", *model, folder) == 2
    assert message in lines_of(capsys)[1][-1]


@pytest.mark.parametrize("device", ["foo", "cuda:99", "meta"])
def test_a_device_that_is_not_here_is_refused_in_one_line(models, folder, capsys, device):
    assert run_program(program.main, "--model", models["raw"], "--device", device, folder) == 2
    out, err = lines_of(capsys)
    assert out == [] and len(err) == 1 and err[0].startswith(f"error: device {device} cannot be used here")


def test_no_audio_at_all_is_reported(models, tmp_path, capsys):
    assert run_program(program.main, "--model", models["raw"], tmp_path) == 2
    assert "no audio in" in lines_of(capsys)[1][-1]
    assert run_program(program.main, "--model", models["raw"]) == 2
    assert run_program(program.main, "--model", models["raw"], tmp_path, "--window", 1, "--hop", 2) == 2


@pytest.mark.parametrize("name", ["model.safetensors", "tokens/tokens.txt", "model.json"])
def test_the_file_that_a_fold_lacks_is_named(models, folder, tmp_path, capsys, name):
    broken = copy_of(models["raw"], tmp_path / "m")
    (broken / name).unlink()
    assert run_program(program.main, "--model", broken, folder) == 2
    assert name in lines_of(capsys)[1][-1]


@pytest.mark.parametrize("family", OWN_FRONTS)
def test_encoders_with_a_log_mel_front_predict_each_file_at_its_own_length(folder, tmp_path, capsys, family):
    """Only Whisper has a longest input; recordings beyond it are encoded in parts, and counted."""
    directory = save_model(tmp_path / "model", geometry=OWN_FRONTS[family])
    assert run_program(program.main, "--model", directory, "--json", folder) == 0
    out, err = lines_of(capsys)
    trained, recordings = load_model(directory, CPU), [item.path for item in find_audio([str(folder)])]
    for line, path in zip(out, recordings, strict=True):
        wav_S = torch.from_numpy(read_recording(path).astype(np.float32) / 32768)
        with torch.no_grad():
            states, frames_B = trained.model.upstream(wav_S[None], torch.tensor([len(wav_S)]))
            vector = trained.model.vector
            wanted_C = trained.model.emotion_head(vector(vector.pool(states, frames_B))).softmax(-1)[0]
        assert frames_B.tolist() == [trained.model.upstream.geometry.frames(len(wav_S))]
        np.testing.assert_allclose(list(json.loads(line)["scores"].values()), wanted_C, atol=1e-5)
    longer = sum(len(read_recording(path)) > 16000 for path in recordings)
    counted = f"{longer} recordings are longer than the upstream takes at once: encoded in parts"
    assert 0 < longer < len(recordings) and (counted in err) == (family == "whisper")


def test_an_unreachable_hub_is_reported(folder, capsys, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert run_program(program.main, "--model", "nobody/no-such-model", folder) == 2
    assert "cannot be downloaded from the hub" in lines_of(capsys)[1][-1]


@pytest.mark.parametrize("form", ["--tsv", "--window=0.5"])
def test_names_and_tokens_of_an_untrusted_model_cannot_steer_a_terminal_or_break_a_row(models, tmp_path, capsys, form):
    write_wav(tmp_path / "a\tb\x1b[31m.wav", speech(0))
    (tmp_path / "c\x1b[31m.wav").write_text("no audio")
    untrusted = copy_of(models["raw"], tmp_path / "model")
    tokens = untrusted / "tokens" / "tokens.txt"
    specials, letters = tokens.read_text().splitlines()[:5], tokens.read_text().splitlines()[5:]
    tokens.write_text("".join(f"{token}\n" for token in specials + [f"{letter}\x1b[2J\t" for letter in letters]))
    words = ["--model", untrusted, form, "--timeline", tmp_path / "t.tsv", tmp_path]
    assert run_program(program.main, *words) == 1
    out, err = lines_of(capsys)
    assert "\\x1b[2J" in out[1] and "a\\tb\\x1b[31m" in out[1] and "\\x1b" in err[-1]
    if form == "--tsv":
        assert out[1].count("\t") == out[0].count("\t")
    everything = "\n".join([*out, *err, (tmp_path / "t.tsv").read_text()])
    assert not [char for char in everything if not char.isprintable() and char not in "\t\n"]


def test_labels_of_an_untrusted_model_cannot_steer_a_terminal(raw):
    labels = ["a\x1b[2J", "b\tc"]
    segment = Segment(0, 1, labels[0], dict.fromkeys(labels, 0.5))
    result = Result(labels[0], segment.scores, "", np.zeros(1), 1.0, (segment,), (segment,))
    item = Item("a.wav")
    for head, line in (table_lines(labels, [item], False), tsv_lines(labels, [item], False)):
        text = "\n".join([head, line(item, result), *segment_lines(item, result)])
        assert "\x1b" not in text and "b\tc" not in text and "a\\x1b[2J" in text


def test_the_table_shortens_a_transcript_that_no_line_holds():
    item, text = Item("a.wav"), "WORD " * 2000
    result = Result("ang", {"ang": 1.0}, text, np.zeros(1), 3600.0)
    table, tsv = (form(["ang"], [item], False)[1](item, result) for form in (table_lines, tsv_lines))
    assert table.endswith(" WORD…") and len(table) < 400 and tsv.endswith(text)


def test_a_reader_that_has_seen_enough_ends_the_program_without_a_word(models, folder):
    reads, writes = os.pipe()
    os.close(reads)
    words = [sys.executable, "-m", "sermtl.bin.predict", "--model", models["raw"], "--tsv", folder]
    done = subprocess.run(words, stdout=writes, stderr=subprocess.PIPE, text=True)
    os.close(writes)
    assert (done.returncode, done.stderr) == (128 + os_signal.SIGPIPE, "")


def test_folders_are_searched_for_audio_only(folder):
    names = [item.path[len(str(folder)) + 1 :] for item in find_audio([folder])]
    assert names == ["0.wav", "1.wav", "2.wav", "4.wav", "5.wav", "deep/3.wav"]


def test_real_speech_in_any_format_gives_the_same(test_data, models, tmp_path, capsys):
    source = sorted((test_data / "emodb" / "wav").glob("*.wav"))[0]
    samples_S, rate = soundfile.read(source, dtype="int16")
    for name in ("a.flac", "a.aiff", "a.w64", "a.caf", "a.ogg", "a.mp3"):
        soundfile.write(tmp_path / name, samples_S, rate)
    soundfile.write(tmp_path / "stereo.wav", np.stack([samples_S, samples_S], 1), rate)
    assert run_program(program.main, "--model", models["fbank"], "--json", source, tmp_path) == 0
    first, *others = [json.loads(line) for line in lines_of(capsys)[0]]
    for record in others:
        lossy = record["path"].endswith(("ogg", "mp3"))
        assert record["scores"] == pytest.approx(first["scores"], abs=0.2 if lossy else 1e-5), record["path"]
