"""What the pooled embeddings still tell about the speaker: a fresh probe, verification, a picture.

The adversarial head's own accuracy proves nothing: it may sit at chance because the encoder learned to
mislead that one head. A probe fitted anew on the frozen embeddings has not been misled.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from sermtl.errors import UserError
from sermtl.fileio.tables import read_list, read_own_scp, read_table
from sermtl.score import metrics

FOLDS = 5
PERMUTATIONS = 20
"""Times that the speakers are shuffled to learn what chance is."""


def stack_embeddings(table: Mapping[str, str], read: Callable[[str], np.ndarray], utts: Sequence[str]) -> np.ndarray:
    """Read the embeddings of some utterances.

    Args:
        table: Utterance -> location, as in ``emb.scp``.
        read: Gives the vector at a location.
        utts: N utterances.

    Returns:
        (N, D) float64.
    """
    return np.stack([np.asarray(read(table[utt]), dtype=np.float64).reshape(-1) for utt in utts])


def speaker_probe(
    embeddings: np.ndarray, speakers: Sequence[str], emotions: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """Speaker accuracy of a logistic regression fitted anew, cross-validated over the utterances.

    Chance is what the same probe reaches when the speakers are shuffled among utterances of equal emotion. The
    share of the most frequent speaker is no such level: where the embeddings cluster by emotion, a probe with
    nothing to find lands far below it.

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
    """Utterances whose speaker a probe finds that was fitted on the other parts."""
    splits = StratifiedKFold(min(FOLDS, max(Counter(names.tolist()).values())), shuffle=True, random_state=seed)
    correct = 0
    with (
        warnings.catch_warnings(),
        threadpool_limits(1),
    ):  # threads that wait for each other took four fifths of the time
        # Some speakers may have fewer utterances than there are parts; each of theirs is still in another one.
        warnings.filterwarnings("ignore", "The least populated class")
        for fit, held in splits.split(values, names):
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
            correct += int((model.fit(values[fit], names[fit]).predict(values[held]) == names[held]).sum())
    return correct


