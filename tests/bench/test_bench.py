"""The benchmark's tables, with models so small that it is the tables that are looked at."""

import json

import numpy as np
import pytest
import torch
from small_corpus import run_program

from sermtl.bench import epochs, material, measure
from sermtl.bin import bench as program
from sermtl.fileio.tables import read_table
from sermtl.model.geometry import ConvGeometry

SMALL = {
    "conv_dim": [8] * 7,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
ROWS = ["published", "published-frozen", "ours", "ours-without-stored-outputs", "ours-without-frozen-encoder"]
ROWS += [f"ours-without-{measure}" for measure in ("packing", "fourier-positions", "bit-dropout")]


@pytest.fixture
def small(monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setitem(material.BASE, name, value)
    monkeypatch.setattr(material, "MEDIAN", 0.7)
    monkeypatch.setattr(material, "P95", 1.2)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_the_rows_and_their_numbers(small, tmp_path, capsys):
    path = tmp_path / "bench.json"
    words = ["--rounds", 2, "--batch_size", 4, "--num_threads", 1, "--json", path, "--epoch_hours", 0.05]
    assert run_program(program.main, *words) == 0
    report = json.loads(path.read_text())
    assert [row["name"] for row in report["rows"] if row["name"] != "ours-without-bf16"] == ROWS
    assert report["rounds"] == 2 and report["machine"]["threads"] == 1 and report["machine"]["gflops_float32"] > 0
    plain = report["rows"][0]
    assert (plain["ratio"], plain["ratio_min"], plain["ratio_max"]) == (1, 1, 1)
    for row in report["rows"]:
        ratios = np.array(plain["seconds"]) / np.array(row["seconds"])
        assert row["ratio"] == pytest.approx(np.median(ratios))
        assert (row["ratio_min"], row["ratio_max"]) == pytest.approx((ratios.min(), ratios.max()))
        assert row["utterances_per_s"] == pytest.approx(4 * 2 / sum(row["seconds"]))
        assert row["paper_run_hours"] == pytest.approx(62_800 / (row["utterances_per_s"] / 4) / 3600)
        assert row["peak_mb"] > 0
        assert row["s"] == pytest.approx(np.median(row["seconds"])) and 0 < row["floor_s"] < row["s"]
    assert [row["name"] for row in report["decoding"]] == ["published", "ours", "ours-stored"]
    (epoch,) = report["epochs"]
    assert epoch["utterances"] == 40 and epoch["epoch_s"] > 0
    printed = capsys.readouterr().out
    assert all(f"| {name} " in printed for name in ROWS)


def test_quick_runs_five_rounds_of_few_rows(small, tmp_path):
    path = tmp_path / "bench.json"
    assert run_program(program.main, "--quick", "--num_threads", 1, "--json", path) == 0
    report = json.loads(path.read_text())
    names = [row["name"] for row in report["rows"] if row["name"] != "ours-without-bf16"]
    assert names == ["published", "published-frozen", "ours", "ours-without-packing"]
    assert (report["rounds"], report["batch_size"]) == (5, 2)


def test_lengths_are_those_of_the_distribution():
    seconds = material.draw_seconds(4000, np.random.default_rng(0))
    assert np.median(seconds) == pytest.approx(3.58, rel=0.01)
    assert np.percentile(seconds, 95) == pytest.approx(11.1, rel=0.02)
    assert seconds.min() == 0.59 and seconds.max() == 34.1
    assert np.array_equal(seconds, material.draw_seconds(4000, np.random.default_rng(0)))


def test_a_dump_has_the_frames_of_its_audio(tmp_path):
    geometry = ConvGeometry((10, 3), (5, 2))
    made = material.make_material(tmp_path, 2, 3, geometry, channels=4)
    assert made.updates == [[0, 1, 2], [3, 4, 5]]
    assert [example.length for example in made.conv] == [geometry.frames(example.length) for example in made.raw]


def test_a_round_that_would_end_too_late_is_not_begun():
    calls = []
    rows = [measure.Row("plain", calls.append), measure.Row("other", calls.append)]
    assert measure.run_rounds(rows, 5, torch.device("cpu"), 0.0) == 1
    assert calls == [0, 0, 1, 1]


def test_the_rate_is_one_that_a_machine_can_have():
    assert 1e8 < measure.matmul_rate(torch.float32, torch.device("cpu")) < 1e14


def test_an_unknown_row_is_named(small, tmp_path, capsys):
    words = ["--rounds", 1, "--batch_size", 2, "--num_threads", 1, "--only", "ours-without-sense"]
    assert run_program(program.main, *words) == 2
    assert "no row ours-without-sense; known: published " in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--upstream", "tiny"), ("--hours", 0.1)])
def test_an_option_that_is_gone_is_named(words, capsys):
    assert run_program(program.main, *words) == 2
    assert f"{words[0]} is gone: `time ./run.sh" in capsys.readouterr().err


def test_a_corpus_of_noise_has_every_emotion_of_every_speaker(tmp_path):
    epochs.write_fold(tmp_path, np.full(80, 0.6), [("hour.ark:3", 30, "0")])
    speakers, emotions = (read_table(tmp_path / "data" / name) for name in ("utt2spk", "utt2emo"))
    assert len(speakers) == 80 and set(zip(speakers.values(), emotions.values(), strict=True)) == {
        (f"s{n}", f"e{m}") for n in range(10) for m in range(4)
    }
