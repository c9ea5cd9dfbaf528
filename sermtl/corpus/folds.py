"""Protocols: which utterances train, choose and test in each fold, as pure functions of ids and seed."""

from __future__ import annotations

import difflib
import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from sermtl.corpus.corpus import Corpus, table_values
from sermtl.errors import UserError
from sermtl.fileio.tables import read_table

NAMED = ("speaker", "session", "paper")
"""Protocols beside ``kfoldK``."""
RESERVED = ("folds", "audit.txt")
"""Files that stand beside the folds' directories."""


@dataclass(frozen=True)
class Fold:
    """A fold: (n,) sorted indices into the corpus's utterances for each part."""

    name: str
    train: np.ndarray
    dev: np.ndarray
    test: np.ndarray

    def lists(self, corpus: Corpus) -> dict[str, list[str]]:
        """The parts as lists of ids."""
        parts = {"train": self.train, "dev": self.dev, "test": self.test}
        return {part: [corpus.utts[i] for i in rows] for part, rows in parts.items()}


def without_copies(fold: Fold, audio: np.ndarray) -> Fold:
    """Leave out what train and dev hold of the test part's audio.

    Args:
        fold: The fold.
        audio: (N,) codes of equal audio of all utterances, -1 where unknown.
    """
    tested = audio[fold.test]
    tested = tested[tested >= 0]
    train, dev = (rows[~np.isin(audio[rows], tested)] for rows in (fold.train, fold.dev))
    return replace(fold, train=train, dev=dev)


def promises_disjoint_speakers(protocol: str) -> bool:
    """Tell whether no test speaker may occur in train or dev."""
    return protocol != "paper"


def make_folds(corpus: Corpus, protocol: str, dev_ratio: float = 0.0, seed: int = 0) -> Iterator[Fold]:
    """Make a protocol's folds, in order of their names, one at a time.

    The utterances without emotion train the other heads and are never in dev or test; those of the test
    part's own group are in no list of that fold.

    Args:
        corpus: The utterances and their columns.
        protocol: ``speaker``, ``session``, ``paper``, or ``kfoldK`` with a number for K.
        dev_ratio: Share of the training part's labelled utterances that becomes dev, in [0, 0.5].
        seed: Decides, with the ids, which ones.

    Raises:
        UserError: Unknown protocol, ratio out of range, or a corpus that the protocol cannot divide.
    """
    if not 0 <= dev_ratio <= 0.5:
        raise UserError(f"--dev_ratio {dev_ratio:g} is outside 0 to 0.5, the share of training that becomes dev")
    group, names = divide(corpus, protocol)
    picker = DevPicker(corpus, dev_ratio, seed)

    def fold(name: str) -> Fold:
        inside = group == name
        train = np.flatnonzero(~inside)
        dev = picker.pick(train)
        return Fold(name, np.setdiff1d(train, dev), dev, np.flatnonzero(inside & corpus.labelled))

    return map(fold, names)


def divide(corpus: Corpus, protocol: str) -> tuple[np.ndarray, list[str]]:
    """Give each utterance's group, (N,) strings, and the groups that make a fold: those with a label."""
    group = np.array(groups(corpus, protocol), object)
    names = sorted(set(group[corpus.labelled]), key=str.encode)
    check_names(corpus, protocol, names)
    return group, names


