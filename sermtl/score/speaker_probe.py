"""Speaker information in the pooled embeddings: a probe, verification, a picture.

The accuracy of the adversarial head proves nothing: it may be at chance because the encoder learned to
mislead that one head. A probe is a new classifier, trained on the frozen embeddings.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_curve
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from sermtl.errors import UserError
from sermtl.fileio.tables import PARTS, known_speakers, read_list, read_own_scp, read_table
from sermtl.score import metrics

FOLDS = 5
PERMUTATIONS = 20
"""Times that the speakers are shuffled to learn what chance is."""


def speaker_probe(
    embeddings: np.ndarray, speakers: Sequence[str], emotions: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """Speaker accuracy of a logistic regression on the embeddings, cross-validated over the utterances.

    Chance is what the same probe reaches when the speakers are shuffled among utterances of equal emotion. The
    share of the most frequent speaker is not used as chance: where the embeddings cluster by emotion, a probe
    without speaker information falls far below it.

    Args:
        embeddings: (N, D) frozen embeddings of utterances that the encoder was not trained on, of
            speakers that it was.
        speakers: N names.
        emotions: N names, empty where there is none.
        seed: Of the split into parts and of the shuffling.

    Returns:
        ``n``, ``correct``, ``acc``, ``speakers``, ``permuted`` (`PERMUTATIONS` times the number correct with
        shuffled speakers), ``chance`` (their mean share), or ``acc`` None with a ``reason``. A speaker with
        one utterance cannot be learned and tested and is left out (``left_out`` counts).
    """
    counts = Counter(speakers)
    kept = np.array([counts[speaker] > 1 for speaker in speakers], dtype=bool)
    names, groups = np.asarray(speakers)[kept], np.asarray(emotions)[kept]
    left_out = int((~kept).sum())
    if len(set(names)) < 2:
        return {"acc": None, "reason": "fewer than two speakers with two held-out utterances each"}
    values = np.asarray(embeddings, dtype=np.float64)[kept]
    correct = _correct(values, names, seed)
    random = np.random.default_rng(seed)
    permuted = [_correct(values, _shuffled(names, groups, random), seed) for _ in range(PERMUTATIONS)]
    return {
        "n": len(names),
        "correct": correct,
        "acc": correct / len(names),
        "speakers": len(set(names)),
        "permuted": permuted,
        "chance": float(np.mean(permuted)) / len(names),
        "left_out": left_out,
    }


def _correct(values: np.ndarray, names: np.ndarray, seed: int) -> int:
    """Number of utterances whose speaker is recognised by a probe that was fitted on the other parts."""
    splits = StratifiedKFold(min(FOLDS, max(Counter(names.tolist()).values())), shuffle=True, random_state=seed)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    # With more threads, four fifths of the time went into waiting.
    with warnings.catch_warnings(), threadpool_limits(1):
        # Of speakers with fewer utterances than there are parts, which are allowed here.
        warnings.filterwarnings("ignore", "The least populated class")
        return int((cross_val_predict(model, values, names, cv=splits) == names).sum())


def _shuffled(names: np.ndarray, groups: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The names, shuffled within each group."""
    shuffled = names.copy()
    for group in np.unique(groups):
        where = np.flatnonzero(groups == group)
        shuffled[where] = names[random.permutation(where)]
    return shuffled


def verification_eer(
    embeddings: np.ndarray, speakers: Sequence[str], held_out: np.ndarray | None = None
) -> dict[str, Any]:
    """Equal error rate of speaker verification by the cosine of two utterances' embeddings.

    Args:
        embeddings: (N, D) of speakers that the encoder was not trained on, all from one encoder.
        speakers: N names.
        held_out: (M, D) held-out utterances of training speakers, from the same encoder: where there is only
            one unseen speaker, the pairs of different speakers are its utterances with these.

    Returns:
        ``eer``, ``same`` and ``different`` (pairs), ``speakers``, ``against`` (``unseen`` or ``held_out``);
        or ``eer`` None and a ``reason``.
    """
    names = np.asarray(speakers)
    alone = len(set(speakers)) < 2
    if alone and (held_out is None or not len(held_out)):
        return {"eer": None, "reason": "one unseen test speaker and no held-out utterances: no impostors"}
    values = normalize(np.asarray(embeddings, dtype=np.float64))
    first, second = np.triu_indices(len(values), 1)
    same = names[first] == names[second]
    if not same.any():
        return {"eer": None, "reason": "no speaker has two utterances"}
    cosines = (values @ values.T)[first, second]
    impostors = cosines[~same]
    if alone and held_out is not None:
        impostors = (values @ normalize(np.asarray(held_out, dtype=np.float64)).T).ravel()
    return {
        "eer": equal_error_rate(cosines[same], impostors),
        "same": int(same.sum()),
        "different": len(impostors),
        "speakers": len(set(speakers)),
        "against": "held_out" if alone else "unseen",
    }


