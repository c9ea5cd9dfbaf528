"""What the benchmark runs on: utterances of noise whose lengths are those of acted conversations, as a dump."""

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from sermtl.audio.resample import SAMPLE_RATE
from sermtl.data.dataset import Example
from sermtl.fileio.ark import checksum, write_ark
from sermtl.model.geometry import Geometry

MEDIAN, P95, SHORTEST, LONGEST = 3.58, 11.1, 0.59, 34.1
"""Seconds: a log-normal distribution through median and 95th percentile, clipped."""
CHARACTERS = 13
"""Of a transcript, a second."""
BASE: dict[str, Any] = {
    "activation_dropout": 0.0,
    "attention_dropout": 0.1,
    "feat_proj_dropout": 0.1,
    "final_dropout": 0.0,
    "hidden_dropout": 0.1,
    "mask_time_prob": 0.05,
    "layerdrop": 0.0,
}
"""wav2vec2-base as it is published, but that no layer is dropped: every update is to compute the same."""
EMOTIONS, TOKENS, SPEAKERS = 4, 32, 10


@dataclass(frozen=True)
class Material:
    """Utterances of the updates, as dumped audio and as dumped outputs of a convolutional encoder."""

    updates: list[list[int]]
    raw: list[Example]
    conv: list[Example]


def draw_seconds(count: int, random: np.random.Generator) -> np.ndarray:
    """Durations (count,): one of each of ``count`` equal parts of the distribution, in random order.

    So a few utterances already hold short and long ones as the whole does.
    """
    sigma = math.log(P95 / MEDIAN) / NormalDist().inv_cdf(0.95)
    quantiles = (np.arange(count) + random.uniform(size=count)) / count
    deviations = np.array([NormalDist().inv_cdf(min(max(q, 1e-9), 1 - 1e-9)) for q in quantiles])
    return random.permutation(np.clip(MEDIAN * np.exp(sigma * deviations), SHORTEST, LONGEST))


def make_material(directory: Path, updates: int, utterances: int, geometry: Geometry, channels: int) -> Material:
    """Write the dumps of ``updates * utterances`` utterances."""
    random = np.random.default_rng(0)
    seconds = np.concatenate([draw_seconds(utterances, random) for _ in range(updates)])
    raw, conv = [], []
    with write_ark(directory / "raw.ark") as audio, write_ark(directory / "conv.ark") as features:
        for number, duration in enumerate(seconds):
            name = f"u{number:05d}"
            samples = round(duration * SAMPLE_RATE)
            frames = geometry.frames(samples)
            wav_S = (random.standard_normal(samples) * 3000).astype(np.int16)
            conv_TC = np.abs(random.standard_normal((frames, channels), dtype=np.float32))
            audio.write_audio(name, wav_S)
            features.write_array(name, conv_TC)
            speaker = int(random.integers(SPEAKERS))
            tokens = tuple(random.integers(4, TOKENS, round(duration * CHARACTERS)).tolist())
            targets = (f"s{speaker}", int(random.integers(EMOTIONS)), speaker, tokens)
            raw.append(Example(name, audio.scp[name], samples, *targets, checksum=checksum(wav_S)))
            conv.append(Example(name, features.scp[name], frames, *targets, checksum=checksum(conv_TC)))
    order = [list(range(first, first + utterances)) for first in range(0, len(raw), utterances)]
    return Material(order, raw, conv)
