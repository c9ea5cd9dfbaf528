"""SpecAugment masks, drawn an utterance at a time from its own generator."""

from __future__ import annotations

import numpy as np


def span_mask(size: int, prob: float, length: int, minimum: int, random: np.random.Generator) -> np.ndarray:
    """Which of ``size`` positions are masked, in spans: (size,) bool.

    The number of spans is ``prob * size / length``, rounded up or down at random, at least ``minimum``, and no
    more than fit; starts are drawn without replacement, so spans may overlap (wav2vec 2.0, Baevski et al. 2020,
    section 3.1). Where not even one span fits, nothing is masked.
    """
    mask_T = np.zeros(size, dtype=bool)
    if prob <= 0 or size < length:
        return mask_T
    spans = max(int(prob * size / length + random.random()), minimum)
    spans = min(spans, size // length)
    for start in random.choice(size - length + 1, size=spans, replace=False):
        mask_T[start : start + length] = True
    return mask_T


def mask_features(
    features_TF: np.ndarray,
    freq_masks: int,
    freq_width: int,
    time_masks: int,
    time_width: int,
    random: np.random.Generator,
) -> np.ndarray:
    """Normalised features with bands and frames set to 0, their mean (Park et al. 2019); a copy.

    Widths are uniform from 0 to ``freq_width`` bands and ``time_width`` frames; a time mask covers no more than
    a fifth of the utterance.
    """
    masked_TF = features_TF.copy()
    frames, bands = features_TF.shape
    for _ in range(freq_masks):
        width = int(random.integers(0, min(freq_width, bands) + 1))
        start = int(random.integers(0, bands - width + 1))
        masked_TF[:, start : start + width] = 0.0
    for _ in range(time_masks):
        width = int(random.integers(0, min(time_width, frames // 5) + 1))
        start = int(random.integers(0, frames - width + 1))
        masked_TF[start : start + width] = 0.0
    return masked_TF
