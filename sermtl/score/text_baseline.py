"""What the words alone give away: emotion from a bag of words of the reference transcripts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from sermtl.fileio.files import load_json, write_json
from sermtl.fileio.tables import read_list, read_table
from sermtl.score.metrics import separated

VERSION = 1
"""Raised when the same lists would give another accuracy."""


@threadpool_limits.wrap(limits=1)
def words_alone(data: Path, protocol: str, kept_in: Path) -> float | None:
    """WA over the folds' test lists of a logistic regression on counts of words, trained on their train and dev.

    It is kept in ``kept_in/words_alone_<protocol>.json``. None where fewer than half of the labelled utterances have a
    transcript, or where a fold trains a single class.
    """
    root, texts = data / "folds" / protocol, read_table(data / "text")
    emotions = {utt: emotion for utt, emotion in read_table(data / "utt2emo").items() if emotion}
    lists = [[read_list(root / fold / part) for part in ("train", "dev", "test")] for fold in read_list(root / "folds")]
    lists = [[[utt for utt in part if utt in emotions] for part in fold] for fold in lists]
    made_from = hashlib.sha256(f"{VERSION} {lists} {texts} {emotions}".encode()).hexdigest()
    file = kept_in / f"words_alone_{protocol}.json"
    if file.is_file() and (kept := load_json(file)).get("made_from") == made_from:
        return kept["wa"]
    right: list[bool] = []
    spoken = sum(bool(texts.get(utt)) for utt in emotions) > len(emotions) / 2
    for train, dev, test in lists if spoken else ():
        fitted = train + dev
        if len({emotions[utt] for utt in fitted}) < 2:
            return None
        model = make_pipeline(CountVectorizer(analyzer=str.split), LogisticRegression(max_iter=1000))
        model.fit([separated(texts.get(utt, "")) for utt in fitted], [emotions[utt] for utt in fitted])
        guesses = model.predict([separated(texts.get(utt, "")) for utt in test]) if test else []
        right += [emotions[utt] == guess for utt, guess in zip(test, guesses, strict=True)]
    share = float(np.mean(right)) if right else None
    write_json(file, {"made_from": made_from, "wa": share})
    return share
