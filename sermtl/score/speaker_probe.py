"""Speaker information in embeddings: probes, verification, a picture.

A probe is a new classifier of speakers, fitted and tested on embeddings of utterances that fitted neither the encoder
nor statistics. The accuracy of the model's own speaker head proves neither presence nor absence of the speaker.
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import roc_curve
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler, normalize
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from sermtl.config import read_yaml
from sermtl.errors import UserError
from sermtl.fileio.ark import read_matrix
from sermtl.fileio.tables import PARTS, known_speakers, read_list, read_own_scp, read_table
from sermtl.score import metrics
from sermtl.seeding import derive_seed, halves

SPLITS = 3
"""Splits of the utterances into `GROUPS` parts; each part is tested by probes that were fitted to the others."""
GROUPS = 3
SHUFFLES = 20
"""Times that the speakers are shuffled to learn what chance is."""
MOST = 2000
"""Utterances of a fold that are probed, so that large corpora take minutes."""
KINDS = ("linear", "nearest", "mlp")


def probes(seed: int, chance: bool = False) -> dict[str, ClassifierMixin]:
    """Logistic regression, nearest neighbour and multilayer perceptron, by the names in `KINDS`.

    The penalty of the logistic regression is chosen by cross-validation within what it is fitted to; for ``chance``,
    where no penalty is better than another, it is fixed.
    """
    inner = KFold(2, shuffle=True, random_state=seed)
    path = LogisticRegressionCV(Cs=10.0 ** np.arange(-2, 2), cv=inner, scoring="accuracy", tol=1e-3, max_iter=2000)
    return {
        "linear": LogisticRegression(tol=1e-3, max_iter=2000) if chance else path,
        "nearest": KNeighborsClassifier(1),
        "mlp": MLPClassifier(16, solver="lbfgs", alpha=1.0, max_iter=30, random_state=seed),
    }


def speaker_probe(
    utts: Sequence[str], embeddings: np.ndarray, speakers: Mapping[str, str], emotions: Mapping[str, str]
) -> dict[str, Any]:
    """Whether probes that are cross-validated over N utterances recognise their speakers.

    The ``embeddings`` (N, D) are of one encoder that ``utts`` did not fit; ``speakers`` are of these and of all other
    utterances among which speakers are shuffled, to learn what chance is (see `shuffles`; an utterance that gets a
    speaker of others is left out).

    Returns:
        ``utts``, ``speakers``; ``hits``: kind of `KINDS` -> for each split N digits, 1 where the speaker is recognised,
        and - where it has no other utterance to be learned from; ``chance``: kind -> for each shuffle the number
        recognised and the number tested. Or a ``reason``.
    """
    names = [speakers[utt] for utt in utts]
    if sum(count > 1 for count in Counter(names).values()) < 2:
        return {"reason": "fewer than two speakers with two held-out utterances each"}
    right = [recognised(embeddings, names, split) for split in range(SPLITS)]
    others = [[s[utt] if s[utt] in names else "" for utt in utts] for s in shuffles(speakers, emotions)]
    random = [recognised(embeddings, other, number, chance=True) for number, other in enumerate(others)]
    chance = {
        kind: [[found[kind].count("1"), len(utts) - found[kind].count("-")] for found in random] for kind in KINDS
    }
    hits_of = {kind: [found[kind] for found in right] for kind in KINDS}
    return {"utts": list(utts), "speakers": names, "hits": hits_of, "chance": chance}


def recognised(
    embeddings: np.ndarray, speakers: Sequence[str], seed: int, chance: bool = False, kinds: Sequence[str] = ()
) -> dict[str, str]:
    """Of each kind of probe its hits in a split by ``seed``: N digits, as `speaker_probe` returns."""
    counts = Counter(filter(None, speakers))
    rows = np.flatnonzero([counts[name] > 1 for name in speakers])
    names, values = np.asarray(speakers)[rows], embeddings[rows]
    found = {kind: np.full(len(speakers), "-") for kind in kinds or KINDS}
    if len(set(names)) > 1:
        splits = StratifiedKFold(min(GROUPS, max(counts.values())), shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The least populated class")
            for train, test in splits.split(values, names):
                models = {kind: model for kind, model in probes(seed, chance).items() if kind in found}
                right = hits(models, values[train], names[train], values[test], names[test])
                for kind, digits in right.items():
                    found[kind][rows[test]] = digits.astype(int)
    return {kind: "".join(digits) for kind, digits in found.items()}


def hits(
    models: Mapping[str, ClassifierMixin], fitted: np.ndarray, names: np.ndarray, tested: np.ndarray, truth: np.ndarray
) -> dict[str, np.ndarray]:
    """Of each model (M,) bool: which of (M,) speakers it recognises from (M, D) once it is fitted to (N, D) and (N,).

    The embeddings are standardised by those that are fitted, and projected on the space of these, which saves time.
    """
    scaler = StandardScaler().fit(fitted)
    basis = np.linalg.qr(scaler.transform(fitted).T)[0]
    values, others = scaler.transform(fitted) @ basis, scaler.transform(tested) @ basis
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the perceptron's few iterations, and of speakers with few utterances
        return {kind: model.fit(values, names).predict(others) == truth for kind, model in models.items()}


def shuffles(speakers: Mapping[str, str], emotions: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """`SHUFFLES` times the speakers of utterances, shuffled among those of equal emotion.

    The share of the most frequent speaker is no chance level: where embeddings cluster by emotion, a probe without
    speaker information falls far below it. All folds get the same shuffles, because they test the same utterances.
    """
    groups: dict[str, list[str]] = {}
    for utt in sorted(speakers):
        groups.setdefault(emotions.get(utt, ""), []).append(utt)
    for number in range(SHUFFLES):
        random = np.random.default_rng(number)
        others = [(utts, random.permutation(len(utts))) for utts in groups.values()]
        yield {utt: speakers[utts[row]] for utts, rows in others for utt, row in zip(utts, rows, strict=True)}


def verification_eer(
    embeddings: np.ndarray, speakers: Sequence[str], held_out: np.ndarray | None = None
) -> dict[str, Any]:
    """Equal error rate of speaker verification by the cosine of two utterances' embeddings.

    These, (N, D), are of N ``speakers`` that the encoder was not trained on. Where there is only one, the pairs of
    different speakers are its utterances with ``held_out``, (M, D) of training speakers. ``eer`` is None where there
    is a ``reason``.
    """
    names = np.asarray(speakers)
    alone = len(set(speakers)) < 2
    if alone and held_out is None:
        return {"eer": None, "reason": "one unseen test speaker and no held-out utterances: no impostors"}
    values = normalize(embeddings)
    first, second = np.triu_indices(len(values), 1)
    same = names[first] == names[second]
    if not same.any():
        return {"eer": None, "reason": "no speaker has two utterances"}
    cosines = (values @ values.T)[first, second]
    impostors = cosines[~same]
    if alone and held_out is not None:
        impostors = (values @ normalize(held_out).T).ravel()
    return {
        "eer": equal_error_rate(cosines[same], impostors),
        "same": int(same.sum()),
        "different": len(impostors),
        "speakers": len(set(speakers)),
        "against": "held_out" if alone else "unseen",
    }


def equal_error_rate(targets: np.ndarray, impostors: np.ndarray) -> float:
    """Where misses of (P,) targets and false alarms of (Q,) impostors are equally frequent, between thresholds."""
    same = np.repeat([1, 0], [len(targets), len(impostors)])
    alarm, hit, _ = roc_curve(same, np.concatenate([targets, impostors]), drop_intermediate=False)
    return float(np.interp(0.0, alarm + hit - 1, alarm))


def principal_plane(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) coordinates of (N, D) embeddings in the two directions of largest variance, and (2,) shares of it or 0."""
    plane = PCA(2, svd_solver="full")
    with np.errstate(invalid="ignore"):
        return plane.fit_transform(embeddings), np.nan_to_num(plane.explained_variance_ratio_)


