"""What a fold's train, dev and test lists share, and whether that breaks what its protocol promises.

`audit_fold` returns one flat dictionary, written as ``audit.json``, whose keys docs/data.md describes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from sermtl.corpus.corpus import Column, Corpus
from sermtl.corpus.duplicate_audio import same_audio
from sermtl.fileio.tables import PARTS
from sermtl.fileio.text_table import plural

PAIRS = (("train", "test"), ("dev", "test"), ("train", "dev"))
FEW = 20
"""Names listed in a message or in audit.json before it only counts."""
TINY_TEST = 10
"""Test utterances below which one more or less is worth over ten points."""

Audit = dict[str, Any]
Lists = dict[str, list[str]]


@dataclass(frozen=True)
class Audio:
    """Groups of equal audio: (N,) codes as `same_audio` gives them, and how they were compared."""

    codes: np.ndarray | None
    compared: str

    @classmethod
    def of(cls, corpus: Corpus, decode: bool = False) -> Audio:
        """Compare the audio of a corpus; a directory without wav.scp has none."""
        if not (corpus.path / "wav.scp").exists():
            return cls(None, "no")
        return cls(same_audio(corpus.path, corpus.utts, decode), "samples" if decode else "bytes")


def audit_fold(
    corpus: Corpus,
    audio: Audio,
    lists: Lists,
    *,
    protocol: str,
    fold: str,
    disjoint_speakers: bool,
    disjoint_transcripts: bool = False,
    marked: bool = False,
    allow_copies: bool = False,
) -> Audit:
    """Audit one fold's lists, which hold ids in any order, repeated or unknown ones included.

    The protocol may promise that no test speaker (transcript) is in train or dev; a ``marked`` one is speaker-dependent
    whatever is found. With ``allow_copies``, audio of the test part that is also in train or dev gives a warning only.
    """
    known = {p: [corpus.index[utt] for utt in lists[p] if utt in corpus.index] for p in PARTS}
    rows = {part: np.array(sorted(set(indices)), np.int64) for part, indices in known.items()}
    audit: Audit = {"protocol": protocol, "fold": fold, "allows_copies": allow_copies}
    audit |= {"promises_disjoint_speakers": disjoint_speakers, "promises_disjoint_transcripts": disjoint_transcripts}
    columns: dict[str, np.ndarray | None] = {
        "utterance": np.arange(len(corpus.utts)),
        "speaker": corpus.speaker.codes,
        "session": corpus.session.codes if corpus.session else None,
        "transcript": corpus.transcript.codes if corpus.transcript else None,
        "audio": audio.codes,
    }
    for what, codes in columns.items():
        figures = overlap_figures(what, np.full(len(corpus.utts), -1) if codes is None else codes, rows)
        audit |= dict.fromkeys(figures) if codes is None else figures
    unknown = sum(int((corpus.speaker.codes[r] < 0).sum()) for r in rows.values())
    audit["utterances_speaker_unknown"] = unknown
    audit["speaker_dependent"] = marked or unknown > 0 or audit["test_utterances_speaker_seen"] > 0
    audit |= id_figures(corpus, lists, rows) | class_figures(corpus, rows) | speaker_figures(corpus, rows)
    audit |= style_figures(corpus, rows) | audio_figures(corpus, audio, rows)
    train = "\n".join(corpus.utts[row] for row in rows["train"])
    audit["utterances_train_digest"] = hashlib.sha256(train.encode()).hexdigest()[:16]
    audit |= {"corpus_utterances": len(corpus.utts), "corpus_speakers": len(corpus.speaker.names)}
    audit |= {"broken": broken_promises(audit), "warnings": warnings(audit)}
    return audit | {"ok": not audit["broken"]}


def seen(codes: np.ndarray, rows: dict[str, np.ndarray]) -> np.ndarray:
    """(test,) bool: the test utterance's value also occurs in train or dev."""
    test = codes[rows["test"]]
    training = codes[np.concatenate([rows["train"], rows["dev"]])]
    return (test >= 0) & np.isin(test, training)


def overlap_figures(what: str, codes: np.ndarray, rows: dict[str, np.ndarray]) -> Audit:
    """Count a column's distinct values by part, in pairs of parts, and the test utterances seen."""
    plural = {"audio": "audio"}.get(what, what + "s")
    values = {part: np.unique(codes[r][codes[r] >= 0]) for part, r in rows.items()}
    figures: Audit = {f"{plural}_{part}": len(values[part]) for part in PARTS if what != "audio"}
    for a, b in PAIRS:
        figures[f"{plural}_shared_{a}_{b}"] = len(np.intersect1d(values[a], values[b], assume_unique=True))
    if what != "utterance":
        count = int(seen(codes, rows).sum())
        figures[f"test_utterances_{what}_seen"] = count
        figures[f"test_utterances_{what}_seen_share"] = share(count, len(rows["test"]))
    return figures


def share(count: int, of: int) -> float:
    """Share to six places (0 of nothing is 0)."""
    return round(count / of, 6) if of else 0.0


def id_figures(corpus: Corpus, lists: Lists, rows: dict[str, np.ndarray]) -> Audit:
    """Count ids that are repeated, unknown, or in no part."""
    unlisted = np.ones(len(corpus.utts), bool)
    for part in PARTS:
        unlisted[rows[part]] = False
    unknown = sorted({utt for ids in lists.values() for utt in ids if utt not in corpus.index})
    return {
        "ids_repeated": sum(len(ids) - len(set(ids)) for ids in lists.values()),
        "ids_unknown": len(unknown),
        "unknown_ids": unknown[:FEW],
        "ids_unlisted": int(unlisted.sum()),
        "ids_unlisted_labelled": int((unlisted & corpus.labelled).sum()),
    }


