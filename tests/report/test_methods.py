"""Methods of speaker normalisation in the report: compared with none, and drawn against speaker and audio."""

from __future__ import annotations

import json

import pytest
from make_scores import make_data, make_embeddings, make_rows, make_scored
from report_page import no_picture, run_report

from sermtl.fileio.files import write_json
from sermtl.report import figures
from sermtl.score import speaker_probe
from sermtl.score.speaker_probe import probe_fold

METHODS = {"none": 3.0, "erase": 1.0, "standardise": 0.5}
"""Their embeddings' speakers are so far apart."""
FOLDS = [f"{number // 2 + 1:02d}{'FM'[number % 2]}" for number in range(6)]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """An experiment a method, as stages 3 to 5 leave it, in one report; gives its folder, and what was drawn."""
    root, drawn, monkeypatch = tmp_path_factory.mktemp("methods"), {}, pytest.MonkeyPatch()
    data = make_data(root, 6, 180, dev=5)
    monkeypatch.setattr(speaker_probe, "SPLITS", 1)
    monkeypatch.setattr(speaker_probe, "SHUFFLES", 1)
    for number, (method, spread) in enumerate(METHODS.items()):
        exp = root / "exp" / f"toy_{method}"
        values = {"alpha": 0, "beta": 0, "grl": "reverse", "seed": 0, "spk_norm": method, "enrol": "all"}
        make_scored(data, exp, values, FOLDS, make_rows(data, number, 0.6 + 0.1 * number))
        for fold in FOLDS:
            make_embeddings(data, exp / fold, spread, 0, ("train", "dev", "test"))
            (exp / fold / "config.yaml").write_text(f"spk_norm: {method}\nenrol: all\n")
            found = probe_fold(exp / fold, data, data / "folds/speaker" / fold)
            write_json(exp / fold / "score_test/probe.json", found)
            if method == "none":
                erased = {"hits": {"0": "11-1", "5": "1000", "all": "0000"}}
                write_json(exp / fold / "decode_dev/erasing.json", erased)
        if method == "standardise":
            scores = json.loads((exp / "scores.json").read_text())
            scores["enrol"] = {"0": [100, 180, 0.0], "5": [120, 180, 1800.0], "5_of_one_emotion": [90, 180, 1800.0]}
            write_json(exp / "scores.json", scores)

    def keep(figure, folder, name):
        no_picture(figure, folder, name)
        drawn[name] = figure.axes[0]

    monkeypatch.setattr(figures, "save", keep)
    assert run_report(root) == 0
    yield root / "out", drawn
    monkeypatch.undo()


def test_methods_are_compared_with_none_and_say_whose_audio_they_read(report):
    tables = json.loads((report[0] / "results.json").read_text())["tables"]
    compared = {row[0] for row in tables["speaker-comparisons"]["rows"]}
    assert compared == {"erase − none", "standardise (enrol all) − none"}
    assert [row[0] for row in tables["speaker-settings"]["rows"]] == ["none", "erase", "standardise (enrol all)"]
    assert "speaker-table-2" not in tables  # no gradient was reversed
    page = (report[0] / "RESULTS.md").read_text()
    assert "erase minus none: logistic regression -" in page.replace("−", "-")


def test_a_point_is_the_probes_accuracy_and_the_wa(report):
    out, drawn = report
    tables = json.loads((out / "results.json").read_text())["tables"]
    markers = [line for line in drawn["speaker-methods-held-out"].lines if line.get_marker() != "None"]
    points = {line.get_label(): line.get_xydata()[0] for line in markers}
    assert list(points) == ["none", "erase", "standardise (enrol all)"]
    for row in tables["speaker-speakers"]["rows"]:
        if row[1:3] == ["training", "logistic regression"]:
            assert points[row[0]][0] == pytest.approx(row[3])
    wa = {row[0]: row[1] for row in tables["speaker-settings"]["rows"]}
    assert {name: point[1] for name, point in points.items()} == pytest.approx(wa)


def test_enrolment_is_drawn_in_order_with_its_audio(report):
    axes = report[1]["speaker-enrolment"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0\n0 s", "5\n10 s", "5, one\nemotion\n10 s"]
    assert axes.lines[0].get_ydata().tolist() == pytest.approx([100 / 180, 120 / 180, 90 / 180])


def test_what_is_left_behind_erasers_is_drawn(report):
    axes = report[1]["speaker-erasing"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "5", "all"]
    assert axes.lines[0].get_ydata().tolist() == [1.0, 0.25, 0.0]


def test_families_are_named_by_the_first_of_the_settings_that_divide_them_alike(tmp_path, monkeypatch):
    data = make_data(tmp_path, 6, 60)
    monkeypatch.setattr(figures, "save", no_picture)
    for number, (projection, rate) in enumerate([(0, 0.0), (256, 3e-3)]):
        values = {"alpha": 0, "beta": 0, "grl": "reverse", "seed": 0, "spk_norm": "grl"}
        values |= {"projection": projection, "speaker_learning_rate": rate}
        make_scored(data, tmp_path / f"exp/toy_{number}", values, FOLDS, make_rows(data, number, 0.7))
    assert run_report(tmp_path) == 0
    text = (tmp_path / "out/RESULTS.md").read_text()
    assert "## Protocol speaker, projection 256\n" in text and "speaker_learning_rate 0.003" not in text
