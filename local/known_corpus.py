"""A corpus whose labels and counts are known: its options, its files by their names, and all that follows the scan."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from audio_headers import check_audio
from labels import keep_classes, label_options
from prepare_common import Dropped, Utterance, boolean, entries, listed, options, warn
from write_data import write_data

from sermtl.errors import UserError

AUDIO = (".wav", ".flac")
KEYS = {"class": "", "speaker": "fold", "prefix": "paper"}
"""Kinds of published counts, and the field of `Utterance` by which each counts."""


Reader = Callable[[Utterance, "re.Match[str]"], "str | None"]
"""Sets an utterance's speaker, emotion and so on by its file's name; returns why it is not used, or None."""


@dataclass(frozen=True)
class Corpus:
    """What is known of a corpus before it is read.

    ``labels`` are all that occur and ``classes`` those used by default; ``merged`` renames labels where the user does
    not; ``counts`` are the published ones, by "class LABEL", "speaker NAME LABEL" or "prefix NAME LABEL"; ``speakers``
    are all that a whole copy has. ``example`` is a file,
    ``pattern`` that of their names without suffix, ``folders`` are patterns of where they are.
    """

    name: str
    labels: Collection[str]
    classes: Collection[str]
    counts: Mapping[str, int]
    example: str = ""
    pattern: str = ""
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


def scan_names(corpus: Corpus, root: Path, read: Reader) -> Scan:
    """Scan a corpus whose files' names say all.

    Raises:
        UserError: The folder is missing, empty or not laid out as distributed.
    """
    name = re.compile(corpus.pattern)
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
    if scan.missing:
        warn(f"{source} is a partial copy; missing are:{listed(scan.missing)}")
    utterances, others = keep_classes(scan.utterances, args, source, corpus.classes, corpus.labels)
    if lost := [u.utt for u in utterances if not u.text]:
        warn(f"{len(lost)} utterances have no transcript, first {lost[0]}; their text is empty")
    utterances, broken = check_audio(utterances, args, scan.broken)
    utterances = write_data(utterances, args, source, corpus.lang, scan.dropped + others + broken)
    if compared:
        found: Counter[str] = Counter()
        for u in utterances:
            found.update(
                f"{kind} {getattr(u, by)} {u.emotion}" if by else f"{kind} {u.emotion}" for kind, by in KEYS.items()
            )
        # Of the classes, and of the speakers and prefixes, that the copy holds.
        parts = {part for key in found for part in (key.split()[-1], key.rpartition(" ")[0])}
        known = {key: n for key, n in corpus.counts.items() if {key.split()[-1], key.rpartition(" ")[0]} <= parts}
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


def prepare_by_names(corpus: Corpus, read: Reader, description: str | None) -> None:
    """The program of a corpus whose files' names say all: read the options, scan, check and write."""
    args = corpus_options(corpus, description).parse_args()
    write_corpus(corpus, scan_names(corpus, args.corpus_dir, read), args)
