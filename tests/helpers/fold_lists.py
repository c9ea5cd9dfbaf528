"""The program of stage 1's folds, and the lists that a protocol makes, in this process."""

import sys

from sermtl.bin import folds as program
from sermtl.corpus.corpus import load_corpus
from sermtl.corpus.folds import make_folds
from sermtl.fileio.tables import PARTS


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["folds", *map(str, words)])
    return program.main()


def fold_lists(data, protocol, **options):
    corpus = load_corpus(data)
    return {
        fold.name: {part: [corpus.utts[row] for row in getattr(fold, part)] for part in PARTS}
        for fold in make_folds(corpus, protocol, **options)[1]
    }


def speaker_of(utt):
    return utt.split("-")[0]
