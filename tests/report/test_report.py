"""Stage 6 as its user sees it: the program run on score files, its page and its files read back."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datadirs import changed, contents
from make_scores import LABELS, grid, make_data
from report_page import Tables, page_of, run_report
from scipy import stats as scipy_stats
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from sermtl.score import speaker_probe
from tests import recompute

FOLDS = ["01F", "01M", "02F", "02M", "03F"]


@pytest.fixture(scope="module", autouse=True)
def no_sync():
    """Many small files: do not wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The paper's six settings with two seeds, reported once for all tests that only read."""
    root = tmp_path_factory.mktemp("grid")
    data = make_data(root, 5, 120, dev=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speaker_probe, "SHUFFLES", 4)
        patch.setattr(speaker_probe, "SPLITS", 1)
        grid(root, data, 12, epochs=3, embeddings=3)
    assert run_report(root) == 0
    return root


def outcomes(root: Path, beta: float, grl: str, alpha: float = 0.1) -> list[dict[str, str]]:
    """Every line of every per_utt.tsv of a setting, all seeds, straight from the files."""
    lines = []
    for path in sorted((root / "exp").glob(f"*_alpha{alpha:g}_beta{beta:g}_{grl}_seed*/*/score_test/per_utt.tsv")):
        with open(path) as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        lines += [row | {"fold": path.parts[-3], "tag": path.parts[-4]} for row in rows]
    return lines


def rates(lines: list[dict[str, str]]) -> dict[str, float]:
    pairs = [line["ref"] for line in lines], [line["hyp"] for line in lines]
    total = {key: sum(int(line[key]) for line in lines) for key in ("words", "errors", "chars", "char_errors")}
    return {
        "wa": accuracy_score(*pairs),
        "ua": balanced_accuracy_score(*pairs),
        "macro-f1": f1_score(*pairs, average="macro"),
        "wer": total["errors"] / total["words"],
        "cer": total["char_errors"] / total["chars"],
    }


COLUMNS = [("reverse", 0.0, 0.1), ("reverse", 0.1, 0.1), ("reverse", 1.0, 0.1)]
COLUMNS += [("forward", 0.1, 0.1), ("forward", 1.0, 0.1), ("reverse", 0.0, 0.0)]


def test_every_rate_per_fold_is_that_of_the_score_files(made):
    tables = Tables(page_of(made)).found
    expected = {}
    for column in COLUMNS:
        grl, beta, alpha = column
        lines = outcomes(made, beta, grl, alpha)
        by_fold = {fold: rates([line for line in lines if line["fold"] == fold]) for fold in FOLDS}
        mean = {rate: np.mean([of_fold[rate] for of_fold in by_fold.values()]) for rate in rates(lines)}
        expected[column] = by_fold | {"mean over folds": mean, "pooled": rates(lines)}
    for rate in ("wa", "ua", "macro-f1", "wer", "cer"):
        head, *rows = tables[f"speaker-fold-{rate}"]
        assert head == ["fold", "n", "β 0", "reverse 0.1", "reverse 1", "forward 0.1", "forward 1", "β 0, α 0"]
        assert [row[0] for row in rows] == [*FOLDS, "mean over folds", "pooled"]
        for row in rows:
            for cell, column in zip(row[2:], COLUMNS, strict=True):
                # Without the CTC loss nothing was learned about characters.
                unread = column[2] == 0 and rate in ("wer", "cer")
                assert cell == ("–" if unread else f"{expected[column][row[0]][rate]:.3f}")


