"""run.sh started as a user does, and its scores computed again."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import jiwer
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score

from sermtl.fileio.tables import read_list, read_table


def run(recipe: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [recipe / "run.sh", *words], capture_output=True, text=True, timeout=1800, env={**os.environ, "LC_ALL": "C"}
    )


def folders(place: Path) -> list[str]:
    return [word for name in ("data", "dump", "exp") for word in (f"--{name}dir", str(place / name))]


def experiments(work: Path) -> list[Path]:
    return sorted(path.parent for path in (work / "exp").glob("*/labels.txt"))


def check_scores(exp: Path, folds_dir: Path, folds: list[str]) -> None:
    """Recompute the pooled scores from the tables, by scikit-learn and jiwer."""
    data = folds_dir.parents[1]
    scores = json.loads((exp / "scores.json").read_text())
    truth, texts = read_table(data / "utt2emo"), read_table(data / "text")
    emotion, words = {}, {}
    for fold in folds:
        emotion |= read_table(exp / fold / "decode_test" / "utt2emo")
        words |= read_table(exp / fold / "decode_test" / "text")
        tested = read_list(folds_dir / fold / "test")
        assert set(tested) <= emotion.keys()
    references, hypotheses = [truth[utt] for utt in emotion], list(emotion.values())
    labels = read_list(exp / "labels.txt")
    assert scores["ser"]["n"] == len(emotion)
    assert scores["ser"]["wa"] == accuracy_score(references, hypotheses)
    assert scores["ser"]["ua"] == pytest.approx(recall_score(references, hypotheses, average="macro"), abs=1e-15)
    assert scores["ser"]["confusion"] == confusion_matrix(references, hypotheses, labels=labels).tolist()
    spoken = [utt for utt in words if texts[utt]]
    output = jiwer.process_words([texts[utt] for utt in spoken], [words[utt] for utt in spoken])
    assert scores["asr"]["wer"] == output.wer
    assert scores["asr"]["errors"] == output.substitutions + output.deletions + output.insertions
    assert scores["spk"]["acc"] is None and scores["spk"]["reason"]
