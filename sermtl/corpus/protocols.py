"""The protocols: how each divides a corpus, what it promises, how it is marked. A new one is a row of `PROTOCOLS`."""

import difflib
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sermtl.corpus.corpus import Corpus, table_values
from sermtl.corpus.lists import Parts, read_split
from sermtl.errors import UserError
from sermtl.fileio.tables import read_table
from sermtl.fileio.text_table import plural

SENTENCE_GROUPS = 10
"""Of protocol ``disjoint``, at most."""


@dataclass(frozen=True)
class Division:
    """A protocol's folds: their names in order, the parts of each, and what was left out, in sentences."""

    names: Sequence[str]
    parts: Callable[[str], Parts]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Request:
    """What a protocol is asked for: K of its name, the user's lists, the seed of random ones."""

    k: int = 0
    lists: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class Protocol:
    """How a protocol divides a corpus, and what it promises."""

    divide: Callable[[Corpus, Request], Division]
    numbered: bool = False
    """Its name ends with the number of folds."""
    disjoint_speakers: bool = True
    """No test speaker is in train or dev."""
    disjoint_transcripts: bool = False
    """No test transcript is in train or dev."""
    marked: bool = False
    """Speaker-dependent, whatever the audit finds."""


def leave_out(corpus: Corpus, groups: Sequence[str]) -> Division:
    """A fold for each of (N,) groups with a labelled utterance; the utterances without a group are always in train."""
    group = np.array(groups, object)
    names = sorted(set(group[corpus.labelled]) - {""}, key=str.encode)
    if len(names) == 1:
        raise UserError(
            f"the protocol puts all labelled utterances of {corpus.path} into one fold, {names[0]}: no training data "
            "would be left; use another protocol"
        )
    return Division(names, lambda name: (np.flatnonzero(group != name), None, np.flatnonzero(group == name)))


def speaker_groups(corpus: Corpus) -> list[str]:
    """One group a known speaker, named by the table ``spk2fold`` where there is one; others have none."""
    names = corpus.speaker.names
    if not names:
        raise UserError(f"{corpus.path}: no speaker is known, so none can be held out; use --protocol random5 or lists")
    path = corpus.path / "spk2fold"
    if path.exists():
        spk2fold = read_table(path)
        missing = [name for name in names if not spk2fold.get(name)]
        if missing:
            raise UserError(f"{path}: no fold for {len(missing)} speakers: {' '.join(missing[:20])}")
        names = [spk2fold[name] for name in names]
    return [names[code] if code >= 0 else "" for code in corpus.speaker.codes]


def by_table(table: str, absent: str) -> Callable[[Corpus, Request], Division]:
    """Groups by a table that gives every utterance a value."""

    def divide(corpus: Corpus, _: Request) -> Division:
        path = corpus.path / table
        if not path.exists():
            raise UserError(f"no {path}: the corpus {absent}")
        values = table_values(path, corpus.index)
        empty = [utt for utt, value in zip(corpus.utts, values, strict=True) if not value]
        if empty:
            raise UserError(f"{path}: no value for {len(empty)} utterances, first {empty[0]}")
        return leave_out(corpus, values)

    return divide


def deal(sizes: np.ndarray, k: int) -> np.ndarray:
    """Numbers from 0 to K - 1 of items of these sizes: the largest first, each to the group of the smallest sum."""
    loads, group = np.zeros(k, np.int64), np.zeros(len(sizes), np.int64)
    for item in np.argsort(-sizes, kind="stable"):
        group[item] = loads.argmin()
        loads[group[item]] += sizes[item]
    return group


def numbered(groups: np.ndarray, k: int) -> list[str]:
    """Names of groups from 0 to K - 1, all of one width; -1 has none."""
    return [str(group + 1).zfill(len(str(k))) if group >= 0 else "" for group in groups]


def kfold(corpus: Corpus, request: Request) -> Division:
    """Speakers dealt into K groups by their labelled utterances."""
    codes, k = corpus.speaker.codes, request.k
    sizes = np.bincount(codes[corpus.labelled & (codes >= 0)], minlength=len(corpus.speaker.names))
    labelled_speakers = int((sizes > 0).sum())
    if k > labelled_speakers:
        raise UserError(
            f"kfold{k} needs {k} speakers with labelled utterances, {corpus.path} has {labelled_speakers}; "
            + (f"use --protocol kfold{labelled_speakers} at most" if labelled_speakers > 1 else "it cannot be divided")
        )
    return leave_out(corpus, numbered(np.where(codes >= 0, deal(sizes, k)[codes], -1), k))