def equal_error_rate(targets: np.ndarray, impostors: np.ndarray) -> float:
    """Where misses and false alarms are equally frequent, interpolated between thresholds.

    Args:
        targets: (P,) scores of pairs that belong together (higher is more alike), P > 0.
        impostors: (Q,) scores of pairs that do not, Q > 0.
    """
    same = np.repeat([1, 0], [len(targets), len(impostors)])
    alarm, hit, _ = roc_curve(same, np.concatenate([targets, impostors]), drop_intermediate=False)
    return float(np.interp(0.0, alarm + hit - 1, alarm))


def principal_plane(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two directions of largest variance.

    Args:
        embeddings: (N, D), N and D at least 2.

    Returns:
        (N, 2) coordinates and (2,) shares of the variance (0 where there is none). Each axis points where its
        largest loading is positive, so that the picture does not flip between runs.
    """
    plane = PCA(2, svd_solver="full")
    with np.errstate(invalid="ignore"):
        return plane.fit_transform(embeddings), np.nan_to_num(plane.explained_variance_ratio_)


NO_HELD_OUT = "no held-out utterances of training speakers: make folds with --dev_ratio 0.1, train and decode again"


def probe_fold(exp: Path, data: Path, fold_dir: Path, read: Callable[[str], np.ndarray]) -> dict[str, Any]:
    """Measure the speaker information in a fold's embeddings.

    Utterances of unknown speakers are left out. The probe takes the dev utterances, or, where there are none, the test
    utterances whose speakers are in the training list; the speaker head is judged on the same utterances. Verification
    takes the test utterances of the other speakers, and where that is one, the dev utterances for its impostors.

    Args:
        exp: ``exp/<tag>/<fold>`` with ``decode_test`` and, where the fold has one, ``decode_dev``.
        data: Data directory, for the real speakers and, where it names them, emotions.
        fold_dir: The fold's lists.
        read: Gives the vector at a location of ``emb.scp``.

    Returns:
        ``probe`` (see `speaker_probe`), ``head`` (see `metrics.speaker_scores`), ``utterances``
        (``dev`` or ``test``), ``training_speakers`` (their number), ``verification`` (see `verification_eer`).

    Raises:
        UserError: A table or an embedding is missing or broken.
    """
    utt2spk = read_table(data / "utt2spk")
    known = known_speakers(utt2spk)
    speakers = {utt: speaker for utt, speaker in utt2spk.items() if speaker in known}
    emotions = read_table(data / "utt2emo") if (data / "utt2emo").exists() else {}
    lists = {part: [utt for utt in read_list(fold_dir / part) if utt in speakers] for part in PARTS}
    trained, test = {speakers[utt] for utt in lists["train"]}, lists["test"]
    part, held_out = "dev", lists["dev"] if (exp / "decode_dev" / "emb.scp").exists() else []
    if not held_out:
        part, held_out = "test", [utt for utt in test if speakers[utt] in trained]
    result: dict[str, Any] = {"utterances": part, "training_speakers": len(trained)}
    names = [speakers[utt] for utt in held_out]
    impostors = None
    if held_out:
        hypotheses = read_table(exp / f"decode_{part}" / "utt2spk")
        vectors = embeddings(exp / f"decode_{part}", held_out, read)
        result["probe"] = speaker_probe(vectors, names, [emotions.get(utt, "") for utt in held_out])
        impostors = vectors if part == "dev" else None
        result["head"] = metrics.speaker_scores(names, [hypotheses.get(utt, "") for utt in held_out], trained)
    else:
        result["probe"] = result["head"] = {"acc": None, "reason": NO_HELD_OUT}
    unseen = [utt for utt in test if speakers[utt] not in trained]
    result["verification"] = {"eer": None, "reason": "every test speaker was trained on"}
    if unseen:
        vectors = embeddings(exp / "decode_test", unseen, read)
        result["verification"] = verification_eer(vectors, [speakers[utt] for utt in unseen], impostors)
    return result


def embeddings(decoded: Path, utts: Sequence[str], read: Callable[[str], np.ndarray]) -> np.ndarray:
    """(N, D) float64 pooled embeddings of some decoded utterances; ``read`` gives the vector at a location.

    Raises:
        UserError: ``emb.scp`` lacks one of them.
    """
    table = read_own_scp(decoded / "emb.scp")
    if missing := [utt for utt in utts if utt not in table]:
        raise UserError(f"{decoded / 'emb.scp'} lacks {len(missing)} utterances: {metrics.first(missing)}")
    return np.stack([np.asarray(read(table[utt]), dtype=np.float64).reshape(-1) for utt in utts])