def counts(column: Column, rows: np.ndarray) -> dict[str, int]:
    """Utterances by value of a column."""
    codes = column.codes[rows]
    numbers = np.bincount(codes[codes >= 0], minlength=len(column.names))
    return dict(zip(column.names, map(int, numbers), strict=True))


def class_figures(corpus: Corpus, rows: dict[str, np.ndarray]) -> Audit:
    """Count classes by part."""
    by_part = {part: counts(corpus.emotion, rows[part]) for part in PARTS}
    figures: Audit = {"classes": corpus.emotion.names}
    figures |= {f"unlabelled_{part}": int((~corpus.labelled[rows[part]]).sum()) for part in PARTS}
    figures |= {f"class_counts_{part}": by_part[part] for part in PARTS}
    for part in ("train", "test"):
        figures[f"classes_absent_{part}"] = [name for name, n in by_part[part].items() if not n]
    figures["majority_share_test"] = share(max(by_part["test"].values(), default=0), sum(by_part["test"].values()))
    return figures


def speaker_figures(corpus: Corpus, rows: dict[str, np.ndarray]) -> Audit:
    """Name the shared speakers; count the training speakers' utterances."""
    codes = corpus.speaker.codes
    numbers = [n for n in counts(corpus.speaker, rows["train"]).values() if n]
    shared = np.unique(codes[rows["test"]][seen(codes, rows)])
    return {
        "shared_speaker_names": [corpus.speaker.names[code] for code in shared[:FEW]],
        "speaker_utterances_min": min(numbers, default=0),
        "speaker_utterances_max": max(numbers, default=0),
        "speakers_with_one_utterance": numbers.count(1),
    }


def style_figures(corpus: Corpus, rows: dict[str, np.ndarray]) -> Audit:
    """Count seen transcripts by style: scripted dialogues repeat their words, others do not."""
    if corpus.style is None or corpus.transcript is None:
        return {"test_transcript_seen_by_style": None}
    test = rows["test"]
    known = counts(corpus.style, test[seen(corpus.transcript.codes, rows)])
    every = counts(corpus.style, test)
    return {"test_transcript_seen_by_style": {style: [known[style], every[style]] for style in every}}


def audio_figures(corpus: Corpus, audio: Audio, rows: dict[str, np.ndarray]) -> Audit:
    """Name the test utterances of seen audio; count what the whole corpus has twice, and what was not compared."""
    names = ("shared_audio_utterances", "corpus_duplicate_audio", "corpus_audio_not_compared")
    figures: Audit = dict.fromkeys(names) | {"corpus_audio_compared": audio.compared}
    if audio.codes is not None:
        copied = rows["test"][seen(audio.codes, rows)]
        numbers = np.bincount(audio.codes[audio.codes >= 0])
        values = ([corpus.utts[i] for i in copied[:FEW]], int(numbers[numbers > 1].sum()), int((audio.codes < 0).sum()))
        figures |= zip(names, values, strict=True)
    return figures


def broken_promises(audit: Audit) -> list[str]:
    """Say which promises a fold breaks; every fold promises parts that are disjoint, known and usable."""
    broken = []
    if audit["promises_disjoint_speakers"] and audit["test_utterances_speaker_seen"]:
        broken.append(f"speakers of the test part are in train or dev: {' '.join(audit['shared_speaker_names'])}")
    if audit["promises_disjoint_transcripts"] and (n := audit["test_utterances_transcript_seen"]):
        broken.append(f"the transcripts of {plural(n, 'test utterance')} are in train or dev")
    for a, b in PAIRS:
        if n := audit[f"utterances_shared_{a}_{b}"]:
            broken.append(f"{plural(n, 'utterance')} in both {a} and {b}")
    if audit["test_utterances_audio_seen"] and not audit["allows_copies"]:
        broken.append(copies(audit))
    if n := audit["ids_repeated"]:
        broken.append(f"{plural(n, 'id')} listed more than once in a part")
    if n := audit["ids_unknown"]:
        broken.append(f"{plural(n, 'id')} that the data directory does not have: {' '.join(audit['unknown_ids'])}")
    return broken + [f"no utterance in {part}" for part in ("train", "test") if not audit[f"utterances_{part}"]]


def copies(audit: Audit) -> str:
    """Name the test utterances whose audio train or dev holds."""
    names = " ".join(audit["shared_audio_utterances"])
    return (
        f"the audio of {plural(audit['test_utterances_audio_seen'], 'test utterance')} is also in train or dev: {names}"
    )


def warnings(audit: Audit) -> list[str]:
    """Say what breaks no promise and should be known before the fold is used."""
    found = []
    if audit["test_utterances_audio_seen"] and audit["allows_copies"]:
        found.append(copies(audit))
    for part in ("train", "test"):
        if absent := audit[f"classes_absent_{part}"]:
            found.append(f"no utterance of {' '.join(absent)} in {part}")
    lost = audit["corpus_audio_not_compared"]
    few = 0 < audit["utterances_test"] - audit["unlabelled_test"] < TINY_TEST
    counted = (
        (audit["unlabelled_test"], "test utterance", "{} without an emotion: decoded, not scored"),
        (audit["utterances_speaker_unknown"], "utterance", "{} of unknown speakers, who may be in train and in test"),
        (audit["speakers_with_one_utterance"], "training speaker", "{} with a single utterance"),
        (few, "", f"fewer than {TINY_TEST} test utterances: one of them is worth over {100 // TINY_TEST} points"),
        (lost, "utterance", "the audio of {} could not be compared (a pipe or unreadable)"),
        (audit["corpus_duplicate_audio"], "utterance", "{} of the corpus share their audio with another"),
    )
    return found + [form.format(plural(n, noun)) for n, noun, form in counted if n]
