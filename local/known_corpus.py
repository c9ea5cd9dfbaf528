"""A corpus whose labels and counts are known: its options, its files by their names, and all that follows the scan."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Collection, Mapping
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


@dataclass(frozen=True)
class Corpus:
    """What is known of a corpus before it is read.

    ``codes`` say what a code means, by field of `Utterance`: ``emotion`` all labels, ``speaker`` all that a whole copy
    has. ``classes`` are used by default, ``merged`` renames labels where the user does not. ``counts`` are the
    published ones, by "class LABEL", "speaker NAME LABEL" or "prefix NAME LABEL".

    Where files' names say all, ``pattern`` has a group for each field, ``of_speaker`` what follows from the speaker,
    ``left_out`` patterns of other names, with the reason; ``example`` is such a file, ``folders`` where they are.
    """

    name: str
    codes: Mapping[str, Mapping[str, str]]
    classes: Collection[str]
    counts: Mapping[str, int]
    merged: Mapping[str, str] = field(default_factory=dict)
    lang: str = "en"
    pattern: str = ""
    of_speaker: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    example: str = ""
    folders: tuple[str, ...] = ()


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
    label_options(parser, f"out of {' '.join(corpus.codes['emotion'].values())}; default: {' '.join(corpus.classes)}")
    parser.add_argument("--known_counts", type=boolean, default=True, help="compare the counts with the published ones")
    return parser


def read_name(corpus: Corpus, utterance: Utterance, stem: str) -> str | None:
    """Set an utterance's fields by its file's name; returns why it is not used, or None."""
    for pattern, reason in corpus.left_out.items():
        if re.fullmatch(pattern, stem):
            return reason
    if not (match := re.fullmatch(corpus.pattern, stem)):
        return f"not a name of {corpus.name}"
    for name, code in match.groupdict().items():
        if code not in corpus.codes[name]:
            return f"unknown {name} {code} in the name"
        setattr(utterance, name, corpus.codes[name][code])
    for name, values in corpus.of_speaker.items():
        setattr(utterance, name, values[utterance.speaker])
    utterance.utt = f"{utterance.speaker}-{stem}"
    return None


def scan_names(corpus: Corpus, root: Path) -> Scan:
    """Scan a corpus whose files' names say all.

    Raises:
        UserError: The folder is missing, empty or not laid out as distributed.
    """
    hint = f"give --corpus_dir the folder of {corpus.name} as it is distributed, which holds {corpus.example}"
    if not root.is_dir():
        raise UserError(f"no corpus folder {root}: {hint}")
    for folders in (*(sorted(root.glob(pattern)) for pattern in corpus.folders), [root]):
        files = [path for folder in folders for path in entries(folder, *AUDIO).values()]
        if any(re.fullmatch(corpus.pattern, path.stem) for path in files):
            break
    else:
        raise UserError(f"{root} {f'holds no {corpus.example}' if any(root.iterdir()) else 'is empty'}: {hint}")
    scan = Scan()
    for path in files:
        utterance = Utterance(path.stem, str(path), "", where=str(path))
        if problem := read_name(corpus, utterance, path.stem):
            scan.dropped.append(Dropped(path.stem, problem, str(path)))
        else:
            scan.utterances.append(utterance)
    found = {u.speaker for u in scan.utterances}
    scan.missing = [f"all of speaker {speaker}" for speaker in sorted(corpus.codes["speaker"]) if speaker not in found]
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
    utterances, others = keep_classes(scan.utterances, args, source, corpus.classes, corpus.codes["emotion"].values())
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


def prepare_by_names(corpus: Corpus, description: str | None) -> None:
    """The program of a corpus whose files' names say all: read the options, scan, check and write."""
    args = corpus_options(corpus, description).parse_args()
    write_corpus(corpus, scan_names(corpus, args.corpus_dir), args)
