"""Scores against scikit-learn's and jiwer's own, and the cases that they do not define."""

from __future__ import annotations

import doctest
import inspect

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as oracle

from sermtl.errors import UserError
from sermtl.score import metrics

LABELS = ["ang", "hap", "neu", "sad"]
pairs = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=40)
sentence = st.lists(st.sampled_from("A BB CCC DDDD IT'S".split()), max_size=8).map(" ".join)


@given(pairs)
def test_emotion_scores_are_scikit_learns(drawn):
    refs, hyps = zip(*drawn, strict=True)
    ser = metrics.emotion_scores(metrics.confusion_matrix(refs, hyps, LABELS), LABELS)
    assert ser["confusion"] == oracle.confusion_matrix(refs, hyps, labels=LABELS).tolist()
    assert ser["wa"] == oracle.accuracy_score(refs, hyps)
    assert ser["ua"] == pytest.approx(
        oracle.recall_score(refs, hyps, labels=sorted(set(refs)), average="macro"), abs=1e-15
    )
    assert ser["macro_f1"] == pytest.approx(oracle.f1_score(refs, hyps, average="macro"), abs=1e-15)


def test_an_absent_class_enters_no_mean():
    ser = metrics.emotion_scores(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]), ["a", "b", "c"])
    assert ser["recall"] == [0.75, 1.0, None]
    assert ser["ua"] == 0.875


def test_nothing_to_score_gives_no_number():
    ser = metrics.emotion_scores(metrics.confusion_matrix([], [], LABELS), LABELS)
    assert (ser["n"], ser["wa"], ser["ua"], ser["macro_f1"]) == (0, None, None, None)
    asr = metrics.asr_scores([])
    assert (asr["utterances"], asr["words"], asr["errors"], asr["wer"], asr["cer"]) == (0, 0, 0, None, None)


def test_an_unknown_class_is_named():
    with pytest.raises(UserError, match="unknown emotion class 'angry'; known: ang hap neu sad"):
        metrics.confusion_matrix(["ang"], ["angry"], LABELS)


@given(st.lists(st.tuples(sentence.filter(bool), sentence), min_size=1, max_size=8))
def test_word_and_character_errors_are_jiwers(drawn):
    refs, hyps = map(list, zip(*drawn, strict=True))
    asr = metrics.asr_scores([metrics.count_edits(ref, hyp) for ref, hyp in drawn])
    assert asr["wer"] == jiwer.wer(refs, hyps)
    assert asr["cer"] == pytest.approx(jiwer.cer(refs, hyps), abs=1e-15)
    assert asr["errors"] == asr["substitutions"] + asr["deletions"] + asr["insertions"]


def test_empty_reference_is_counted_apart():
    edits = [metrics.count_edits("", "TWO WORDS"), metrics.count_edits("ONE TWO", "ONE")]
    asr = metrics.asr_scores(edits)
    assert (asr["utterances"], asr["words"], asr["errors"], asr["wer"]) == (1, 2, 1, 0.5)
    assert (asr["no_reference"], asr["no_reference_words"]) == (1, 2)


def test_pooled_rates_come_from_counts_not_from_rates():
    long, short = metrics.count_edits("A B C D E F G H", "A B C D E F G H"), metrics.count_edits("A", "B")
    pooled = metrics.asr_scores([metrics.asr_scores([long]), metrics.asr_scores([short])])
    assert pooled == metrics.asr_scores([long, short])
    assert pooled["wer"] == 1 / 9


def test_speaker_accuracy_is_undefined_as_soon_as_one_fold_has_none():
    unseen = metrics.speaker_scores(["s1", "s9"], ["s1", "s1"], {"s1", "s2"})
    assert unseen == {"acc": None, "reason": "1 of 2 test speakers were not trained on: s9"}
    assert metrics.pool_speakers([{"n": 2, "correct": 1, "acc": 0.5}, unseen])["acc"] is None


def test_every_public_function_has_an_example_that_runs():
    assert doctest.testmod(metrics).failed == 0
    functions = [f for _, f in inspect.getmembers(metrics, inspect.isfunction) if f.__module__ == metrics.__name__]
    assert [f.__name__ for f in functions if f.__name__[0] != "_" and ">>> " not in inspect.getdoc(f)] == []


@pytest.mark.parametrize(
    ("reference", "hypothesis"),
    [
        ("\u4eca\u5929\u5f88\u597d", "\u4eca\u5929\u597d"),
        ("\u304d\u3087\u3046", "\u304d\u3087"),
        ("\u0e27\u0e31\u0e19\u0e19\u0e35\u0e49", "\u0e27\u0e31\u0e19"),
    ],
)
def test_where_words_are_not_separated_the_main_rate_is_that_of_characters(reference: str, hypothesis: str) -> None:
    scores = metrics.asr_scores([metrics.count_edits(reference, hypothesis)])
    assert scores["wer"] == scores["cer"] == (len(reference) - len(hypothesis)) / len(reference)
    korean = metrics.count_edits("\uc548\ub155 \uc138\uacc4", "\uc548\ub155")
    assert (korean["words"], korean["errors"]) == (2, 1)
