"""Which utterances hold the same audio: by the files' bytes (cheap), or by the decoded samples."""

import hashlib
import io
from collections import defaultdict
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path

import numpy as np

from sermtl.audio.segments import audio_spans
from sermtl.fileio.wav_scp import Source, is_pipe, locate

PROBE_BYTES = 4096
"""Read from the middle of files of one length before any of them is read whole."""


def same_audio(data: str | Path, utts: list[str], decode: bool = False) -> np.ndarray:
    """Group N utterances by their audio: (N,) int32 numbers; -1 where none could be compared (pipes, unreadable files).

    To ``decode`` finds copies with other headers or formats, and reads everything; of bytes, files of different lengths
    are not read at all.
    """
    spans = {span.name: span for span in audio_spans(Path(data))}
    sources: dict[str, Source] = {}
    for entry in {span.recording for span in spans.values() if not is_pipe(span.recording)}:
        with suppress(OSError, ValueError, OverflowError):
            sources[entry] = locate(entry)
    groups = group_samples(sources) if decode else group_bytes(sources)
    numbers: dict[Hashable, int] = {}
    codes = np.full(len(utts), -1, np.int32)
    for i, utt in enumerate(utts):
        if utt in spans and (group := groups.get(spans[utt].recording)) is not None:
            codes[i] = numbers.setdefault((group, *spans[utt][2:]), len(numbers))
    return codes


def group_bytes(sources: dict[str, Source]) -> dict[str, Hashable]:
    """Group recordings of equal bytes, reading as little as settles it: length, a probe, all."""
    groups: dict[str, Hashable] = {entry: source.size for entry, source in sources.items()}
    readers: list[Callable[[Source], bytes]] = [
        lambda source: source.read(max(0, source.size // 2 - PROBE_BYTES // 2), PROBE_BYTES),
        Source.read,
    ]
    for reader in readers:
        members: dict[Hashable, list[str]] = defaultdict(list)
        for entry, group in groups.items():
            members[group].append(entry)
        for group, entries in members.items():
            if len(entries) > 1:
                for entry in entries:
                    try:
                        groups[entry] = (group, hashlib.sha256(reader(sources[entry])).digest())
                    except OSError:
                        del groups[entry]
    return groups


def group_samples(sources: dict[str, Source]) -> dict[str, Hashable]:
    """Group recordings of equal samples, rate and channels."""
    import soundfile

    groups: dict[str, Hashable] = {}
    for entry, source in sources.items():
        try:
            samples, rate = soundfile.read(io.BytesIO(source.read()), dtype="int32", always_2d=True)
        except (OSError, soundfile.SoundFileError):
            continue
        groups[entry] = (rate, samples.shape, hashlib.sha256(samples.tobytes()).digest())
    return groups
