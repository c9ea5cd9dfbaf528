"""Stage 6 as its user sees it: the program run on score files, its page and its files read back."""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from make_scores import LABELS, grid, make_data, make_rows, make_scored
from scipy import stats as scipy_stats
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from sermtl.bin import report as program
from sermtl.report import figures

SETTINGS = {"upstream": "small", "alpha": 0.1, "beta": 0.0, "grl": "reverse", "seed": 0, "epochs": 2}
FOLDS = ["01F", "01M", "02F", "02M"]


@pytest.fixture(scope="module", autouse=True)
def no_sync():
    """Many small files: do not wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def no_picture(figure, folder, name):
    """Instead of drawing, which takes most of a report's time."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in ("png", "svg"):
        (folder / f"{name}.{suffix}").write_text("<svg/>")


@pytest.fixture
def report(monkeypatch, capsys):
    """Run the report in a folder; gives (exit status, stdout, stderr)."""

    def run(root: Path, corpus: str = "toy", draw: bool = False):
        if not draw:
            monkeypatch.setattr(figures, "save", no_picture)
        arguments = ["--exp", root / "exp", "--data", root / "data/toy", "--corpus", corpus, "--out", root / "out"]
        monkeypatch.setattr(sys, "argv", ["report", *map(str, arguments)])
        status = program.main()
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The paper's six settings with two seeds, reported once for all tests that only read."""
    root = tmp_path_factory.mktemp("grid")
    data = make_data(root, 4, 120, dev=3)
    grid(root, data, 12, epochs=3, embeddings=True)
    patch = pytest.MonkeyPatch()
    arguments = ["--exp", root / "exp", "--data", data, "--corpus", "toy", "--out", root / "out"]
    patch.setattr(sys, "argv", ["report", *map(str, arguments)])
    assert program.main() == 0
    patch.undo()
    return root


class Tables(HTMLParser):
    """An independent reader of the page's tables: id -> rows of cell texts, the head first."""

    def __init__(self, page: str):
        super().__init__()
        self.found: dict[str, list[list[str]]] = {}
        self.cell: list[str] | None = None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.rows = self.found.setdefault(dict(attributes)["id"], [])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.cell = []

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append("".join(self.cell))
            self.cell = None

    def handle_data(self, data):
        if self.cell is not None:
            self.cell.append(data)


def page_of(root: Path) -> str:
    return (root / "out/index.html").read_text()


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
    for rate in ("wa", "ua", "macro-f1", "wer", "cer"):
        head, *rows = tables[f"speaker-fold-{rate}"]
        assert head == ["fold", "n", "β 0", "reverse 0.1", "reverse 1", "forward 0.1", "forward 1", "β 0, α 0"]
        assert [row[0] for row in rows] == [*FOLDS, "pooled"]
        for row in rows:
            for cell, (grl, beta, alpha) in zip(row[2:], COLUMNS, strict=True):
                lines = outcomes(made, beta, grl, alpha)
                chosen = [line for line in lines if row[0] in (line["fold"], "pooled")]
                assert cell == f"{rates(chosen)[rate]:.3f}"


def test_every_rate_per_class_and_style_is_that_of_the_score_files(made):
    tables = Tables(page_of(made)).found
    style = dict(line.split() for line in (made / "data/toy/utt2style").open())
    for index, (grl, beta, alpha) in enumerate(COLUMNS):
        lines = outcomes(made, beta, grl, alpha)
        for row in tables["speaker-class-recall"][1:]:
            of_class = [line for line in lines if line["ref"] == row[0]]
            assert (
                row[2 + index] == f"{accuracy_score(*zip(*((x['ref'], x['hyp']) for x in of_class), strict=True)):.3f}"
            )
        for rate in ("wa", "wer"):
            for row in tables[f"speaker-style-{rate}"][1:-1]:
                chosen = [line for line in lines if style[line["utt"]] == row[0]]
                assert row[2 + index] == f"{rates(chosen)[rate]:.3f}"
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
        assert row[2].startswith(f"{ours['wa']:.3f} [") and row[4].startswith(f"{ours['ua']:.3f} [")
        assert row[5:] == ["4", "2", "120"]
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
    assert "Speaker accuracy undefined: in 4 of 4 folds" in page_of(made)


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
    assert row[head.index("p, folds swapped")] == pytest.approx(exact.pvalue)
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
    assert len(pictures) == 8 and all((out / "images" / name).stat().st_size > 1000 for name in pictures)
    assert {path.stem for path in (out / "images").glob("*.svg")} == {Path(name).stem for name in pictures}
    page = Tables(page_of(made)).found
    assert {path.stem for path in (out / "tables").glob("*.csv")} == set(page)
    lines = {tuple(cell.strip() for cell in line.strip("|").split("|")) for line in text.splitlines() if "|" in line}
    for name, rows in page.items():
        assert {tuple(row) for row in rows} <= lines
        with open(out / "tables" / f"{name}.csv") as file:
            assert len(list(csv.reader(file))) == len(rows)


def test_probe_and_head_stand_side_by_side(made):
    tables = Tables(page_of(made)).found
    rows = {row[0]: row for row in tables["speaker-speakers"][1:]}
    assert float(rows["reverse 1"][1]) > float(rows["β 0"][1])  # made so: the probe finds more with beta 1
    assert rows["β 0"][3] == "0.333" and rows["β 0"][8] == "–"
    page = page_of(made)
    assert "A probe fitted anew finds the speaker" in page and "easier to find than without" in page
    assert "one unseen test speaker: there is nobody to tell apart" in page


def test_the_same_scores_give_the_same_report(made, report):
    before = {p.name: p.read_bytes() for p in (made / "out").rglob("*") if p.is_file()}
    (made / "out/images/old.png").write_bytes(b"of an earlier report")
    assert report(made, draw=True)[0] == 0
    after = {p.name: p.read_bytes() for p in (made / "out").rglob("*") if p.is_file()}
    assert before.keys() == after.keys()
    dated = {"index.html", "RESULTS.md", "results.json"}
    assert all(before[name] == after[name] for name in before.keys() - dated)


def scored(root, folds=FOLDS, rows=None, **settings):
    """One experiment in ``root/exp``, its tag made of what is unusual."""
    data = root / "data/toy"
    if not data.exists():
        make_data(root, 4, 60)
    tag = "_".join(["toy", *(f"{key}{value}" for key, value in settings.items())])
    made = rows or make_rows(data, 1, 0.7)
    make_scored(data, root / "exp" / tag, SETTINGS | settings, folds, made)
    return root / "exp" / tag


def test_one_experiment_of_one_fold_is_reported_with_what_it_lacks(tmp_path, report):
    scored(tmp_path, folds=["01F"])
    status, output, _ = report(tmp_path)
    assert status == 0
    assert "warning: MISSING: 3 of 4 folds of 1 experiment (speaker) are in none of the numbers: 01M 02F 02M" in output
    page = page_of(tmp_path)
    assert "1 of 4 folds" in page and "FOLDS MISSING" in page and "Nothing can be compared" in page
    cells = Tables(page).found["speaker-table-2"]
    assert cells[1][2] == cells[1][3].split(" [")[0]  # one speaker: no interval by speaker
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
        ["toy", "02F", "stopped in training after 2 epochs"],
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


def test_the_report_loads_no_torch_and_no_kaldiio(recipe):
    code = "import sys, sermtl.bin.report; sys.exit('torch' in sys.modules or 'kaldiio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=recipe).returncode == 0
