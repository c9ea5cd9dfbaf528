"""The utterances of a data directory, by its ``wav.scp`` and ``segments``, and their samples."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sermtl.audio import read
from sermtl.errors import UserError
from sermtl.fileio.tables import read_table
from sermtl.fileio.wav_scp import CHANNELS, read_channels


class AudioSpan(NamedTuple):
    """A recording, or from ``start`` to ``end`` seconds of one; its channel from 1, or all (0)."""

    name: str
    recording: str
    start: float = 0.0
    end: float | None = None
    channel: int = 0


def audio_spans(data: Path) -> list[AudioSpan]:
    """What a data directory holds, by ``wav.scp`` and, where they are there, ``segments`` and the table of channels."""
    wav_scp, channels, path = read_table(data / "wav.scp"), read_channels(data / CHANNELS), data / "segments"
    segments = read_table(path) if path.exists() else {}
    if not segments:
        return [AudioSpan(name, entry, channel=channels.get(name, 0)) for name, entry in wav_scp.items()]
    spans = []
    for number, (name, value) in enumerate(segments.items(), 1):
        recording, *times = value.split() or [""]
        if len(times) != 2:
            raise UserError(f"{path}:{number}: expected `utterance recording start end`")
        if recording not in wav_scp:
            raise UserError(f"{path}: {name}: recording {recording} is not in {data}/wav.scp")
        try:
            start, end = map(float, times)
        except ValueError:
            raise UserError(f"{path}: {name}: {' '.join(times)!r} are not two times in seconds") from None
        spans.append(AudioSpan(name, wav_scp[recording], start, end, channels.get(recording, 0)))
    return spans


def read_all(part: Iterable[AudioSpan], allow_pipes: bool) -> Iterator[tuple[str, np.ndarray | UserError]]:
    """Each utterance's samples (S,), or why it has none; a recording of several segments is read once."""
    for (entry, channel), utterances in groupby(part, key=lambda utterance: (utterance.recording, utterance.channel)):
        recording: np.ndarray | UserError
        try:
            recording = read.read_recording(entry, allow_pipes, channel)
        except UserError as error:
            recording = error
        for name, _, start, end, _ in utterances:
            if end is None or isinstance(recording, UserError):
                yield name, recording
                continue
            try:
                yield name, read.cut(recording, start, end, entry)
            except UserError as error:
                yield name, error
