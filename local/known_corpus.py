"""A corpus whose labels and counts are known: its options, its files by their names, and all that follows the scan."""

import argparse
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from checks import check_audio, keep_classes
from prepare_common import Scan, Utterance, boolean, entries, listed, options, warn
from write_data import write_data

from sermtl.errors import UserError, command

AUDIO = (".wav", ".flac")


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


def corpus_options(corpus: Corpus, description: str | None) -> argparse.ArgumentParser:
    """Make the parser of a corpus that has its own labels."""
    labels = " ".join(corpus.codes["emotion"].values())
    parser = options(description, f"out of {labels}; default: {' '.join(corpus.classes)}")
    parser.add_argument("--corpus_dir", type=Path, required=True, help=f"folder of {corpus.name} as it is given out")
    parser.add_argument("--known_counts", type=boolean, default=True, help="compare the counts with the published ones")
    return parser


def read_name(corpus: Corpus, utterance: Utterance) -> str | None:
    """Set an utterance's fields by its file's name, which is its id so far; returns why it is not used, or None."""
    stem = utterance.utt
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


def scan_names(corpus: Corpus, args: argparse.Namespace) -> Scan:
    """Scan a corpus whose files' names say all; UserError where the folder is not laid out as distributed."""
    root = args.corpus_dir
    hint = f"give --corpus_dir the folder of {corpus.name} as it is distributed, which holds {corpus.example}"
    if not root.is_dir():
        raise UserError(f"no corpus folder {root}: {hint}")
    for folders in (*(sorted(root.glob(pattern)) for pattern in corpus.folders), [root]):
        files = [path for folder in folders for path in entries(folder, *AUDIO).values()]
        if any(re.fullmatch(corpus.pattern, path.stem) for path in files):
            break
    else:
        raise UserError(f"{root} {f'holds no {corpus.example}' if any(root.iterdir()) else 'is empty'}: {hint}")
    scan = Scan(args, root, [Utterance(path.stem, str(path), "", where=str(path)) for path in files])
    scan.drop(partial(read_name, corpus))
    found = {u.speaker for u in scan.utterances}
    scan.missing = [f"all of speaker {speaker}" for speaker in sorted(corpus.codes["speaker"]) if speaker not in found]
    return scan


def write_corpus(corpus: Corpus, scan: Scan) -> None:
    """Choose the classes, check the audio, write the data directory, and print how the copy differs."""
    args, compared = scan.args, scan.args.known_counts and not scan.args.label_map
    args.label_map = {**corpus.merged, **args.label_map}
    if scan.missing:
        warn(f"{scan.source} is a partial copy; missing are:{listed(scan.missing)}")
    keep_classes(scan, corpus.classes, corpus.codes["emotion"].values())
    if lost := [u.utt for u in scan.utterances if not u.text]:
        warn(f"{len(lost)} utterances have no transcript, first {lost[0]}; their text is empty")
    check_audio(scan)
    write_data(scan, corpus.lang)
    if compared:
        found = Counter(
            key
            for u in scan.utterances
            for key in (f"class {u.emotion}", f"speaker {u.fold} {u.emotion}", f"prefix {u.paper} {u.emotion}")
        )
        # Of the classes, and of the speakers and prefixes, that the copy holds.
        parts = {part for key in found for part in (key.split()[-1], key.rpartition(" ")[0])}
        known = {key: n for key, n in corpus.counts.items() if {key.split()[-1], key.rpartition(" ")[0]} <= parts}
        report_counts(corpus.name, found, known)


def report_counts(name: str, found: Counter[str], known: Mapping[str, int]) -> None:
    """Print that all counts are the published ones, or warn of those that differ."""
    differ = [f"{key}: {found[key]} utterances, published {n}" for key, n in known.items() if found[key] != n]
    if differ:
        warn(f"{name}: {len(differ)} counts differ from the published ones:{listed(differ)}")
    elif known:
        print(f"{name}: all counts that are known are the published ones")


def program(
    corpus: Corpus, description: str | None, scan_of: Callable[[Corpus, argparse.Namespace], Scan] = scan_names
) -> Callable[[], int]:
    """The program of a corpus: read the options, scan, check and write."""

    @command
    def main() -> None:
        args = corpus_options(corpus, description).parse_args()
        write_corpus(corpus, scan_of(corpus, args))

    return main
