"""Small data directories for the tests of tables, folds and audits."""

from __future__ import annotations

import os
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

CLASSES = ("ang", "hap", "neu", "sad")


def write_wav(path: Path, samples: np.ndarray, rate: int = 16000) -> Path:
    """Write int16 samples, (S,) or (S, channels), with the standard library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.size // len(samples) if len(samples) else 1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return path


def noise(seed: int, samples: int = 1600) -> np.ndarray:
    return np.random.default_rng(seed).integers(-9000, 9000, samples, dtype=np.int16)


def put(path: Path, table: dict[str, str]) -> None:
    """Write a table with nothing of the package (and without waiting for the disk)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(sorted(f"{key} {value}".rstrip().encode() + b"\n" for key, value in table.items())))


def rows_of(speakers: int = 4, each: int = 8, sessions: int = 2) -> list[dict[str, str]]:
    """Utterances as rows: speakers s0.., emotions in turn, two speakers a session by default."""
    return [
        {
            "utt": f"s{s}-{n:02d}", "utt2spk": f"s{s}", "utt2emo": CLASSES[n % 4],
            "utt2session": str(s * sessions // speakers), "text": f"WORD {'ABCDEFGH'[n % 8]} OF {s}",
        }
        for s in range(speakers) for n in range(each)
    ]  # fmt: skip


def make_data(path: Path, rows: list[dict[str, str]], audio: bool = False) -> Path:
    """Write rows as a data directory; with audio, 0.1 s of different noise an utterance."""
    tables: dict[str, dict[str, str]] = {}
    for row in rows:
        for table, value in row.items():
            if table != "utt":
                tables.setdefault(table, {})[row["utt"]] = value
    if audio:
        wavs = {row["utt"]: write_wav(path / "wav" / f"{row['utt']}.wav", noise(i)) for i, row in enumerate(rows)}
        tables["wav.scp"] = {utt: str(wav) for utt, wav in wavs.items()}
        tables["utt2dur"] = dict.fromkeys(wavs, "0.1000")
    for table, values in tables.items():
        put(path / table, values)
    speakers: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: row["utt"]):
        speakers.setdefault(row["utt2spk"], []).append(row["utt"])
    put(path / "spk2utt", {speaker: " ".join(utts) for speaker, utts in speakers.items()})
    return path


class Bomb:
    """An object whose pickle makes a folder when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.marker,)


def contents(root: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path from there."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@contextmanager
def changed(path: Path, content: bytes | str) -> Iterator[None]:
    """Another content of a file that tests share, for a while."""
    before = path.read_bytes()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        yield
    finally:
        path.write_bytes(before)
