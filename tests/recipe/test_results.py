"""Results that are kept in docs/results: whole, without the corpus's words, and recomputable."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from tests import recompute

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "local"))
from prepare_emodb import SENTENCES  # noqa: E402

KEPT = sorted(path.parent for path in (ROOT / "docs" / "results").glob("*/results.json"))
EMODB = ROOT / "docs" / "results" / "emodb"


@pytest.mark.skipif(not KEPT, reason="docs/results holds no results yet")
def test_every_cell_is_computed_again_from_the_kept_score_tables() -> None:
    for folder in KEPT:
        compared, wrong, _ = recompute.compare(folder)
        assert wrong == [] and sum(compared.values()) > 100
        text = (folder / "RESULTS.md").read_text(encoding="utf-8")
        pictures = {line.split("](")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")}
        assert pictures and all((folder / picture).is_file() for picture in pictures)


@pytest.mark.skipif(EMODB not in KEPT, reason="docs/results holds no results on EMO-DB yet")
def test_labels_and_word_counts_are_those_of_the_file_names() -> None:
    letters = {"W": "anger", "F": "happiness", "N": "neutral", "T": "sadness"}
    for path in (EMODB / "scores").glob("*.tsv"):
        with open(path, encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        assert len({row["utt"] for row in rows}) == len(rows) == 339
        for row in rows:
            name = row["utt"].rpartition("-")[2]
            # Without the CTC loss (alpha 0) no characters are learned, and no words counted.
            words = 0 if "_alpha0_" in path.stem else len(SENTENCES[name[2:5]].split())
            assert (row["spk"], row["ref"], int(row["words"])) == (name[:2], letters[name[5]], words)
