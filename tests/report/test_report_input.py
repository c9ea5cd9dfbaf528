"""The report over what is missing, damaged, or must not be compared."""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_scores import LABELS, make_data, make_rows, make_scored
from report_page import Tables, no_picture, page_of, run_report

from sermtl.errors import UserError
from sermtl.report import figures, runs, tables
from sermtl.report.families import group
from sermtl.report.load import load_experiments

SETTINGS = {"upstream": "small", "alpha": 0.1, "beta": 0.0, "grl": "reverse", "seed": 0, "epochs": 2}
FOLDS = ["01F", "01M", "02F", "02M"]


@pytest.fixture
def report(monkeypatch, capsys):
    """Run the report in a folder, without its pictures; gives (exit status, stdout, stderr)."""
    monkeypatch.setattr(figures, "save", no_picture)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return lambda root, corpus="toy": (run_report(root, corpus), *capsys.readouterr())


def scored(root, folds=FOLDS, rows=None, **values):
    """One experiment in ``root/exp``, its tag made of what is unusual."""
    data = root / "data/toy"
    if not data.exists():
        make_data(root, 4, 60)
    tag = "_".join(["toy", *(f"{key}{value}" for key, value in values.items())])
    made = rows or make_rows(data, 1, 0.7)
    make_scored(data, root / "exp" / tag, SETTINGS | values, folds, made)
    return root / "exp" / tag


def test_without_the_ctc_loss_another_learning_rate_is_compared_and_named(tmp_path, report):
    """Cai et al. train so; with the CTC loss another learning rate is another family."""
    scored(tmp_path, learning_rate=5e-5)
    scored(tmp_path, learning_rate=1e-5, alpha=0.0)
    assert report(tmp_path)[0] == 0
    tables = json.loads((tmp_path / "out/results.json").read_text())["tables"]
    named = {row[0] for row in tables["speaker-comparisons"]["rows"]}
    assert named == {"β 0, α 0, learning rate 1e-05 − β 0"}
    scored(tmp_path, learning_rate=1e-3, beta=1.0)
    assert "NOT PAIRED: reverse 1: there is no β 0 with α 0.1" in report(tmp_path)[1]


def test_one_experiment_of_one_fold_is_reported_with_what_it_lacks(tmp_path, report):
    scored(tmp_path, folds=["01F"])
    status, output, _ = report(tmp_path)
    assert status == 0
    assert "warning: MISSING: 3 of 4 folds of 1 experiment (speaker) are in none of the numbers: 01M 02F 02M" in output
    page = page_of(tmp_path)
    assert "1 of 4 folds" in page and "FOLDS MISSING" in page and "Nothing can be compared" in page
    cells = Tables(page).found["speaker-table-2"]
    assert cells[1][2].endswith(" (fewer than 5 speakers)")
    assert cells[2][-3] == "not run"


def test_other_test_sets_are_never_paired(tmp_path, report):
    scored(tmp_path, beta=0.0)
    scored(tmp_path, beta=1.0, folds=FOLDS[:3])
    _, output, _ = report(tmp_path)
    line = next(line for line in output.splitlines() if "NOT PAIRED" in line)
    assert "toy_beta1.0 and toy_beta0.0 differ in test sets: 15 utterances only in toy_beta0.0" in line
    assert "fold 02M" in line
    assert "speaker-comparisons" not in Tables(page_of(tmp_path)).found


def test_other_seeds_are_never_paired(tmp_path, report):
    scored(tmp_path, beta=0.0, seed=1)
    scored(tmp_path, beta=1.0, seed=2)
    _, output, _ = report(tmp_path)
    assert "NOT PAIRED: toy_beta1.0_seed2: no partner with seed 2; β 0 has seeds 1" in output