def test_every_rate_per_class_and_style_is_that_of_the_score_files(made):
    tables = Tables(page_of(made)).found
    style = dict(line.split() for line in (made / "data/toy/utt2style").open())
    for index, (grl, beta, alpha) in enumerate(COLUMNS):
        lines = outcomes(made, beta, grl, alpha)
        for row in tables["speaker-class-recall"][1:]:
            of_class = [line for line in lines if line["ref"] == row[0]]
            recall = accuracy_score(*zip(*((x["ref"], x["hyp"]) for x in of_class), strict=True))
            assert row[2 + index].startswith(f"{recall:.3f} [")
        for rate in ("wa", "wer"):
            for row in tables[f"speaker-style-{rate}"][1:-1]:
                chosen = [line for line in lines if style[line["utt"]] == row[0]]
                unread = alpha == 0 and rate == "wer"
                assert row[2 + index] == ("–" if unread else f"{rates(chosen)[rate]:.3f}")
        for row in tables[f"speaker-confusion-{index + 1}"][1:]:
            hyps = [line["hyp"] for line in lines if line["ref"] == row[0]]
            assert [int(cell.split()[0]) for cell in row[1:]] == [*(hyps.count(label) for label in LABELS), len(hyps)]


def test_the_papers_tables_have_its_numbers_beside_ours(made):
    tables = Tables(page_of(made)).found
    head, *rows = tables["speaker-table-2"]
    assert "paper (IEMOCAP, fold 01F)" in head[1]
    assert [row[:2] for row in rows] == [["0", "0.746"], ["1", "0.751"], ["0.1", "0.751"]]
    for row in rows:
        ours = rates(outcomes(made, float(row[0]), "reverse"))
        assert row[2].startswith(f"{ours['wa']:.3f} [") and row[3].startswith(f"{ours['ua']:.3f} [")
        assert row[4:] == ["5", "2", "120"]
    _, *rows = tables["speaker-table-3"]
    assert [row[:4] for row in rows] == [
        ["forward 1", "0.243", "0.739", "0.288"], ["forward 0.1", "0.239", "0.749", "0.321"],
        ["reverse 1", "0.244", "0.751", "0.292"], ["reverse 0.1", "0.247", "0.751", "0.298"],
    ]  # fmt: skip
    for row in rows:
        grl, beta = row[0].split()
        ours = rates(outcomes(made, float(beta), grl))
        assert row[4].startswith(f"{ours['wer']:.3f} [") and row[5].startswith(f"{ours['wa']:.3f} [")
        assert row[6] == "–"  # unseen speakers: no speaker accuracy
    assert "Speaker accuracy undefined: in 5 of 5 folds" in page_of(made)


def test_comparisons_agree_with_scipy(made):
    tables = json.loads((made / "out/results.json").read_text())["tables"]
    base, other = ({(x["tag"][-1], x["utt"]): x for x in outcomes(made, beta, "reverse")} for beta in (0.0, 1.0))
    assert list(base) == list(other)
    row = next(r for r in tables["speaker-comparisons"]["rows"] if r[:2] == ["reverse 1 − β 0", "WA"])
    right = {key: [int(table[key]["ref"] == table[key]["hyp"]) for table in (base, other)] for key in base}
    per_fold = [sum(b - a for key, (a, b) in right.items() if base[key]["fold"] == fold) / len(right) for fold in FOLDS]
    assert row[2] == pytest.approx(sum(per_fold))
    exact = scipy_stats.permutation_test(
        (np.array(per_fold),), np.sum, permutation_type="samples", n_resamples=np.inf, vectorized=False
    )
    head = tables["speaker-comparisons"]["head"]
    assert row[head.index("p, swapped")] == pytest.approx(exact.pvalue)
    for row in tables["speaker-mcnemar"]["rows"]:
        if row[0] == "reverse 1 − β 0":
            of_seed = [pair for (seed, _), pair in right.items() if seed == str(row[1])]
            counts = sum(a > b for a, b in of_seed), sum(b > a for a, b in of_seed)
            assert (row[3], row[4]) == counts
            assert row[6] == pytest.approx(scipy_stats.binomtest(counts[0], sum(counts)).pvalue)


def test_holm_covers_the_whole_table(made):
    table = json.loads((made / "out/results.json").read_text())["tables"]["speaker-mcnemar"]
    p, adjusted = zip(*(row[6:8] for row in table["rows"]), strict=True)
    assert len(p) == 10
    order, running = np.argsort(p), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (10 - rank) * p[index]))
        assert adjusted[index] == pytest.approx(running)


