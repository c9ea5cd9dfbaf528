"""A corpus whose labels and counts are known: its options, its files by their names, and all that follows the scan."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from audio_headers import check_audio
from labels import asked_for, chosen_classes, label_options, map_labels, refuse_absent
from prepare_common import (
    Dropped,
    Utterance,
    boolean,
    entries,
    leave_out_lone_speakers,
    listed,
    normalise_texts,
    options,
    warn,
)
from write_data import write_data

from sermtl.errors import UserError

AUDIO = (".wav", ".flac")
KEYS = {"class": "", "speaker": "fold", "prefix": "paper"}
"""Kinds of published counts, and the field of `Utterance` by which each counts."""


@dataclass(frozen=True)
class Corpus:
    """What is known of a corpus before it is read.

    ``labels`` are all that occur and ``classes`` those used by default; ``merged`` renames labels where the user does
    not; ``counts`` are the published ones, by "class LABEL", "speaker NAME LABEL" or "prefix NAME LABEL"; ``speakers``
    are all that a whole copy has. ``example`` is a file, ``folders`` patterns of where such files are.
    """

    name: str
    labels: Collection[str]
    classes: Collection[str]
    counts: Mapping[str, int]
    example: str = ""
    folders: tuple[str, ...] = ()
    speakers: Collection[str] = ()
    merged: Mapping[str, str] = field(default_factory=dict)
    lang: str = "en"


@dataclass
class Scan:
    """What was found: usable utterances with labels of the corpus, those not used, and what is lost or differs."""

    utterances: list[Utterance] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    broken: list[Dropped] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def corpus_options(corpus: Corpus, description: str | None) -> argparse.ArgumentParser:
    """Make the parser of a corpus that has its own labels."""
    parser = options(description)
    parser.add_argument(
        "--corpus_dir", type=Path, required=True, help=f"the folder of {corpus.name} as it is given out"
    )
    label_options(parser, f"out of {' '.join(corpus.labels)}; default: {' '.join(corpus.classes)}")
    parser.add_argument("--known_counts", type=boolean, default=True, help="compare the counts with the published ones")
    return parser


def scan_names(
    corpus: Corpus, root: Path, name: re.Pattern[str], read: Callable[[Utterance, re.Match[str]], str | None]
) -> Scan:
    """Scan a corpus whose files' names say all.

    Args:
        corpus: The corpus.
        root: Its folder.
        name: The pattern of a file's name without its suffix.
        read: Sets an utterance's speaker, emotion and so on by the match; returns why it is not used, or None.

    Raises:
        UserError: The folder is missing, empty or not laid out as distributed.
    """
    hint = f"give --corpus_dir the folder of {corpus.name} as it is distributed, which holds {corpus.example}"
    if not root.is_dir():
        raise UserError(f"no corpus folder {root}: {hint}")
    for folders in (*(sorted(root.glob(pattern)) for pattern in corpus.folders), [root]):
        files = [path for folder in folders for path in entries(folder, *AUDIO).values()]
        if any(name.fullmatch(path.stem) for path in files):
            break
    else:
        raise UserError(f"{root} {f'holds no {corpus.example}' if any(root.iterdir()) else 'is empty'}: {hint}")
    scan = Scan()
    for path in files:
        utterance, match = Utterance(path.stem, str(path), "", where=str(path)), name.fullmatch(path.stem)
        problem = read(utterance, match) if match else f"not a name of {corpus.name}"
        if problem:
            scan.dropped.append(Dropped(path.stem, problem, str(path)))
        else:
            utterance.utt = f"{utterance.speaker}-{path.stem}"
            scan.utterances.append(utterance)
    found = {u.speaker for u in scan.utterances}
    scan.missing = [f"all of speaker {speaker}" for speaker in corpus.speakers if speaker not in found]
    return scan


def write_corpus(corpus: Corpus, scan: Scan, args: argparse.Namespace) -> None:
    """Choose the classes, check the audio, write the data directory, and print how the copy differs.

    Raises:
        UserError: A class is unknown or absent, audio or labels are broken, or no utterance is left.
    """
    source, compared = args.corpus_dir, args.known_counts and not args.label_map
    args.label_map = {**corpus.merged, **args.label_map}
    classes = chosen_classes(args, corpus.classes, corpus.labels)
    if scan.missing:
        warn(f"{source} is a partial copy; missing are:{listed(scan.missing)}")
    map_labels(scan.utterances, args.label_map)
    utterances, others = asked_for(scan.utterances, classes)
    if lost := [u.utt for u in utterances if not u.text]:
        warn(f"{len(lost)} utterances have no transcript, first {lost[0]}; their text is empty")
    if utterances:
        refuse_absent(classes, utterances, source)
    utterances, broken = check_audio(utterances, args, scan.broken)
    utterances, alone = leave_out_lone_speakers(utterances, args)
    lang = normalise_texts(utterances, corpus.lang, source)
    write_data(args.out, utterances, lang, scan.dropped + others + broken + alone)
    if compared:
        compare_counts(corpus, utterances, classes)


def compare_counts(corpus: Corpus, utterances: list[Utterance], classes: Collection[str]) -> None:
    """Warn of every count that differs from the published one, of the classes and the names that the copy holds."""
    found: Counter[str] = Counter()
    names = set()
    for u in utterances:
        for kind, by in KEYS.items():
            name = f"{kind} {getattr(u, by)}" if by else kind
            names.add(name)
            found[f"{name} {u.emotion}"] += 1
    known = {
        key: n for key, n in corpus.counts.items() if key.split()[-1] in classes and key.rpartition(" ")[0] in names
    }
    report_counts(corpus.name, found, known)


def report_counts(name: str, found: Mapping[str, int], known: Mapping[str, int]) -> None:
    """Print that all counts are the published ones, or warn of those that differ."""
    differ = [
        f"{key}: {found.get(key, 0)} utterances, published {n}" for key, n in known.items() if found.get(key) != n
    ]
    if differ:
        warn(f"{name}: {len(differ)} counts differ from the published ones:{listed(differ)}")
    elif known:
        print(f"{name}: all counts that are known are the published ones")
