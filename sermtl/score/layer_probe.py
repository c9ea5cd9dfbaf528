"""Where in a frozen encoder things are: emotion and speaker, read off each hidden state by plain linear probes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import PredefinedSplit, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from sermtl.fileio.files import load_json, sha256, write_json
from sermtl.fileio.tables import read_list, read_table

PARTS = 5
"""Into which utterances are split to find speakers."""


def layer_probe(vectors_UnP: np.ndarray, classes: Sequence[str], groups: np.ndarray | None) -> list[float]:
    """Accuracy at each of n states of a linear support vector machine (C .01) on standardised vectors.

    Args:
        vectors_UnP: Pooled states of U utterances.
        classes: U names to find.
        groups: Number (U,) of the part in which an utterance is tested; None: `PARTS` parts, stratified by class.
    """
    model = make_pipeline(StandardScaler(), LinearSVC(C=0.01, dual="auto", random_state=0))
    parts = StratifiedKFold(PARTS, shuffle=True, random_state=0) if groups is None else PredefinedSplit(groups)
    names = np.asarray(classes)
    with threadpool_limits(1):
        return [
            float((cross_val_predict(model, state_UP, names, cv=parts) == names).mean())
            for state_UP in vectors_UnP.swapaxes(0, 1).astype(np.float64)
        ]


def layers_of(dump: Path, data: Path, protocol: str, read: Callable[[str], np.ndarray]) -> Mapping[str, Any]:
    """``layers_<protocol>.json`` of a dump of pooled states, computed where it is not there.

    Returns:
        ``emotion``: WA at each state, each fold's test list held out; ``speaker``: accuracy at each state,
        cross-validated over utterances of all speakers with at least `PARTS`; ``utterances`` and ``speakers``.
    """
    file = dump / f"layers_{protocol}.json"
    emotions, speakers, scp = (
        read_table(data / "utt2emo"),
        read_table(data / "utt2spk"),
        read_table(dump / "feats.scp"),
    )
    folds = data / "folds" / protocol
    tested = {utt: n for n, fold in enumerate(read_list(folds / "folds")) for utt in read_list(folds / fold / "test")}
    made_from = f"{sha256(dump / 'utt2digest')} {hashlib.sha256(repr(tested).encode()).hexdigest()}"
    if file.is_file() and (known := load_json(file)).get("made_from") == made_from:
        return known
    labelled = [utt for utt in scp if emotions.get(utt) and utt in tested]
    counts: dict[str, int] = {}
    for utt in scp:
        counts[speakers[utt]] = counts.get(speakers[utt], 0) + 1
    known_speakers = [utt for utt in scp if counts[speakers[utt]] >= PARTS]
    vectors = {utt: read(entry) for utt, entry in scp.items()}

    def stacked(utterances: list[str]) -> np.ndarray:
        return np.stack([vectors[utt] for utt in utterances])

    found = {
        "made_from": made_from,
        "emotion": layer_probe(
            stacked(labelled), [emotions[utt] for utt in labelled], np.array([tested[utt] for utt in labelled])
        ),
        "speaker": layer_probe(stacked(known_speakers), [speakers[utt] for utt in known_speakers], None),
        "utterances": len(labelled),
        "speakers": len({speakers[utt] for utt in known_speakers}),
    }
    write_json(file, found)
    return found
