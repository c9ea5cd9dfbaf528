"""Whether a data directory keeps its contract: every fault in one pass, each kind with its first lines."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from sermtl.audio.headers import Task, check_recording, map_recordings
from sermtl.fileio.tables import BOM, BOM_FOUND, DERIVED_TABLE, MAIN_TABLE, raw_lines, spk2utt_of, split_line, tables_of

SHOWN = 5
"""Lines shown of each kind of fault."""
SHOWN_AUDIO = 1000
"""Broken recordings shown: all of them, unless the corpus has moved."""


Faults = defaultdict[str, list[str]]
"""Faults in order of their finding: what each kind is, and the lines that show it."""


def lines_of(faults: Faults) -> list[str]:
    """Each kind once, with its number and first lines."""
    lines = []
    for what, places in faults.items():
        shown = [place for place in places[: SHOWN_AUDIO if what.endswith("audio") else SHOWN] if place]
        number = f" ({len(places)} lines)" if len(places) > 1 else ""
        lines.append(what + number + (":" if shown else ""))
        lines += [f"    {place}" for place in shown]
        if len(shown) < len(places) and shown:
            lines.append(f"    ... and {len(places) - len(shown)} more")
    return lines


def validate(
    data: Path, *, text: bool = True, wav: bool = True, spk_sort: bool = True, allow_pipes: bool = False, nj: int = 1
) -> tuple[list[str], dict[str, str]]:
    """Check a data directory: ``text`` and ``wav`` are needed, speakers sort as utterances do, pipes are tolerated.

    Returns:
        Lines that say what is wrong, none where all is right; utt2spk as far as it could be read.
    """
    if not data.is_dir():
        return [f"{data}: no such directory"], {}
    faults: Faults = defaultdict(list)
    needed = [MAIN_TABLE, DERIVED_TABLE] + ["text"] * text
    needed += ["wav.scp"] * (wav and not (data / "feats.scp").is_file())
    for name in needed:
        if not (data / name).is_file():
            faults[f"{data / name}: no such file"].append("")
    if not (data / MAIN_TABLE).is_file():
        return lines_of(faults), {}
    tables = tables_of(data)
    utt2spk = read(data / MAIN_TABLE, faults)
    if not utt2spk:
        faults[f"{data / MAIN_TABLE} has no utterance"].append("")
    found = read_all(data, tables["utterance"][1:], MAIN_TABLE, utt2spk, faults)
    durations, segments = found.get("utt2dur", {}), found.get("segments", {})
    check_speakers(data, tables["speaker"], utt2spk, spk_sort, faults)
    if segments:
        used = sorted({value.split()[0] for value in segments.values() if value})
        found |= read_all(data, tables["recording"], "segments", used, faults)
    scp = found.get("wav.scp", {})
    if wav and scp:
        tasks = audio_tasks(scp, {} if segments else durations, segments)
        check = partial(check_recording, allow_pipes=allow_pipes)
        for message in filter(None, map_recordings(check, tasks, nj)):
            faults[f"{data / 'wav.scp'}: audio"].append(message)
    return lines_of(faults), utt2spk


def read_all(
    data: Path, names: list[str], keys_of: str, keys: Iterable[str], faults: Faults
) -> dict[str, dict[str, str]]:
    """Read tables whose keys should be ``keys``, those of the table ``keys_of``; gives them by file name."""
    tables = {}
    for name in names:
        tables[name] = read(data / name, faults)
        for key in keys:
            if key not in tables[name]:
                faults[f"{data / name} lacks what {keys_of} has"].append(key)
        known = set(keys)
        for key in tables[name]:
            if key not in known:
                faults[f"{data / keys_of} lacks what {name} has"].append(key)
    return tables


def read(path: Path, faults: Faults) -> dict[str, str]:
    """Read what can be read of a table, and note what is wrong with its lines and values."""
    expected, is_right = VALUES.get(path.name, ("unprintable character", str.isprintable))
    table: dict[str, str] = {}
    previous = ""
    for number, raw in raw_lines(path):
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError:
            faults[f"{path}: not UTF-8"].append(f"{number}: {raw[:200]!r}")
            continue
        key, value = split_line(line)
        if fault := line_fault(line, key):
            faults[f"{path}: {fault}"].append(f"{number}: {line[:200]!r}")
        if not key:
            continue
        if key in table:
            faults[f"{path}: repeated key"].append(f"{number}: {line[:200]}")
            continue
        if key < previous:
            faults[f"{path}: out of byte order"].append(f"{number}: {key} after {previous}")
        elif not is_right(value):
            faults[f"{path}: {expected}"].append(f"{number}: {line[:200]!r}")
        previous = key
        table[key] = value
    return table


def line_fault(line: str, key: str) -> str | None:
    """What is wrong with the form of a line."""
    if not line.strip():
        return "empty line"
    if line.startswith(BOM):
        return BOM_FOUND
    return None if key and key.isprintable() else "no printable key at the beginning"


def is_word(value: str) -> bool:
    """One word."""
    return value.isprintable() and len(value.split()) == 1


def is_number(value: str) -> bool:
    """A number above 0."""
    try:
        return 0 < float(value) < math.inf
    except ValueError:
        return False


def is_segment(value: str) -> bool:
    """A recording, a start and a later end in seconds (an end of -1 is Kaldi's "to the end")."""
    words = value.split()
    if len(words) != 3:
        return False
    try:
        start, end = float(words[1]), float(words[2])
    except ValueError:
        return False
    return 0 <= start < math.inf and (start < end < math.inf or end == -1)


LABELS = ("utt2session", "utt2style", "utt2paper", "utt2lang", "utt2split", "utt2corpus")
NUMBERS = ("utt2dur", "utt2num_frames", "utt2num_samples")
VALUES: dict[str, tuple[str, Callable[[str], bool]]] = {
    **dict.fromkeys(LABELS, ("expected one word or none", lambda value: not value or is_word(value))),
    **dict.fromkeys(NUMBERS, ("expected a number above 0", is_number)),
    "utt2spk": ("expected one speaker", is_word),
    "segments": ("expected a recording, a start and a later end in seconds", is_segment),
}
"""What a table's values should be, in words and as a test."""


def check_speakers(data: Path, names: list[str], utt2spk: dict[str, str], spk_sort: bool, faults: Faults) -> None:
    """Check speakers' tables, the round trip of spk2utt, and that speakers begin their utterances' ids."""
    spk2utt = spk2utt_of(utt2spk)
    read_all(data, names, MAIN_TABLE, sorted(spk2utt), faults)
    if (data / DERIVED_TABLE).is_file():
        stored = read(data / DERIVED_TABLE, faults)
        for speaker in sorted(spk2utt.keys() | stored.keys()):
            if stored.get(speaker) != spk2utt.get(speaker):
                what = " (no line)" if speaker not in stored else "" if speaker in spk2utt else " (not in utt2spk)"
                faults[f"{data / DERIVED_TABLE} is not what {MAIN_TABLE} gives"].append(f"{speaker}{what}")
    if not spk_sort:
        return
    previous = ""
    for utt, speaker in utt2spk.items():
        if not utt.startswith(speaker):
            faults[f"{data / MAIN_TABLE}: speaker id is no prefix of the utterance id"].append(f"{utt} {speaker}")
        elif speaker < previous:
            faults[f"{data / MAIN_TABLE}: sorted by utterance, not by speaker"].append(
                f"{utt} {speaker} after {previous}"
            )
        previous = speaker


def audio_tasks(scp: dict[str, str], durations: dict[str, str], segments: dict[str, str]) -> list[Task]:
    """What the audio headers are compared with."""
    ends: dict[str, float] = {}
    for value in filter(is_segment, segments.values()):
        recording, _, end = value.split()[:3]
        ends[recording] = max(ends.get(recording, 0.0), float(end))
    return [
        (key, entry, float(durations[key]) if is_number(durations.get(key, "")) else None, ends.get(key))
        for key, entry in scp.items()
    ]
