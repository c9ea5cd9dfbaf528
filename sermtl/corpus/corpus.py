"""A prepared data directory in memory, as folds and audits see it: ids and a few coded columns."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sermtl.errors import UserError
from sermtl.fileio.tables import known_speakers, read_table

APOSTROPHES = str.maketrans("", "", "'’")
ASCII_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class Column:
    """One value an utterance, coded."""

    names: list[str]
    """The distinct values that are not empty, in byte order."""
    codes: np.ndarray
    """(N,) int32, index into ``names``; -1 where the value is empty."""

    @classmethod
    def of(cls, values: Iterable[str]) -> Column:
        """Code a list of values."""
        values = list(values)
        names = sorted(set(values) - {""}, key=str.encode)
        code = {name: index for index, name in enumerate(names)}
        return cls(names, np.fromiter((code.get(v, -1) for v in values), np.int32, len(values)))


@dataclass(frozen=True)
class Corpus:
    """The utterances of a data directory in byte order of their ids, with what protocols ask of them.

    ``session``, ``transcript`` and ``style`` are None where the directory has no such table. The speaker of a single
    utterance is unknown (code -1).
    """

    path: Path
    utts: list[str]
    index: dict[str, int]
    speaker: Column
    emotion: Column
    session: Column | None
    transcript: Column | None
    style: Column | None

    @property
    def labelled(self) -> np.ndarray:
        """(N,) bool: the utterance has an emotion."""
        return self.emotion.codes >= 0


def load_corpus(data: str | Path) -> Corpus:
    """Read the tables of a data directory; `UserError` where one is missing or broken, or keys differ."""
    data = Path(data)
    if not data.is_dir():
        raise UserError(f"no data directory {data}: stage 1 makes it")
    utt2spk = read_table(data / "utt2spk")
    if not utt2spk:
        raise UserError(f"{data / 'utt2spk'} is empty: there is no utterance to divide")
    nameless = [utt for utt, speaker in utt2spk.items() if not speaker or " " in speaker]
    if nameless:
        raise UserError(f"{data / 'utt2spk'}: {len(nameless)} utterances without one speaker id, first {nameless[0]}")
    known = known_speakers(utt2spk)
    return Corpus(
        path=data,
        utts=list(utt2spk),
        index={utt: i for i, utt in enumerate(utt2spk)},
        speaker=Column.of(speaker if speaker in known else "" for speaker in utt2spk.values()),
        emotion=Column.of(table_values(data / "utt2emo", utt2spk)),
        session=optional_column(data / "utt2session", utt2spk),
        transcript=optional_column(data / "text", utt2spk, comparable_text),
        style=optional_column(data / "utt2style", utt2spk),
    )


def table_values(path: Path, utts: Mapping[str, object]) -> list[str]:
    """Read a table's values in the order of ``utts``; the keys must be the same."""
    table = read_table(path)
    wrong = [f"no line for {utt}, which utt2spk has" for utt in utts if utt not in table]
    wrong += [f"{utt} is not in utt2spk" for utt in table if utt not in utts]
    if wrong:
        raise UserError(f"{path}: {wrong[0]}; run utils/validate_data_dir.sh {path.parent}")
    return list(table.values())


def optional_column(path: Path, utts: Mapping[str, object], form: Callable[[str], str] = str) -> Column | None:
    """Code the ``form`` of a table's values; None where the file is absent."""
    return Column.of(map(form, table_values(path, utts))) if path.exists() else None


def comparable_text(text: str) -> str:
    """Reduce a transcript to what two readings of one script share: case-folded words without punctuation."""
    folded = unicodedata.normalize("NFKC", text).casefold().translate(APOSTROPHES)
    if folded.isascii():
        return " ".join(ASCII_WORD.findall(folded))
    return " ".join("".join(c if c.isalnum() or unicodedata.combining(c) else " " for c in folded).split())
