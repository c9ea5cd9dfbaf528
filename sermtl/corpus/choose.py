"""Which utterances a subset of a data directory takes, as Kaldi's subset_data_dir.sh names the ways."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sermtl.errors import UserError
from sermtl.fileio.tables import read_table

WAYS = ("spread", "first", "last", "shortest", "speakers", "per_spk")


def choose(data: Path, number: int, way: str = "spread") -> set[str]:
    """Choose utterances.

    Args:
        data: The data directory.
        number: How many (``speakers``: at least so many; ``per_spk``: at most so many of each speaker).
        way: ``spread`` evenly over the sorted ids, the ``first``, the ``last``, the ``shortest`` by utt2dur,
            whole ``speakers`` in an order that depends on their ids only, or so many ``per_spk``.

    Raises:
        UserError: There are fewer, or a table that is needed is missing.
    """
    utt2spk = read_table(data / "utt2spk")
    utts = list(utt2spk)
    if number < 1 or (number > len(utts) and way != "per_spk"):
        raise UserError(f"cannot take {number} utterances: {data} has {len(utts)}")
    if way == "first":
        return set(utts[:number])
    if way == "last":
        return set(utts[-number:])
    if way == "shortest":
        return set(sorted(utts, key=durations(data, utts).__getitem__)[:number])
    if way == "speakers":
        return whole_speakers(utt2spk, number)
    if way == "per_spk":
        groups = by_speaker(utt2spk).values()
        return {utt for group in groups for utt in spread(group, min(number, len(group)))}
    return set(spread(utts, number))


def spread(items: list[str], number: int) -> list[str]:
    """Take ``number`` items at even distances."""
    return [items[i * len(items) // number] for i in range(number)]


def by_speaker(utt2spk: dict[str, str]) -> dict[str, list[str]]:
    """Group utterances by speaker."""
    groups: dict[str, list[str]] = {}
    for utt, speaker in utt2spk.items():
        groups.setdefault(speaker, []).append(utt)
    return groups


def whole_speakers(utt2spk: dict[str, str], number: int) -> set[str]:
    """Take speakers in the order of a digest of their ids until they have ``number`` utterances."""
    chosen: set[str] = set()
    groups = by_speaker(utt2spk)
    for speaker in sorted(groups, key=lambda speaker: hashlib.sha256(speaker.encode()).digest()):
        if len(chosen) >= number:
            break
        chosen |= set(groups[speaker])
    return chosen


def durations(data: Path, utts: list[str]) -> dict[str, float]:
    """Read utt2dur as numbers."""
    table = read_table(data / "utt2dur")
    try:
        return {utt: float(table[utt]) for utt in utts}
    except (KeyError, ValueError) as error:
        raise UserError(f"{data / 'utt2dur'}: no duration ({error}); run utils/validate_data_dir.sh {data}") from error