def test_other_labels_and_references_are_never_paired(tmp_path, report):
    scored(tmp_path, beta=0.0)
    rows = make_rows(tmp_path / "data/toy", 1, 0.7)
    rows["01F"][0] = rows["01F"][0]._replace(ref="sad" if rows["01F"][0].ref == "ang" else "ang")
    scored(tmp_path, beta=1.0, rows=rows)
    path = scored(tmp_path, beta=0.1)
    for name in itertools.chain([path / "scores.json"], path.glob("*/score_test/scores.json")):
        scores = json.loads(name.read_text())
        scores["ser"]["labels"] = [label.upper() for label in LABELS]
        name.write_text(json.dumps(scores))
    for name in path.glob("*/score_test/per_utt.tsv"):
        name.write_text(re.sub(r"\b(ang|hap|neu|sad)\b", lambda match: match[0].upper(), name.read_text()))
    _, output, _ = report(tmp_path)
    assert "toy_beta1.0 and toy_beta0.0 differ in reference emotions of 1 utterances" in output
    assert "differ in labels: ang hap neu sad against ANG HAP NEU SAD" in output


def test_other_training_lists_are_never_paired(tmp_path, report):
    for beta, size in ((0.0, 45), (1.0, 40)):
        path = scored(tmp_path, beta=beta) / "scores.json"
        scores = json.loads(path.read_text())
        scores["audit"]["01M"]["utterances_train"] = size
        path.write_text(json.dumps(scores))
    _, output, _ = report(tmp_path)
    assert "differ in training lists: 45 against 40 utterances in fold 01M" in output
    for number, path in enumerate(sorted(tmp_path.rglob("scores.json"))):
        scores = json.loads(path.read_text())
        if "01M" in scores.get("audit", {}):
            scores["audit"]["01M"] |= {"utterances_train": 40, "utterances_train_digest": f"digest {number}"}
            path.write_text(json.dumps(scores))
    _, output, _ = report(tmp_path)
    assert "differ in training lists: 40 utterances each, but not the same ones, in fold 01M" in output


def test_a_seed_that_only_others_have_is_reported(tmp_path, report):
    for beta, seed in ((0.0, 0), (0.0, 1), (1.0, 0)):
        scored(tmp_path, beta=beta, seed=seed)
    _, output, _ = report(tmp_path)
    assert "warning: MISSING: reverse 1 (speaker) has no seed 1" in output


@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", '{"probe": {"acc": 0.5, "n": 2}}',
        '{"verification": {"eer": null}, "unseen": {"reason": ""}, "held_out": {"utts": ["a", "b"], "speakers": ["s"], '
        '"hits": {"linear": ["10"]}, "chance": {}}}',
        '{"verification": {"eer": null}, "unseen": {"reason": ""}, "held_out": {"utts": ["a"], "speakers": ["s"], '
        '"hits": {"linear": ["10"]}, "chance": {}}}',
    ],
)  # fmt: skip
def test_a_damaged_probe_is_named(tmp_path, report, content):
    path = scored(tmp_path) / "01M/score_test/probe.json"
    path.write_text(content)
    status, output, _ = report(tmp_path)
    said = f"warning: LEFT OUT: {path}: damaged, or of an older version; ./run.sh --tag toy --stage 5"
    assert status == 0 and said in output


def test_strange_lines_of_a_history_are_left_out(tmp_path, report):
    log = scored(tmp_path) / "01M/history.jsonl"
    log.write_text(
        '{"epoch": 1, "seconds": null}\n{"epoch": "2"}\n{"epoch": -1}\n{"epoch": 1e9}\n{"epoch": 3, "seconds": 36}\n'
    )
    assert report(tmp_path)[0] == 0
    row = Tables(page_of(tmp_path)).found["run-experiments"]
    assert row[1][row[0].index("epochs")] == "3" and row[1][row[0].index("hours")] == "0.010"


def test_other_settings_are_other_families(tmp_path, report):
    scored(tmp_path, beta=0.0)
    scored(tmp_path, beta=1.0, upstream="large")
    _, output, _ = report(tmp_path)
    assert "NOT PAIRED: reverse 1: there is no β 0" in output
    assert {"speaker-upstream-small-table-2", "speaker-upstream-large-table-2"} <= set(Tables(page_of(tmp_path)).found)


