"""Plain linear models beside the trained ones: of the words alone, and of each hidden state of a frozen encoder."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed  # type: ignore[import-untyped]
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from sermtl.fileio.ark import read_matrix
from sermtl.fileio.files import load_json, sha256, write_json
from sermtl.fileio.tables import PARTS, read_list, read_table
from sermtl.score.metrics import separated
from sermtl.score.speaker_probe import recognised

VERSION = 2
"""Raised when the same lists would give another accuracy."""
ERASING = (1, 2, 5, 10, 20)
"""Utterances of each speaker that fit an eraser."""
SPLITS = 5
"""Into which utterances are split to find speakers."""


def kept(file: Path, made_from: str, compute: Callable[[], dict[str, Any]]) -> Mapping[str, Any]:
    """A file's content, computed where it is not there or was made from something else."""
    if file.is_file() and (found := load_json(file)).get("made_from") == made_from:
        return found
    found = {"made_from": made_from, **compute()}
    write_json(file, found)
    return found


def fold_lists(data: Path, protocol: str) -> list[list[list[str]]]:
    """The train, dev and test lists of each fold."""
    root = data / "folds" / protocol
    return [[read_list(root / fold / part) for part in PARTS] for fold in read_list(root / "folds")]


def words_alone(data: Path, protocol: str, kept_in: Path) -> float | None:
    """WA over the folds' test lists of a logistic regression on counts of words, trained on their train and dev.

    It is kept in ``kept_in/words_alone_<protocol>.json``. None where fewer than half of the labelled utterances have a
    transcript, or where a fold trains a single class.
    """
    texts = read_table(data / "text")
    emotions = {utt: emotion for utt, emotion in read_table(data / "utt2emo").items() if emotion}
    lists = [[[utt for utt in part if utt in emotions] for part in fold] for fold in fold_lists(data, protocol)]

    @threadpool_limits.wrap(limits=1)
    def compute() -> dict[str, Any]:
        right: list[bool] = []
        spoken = sum(bool(texts.get(utt)) for utt in emotions) > len(emotions) / 2
        for train, dev, test in lists if spoken else ():
            fitted = train + dev
            if len({emotions[utt] for utt in fitted}) < 2:
                return {"wa": None}
            model = make_pipeline(CountVectorizer(analyzer=str.split), LogisticRegression(max_iter=1000))
            model.fit([separated(texts.get(utt, "")) for utt in fitted], [emotions[utt] for utt in fitted])
            guesses = model.predict([separated(texts.get(utt, "")) for utt in test]) if test else []
            right += [emotions[utt] == guess for utt, guess in zip(test, guesses, strict=True)]
        return {"wa": float(np.mean(right)) if right else None}

    made_from = hashlib.sha256(f"{VERSION} {lists} {texts} {emotions}".encode()).hexdigest()
    return kept(kept_in / f"words_alone_{protocol}.json", made_from, compute)["wa"]


@threadpool_limits.wrap(limits=1)
def layer_probe(vectors_UnP: np.ndarray, classes: Sequence[str], folds: Iterable[Sequence[np.ndarray]]) -> list[float]:
    """Accuracy at each of n states of ridge regression to U ``classes``; ``folds``: rows that train, rows that test.

    The rows that train standardise each dimension; the penalty is 100. Where they have one class, it is guessed.
    """
    names, parts = np.asarray(classes), list(folds)

    def accuracy(vectors_UP: np.ndarray) -> float:
        right: list[bool] = []
        for train, test in parts:
            model = make_pipeline(StandardScaler(), RidgeClassifier(100.0)).fit(vectors_UP[train], names[train])
            right += (model.predict(vectors_UP[test]) == names[test]).tolist() if len(test) else []
        return float(np.mean(right))

    return Parallel(n_jobs=-1, prefer="threads")(map(delayed(accuracy), vectors_UnP.swapaxes(0, 1)))


@threadpool_limits.wrap(limits=1)
def erasing_curve(
    train_ND: np.ndarray,
    speakers: Sequence[str],
    dev_MD: np.ndarray,
    tested: Sequence[str],
    erase: Callable[[np.ndarray, list[str], np.ndarray], np.ndarray],
) -> dict[str, str]:
    """Hits of linear speaker probes on dev, by how many utterances of each training speaker fitted an eraser.

    ``erase`` gives (M, D) vectors without what a linear map, fitted to vectors of named speakers, finds of these.
    ``tested`` are dev's M speakers; the hits are M digits, see `speaker_probe.recognised`.
    """
    order: list[int] = np.random.default_rng(0).permutation(len(speakers)).tolist()
    counts = defaultdict[str, Iterator[int]](count)
    place = np.zeros(len(speakers), int)  # of an utterance among its speaker's, in this order
    place[order] = [next(counts[speakers[row]]) for row in order]
    found = {}
    for most in (0, *ERASING, len(speakers)):
        rows = np.flatnonzero(place < most).tolist()
        vectors_MD = erase(train_ND[rows], [speakers[row] for row in rows], dev_MD) if most else dev_MD
        key = "all" if most == len(speakers) else str(most)
        found[key] = recognised(vectors_MD, tested, 0, True, ("linear",))["linear"]
    return found


def layers_of(dump: Path, data: Path, protocol: str) -> Mapping[str, Any]:
    """``layers_<protocol>.json`` of a dump of pooled states, computed where it is not there.

    Returns:
        ``emotion``: WA at each state, over the folds' test lists, trained on their train and dev; ``speaker``: accuracy
        at each state, cross-validated over utterances of all speakers with at least `SPLITS` (empty where there are not
        two); ``utterances`` and ``speakers``.
    """
    scp = read_table(dump / "feats.scp")
    emotions, speakers = read_table(data / "utt2emo"), read_table(data / "utt2spk")
    lists = [(sorted(train + dev), test) for train, dev, test in fold_lists(data, protocol)]

    def compute() -> dict[str, Any]:
        vectors = {utt: read_matrix(entry) for utt, entry in scp.items()}
        labelled = [utt for utt in scp if emotions.get(utt)]
        row = {utt: number for number, utt in enumerate(labelled)}
        rows = [[np.array([row[utt] for utt in part if utt in row], int) for part in fold] for fold in lists]
        counts = Counter(speakers[utt] for utt in scp)
        known = [utt for utt in scp if counts[speakers[utt]] >= SPLITS]
        names = [speakers[utt] for utt in known]
        of_speakers: list[float] = []
        if len(set(names)) > 1:
            parts = StratifiedKFold(SPLITS, shuffle=True, random_state=0).split(names, names)
            of_speakers = layer_probe(np.stack([vectors[utt] for utt in known]), names, parts)
        return {
            "emotion": layer_probe(np.stack([vectors[u] for u in labelled]), [emotions[u] for u in labelled], rows),
            "speaker": of_speakers,
            "utterances": sum(len(test) for _, test in rows),
            "speakers": len(set(names)),
        }

    tables = hashlib.sha256(f"{VERSION} {lists} {emotions} {speakers}".encode()).hexdigest()
    made_from = f"{sha256(dump / 'utt2digest')} {tables}"
    return kept(dump / f"layers_{protocol}.json", made_from, compute)
