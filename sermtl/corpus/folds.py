"""Folds: which utterances train, choose and test in each, as pure functions of ids, protocol and seed."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sermtl.corpus.corpus import Corpus
from sermtl.corpus.protocols import Division, Protocol, Request, digests, find_protocol
from sermtl.errors import UserError

RESERVED = ("folds", "audit.txt")
"""Files that stand beside the folds' directories."""


@dataclass(frozen=True)
class Fold:
    """A fold: (n,) sorted indices into the corpus's utterances for each part."""

    name: str
    train: np.ndarray
    dev: np.ndarray
    test: np.ndarray


def without_copies(fold: Fold, audio: np.ndarray) -> Fold:
    """Leave out what train and dev hold of the test part's audio, by its (N,) codes, -1 where unknown."""
    tested = audio[fold.test]
    tested = tested[tested >= 0]
    train, dev = (rows[~np.isin(audio[rows], tested)] for rows in (fold.train, fold.dev))
    return replace(fold, train=train, dev=dev)


def make_folds(
    corpus: Corpus,
    protocol: str,
    dev_ratio: float = 0.0,
    seed: int = 0,
    lists: Path | None = None,
    dev_speakers: int = 0,
) -> tuple[Division, Iterator[Fold]]:
    """Make a protocol's folds, one at a time, in the order of the division's names.

    Utterances without emotion train the other heads, and are decoded where they are in test; they are never in dev.
    Where the protocol has no dev of its own, ``dev_ratio`` of the training part's labelled utterances becomes dev, or
    all those of ``dev_speakers`` of its speakers, by ``seed`` and ids. `UserError` where a number is out of range, or
    the protocol is unknown or cannot divide the corpus.
    """
    if not 0 <= dev_ratio <= 0.5:
        raise UserError(f"--dev_ratio {dev_ratio:g} is outside 0 to 0.5, the share of training that becomes dev")
    if dev_speakers < 0 or (dev_speakers and dev_ratio):
        raise UserError(
            f"--dev_speakers {dev_speakers} with --dev_ratio {dev_ratio:g}: dev is whole speakers, or a share of each; "
            "give one of them, 0 or more"
        )
    row, k = find_protocol(protocol)
    if lists and protocol != "lists":
        raise UserError(f"--lists is for --protocol lists, not {protocol}")
    check_corpus(corpus, row)
    division = row.divide(corpus, Request(k, lists, seed))
    for name in division.names:
        if "/" in name or name.startswith(".") or name in RESERVED or any(c.isspace() for c in name):
            raise UserError(f"fold name {name!r} (protocol {protocol}) cannot be a directory name")
    picker = DevPicker(corpus, dev_ratio, seed)

    def fold(number: int, name: str) -> Fold:
        train, dev, test = division.parts(name)
        if dev is None and dev_speakers:
            chosen = choose_speakers(corpus, train, dev_speakers, number, seed)
            dev = train[chosen & corpus.labelled[train]]
            train = train[~chosen]
        elif dev is None:
            dev = picker.pick(train, number)
            train = np.setdiff1d(train, dev)
        return Fold(name, train, dev, test)

    return division, itertools.starmap(fold, enumerate(division.names))


def check_corpus(corpus: Corpus, protocol: Protocol) -> None:
    """Refuse what no protocol, or this one, can divide: nothing labelled, one class, one speaker."""
    if not corpus.emotion.names:
        raise UserError(f"{corpus.path / 'utt2emo'}: no utterance has an emotion, there is nothing to test")
    if len(corpus.emotion.names) == 1:
        raise UserError(
            f"{corpus.path / 'utt2emo'}: all labelled utterances are {corpus.emotion.names[0]}: one class, so there is "
            "nothing to learn; check the labels, --classes and --label_map"
        )
    if len(corpus.speaker.names) == 1 and protocol.disjoint_speakers:
        raise UserError(
            f"{corpus.path} has one speaker, {corpus.speaker.names[0]}: no protocol can test on a speaker that it did "
            "not train on; check utt2spk, or use --protocol random5, whose numbers are marked as speaker-dependent"
        )


def choose_speakers(corpus: Corpus, train: np.ndarray, count: int, fold: int, seed: int) -> np.ndarray:
    """(n,) bool: which of a fold's (n,) training indices are of the ``count`` speakers who become dev.

    The speakers are in the order of a digest of seed and name; each fold goes on where the one before it ended.
    `UserError` where fewer than two speakers would be left to train on.
    """
    codes = corpus.speaker.codes[train]
    order = np.roll(np.argsort(digests(corpus.speaker.names, seed)), -fold * count)
    inside = order[np.isin(order, codes)]
    if count > len(inside) - 2:
        raise UserError(
            f"--dev_speakers {count} leaves fewer than two of the {len(inside)} speakers of a training list; "
            "give fewer, or --dev_ratio"
        )
    return np.isin(codes, inside[:count])


class DevPicker:
    """Takes dev utterances from training parts, stratified by emotion and speaker.

    Within a stratum the order is that of a digest of seed and id, whatever the order in any file. Each fold goes on
    where the one before it ended, so that folds share as few dev utterances as the ratio allows.
    """

    def __init__(self, corpus: Corpus, ratio: float, seed: int) -> None:
        self.corpus, self.ratio = corpus, ratio
        if ratio:
            self.order = np.lexsort((digests(corpus.utts, seed), corpus.speaker.codes, corpus.emotion.codes))

    def pick(self, train: np.ndarray, fold: int) -> np.ndarray:
        """Pick dev out of the (n,) sorted training indices of a fold, by its number from 0.

        Strata are walked emotion by emotion with cumulative rounding, so that all of dev, each emotion and
        each stratum are within one utterance of their share. No class loses its last utterance and no speaker
        its last two, which may leave dev short; what one emotion cannot give is not taken from the next.
        """
        if not self.ratio:
            return np.array([], np.int64)
        emotion, speaker = self.corpus.emotion.codes, self.corpus.speaker.codes
        rows = self.order[np.isin(self.order, train) & self.corpus.labelled[self.order]]
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
                start = round_half_up(fold * self.ratio * len(stratum)) % len(stratum)
                picked += np.roll(stratum, -start)[:taken].tolist()
                left -= taken
                left_speaker[owner] -= taken
        return np.array(sorted(picked), np.int64)


def runs(rows: np.ndarray, codes: np.ndarray) -> list[np.ndarray]:
    """Cut (n,) rows where their (n,) codes change."""
    return np.split(rows, np.flatnonzero(np.diff(codes)) + 1) if len(rows) else []


def round_half_up(value: float) -> int:
    """Round to the nearest whole number, halves up (a sum of ratios may miss a half by a hair)."""
    return int(value + 0.5 + 1e-9)