def test_a_speaker_dependent_protocol_has_its_own_table_and_says_so(tmp_path, report):
    scored(tmp_path)
    scored(tmp_path, protocol="paper")
    _, output, _ = report(tmp_path)
    assert "Protocol paper is SPEAKER-DEPENDENT" in output
    assert {"speaker-table-2", "paper-table-2"} <= set(Tables(page_of(tmp_path)).found)
    assert "Table II. Emotion accuracy, gradient reversed. Protocol paper, SPEAKER-DEPENDENT." in page_of(tmp_path)


def test_a_class_that_a_fold_never_trained_is_marked_beside_every_rate_that_it_lowers(tmp_path, report):
    path = scored(tmp_path) / "scores.json"
    assert report(tmp_path)[0] == 0 and "\u2020" not in page_of(tmp_path)
    scores = json.loads(path.read_text())
    scores["per_fold"]["01F"]["ser"]["untrained"] = ["hap"]
    path.write_text(json.dumps(scores))
    _, output, _ = report(tmp_path)
    assert "UNTRAINED: \u2020 lowered by classes that a fold tests and never trained (hap in 1 fold: 01F)" in output
    found = Tables(page_of(tmp_path)).found
    names = {row[0] for row in found["speaker-fold-wa"]} | {row[0] for row in found["speaker-class-recall"]}
    assert {name for name in names if name.endswith("\u2020")} == {
        "01F\u2020",
        "mean over folds\u2020",
        "pooled\u2020",
        "hap\u2020",
    }
    assert not any("\u2020" in row[0] for row in found["speaker-fold-wer"])
    for table in ("table-2", "table-3", "settings"):
        rates = [name for name in found[f"speaker-{table}"][0] if re.search(r"WA|UA|macro F1|emotion acc", name)]
        assert rates and all(name.endswith("\u2020") for name in rates)
    assert found["run-experiments"][1][0] == "toy\u2020"


def test_an_experiment_whose_test_lists_have_no_label_is_left_out(tmp_path, report):
    scored(tmp_path, beta=0.0)
    path = scored(tmp_path, beta=1.0)
    for table in path.glob("*/score_test/per_utt.tsv"):
        table.write_text(table.read_text().splitlines(keepends=True)[0])
    status, output, _ = report(tmp_path)
    assert status == 0 and f"LEFT OUT: {path}: no test utterance has an emotion, so nothing was scored" in output


@pytest.mark.parametrize("damage", ["cut", "fold cut", "rescored"])
def test_a_damaged_experiment_is_named_and_left_out(tmp_path, report, damage):
    scored(tmp_path, beta=0.0)
    path = scored(tmp_path, beta=1.0)
    name = path / {"cut": "scores.json"}.get(damage, "02F/score_test/per_utt.tsv")
    text = name.read_text()
    if damage == "rescored":
        lines = text.splitlines(keepends=True)
        columns = lines[1].split("\t")
        columns[3] = "sad" if columns[3] != "sad" else "ang"
        name.write_text("".join([lines[0], "\t".join(columns), *lines[2:]]))
    else:
        name.write_text(text[: len(text) // 2])
    status, output, _ = report(tmp_path)
    assert status == 0
    assert "warning: LEFT OUT: " in output and str(path) in output and "all of toy_beta1.0 is left out" in output
    assert "LEFT OUT" in page_of(tmp_path)
    assert [row[0] for row in Tables(page_of(tmp_path)).found["run-experiments"][1:]] == ["toy_beta0.0"]


def places(value, at=()):
    """The path of every value within a value."""
    yield at
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*at, key))


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    root = tmp_path_factory.mktemp("scored")
    return root, scored(root) / "scores.json"


STRANGE = st.sampled_from([None, True, -1, 10**30, 0.5, float("nan"), "", "../../x", "<b>", [], {}, [[]], {"ang": 1}])


@settings(max_examples=200)
@given(st.data())
def test_scores_of_other_programs_are_read_or_refused(untouched, data):
    root, path = untouched
    whole = json.loads(path.read_text())
    changed = json.loads(json.dumps(whole))
    *outer, last = data.draw(st.sampled_from([place for place in places(changed) if place]))
    holder = functools.reduce(lambda value, key: value[key], outer, changed)
    if data.draw(st.booleans()):
        del holder[last]
    else:
        holder[last] = data.draw(STRANGE)
    try:
        path.write_text(json.dumps(changed))
        for one in load_experiments(root / "exp", root / "data/toy", "toy").experiments:
            assert one.scores["ser"] == whole["ser"] or changed["ser"] != whole["ser"]
            build(one)
    except UserError as error:
        assert "toy" in str(error)
    finally:
        path.write_text(json.dumps(whole))