def _shuffled(names: np.ndarray, groups: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The names, shuffled within each group."""
    shuffled = names.copy()
    for group in np.unique(groups):
        where = np.flatnonzero(groups == group)
        shuffled[where] = names[random.permutation(where)]
    return shuffled


def verification_eer(
    embeddings: np.ndarray, speakers: Sequence[str], strangers: np.ndarray | None = None
) -> dict[str, Any]:
    """Equal error rate of telling same from different speakers by the cosine of two utterances.

    Args:
        embeddings: (N, D) of speakers that the encoder never met, all from one encoder.
        speakers: N names.
        strangers: (M, D) held-out utterances of training speakers, from the same encoder: where there is only
            one unseen speaker, the pairs of different speakers are its utterances with these.

    Returns:
        ``eer``, ``same`` and ``different`` (pairs), ``speakers``, ``against`` (``unseen`` or ``held_out``);
        or ``eer`` None and a ``reason``.
    """
    names = np.asarray(speakers)
    alone = len(set(speakers)) < 2
    if alone and (strangers is None or not len(strangers)):
        return {"eer": None, "reason": "one unseen test speaker and no held-out utterances: nobody to tell apart"}
    values = _unit(embeddings)
    first, second = np.triu_indices(len(values), 1)
    same = names[first] == names[second]
    if not same.any():
        return {"eer": None, "reason": "no speaker has two utterances"}
    cosines = (values @ values.T)[first, second]
    impostors = cosines[~same]
    if alone and strangers is not None:
        impostors = (values @ _unit(strangers).T).ravel()
    return {
        "eer": equal_error_rate(cosines[same], impostors),
        "same": int(same.sum()),
        "different": len(impostors),
        "speakers": len(set(speakers)),
        "against": "held_out" if alone else "unseen",
    }


def _unit(embeddings: np.ndarray) -> np.ndarray:
    values = np.asarray(embeddings, dtype=np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.maximum(lengths, np.finfo(float).tiny)


def equal_error_rate(targets: np.ndarray, impostors: np.ndarray) -> float:
    """Where misses and false alarms are equally frequent, interpolated between thresholds.

    Args:
        targets: (P,) scores of pairs that belong together (higher is more alike), P > 0.
        impostors: (Q,) scores of pairs that do not, Q > 0.
    """
    thresholds = np.unique(np.concatenate([targets, impostors]))
    miss = np.searchsorted(np.sort(targets), thresholds, side="left") / len(targets)
    alarm = 1 - np.searchsorted(np.sort(impostors), thresholds, side="left") / len(impostors)
    miss, alarm = np.append(miss, 1.0), np.append(alarm, 0.0)
    after = int(np.argmax(miss >= alarm))  # never the first: nothing is missed there
    before = after - 1
    gap_before, gap_after = alarm[before] - miss[before], miss[after] - alarm[after]
    share = gap_before / (gap_before + gap_after)
    return float(miss[before] + share * (miss[after] - miss[before]))


def principal_plane(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two directions of largest variance.

    Args:
        embeddings: (N, D).

    Returns:
        (N, 2) coordinates and (2,) shares of the variance. Each axis points where its largest loading is
        positive, so that the picture does not flip between runs.
    """
    values = np.asarray(embeddings, dtype=np.float64)
    centred = values - values.mean(axis=0)
    _, lengths, axes = np.linalg.svd(centred, full_matrices=False)
    axes, lengths = axes[:2], lengths**2 / max(float((lengths**2).sum()), np.finfo(float).tiny)
    if len(axes) < 2:
        axes = np.vstack([axes, np.zeros((2 - len(axes), axes.shape[1]))])
    signs = np.sign(axes[np.arange(2), np.abs(axes).argmax(axis=1)])
    return centred @ (axes * np.where(signs == 0, 1, signs)[:, None]).T, np.append(lengths, 0.0)[:2]


NO_HELD_OUT = "no held-out utterances of training speakers: make folds with --dev_ratio 0.1, train and decode again"


def probe_fold(exp: Path, data: Path, fold_dir: Path, read: Callable[[str], np.ndarray]) -> dict[str, Any]:
    """What a fold's embeddings tell about the speaker.

    The probe takes the dev utterances, or, where there are none, the test utterances whose speakers are in
    the training list; the speaker head is judged on the same utterances. Verification takes the test
    utterances of the other speakers, and where that is one, the dev utterances for its impostors.

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
    speakers = read_table(data / "utt2spk")
    emotions = read_table(data / "utt2emo") if (data / "utt2emo").exists() else {}
    trained = {speakers[utt] for utt in read_list(fold_dir / "train")}
    test = read_list(fold_dir / "test")
    part, held_out = "dev", read_list(fold_dir / "dev") if (exp / "decode_dev" / "emb.scp").exists() else []
    if not held_out:
        part, held_out = "test", [utt for utt in test if speakers[utt] in trained]
    result: dict[str, Any] = {"utterances": part, "training_speakers": len(trained)}
    names = [speakers[utt] for utt in held_out]
    strangers = None
    if held_out:
        hypotheses = read_table(exp / f"decode_{part}" / "utt2spk")
        vectors = embeddings(exp / f"decode_{part}", held_out, read)
        result["probe"] = speaker_probe(vectors, names, [emotions.get(utt, "") for utt in held_out])
        strangers = vectors if part == "dev" else None
        result["head"] = metrics.speaker_scores(names, [hypotheses.get(utt, "") for utt in held_out], trained)
    else:
        result["probe"] = result["head"] = {"acc": None, "reason": NO_HELD_OUT}
    unseen = [utt for utt in test if speakers[utt] not in trained]
    result["verification"] = {"eer": None, "reason": "every test speaker was trained on"}
    if unseen:
        vectors = embeddings(exp / "decode_test", unseen, read)
        result["verification"] = verification_eer(vectors, [speakers[utt] for utt in unseen], strangers)
    return result


def embeddings(decoded: Path, utts: Sequence[str], read: Callable[[str], np.ndarray]) -> np.ndarray:
    """(N, D) pooled embeddings of some decoded utterances.

    Raises:
        UserError: ``emb.scp`` lacks one of them.
    """
    table = read_own_scp(decoded / "emb.scp")
    if missing := [utt for utt in utts if utt not in table]:
        raise UserError(f"{decoded / 'emb.scp'} lacks {len(missing)} utterances: {metrics.first(missing)}")
    return stack_embeddings(table, read, utts)
