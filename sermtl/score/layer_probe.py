"""Where in a frozen encoder things are: emotion and speaker, read off each hidden state by plain linear probes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from sermtl.fileio.files import load_json, sha256, write_json
from sermtl.fileio.tables import read_list, read_table

PARTS = 5
"""Into which utterances are split to find speakers."""


def layer_probe(vectors_UnP: np.ndarray, classes: Sequence[str], folds: Iterable[Sequence[np.ndarray]]) -> list[float]:
    """Accuracy at each of n states of a linear support vector machine (C .01) on standardised vectors.

    Args:
        vectors_UnP: Pooled states of U utterances.
        classes: U names to find.
        folds: Numbers of the utterances that train and that test, of each fold.
    """
    names, hits_n, tested = np.asarray(classes), np.zeros(vectors_UnP.shape[1]), 0
    for train, test in folds:
        tested += len(test)
        for state, vectors_UP in enumerate(vectors_UnP.swapaxes(0, 1).astype(np.float64)):
            model = make_pipeline(StandardScaler(), LinearSVC(C=0.01, dual="auto", random_state=0))
            with threadpool_limits(1):
                hits_n[state] += (
                    model.fit(vectors_UP[train], names[train]).predict(vectors_UP[test]) == names[test]
                ).sum()
    return (hits_n / tested).tolist()


def layers_of(dump: Path, data: Path, protocol: str, read: Callable[[str], np.ndarray]) -> Mapping[str, Any]:
    """``layers_<protocol>.json`` of a dump of pooled states, computed where it is not there.

    Returns:
        ``emotion``: WA at each state, over the folds' test lists, trained on their train and dev; ``speaker``: accuracy
        at each state, cross-validated over utterances of all speakers with at least `PARTS` (empty where there are not
        two); ``utterances`` and ``speakers``.
    """
    file = dump / f"layers_{protocol}.json"
    emotions, speakers, scp = map(read_table, (data / "utt2emo", data / "utt2spk", dump / "feats.scp"))
    root = data / "folds" / protocol
    lists = [
        [sorted(u for part in parts for u in read_list(root / fold / part)) for parts in (("train", "dev"), ("test",))]
        for fold in read_list(root / "folds")
    ]
    made_from = f"{sha256(dump / 'utt2digest')} {hashlib.sha256(repr(lists).encode()).hexdigest()}"
    if file.is_file() and (kept := load_json(file)).get("made_from") == made_from:
        return kept
    labelled = [utt for utt in scp if emotions.get(utt)]
    row = {utt: number for number, utt in enumerate(labelled)}
    rows = [[np.array([row[utt] for utt in part if utt in row], int) for part in fold] for fold in lists]
    counts = Counter(speakers[utt] for utt in scp)
    known = [utt for utt in scp if counts[speakers[utt]] >= PARTS]
    names = [speakers[utt] for utt in known]
    vectors = {utt: read(entry) for utt, entry in scp.items()}
    of_speakers: list[float] = []
    if len(set(names)) > 1:
        parts = StratifiedKFold(PARTS, shuffle=True, random_state=0).split(names, names)
        of_speakers = layer_probe(np.stack([vectors[utt] for utt in known]), names, parts)
    found = {
        "made_from": made_from,
        "emotion": layer_probe(np.stack([vectors[u] for u in labelled]), [emotions[u] for u in labelled], rows),
        "speaker": of_speakers,
        "utterances": sum(utt in row for _, test in lists for utt in test),
        "speakers": len(set(names)),
    }
    write_json(file, found)
    return found