def build(experiment):
    """What the report's tables take from an experiment."""
    assert experiment.counts.shape == (len(experiment.utts), 2 * len(experiment.labels) + 2)
    assert experiment.right.sum() == experiment.scores["ser"]["correct"]
    assert 0 <= experiment.scores["ser"]["wa"] <= 1 and 0 <= experiment.scores["ser"]["ua"] <= 1
    assert experiment.scores["asr"]["wer"] is None or experiment.scores["asr"]["wer"] >= 0
    assert type(experiment.scores["protocol"]) is str and type(experiment.seed) is int
    assert not any("/" in fold for fold in experiment.scores["folds"])
    (family,) = group([experiment])
    runs.audit(family), runs.experiments([family])
    tables.speaker_accuracy(family.settings[0])


def test_begun_folds_are_listed_with_where_they_stopped(tmp_path, report):
    scored(tmp_path, folds=FOLDS[:2])
    for fold, log in (("02F", '{"epoch": 1}\n{"epoch": 2}\n{"epo'), ("02M", "")):
        folder = tmp_path / "exp/toy" / fold
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("corpus: toy\n")
        (folder / "history.jsonl").write_text(log)
    (tmp_path / "exp/toy/02M/model.safetensors").write_bytes(b"weights")
    report(tmp_path)
    assert Tables(page_of(tmp_path)).found["run-unfinished"][1:] == [
        ["toy", "02F", "in training, or stopped, after 2 epochs"],
        ["toy", "02M", "trained, not decoded"],
    ]


def test_no_experiment_says_what_makes_one(tmp_path, report):
    scored(tmp_path)
    status, _, error = report(tmp_path, corpus="other")
    assert status == 2 and "no experiment of corpus other; ./run.sh --corpus other makes one" in error
    shutil.rmtree(tmp_path / "exp")
    status, _, error = report(tmp_path)
    assert status == 2 and "./run.sh --corpus toy makes experiments" in error


def test_a_corpus_without_transcripts_has_no_wer(tmp_path, report):
    make_data(tmp_path, 4, 60)
    rows = make_rows(tmp_path / "data/toy", 1, 0.7)
    silent = {
        fold: [r._replace(words=0, errors=0, chars=0, char_errors=0) for r in part] for fold, part in rows.items()
    }
    scored(tmp_path, beta=0.0, rows=silent)
    scored(tmp_path, beta=1.0, rows=silent)
    assert report(tmp_path)[0] == 0
    tables = Tables(page_of(tmp_path)).found
    assert {row[2] for row in tables["speaker-fold-wer"][1:]} == {"–"}
    assert "nan" not in page_of(tmp_path).lower().replace("nann", "")


def test_a_setting_trained_twice_is_counted_once(tmp_path, report):
    first = scored(tmp_path)
    shutil.copytree(first, tmp_path / "exp/toy_again")
    _, output, _ = report(tmp_path)
    assert "SET ASIDE: toy_again: seed 0 is there already" in output
    assert Tables(page_of(tmp_path)).found["speaker-table-2"][1][-1] == "60"


def test_utterances_without_posteriors_have_no_calibration(tmp_path, report):
    make_data(tmp_path, 4, 60)
    rows = {
        fold: [r._replace(conf=float("nan"), ref_post=float("nan")) for r in part]
        for fold, part in make_rows(tmp_path / "data/toy", 1, 0.7).items()
    }
    scored(tmp_path, rows=rows)
    assert report(tmp_path)[0] == 0
    head, row = Tables(page_of(tmp_path)).found["speaker-settings"]
    assert {row[head.index(name)] for name in ("NLL", "ECE")} == {"–"} and "Reliability" not in page_of(tmp_path)