def check_protocol(protocol: str) -> None:
    """Refuse a protocol's name that is none, naming the nearest."""
    if protocol in NAMED:
        return
    if folds := re.fullmatch(r"kfold(0|[1-9][0-9]*)", protocol):
        if int(folds[1]) < 2:
            raise UserError(f"{protocol}: at least 2 folds are needed to train on one part and test on another")
        return
    near = difflib.get_close_matches(protocol, [*NAMED, "kfold10"], 1, 0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UserError(f"unknown protocol {protocol!r}{hint} (known: {' '.join(NAMED)} kfoldK, as in kfold10)")


def groups(corpus: Corpus, protocol: str) -> list[str]:
    """(N,) the name of the fold that would test each utterance."""
    if protocol == "speaker":
        return speaker_groups(corpus)
    if protocol == "session":
        return required_groups(corpus, "utt2session", "has no sessions; use --protocol speaker or kfoldK")
    if protocol == "paper":
        return required_groups(corpus, "utt2paper", "has no published folds; use --protocol speaker or session")
    check_protocol(protocol)
    return kfold_groups(corpus, int(protocol.removeprefix("kfold")))


def speaker_groups(corpus: Corpus) -> list[str]:
    """One group a speaker, named by the table ``spk2fold`` where there is one."""
    names = corpus.speaker.names
    path = corpus.path / "spk2fold"
    if path.exists():
        spk2fold = read_table(path)
        missing = [name for name in names if not spk2fold.get(name)]
        if missing:
            raise UserError(f"{path}: no fold for {len(missing)} speakers: {' '.join(missing[:20])}")
        names = [spk2fold[name] for name in names]
    return [names[code] for code in corpus.speaker.codes]


def required_groups(corpus: Corpus, table: str, absent: str) -> list[str]:
    """Groups by a table that gives every utterance a value."""
    path = corpus.path / table
    if not path.exists():
        raise UserError(f"no {path}: the corpus {absent}")
    values = table_values(path, corpus.index)
    empty = [utt for utt, value in zip(corpus.utts, values, strict=True) if not value]
    if empty:
        raise UserError(f"{path}: no value for {len(empty)} utterances, first {empty[0]}")
    return values


def kfold_groups(corpus: Corpus, k: int) -> list[str]:
    """Deal speakers into K groups: the largest first, each to the group with fewest test utterances."""
    speakers = corpus.speaker.names
    sizes = np.bincount(corpus.speaker.codes[corpus.labelled], minlength=len(speakers))
    labelled_speakers = int((sizes > 0).sum())
    if k > labelled_speakers:
        raise UserError(
            f"kfold{k} needs {k} speakers with labelled utterances, {corpus.path} has {labelled_speakers}; "
            + (f"use --protocol kfold{labelled_speakers} at most" if labelled_speakers > 1 else "it cannot be divided")
        )
    loads = [0] * k
    group = [""] * len(speakers)
    for code in sorted(range(len(speakers)), key=lambda code: (-sizes[code], code)):
        lightest = loads.index(min(loads))
        loads[lightest] += int(sizes[code])
        group[code] = str(lightest + 1).zfill(len(str(k)))
    return [group[code] for code in corpus.speaker.codes]


def check_names(corpus: Corpus, protocol: str, tested: list[str]) -> None:
    """Refuse what cannot be folds: nothing labelled, a single group, names that cannot be directories."""
    if not tested:
        raise UserError(f"{corpus.path / 'utt2emo'}: no utterance has an emotion, there is nothing to test")
    if len(corpus.emotion.names) == 1:
        raise UserError(
            f"{corpus.path / 'utt2emo'}: all labelled utterances are {corpus.emotion.names[0]}: one class, so there is "
            "nothing to learn; check the labels, --classes and --label_map"
        )
    if len(corpus.speaker.names) == 1 and promises_disjoint_speakers(protocol):
        raise UserError(
            f"{corpus.path} has one speaker, {corpus.speaker.names[0]}: no protocol can test on a speaker "
            "that it did not train on; check utt2spk"
        )
    if len(tested) == 1:
        raise UserError(
            f"protocol {protocol} puts all labelled utterances of {corpus.path} into one fold, {tested[0]}: "
            "no training data would be left; use another protocol"
        )
    for name in tested:
        if "/" in name or name.startswith(".") or name in RESERVED or any(c.isspace() for c in name):
            raise UserError(f"fold name {name!r} (protocol {protocol}) cannot be a directory name")


class DevPicker:
    """Takes dev utterances from training parts, stratified by emotion and speaker.

    Within a stratum the order is that of a digest of seed and id, so whether an utterance is taken does not
    depend on the number of others, nor on their order in any file.
    """

    def __init__(self, corpus: Corpus, ratio: float, seed: int) -> None:
        self.corpus, self.ratio = corpus, ratio
        if ratio:
            digests = [hashlib.sha256(f"{seed} {utt}".encode()).digest()[:8] for utt in corpus.utts]
            self.order = np.lexsort(
                (np.frombuffer(b"".join(digests), ">u8"), corpus.speaker.codes, corpus.emotion.codes)
            )

    def pick(self, train: np.ndarray) -> np.ndarray:
        """Pick dev out of the (n,) sorted training indices.

        Strata are walked emotion by emotion with cumulative rounding, so that all of dev, each emotion and
        each stratum are within one utterance of their share. No class loses its last utterance and no speaker
        its last two, which may leave dev short; what one emotion cannot give is not taken from the next.
        """
        if not self.ratio:
            return np.array([], np.int64)
        emotion, speaker = self.corpus.emotion.codes, self.corpus.speaker.codes
        inside = np.zeros(len(emotion), bool)
        inside[train] = True
        rows = self.order[inside[self.order] & self.corpus.labelled[self.order]]
        left_speaker = Counter(speaker[train].tolist())
        picked: list[int] = []
        due = 0.0
        for same_emotion in runs(rows, emotion[rows]):
            short = round_half_up(due) - len(picked)
            left = len(same_emotion)
            for stratum in runs(same_emotion, speaker[same_emotion]):
                due += self.ratio * len(stratum)
                wanted = min(round_half_up(due) - short - len(picked), math.ceil(self.ratio * len(stratum)))
                owner = int(speaker[stratum[0]])
                taken = max(0, min(wanted, left - 1, left_speaker[owner] - 2))
                picked += stratum[:taken].tolist()
                left -= taken
                left_speaker[owner] -= taken
        return np.array(sorted(picked), np.int64)


def runs(rows: np.ndarray, codes: np.ndarray) -> list[np.ndarray]:
    """Cut (n,) rows where their (n,) codes change."""
    return np.split(rows, np.flatnonzero(np.diff(codes)) + 1) if len(rows) else []


def round_half_up(value: float) -> int:
    """Round to the nearest whole number, halves up (a sum of ratios may miss a half by a hair)."""
    return int(value + 0.5 + 1e-9)