NO_HELD_OUT = "no held-out utterances of training speakers: make folds with --dev_ratio 0.1, train and decode again"
ENROLLED = "unseen speakers are standardised by the utterances of the probe: give --enrol half, and decode again"
ONE_UNSEEN = "a fold tests fewer than two unseen speakers"
NO_REFIT = "no classifier is fitted to the training list, which is not decoded (decode_train in conf/decode.yaml)"
ERASED = "no classifier is fitted to the training list, which fitted the eraser: it would find nothing by construction"


@threadpool_limits.wrap(limits=1)  # with more threads, four fifths of the time went into waiting
def probe_fold(exp: Path, data: Path, fold_dir: Path) -> dict[str, Any]:
    """Measure the speaker information in a fold's embeddings: ``exp`` is ``exp/<tag>/<fold>``, ``fold_dir`` its lists.

    Utterances of unknown speakers are left out, and those above `MOST`. The probes take the dev utterances, or,
    where there are none, the test utterances whose speakers are in the training list, and again the test utterances
    of other speakers. Verification takes the latter, and where they have one speaker, the dev utterances for its
    impostors. Where test speakers are standardised, it is the first half of the utterances of each, which the other
    half enrolled. ``data`` has the real speakers and perhaps emotions.

    Returns:
        ``held_out`` and ``unseen`` (see `speaker_probe`; the first has two more kinds: ``head``, the model's own, and
        ``refit``, a logistic regression fitted to the training list, or the ``reason`` why not), and ``verification``
        (see `verification_eer`).
    """
    trained_with = read_yaml(exp / "config.yaml")
    method, enrol = str(trained_with.get("spk_norm")), trained_with.get("enrol")
    standardised = "standardise" in method
    utt2spk = read_table(data / "utt2spk")
    known = known_speakers(utt2spk)
    speakers = {utt: speaker for utt, speaker in utt2spk.items() if speaker in known}
    emotions = read_table(data / "utt2emo") if (data / "utt2emo").exists() else {}
    lists = {part: [utt for utt in read_list(fold_dir / part) if utt in speakers] for part in PARTS}
    trained, impostors = {speakers[utt] for utt in lists["train"]}, None
    unseen = {utt: speakers[utt] for utt in lists["test"] if speakers[utt] not in trained}
    part, held_out = "dev", lists["dev"] if (exp / "decode_dev" / "emb.scp").exists() else []
    if not held_out:
        part, held_out = "test", [utt for utt in lists["test"] if utt not in unseen]
    held_out = few(held_out)
    result: dict[str, Any] = {"held_out": {"reason": NO_HELD_OUT}, "unseen": {"reason": ONE_UNSEEN}}
    result["verification"] = {"eer": None, "reason": "every test speaker was trained on"}
    if held_out:
        vectors, names = embeddings(exp / f"decode_{part}", held_out), [speakers[utt] for utt in held_out]
        impostors = vectors if part == "dev" else None
        result["held_out"] = probed = speaker_probe(held_out, vectors, speakers, emotions)
        hypotheses = read_table(exp / f"decode_{part}" / "utt2spk")
        found = {"head": np.array([hypotheses.get(utt) for utt in held_out]) == names}
        if not (exp / "decode_train" / "emb.scp").exists():
            probed.setdefault("reason", NO_REFIT)
        elif "erase" in method:
            probed.setdefault("reason", ERASED)
        else:
            fitted = embeddings(exp / "decode_train", lists["train"])
            classes = np.array([speakers[utt] for utt in lists["train"]])
            found |= hits({"refit": probes(0)["linear"]}, fitted, classes, vectors, np.array(names))
        if "hits" in probed:
            probed["hits"] |= {kind: ["".join(map(str, right.astype(int)))] for kind, right in found.items()}
    if standardised and enrol != "half":
        result["unseen"], result["verification"] = {"reason": ENROLLED}, {"eer": None, "reason": ENROLLED}
        unseen = {}
    elif standardised:
        by_speaker: dict[str, list[str]] = {}
        for utt, name in unseen.items():
            by_speaker.setdefault(name, []).append(utt)
        unseen = {utt: name for name, utts in by_speaker.items() for utt in sorted(halves(utts)[0])}
    if utts := few(list(unseen)):
        vectors, names = embeddings(exp / "decode_test", utts), [unseen[utt] for utt in utts]
        if len(set(names)) > 1:
            result["unseen"] = speaker_probe(utts, vectors, unseen, emotions)
        result["verification"] = verification_eer(vectors, names, impostors)
    return result


def few(utts: Sequence[str]) -> list[str]:
    """At most `MOST` of the utterances, which their ids decide, in the order given."""
    kept = set(sorted(utts, key=lambda utt: derive_seed("probe", utt))[:MOST])
    return [utt for utt in utts if utt in kept]


def embeddings(decoded: Path, utts: Sequence[str]) -> np.ndarray:
    """(N, D) float64 pooled embeddings of decoded utterances; a `UserError` names those that ``emb.scp`` lacks."""
    table = read_own_scp(decoded / "emb.scp")
    if missing := [utt for utt in utts if utt not in table]:
        raise UserError(f"{decoded / 'emb.scp'} lacks {len(missing)} utterances: {metrics.first(missing)}")
    return np.stack([read_matrix(table[utt]).astype(np.float64).reshape(-1) for utt in utts])