def test_score_files_of_an_older_version_say_how_to_score_again(tmp_path, report):
    name = scored(tmp_path) / "01F/score_test/per_utt.tsv"
    name.write_text("".join("\t".join(line.split("\t")[:-2]) + "\n" for line in name.read_text().splitlines()))
    status, _, error = report(tmp_path)
    assert status == 2 and f"{name}:1: expected the columns" in error
    assert "if an older version wrote it, score again with ./run.sh --stage 5 --stop_stage 5" in error


def compared(root, beta, changes, folds=10):
    """Beta 0, and a setting that differs from it in the first ``changes`` hypotheses of each of some folds."""
    data = make_data(root, 10, 400)
    rows = make_rows(data, 1, 0.7)
    other = {
        fold: [
            r._replace(hyp=r.ref if r.hyp != r.ref else LABELS[LABELS.index(r.ref) - 1]) if number < changes else r
            for number, r in enumerate(part)
        ]
        if index < folds
        else part
        for index, (fold, part) in enumerate(rows.items())
    }
    scored(root, rows=rows, folds=list(rows))
    scored(root, rows=other, folds=list(rows), beta=beta)


def test_a_detectable_difference_is_never_above_what_two_models_disagree_on(tmp_path, report):
    compared(tmp_path, 0.1, 3, folds=1)  # 3 of 400 utterances, of one speaker: the t test needs 2.4 points
    _, output, _ = report(tmp_path)
    assert "reverse 0.1: none (0.8 %)" in output and "cannot be detected here with reverse 0.1." in output
    head, *rows = Tables(page_of(tmp_path)).found["speaker-comparisons"]
    assert [row[head.index("detectable at 80 %")] for row in rows if row[1] == "WA"] == ["–"]


def test_what_could_be_detected_is_said_of_each_setting(tmp_path, report, monkeypatch):
    compared(tmp_path, 0.1, 3, folds=1)
    compared(tmp_path, 1.0, 8)
    monkeypatch.setattr("sermtl.report.paper.GAIN", 0.3)
    _, output, _ = report(tmp_path)
    assert re.search(r"reverse 0\.1: none .*reverse 1: [\d.]+ points", output)
    assert "cannot be detected here with reverse 0.1, and can be detected here with reverse 1." in output


def test_no_difference_is_claimed_without_an_equivalence_test(tmp_path, report):
    compared(tmp_path, 0.1, 0)  # never different: no variation, so nothing is tested
    _, output, _ = report(tmp_path)
    assert "No difference from β 0 is tested: +0.000 (too little variation)" in output
    head, *rows = Tables(page_of(tmp_path)).found["speaker-comparisons"]
    (wa,) = [row for row in rows if row[1] == "WA"]
    assert wa[head.index("p, swapped")] == "1.000" and wa[head.index("ties")] == "10 of 10"
    assert "shows no difference" not in page_of(tmp_path) and "d_z" not in page_of(tmp_path)


def test_sessions_are_the_units_and_every_note_says_what_train_and_test_share(tmp_path, report):
    data = make_data(tmp_path, 10, 200)
    spk = dict(line.split() for line in (data / "utt2spk").open())
    (data / "utt2session").write_text("".join(f"{utt} Ses{spk[utt][:2]}\n" for utt in spk))
    path = scored(tmp_path, folds=sorted(set(spk.values()))) / "scores.json"
    scores = json.loads(path.read_text())
    for found in scores["audit"].values():
        found["sessions_shared_train_test"] = 1
    path.write_text(json.dumps(scores))
    _, output, _ = report(tmp_path)
    assert "(95 % intervals over sessions)" in output
    assert "WA [95 % by session]" in Tables(page_of(tmp_path)).found["speaker-table-2"][0]
    note = (
        "Shared by train and test: speakers in 0 of 10 folds, sessions in 10 of 10 folds. The folds share training data"
    )
    text = (tmp_path / "out/RESULTS.md").read_text()
    tables = [
        name for name in Tables(page_of(tmp_path)).found if name.startswith("speaker-") or name == "run-experiments"
    ]
    assert text.count(note) == len(tables) > 10