def digests(utts: Sequence[str], seed: int) -> np.ndarray:
    """(N,) numbers by which utterances are ordered at random: functions of seed and id alone."""
    return np.frombuffer(b"".join(hashlib.sha256(f"{seed} {utt}".encode()).digest()[:8] for utt in utts), ">u8")


def random_folds(corpus: Corpus, request: Request) -> Division:
    """Utterances in K groups, each emotion spread evenly; speakers are not looked at."""
    if request.k > (labelled := int(corpus.labelled.sum())):
        raise UserError(f"random{request.k}: {corpus.path} has {plural(labelled, 'labelled utterance')}")
    group = np.zeros(len(corpus.utts), np.int64)
    group[np.lexsort((digests(corpus.utts, request.seed), corpus.emotion.codes))] = np.arange(len(group)) % request.k
    return leave_out(corpus, numbered(group, request.k))


def disjoint(corpus: Corpus, _: Request) -> Division:
    """A fold for each speaker and group of sentences: training has neither; cells without a label are skipped."""
    if corpus.transcript is None or not corpus.transcript.names:
        raise UserError(f"{corpus.path / 'text'}: no transcripts, so no sentence can be held out; use another protocol")
    codes, speaker = corpus.transcript.codes, np.array(speaker_groups(corpus), object)
    usable = (codes >= 0) & (speaker != "")
    sizes = np.bincount(codes[usable & corpus.labelled], minlength=len(corpus.transcript.names))
    k = min(SENTENCE_GROUPS, int((sizes > 0).sum()))
    sentences = np.where(codes >= 0, deal(sizes, k)[codes], -1)
    speakers = sorted(set(speaker[usable]), key=str.encode)

    def parts(cell: tuple[str, int]) -> Parts:
        own, same = speaker == cell[0], sentences == cell[1]
        return np.flatnonzero(usable & ~own & ~same), None, np.flatnonzero(own & same)

    cells = {f"{name}_s{group + 1:02d}": (name, group) for name in speakers for group in range(k)}
    kept = [
        name for name, cell in cells.items()
        if all(corpus.labelled[rows].any() for rows in parts(cell) if rows is not None)
    ]  # fmt: skip
    if not kept:
        raise UserError(
            f"{corpus.path}: one speaker or one sentence: nothing is left to train on; use another protocol"
        )
    notes = [f"{len(cells) - len(kept)} of {len(cells)} cells of a speaker and a group of sentences are empty: skipped"]
    if lost := int((~usable).sum()):
        notes.append(f"{plural(lost, 'utterance')} without transcript or known speaker in no list")
    return Division(kept, lambda name: parts(cells[name]), notes)


def from_lists(corpus: Corpus, request: Request) -> Division:
    """The user's own lists, or the table ``utt2split``."""
    folds, notes = read_split(corpus, request.lists)
    return Division(list(folds), folds.__getitem__, notes)


PROTOCOLS = {
    "speaker": Protocol(lambda corpus, _: leave_out(corpus, speaker_groups(corpus))),
    "session": Protocol(by_table("utt2session", "has no sessions; use --protocol speaker or kfoldK")),
    "paper": Protocol(
        by_table("utt2paper", "has no published folds; use --protocol speaker or session"), disjoint_speakers=False
    ),
    "kfold": Protocol(kfold, numbered=True),
    "disjoint": Protocol(disjoint, disjoint_transcripts=True),
    "random": Protocol(random_folds, numbered=True, disjoint_speakers=False, marked=True),
    "corpus": Protocol(by_table("utt2corpus", "is not one of several, which this table names by utterance")),
    "lists": Protocol(from_lists, disjoint_speakers=False),
}


def find_protocol(name: str) -> tuple[Protocol, int]:
    """A protocol by its name, and the number of folds in it (0: none); `UserError` with the nearest for no protocol."""
    stem, number = re.fullmatch(r"(.*?)(0|[1-9][0-9]*)?", name, re.DOTALL).groups()  # type: ignore[union-attr]
    protocol = PROTOCOLS.get(stem)
    if protocol is None or protocol.numbered != bool(number):
        shown = [f"{stem}{'K' * row.numbered}" for stem, row in PROTOCOLS.items()]
        near = difflib.get_close_matches(name, [word.replace("K", "10") for word in shown], 1, 0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"unknown protocol {name!r}{hint} (known: {' '.join(shown)}, as in kfold10)")
    if protocol.numbered and int(number) < 2:
        raise UserError(f"{name}: at least 2 folds are needed to train on one part and test on another")
    return protocol, int(number or 0)
