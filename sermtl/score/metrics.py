"""WA, UA, macro F1, WER, CER and speaker accuracy, all from counts that can be pooled over folds.

A rate is always made from summed counts, never from other rates. Characters are counted as jiwer does:
the blanks between words are characters too.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jiwer
import numpy as np

from sermtl.errors import UserError

RATES = {"wa": "WA", "ua": "UA", "macro_f1": "macro F1", "wer": "WER", "cer": "CER"}
"""Every rate by its key in ``scores.json``, with the name that tables print."""

UNSEPARATED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""A character of a script that puts no blanks between words."""

BINS = 15
"""Of confidence, as usual for the expected calibration error."""
ASR_COUNTS = (
    "utterances", "words", "errors", "substitutions", "deletions", "insertions", "chars", "char_errors", "no_reference",
    "no_reference_words", "unseparated",
)  # fmt: skip
"""What `count_edits` counts and `asr_scores` sums; ``errors`` are word errors, ``unseparated`` characters as words."""


def confusion_matrix(references: Sequence[str], hypotheses: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """(C, C) int64 counts of N pairs of class names by the C ``labels``: rows are references, columns hypotheses.

    `UserError` where a class is not one of ``labels``.

    >>> confusion_matrix(["sad", "sad", "neu"], ["sad", "neu", "neu"], ["neu", "sad"]).tolist()
    [[1, 0], [1, 1]]
    """
    index = {label: number for number, label in enumerate(labels)}
    unknown = sorted((set(references) | set(hypotheses)) - set(index))
    if unknown:
        raise UserError(f"unknown emotion class {', '.join(map(repr, unknown))}; known: {' '.join(labels)}")
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(counts, ([index[label] for label in references], [index[label] for label in hypotheses]), 1)
    return counts


def emotion_scores(confusion: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """WA, UA and macro F1 of a confusion matrix (C, C) of counts whose rows are references.

    UA is the mean recall over the classes that occur in the references. Macro F1 is the mean over the
    classes that occur in references or hypotheses (a class that is only predicted has an F1 of 0). An
    absent class has recall, precision or F1 None and enters no mean.

    >>> scores = emotion_scores(np.array([[3, 1], [0, 1]]), ["neu", "sad"])
    >>> scores["wa"], scores["ua"], round(scores["macro_f1"], 3)
    (0.8, 0.875, 0.762)
    """
    counts = np.asarray(confusion, dtype=np.int64)
    hits, ref, hyp = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    recall = [ratio(h, n) for h, n in zip(hits, ref, strict=True)]
    f1 = [ratio(2 * h, r + p) for h, r, p in zip(hits, ref, hyp, strict=True)]
    return {
        "n": int(counts.sum()),
        "correct": int(hits.sum()),
        "wa": ratio(hits.sum(), counts.sum()),
        "ua": mean(recall),
        "macro_f1": mean(f1),
        "labels": list(labels),
        "confusion": counts.tolist(),
        "recall": recall,
        "precision": [ratio(h, p) for h, p in zip(hits, hyp, strict=True)],
        "f1": f1,
    }


def separated(text: str) -> str:
    """Words between single blanks, where a character of a script without blanks between words is a word.

    >>> separated("so  it 今日")
    'so it 今 日'
    """
    return " ".join(UNSEPARATED.sub(r" \g<0> ", text).split())


def count_edits(reference: str, hypothesis: str) -> dict[str, int]:
    """Word and character edits of one utterance by minimal edit distance (jiwer).

    Both are compared as they are, words being what blanks separate. In scripts that do not separate words (Chinese,
    Japanese, Thai, Lao, Khmer, Burmese) each character is a word, so that there the main rate, WER, is that of
    characters. A reference without words has no errors: what was decoded for it is in ``no_reference_words`` and
    ``no_reference_chars`` only.

    >>> edits = count_edits("WE SHALL SEE", "WE SEE")
    >>> {key: edits[key] for key in ("words", "errors", "deletions", "chars", "char_errors")}
    {'words': 3, 'errors': 1, 'deletions': 1, 'chars': 12, 'char_errors': 6}
    >>> count_edits("\u4eca\u5929\u5f88\u597d OK", "\u4eca\u5929\u597d OK")["words"]
    5
    """
    ref, hyp = " ".join(reference.split()), " ".join(hypothesis.split())
    ref_words, hyp_words = separated(ref), separated(hyp)
    counts = dict.fromkeys((*ASR_COUNTS, "no_reference_chars"), 0)
    if not ref:
        return counts | {
            "no_reference": 1, "no_reference_words": len(hyp_words.split()), "no_reference_chars": len(hyp),
        }  # fmt: skip
    words, chars = jiwer.process_words(ref_words, hyp_words), jiwer.process_characters(ref, hyp)
    kinds = ("substitutions", "deletions", "insertions")
    counts |= {kind: getattr(words, kind) for kind in kinds}
    counts |= {"errors": sum(counts[kind] for kind in kinds), "char_errors": sum(getattr(chars, k) for k in kinds)}
    unseparated = len(UNSEPARATED.findall(ref))
    return counts | {"utterances": 1, "words": len(ref_words.split()), "chars": len(ref), "unseparated": unseparated}


def asr_scores(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """WER and CER from the summed counts of utterances (`count_edits`) or of folds (`asr_scores`).

    Utterances whose reference is empty do not count, as for NIST sclite, which is not given such utterances.
    ``no_reference`` is their number, ``no_reference_words`` the words decoded for them.

    >>> scores = asr_scores([count_edits("WE SHALL SEE", "WE SEE"), count_edits("", "OH")])
    >>> round(scores["wer"], 3), scores["cer"], scores["no_reference"]
    (0.333, 0.5, 1)
    >>> folds = [asr_scores([count_edits("YES", "NO")]), asr_scores([count_edits("A B C", "A B C")])]
    >>> [fold["wer"] for fold in folds], asr_scores(folds)["wer"]
    ([1.0, 0.0], 0.25)
    """
    sums = {key: sum(part.get(key, 0) for part in parts) for key in ASR_COUNTS}
    rates = {"wer": ratio(sums["errors"], sums["words"]), "cer": ratio(sums["char_errors"], sums["chars"])}
    return {key: sums[key] for key in ASR_COUNTS[:3]} | rates | sums


def main_rate(asr: Mapping[str, Any]) -> str:
    """The rate of transcripts that comes first: ``cer`` where most words of the reference are characters.

    >>> main_rate(count_edits("今日", "今日")), main_rate(count_edits("SO IT", "SO IT"))
    ('cer', 'wer')
    """
    return "cer" if 2 * asr.get("unseparated", 0) > asr["words"] else "wer"


def speaker_scores(
    references: Sequence[str], hypotheses: Sequence[str], train_speakers: Collection[str]
) -> dict[str, Any]:
    """Speaker accuracy, where it exists: only if the head was trained on every speaker that is counted.

    >>> speaker_scores(["anna", "ben"], ["anna", "anna"], {"anna", "ben"})
    {'n': 2, 'correct': 1, 'acc': 0.5}
    >>> speaker_scores(["carl"], ["anna"], {"anna", "ben"})
    {'acc': None, 'reason': '1 of 1 test speakers were not trained on: carl'}
    """
    speakers = sorted(set(references))
    unseen = [speaker for speaker in speakers if speaker not in train_speakers]
    if unseen:
        reason = f"{len(unseen)} of {len(speakers)} test speakers were not trained on: {first(unseen)}"
        return {"acc": None, "reason": reason}
    if not references:
        return {"acc": None, "reason": "no utterance of a known speaker"}
    correct = sum(r == h for r, h in zip(references, hypotheses, strict=True))
    return {"n": len(references), "correct": correct, "acc": correct / len(references)}


def pool_speakers(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sum several `speaker_scores`; undefined as soon as one of them is.

    >>> pool_speakers([{"n": 2, "correct": 1, "acc": 0.5}, {"n": 6, "correct": 5, "acc": 5 / 6}])
    {'n': 8, 'correct': 6, 'acc': 0.75}
    """
    undefined = [part["reason"] for part in parts if part["acc"] is None]
    if undefined:
        return {"acc": None, "reason": f"in {len(undefined)} of {len(parts)} folds: {undefined[0]}"}
    n, correct = sum(part["n"] for part in parts), sum(part["correct"] for part in parts)
    return {"n": n, "correct": correct, "acc": ratio(correct, n)}


def reliability(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(`BINS`, 3): utterances, sum of confidence, and correct utterances of `BINS` bins of equal width.

    ``confidence`` (N,) is the posterior of the predicted class, ``right`` (N,) whether that is the reference.

    >>> reliability(np.array([0.98, 0.99, 0.5]), np.array([True, False, True]))[[7, 14]].tolist()
    [[1.0, 0.5, 1.0], [2.0, 1.97, 1.0]]
    """
    index = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)  # (0, 1/B], (1/B, 2/B], ...
    return np.stack([np.bincount(index, column, BINS) for column in (np.ones(len(right)), confidence, right)], axis=1)


def ratio(part: float, whole: float) -> float | None:
    """``part / whole``, or None where there is nothing to divide by.

    >>> ratio(1, 4), ratio(0, 0)
    (0.25, None)
    """
    return float(part / whole) if whole else None


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are not None; None where there is none.

    >>> mean([0.5, None, 1.0]), mean([None])
    (0.75, None)
    """
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def first(names: Sequence[str], most: int = 5) -> str:
    """The first few of many names, for a message.

    >>> first(["a", "b", "c"], most=2)
    'a, b, ...'
    """
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def enrolled_seconds(condition: str, of_speaker: Sequence[float]) -> float:
    """How much audio enrols a test speaker, from the durations of all of the speaker's utterances in the list.

    >>> enrolled_seconds("5", [2.0] * 4), enrolled_seconds("half", [2.0] * 4)
    (6.0, 4.0)
    """
    word, whole = condition.partition("_")[0], len(of_speaker)
    half, others = whole // 2, whole - 1
    count = {"half": 2 * half * (whole - half) / whole, "all": others}.get(word)  # each half enrols for the other
    return float(np.mean(of_speaker)) * (min(int(word), others) if count is None else count)
