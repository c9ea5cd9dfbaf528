"""Long recordings: overlapping windows, and their predictions put together again.

A window's posteriors hold for the part of the recording that is nearer to its middle than to any other's.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise

import numpy as np

from sermtl.audio.resample import SAMPLE_RATE
from sermtl.errors import UserError

WINDOW, HOP = 10.0, 5.0
"""Seconds, where none are asked for."""


@dataclass(frozen=True)
class Prediction:
    """The models' outputs for one piece of audio (M models, C classes, T frames of the first model, D hidden)."""

    posteriors_MC: np.ndarray
    tokens_T: np.ndarray
    """The first model's best token of each frame."""
    embedding_D: np.ndarray
    """The first model's."""


@dataclass(frozen=True)
class Part:
    """A part of a recording and its posteriors; times in seconds."""

    start: float
    end: float
    posteriors_MC: np.ndarray


@dataclass(frozen=True)
class Segment:
    """A part of a recording with one emotion; times in seconds."""

    start: float
    end: float
    emotion: str
    scores: dict[str, float]


@dataclass(frozen=True)
class Result:
    """Emotion, transcript and embedding of a recording."""

    emotion: str
    """The most probable class."""
    scores: dict[str, float]
    """Posterior of each class by name; several models' are averaged."""
    text: str
    """The transcript, of the first model."""
    embedding: np.ndarray = field(repr=False, compare=False)
    """Mean (D,) of the first model's hidden vectors, float32."""
    seconds: float
    """Duration of the audio."""
    segments: tuple[Segment, ...] = ()
    """Neighbouring windows of one emotion as one; empty where the recording was encoded in one piece."""
    timeline: tuple[Segment, ...] = ()
    """The same before merging, one segment for each window."""
    spread: dict[str, float] | None = None
    """Standard deviation of each class's posterior over the models; None with a single one."""


def window_and_hop(window: float | None, hop: float | None) -> tuple[int, int]:
    """Window and hop in samples, of seconds or their defaults; `UserError` for one of 0 or less, or gaps."""
    if window is None:
        window, hop = WINDOW, HOP if hop is None else hop
    hop = window / 2 if hop is None else hop
    if not (0.1 <= window < float("inf") and 0 < hop <= window):
        raise UserError(f"--window {window:g} --hop {hop:g}: a window is 0.1 s or more, a hop above 0 and at most that")
    return round(window * SAMPLE_RATE), max(1, round(hop * SAMPLE_RATE))


def windows(blocks: Iterable[np.ndarray], window: int, hop: int) -> Iterator[tuple[int, np.ndarray]]:
    """Cut a stream of samples into windows (start, samples); the last one ends where the stream does.

    A stream that is shorter than a window is one window. Holds little more than a window at any time.
    """
    held_S = np.zeros(0, dtype=np.int16)
    held_from = given_to = 0
    """Position of the first held sample, and the end of the last window."""
    start = 0
    for block_S in blocks:
        held_S = np.concatenate([held_S, block_S])
        while held_from + len(held_S) >= start + window:
            yield start, held_S[start - held_from : start - held_from + window]
            given_to = start + window
            start += hop
        # The last window may have to begin earlier than the next one would.
        drop = max(0, min(start, held_from + len(held_S) - window) - held_from)
        held_S, held_from = held_S[drop:], held_from + drop
    end = held_from + len(held_S)
    if end > given_to:
        start = max(0, end - window)
        yield start, held_S[start - held_from :]


def join(pieces: Sequence[tuple[int, int, Prediction]]) -> tuple[Prediction, list[Part]]:
    """Put the predictions of windows together: of each, its first sample, its number of samples and its prediction.

    Returns:
        Posteriors and embedding averaged over time with the tokens of all frames; and the part of each window.
    """
    ends = [(following[0] + start + samples) / 2 for (start, samples, _), following in pairwise(pieces)]
    ends.append(pieces[-1][0] + pieces[-1][1])
    parts, tokens, begin = [], [], 0.0
    embedding_D = np.zeros_like(pieces[0][2].embedding_D)
    for (start, samples, prediction), end in zip(pieces, ends, strict=True):
        frames = len(prediction.tokens_T)
        middles_T = start + (np.arange(frames) + 0.5) * samples / max(frames, 1)
        tokens.append(prediction.tokens_T[(middles_T >= begin) & (middles_T < end)])
        parts.append(Part(begin / SAMPLE_RATE, end / SAMPLE_RATE, prediction.posteriors_MC))
        embedding_D = embedding_D + prediction.embedding_D * (end - begin)
        begin = end
    return Prediction(average(parts), np.concatenate(tokens), embedding_D / begin), parts


def average(parts: list[Part]) -> np.ndarray:
    """Posteriors (M, C) of several parts, weighted by their durations."""
    lengths = np.array([part.end - part.start for part in parts])
    return np.tensordot(lengths / lengths.sum(), np.stack([part.posteriors_MC for part in parts]), 1)


def merge(parts: Iterable[Part]) -> list[Part]:
    """Neighbours of the same most probable class (by the mean over models) as one."""
    groups = [list(group) for _, group in groupby(parts, lambda part: part.posteriors_MC.mean(0).argmax())]
    return [Part(group[0].start, group[-1].end, average(group)) for group in groups]