def test_the_sentence_on_what_could_be_seen_says_what_the_tables_say(made):
    content = json.loads((made / "out/results.json").read_text())
    message = next(line for line in content["findings"] if line.startswith("Smallest detectable differences"))
    tests = content["tables"]["speaker-mcnemar"]["rows"]
    rows = {r[0]: r for r in content["tables"]["speaker-comparisons"]["rows"] if r[1] == "WA"}
    detectable = content["tables"]["speaker-comparisons"]["head"].index("detectable at 80 %")
    for name in ("reverse 0.1", "reverse 1", "forward 0.1", "forward 1"):
        share = np.mean([(only + other) / 120 for label, _, _, only, other, *_ in tests if label == f"{name} − β 0"])
        found = re.search(rf"{name}: (none|[\d.]+ points) \(([\d.]+) %\)", message)
        least = rows[f"{name} − β 0"][detectable]
        assert found[1] == ("none" if least is None else f"{100 * least:.1f} points")
        assert float(found[2]) == pytest.approx(100 * share, abs=0.051)
    assert "cannot be detected here with reverse 0.1, and cannot be detected here with reverse 1." in message
    assert "α" not in message and "before Holm's correction" in message


def test_characters_that_were_not_trained_are_in_no_number(made):
    content = json.loads((made / "out/results.json").read_text())
    compared = [row[1] for row in content["tables"]["speaker-comparisons"]["rows"] if "α 0" in row[0]]
    assert compared == ["WA", "UA"]
    curves = ((made / f"out/images/speaker-figure-{number}.svg").read_text() for number in (2, 3))
    assert ["α 0" in picture for picture in curves] == [False, True]
    row = next(row for row in Tables(page_of(made)).found["speaker-ablation"][1:] if row[0] == "0")
    assert row[5] == "–" and row[3] != "–" and "0.9981" in row


def test_the_page_is_self_contained(made):
    page = page_of(made)
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert links and all(link.startswith(("data:", "#")) for link in links)
    assert "<script" not in page and "@import" not in page and "url(" not in page
    anchors = re.findall(r'\bid="([^"]*)"', page)
    assert len(anchors) == len(set(anchors))
    assert {link[1:] for link in links if link.startswith("#")} <= set(anchors)
    assert all(re.search(r'alt="[^"]+"', image) for image in re.findall(r"<img[^>]*>", page))


def test_figures_csv_and_markdown_hold_the_same(made):
    out = made / "out"
    text = (out / "RESULTS.md").read_text()
    assert text.startswith("# RESULTS: ") and "- torch version" in text and "- Git hash" in text
    pictures = re.findall(r"!\[[^\]]+\]\(images/([^)]+)\)", text)
    assert len(pictures) == 10 and all((out / "images" / name).stat().st_size > 1000 for name in pictures)
    assert {path.stem for path in (out / "images").glob("*.svg")} == {Path(name).stem for name in pictures}
    page = Tables(page_of(made)).found
    assert {path.stem for path in (out / "tables").glob("*.csv")} == set(page)
    lines = {tuple(cell.strip() for cell in line.strip("|").split("|")) for line in text.splitlines() if "|" in line}
    for name, rows in page.items():
        assert {tuple(row) for row in rows} <= lines
        with open(out / "tables" / f"{name}.csv") as file:
            assert len(list(csv.reader(file))) == len(rows)


def test_probes_stand_with_chance_and_difference_and_the_head_says_when_it_tests_nothing(made):
    tables = Tables(page_of(made)).found
    rows = {(row[0], row[2]): row for row in tables["speaker-speakers"][1:]}
    assert float(rows["reverse 1", "logistic regression"][5].split()[0]) > 0  # made so: more with beta 1
    assert rows["β 0", "logistic regression"][5] == "–" and rows["forward 1", "logistic regression"][3] == "–"
    chance, low, high = map(float, re.findall(r"[\d.]+", rows["β 0", "perceptron"][4]))
    assert low < chance < high and chance == pytest.approx(1 / 3, abs=0.15)
    assert rows["reverse 1", "speaker head"][5] == "not tested"  # made so: a head that guesses
    assert 0 < float(tables["speaker-verification"][1][1]) < 0.5
    page = page_of(made)
    assert "reverse 1 minus β 0: logistic regression +" in page and "The adversary is not tested" in page
    assert "impostors are held-out utterances of training speakers" in page
    assert "hidden" not in page.partition("<body")[2].replace("hidden state", "")


