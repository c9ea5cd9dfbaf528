"""The model card of a pack, of made-up scores."""

from __future__ import annotations

import re

import numpy as np

from sermtl.pack.model_card import _intervals, model_card
from sermtl.score.score_files import Utterance


def card_of(**settings):
    """Of 200 utterances of three words, of which 150 have the right class, each with one error in every other."""
    rows = [Utterance(f"u{n}", "s", "ang", "ang" if n % 4 else "sad", 3, n % 2, 9, 1, "s") for n in range(200)]
    ser = {"wa": 0.75, "ua": 0.75, "n": 200, "confusion": [[150, 50], [0, 0]]}
    scores = {"protocol": "speaker", "speaker_dependent": False, "ser": ser, "spk": {"acc": None, "reason": "unseen"}}
    scores["asr"] = {"wer": 1 / 6, "words": 600, "cer": 0.1, "chars": 1800}
    facts = {"labels": ["ang", "sad"], "settings": settings, "scores": scores, "rows": rows, "audit": {}}
    rest = dict.fromkeys(("lang", "pooled", "model_license", "data_license", "folders", "notes"), "")
    return model_card(facts | rest)


def test_the_cards_intervals_are_those_of_the_binomial_distribution():
    found = dict(re.findall(r"\| (WA|WER) .*?\| [\d.]+ \[(.*?)\]", card_of()))
    random = np.random.default_rng(0)
    for name, share, scale in (("WA", 0.75, 1), ("WER", 0.5, 1 / 3)):
        wanted = np.percentile(random.binomial(200, share, 100_000) / 200 * scale, [2.5, 97.5])
        np.testing.assert_allclose([float(end) for end in found[name].split(", ")], wanted, atol=0.008)


def test_a_fold_without_labels_has_a_card():
    assert set(_intervals(["ang", "sad"], []).values()) == {""}


def test_the_card_names_scores_that_a_single_file_cannot_reach():
    assert "**Not of single files**" in card_of(feats_type="fbank", cmvn="speaker")
    for settings in ({"feats_type": "fbank", "cmvn": "utterance"}, {"feats_type": "raw", "cmvn": "speaker"}):
        assert "Not of single files" not in card_of(**settings)


def test_the_card_shows_what_was_frozen_and_what_the_heads_read():
    shown = {"freeze": "all", "layers": "mix", "pooling": "mean_std", "pooled_norm": "train", "projection": 256}
    card = card_of(**shown)
    assert [name for name, value in shown.items() if f"- {name}: {value}\n" not in card] == []


def test_only_a_model_of_the_hub_is_a_base_model():
    assert "base_model: facebook/wav2vec2-base\n" in card_of(upstream="facebook/wav2vec2-base")
    assert "base_model" not in card_of(upstream="encoder")
