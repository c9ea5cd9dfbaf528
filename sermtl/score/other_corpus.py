"""The models of all folds on all of another corpus: mean and spread of their scores, and their averaged posteriors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sermtl.fileio.tables import read_table
from sermtl.score import metrics
from sermtl.score.score_folds import means


def pool_models(exp: Path, data: Path, parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What ``exp/<tag>/scores_<corpus>.json`` holds, of a corpus whose name ``data`` has.

    ``parts`` are the scores of each fold's model. ``averaged`` has the emotion scores of the averaged posteriors.
    """
    posteriors: dict[str, Any] = {}
    for fold in parts:
        for utt, row in read_table(exp / fold / f"decode_{data.name}" / "emo_post").items():
            posteriors[utt] = posteriors.get(utt, 0) + np.array(row.split(), float)
    labels = next(iter(parts.values()))["ser"]["labels"]
    emotions = {utt: emotion for utt, emotion in read_table(data / "utt2emo").items() if emotion}
    guesses = [labels[posteriors[utt].argmax()] for utt in emotions]
    averaged = metrics.emotion_scores(metrics.confusion_matrix([*emotions.values()], guesses, labels), labels)
    spread = means(list(parts.values()))
    return {"corpus": data.name, "averaged": averaged, "mean_over_folds": spread, "per_fold": dict(parts)}
