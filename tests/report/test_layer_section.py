"""The report's section "Inside the encoder": probes of a frozen encoder's states, and the learned weights by head."""

from __future__ import annotations

import json

import numpy as np
import pytest
from make_scores import LABELS, make_data, make_rows, make_scored
from report_page import no_picture, run_report

from sermtl.fileio.ark import write_ark
from sermtl.fileio.files import write_json
from sermtl.fileio.tables import read_table, write_table
from sermtl.report import figures
from sermtl.score.plain_models import layers_of

FOLDS = ["01F", "01M", "02F", "02M"]
FROZEN = {"alpha": 0, "beta": 0, "grl": "reverse", "seed": 0, "spk_norm": "none", "feats_type": "stored"}
FROZEN |= {"freeze": "all", "layers": "mix", "dump": "stored/abc"}


@pytest.fixture
def report(tmp_path, monkeypatch):
    """Makes the report of one experiment; gives the page's text, its tables and its drawn lines."""
    data, drawn = make_data(tmp_path, 4, 80), {}

    def keep(figure, folder, name):
        no_picture(figure, folder, name)
        drawn[name] = figure.axes[0]

    def make(dump=True, width=6, **settings):
        emotions, speakers = read_table(data / "utt2emo"), read_table(data / "utt2spk")
        random, folder = np.random.default_rng(0), tmp_path / "dump/stored/abc"
        if dump:
            with write_ark(folder / "1.ark") as writer:
                for utt in emotions:
                    vectors_2P = random.normal(size=(2, width)).astype(np.float32)
                    vectors_2P[0, FOLDS.index(speakers[utt])] += 6
                    vectors_2P[1, LABELS.index(emotions[utt])] += 3
                    writer.write_array(utt, vectors_2P)
            write_table(folder / "feats.scp", writer.scp)
            write_table(folder / "utt2digest", dict.fromkeys(emotions, "x"))
        exp = tmp_path / "exp/toy_frozen"
        make_scored(data, exp, FROZEN | settings, FOLDS, make_rows(data, 1, 0.7))
        for number, fold in enumerate(FOLDS):
            shares = {"0": 0.1 * number, "1": 1 - 0.1 * number}
            write_json(exp / fold / "layer_weights.json", {"emotion and speaker": shares})
        monkeypatch.setattr(figures, "save", keep)
        assert run_report(tmp_path) == 0
        text = (tmp_path / "out/RESULTS.md").read_text()
        return text, json.loads((tmp_path / "out/results.json").read_text())["tables"], drawn

    make.layers = lambda: layers_of(tmp_path / "dump/stored/abc", data, "speaker")
    return make


@pytest.mark.parametrize("pooling, width", [("mean", 6), ("mean_std", 12)])
def test_it_draws_what_each_state_tells_and_shows_the_learned_weights(report, pooling, width):
    text, tables, drawn = report(width=width, pooling=pooling)
    section = text[text.index("### Inside the encoder") :]
    assert "WA of 80 utterances" in section and "among 4 speakers" in section
    lines = {line.get_label(): line.get_ydata() for line in drawn["speaker-states"].get_lines()}
    found = report.layers()
    np.testing.assert_allclose(lines["emotion (WA)"], found["emotion"])
    np.testing.assert_allclose(lines["speaker"], found["speaker"])
    # The made states: the first tells the speaker, the second the emotion.
    assert lines["emotion (WA)"][1] > lines["emotion (WA)"][0] and lines["speaker"][0] > lines["speaker"][1]
    [[setting, head, *weights]] = tables["speaker-layer-weights"]["rows"]
    assert (setting, head, weights) == ("none", "emotion and speaker", pytest.approx([0.15, 0.85]))


def test_without_the_dump_it_says_what_makes_it_again(report):
    text, tables, drawn = report(dump=False)
    assert "No probes of the hidden states" in text and "./run.sh --stage 2 makes it again" in text
    assert "speaker-states" not in drawn and "speaker-layer-weights" in tables


@pytest.mark.parametrize("settings", [{"alpha": 0.1}, {"pooling": "attention"}, {"freeze": 2}, {"feats_type": "raw"}])
def test_models_without_stored_means_have_no_probes_of_states(report, settings):
    text, _, drawn = report(**settings)
    assert "speaker-states" not in drawn and "No probes of the hidden states" not in text
