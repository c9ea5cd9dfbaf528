"""The utterances of a data directory, by its ``wav.scp`` and ``segments``, and their samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sermtl.audio import read
from sermtl.errors import UserError
from sermtl.fileio.tables import read_table
from sermtl.fileio.wav_scp import read_segments


class AudioSpan(NamedTuple):
    """Where an utterance's audio is: a recording, or from ``start`` to ``end`` seconds of one."""

    name: str
    recording: str
    start: float = 0.0
    end: float | None = None


def audio_spans(data: Path) -> list[AudioSpan]:
    """What a data directory holds, by ``wav.scp`` and, where there is one, ``segments``."""
    wav_scp, segments = read_table(data / "wav.scp"), read_segments(data / "segments")
    if not segments:
        return [AudioSpan(name, entry) for name, entry in wav_scp.items()]
    spans = []
    for name, (recording, times) in segments.items():
        if recording not in wav_scp:
            raise UserError(f"{data}/segments: {name}: recording {recording} is not in {data}/wav.scp")
        try:
            start, end = map(float, times.split())
        except ValueError:
            raise UserError(f"{data}/segments: {name}: {times!r} are not two times in seconds") from None
        spans.append(AudioSpan(name, wav_scp[recording], start, end))
    return spans


def read_all(part: Iterable[AudioSpan], allow_pipes: bool) -> Iterator[tuple[str, np.ndarray | UserError]]:
    """Each utterance's samples (S,), or why it has none; a recording of several segments is read once."""
    for entry, utterances in groupby(part, key=lambda utterance: utterance.recording):
        recording: np.ndarray | UserError
        try:
            recording = read.read_recording(entry, allow_pipes)
        except UserError as error:
            recording = error
        for name, _, start, end in utterances:
            if end is None or isinstance(recording, UserError):
                yield name, recording
                continue
            try:
                yield name, read.cut(recording, start, end, entry)
            except UserError as error:
                yield name, error