def test_the_same_scores_give_the_same_report(made):
    before = contents(made / "out")
    (made / "out/images/old.png").write_bytes(b"of an earlier report")
    (made / "out/stamp.json").unlink()
    assert run_report(made) == 0
    after = contents(made / "out")
    assert before.keys() == after.keys()
    dated = {"index.html", "RESULTS.md", "results.json", "stamp.json"}
    assert all(before[name] == after[name] for name in before.keys() - dated)


def test_the_report_loads_no_torch_and_no_kaldiio(recipe):
    code = "import sys, sermtl.bin.report; sys.exit('torch' in sys.modules or 'kaldiio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=recipe).returncode == 0


def test_every_wa_ua_and_wer_is_computed_again_from_the_reports_own_score_tables(made):
    compared, wrong, skipped = recompute.compare(made / "out")
    assert wrong == []
    columns = {line.partition(": ")[0]: line.partition(": ")[2].split(", ") for line in skipped}
    assert columns.keys() == {
        *("speaker-table-2", "speaker-table-3", "speaker-ablation", "speaker-settings", "speaker-mcnemar"),
        *("speaker-speakers", "speaker-verification", "speaker-audit", "run-settings", "run-experiments"),
    }
    assert columns["speaker-mcnemar"] == ["seed"] and columns["speaker-settings"] == ["folds"]
    assert columns["run-experiments"] == ["seed", "folds", "epochs", "hours"]
    kinds = {name.removeprefix("speaker-") for name in compared}
    groups = {f"{group}-{rate}" for group in ("fold", "style") for rate in ("wa", "ua", "macro-f1", "wer", "cer")}
    groups |= {f"class-{rate}" for rate in ("wer", "cer", "recall", "f1")}
    groups |= {f"confusion-{number + 1}" for number in range(len(COLUMNS))}
    assert kinds == groups | set(
        "mcnemar table-2 table-3 ablation settings comparisons speakers run-experiments".split()
    )
    assert sum(compared.values()) > 600
    path = sorted((made / "out/scores").glob("*_beta1_*"))[0]
    with changed(path, path.read_text().replace("\tang\tang\t", "\tang\thap\t", 1)):
        assert len(recompute.compare(made / "out")[1]) > 5


def test_the_recomputed_macro_f1_counts_a_class_that_is_only_predicted():
    rows = [{"ref": ref, "hyp": hyp} for ref, hyp in zip("aabb", "acbb", strict=True)]
    expected = f1_score([*"aabb"], [*"acbb"], average="macro", zero_division=0)
    assert recompute.rate("macro F1", rows) == pytest.approx(expected) == pytest.approx(5 / 9)


def test_what_trainings_warned_of_stands_first_and_an_unchanged_report_is_left_alone(tmp_path, capsys):
    data = make_data(tmp_path, 4, 40)
    for number, exp in enumerate(grid(tmp_path, data, 2)):
        text = f"the emotion head stayed at chance: UA 0.2{number} at best, for 4 classes\n"
        (exp / "01F" / "warnings.txt").write_text(text if number else "")
    assert run_report(tmp_path) == 0
    lines = (tmp_path / "out/RESULTS.md").read_text().partition("## Summary")[0].splitlines()
    (message,) = [line for line in lines if "TRAINING" in line]
    assert "the emotion head stayed at chance, in " in message and "/01F (UA 0.21 at best" in message
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    capsys.readouterr()
    assert run_report(tmp_path) == 0
    assert capsys.readouterr().out.startswith("nothing changed: ")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
