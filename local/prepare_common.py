"""What all prepare scripts share: the records of utterances, the options, folders, names.

Where a corpus, an option or the audio is wrong, each of their steps ends the program by a `UserError`.
"""

import argparse
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from sermtl.fileio.wav_scp import channel_number

# Tables of utterances, and of speakers: the field of `Utterance` that each holds.
FIELDS = {"text": "text", "utt2emo": "emotion", "utt2session": "session", "utt2style": "style", "utt2paper": "paper"}
FIELDS |= {"utt2split": "split", "utt2corpus": "corpus"}
SPEAKER_FIELDS = {"spk2gender": "gender", "spk2fold": "fold"}


@dataclass(slots=True)
class Utterance:
    """One utterance of a corpus; an empty field is unknown.

    ``where`` is the file and line that named it, for messages; ``paper`` and ``fold`` are the names of its
    folds under the protocols `paper` and `speaker`; ``channel`` is its value in reco2file_and_channel.
    """

    utt: str
    path: str
    speaker: str
    emotion: str = ""
    text: str = ""
    session: str = ""
    gender: str = ""
    channel: str = ""
    style: str = ""
    paper: str = ""
    split: str = ""
    corpus: str = ""
    fold: str = ""
    where: str = ""
    seconds: float = 0.0


class Dropped(NamedTuple):
    """An utterance that is not used: its id (``-`` where a line has none), why, and the file and line."""

    utt: str
    reason: str
    where: str


@dataclass
class Scan:
    """What was found in ``source``, for the options ``args``: usable utterances, those not used, what a copy lacks.

    ``broken`` are yet to be reported. A Kaldi directory has its ``wav_scp``; elsewhere each utterance is a file.
    """

    args: argparse.Namespace
    source: Path
    utterances: list[Utterance] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    broken: list[Dropped] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    wav_scp: dict[str, str] | None = None
    segments: dict[str, str] | None = None

    def drop(self, reason_of: Callable[[Utterance], str | None], to: list[Dropped] | None = None) -> None:
        """Take out each utterance for which there is a reason, ``to`` `dropped` or `broken`."""
        everything, self.utterances = self.utterances, []
        for u in everything:
            if reason := reason_of(u):
                (self.dropped if to is None else to).append(Dropped(u.utt, reason, u.where))
            else:
                self.utterances.append(u)


def boolean(value: str) -> bool:
    """Read an option's ``true`` or ``false``."""
    if value not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{value!r} is neither true nor false")
    return value == "true"


def channel(word: str) -> str:
    """Read --channel."""
    if not word or channel_number(word) is None:
        raise argparse.ArgumentTypeError(f"{word!r} is neither mean nor a number from 1")
    return word


def words_of(given: str) -> list[str]:
    """Split an option's list at its commas where it has any, so that labels may hold blanks, else at its blanks."""
    parts = given.split(",") if "," in given else given.split()
    return [" ".join(part.split()) for part in parts if part.strip()]


def label_map(given: str) -> dict[str, str]:
    """Read --label_map: ``old=new`` pairs, or a file with two columns (between tabs where labels hold blanks)."""
    if given and Path(given).is_file():
        lines = Path(given).read_text(encoding="utf-8-sig").splitlines()
        pairs = [line.split("\t") if "\t" in line else line.split() for line in lines if line.strip()]
    else:
        pairs = [word.split("=") for word in ([given] if given.count("=") == 1 else words_of(given))]
    pairs = [[" ".join(part.split()) for part in pair] for pair in pairs]
    for pair in pairs:
        if len(pair) != 2 or not all(pair):
            raise argparse.ArgumentTypeError(
                f"{'='.join(pair)!r} of {given!r} is no pair: give 'excited=happy anger=angry', or an existing file "
                "with the columns old and new"
            )
    if repeated := [old for old, count in Counter(old for old, _ in pairs).items() if count > 1]:
        raise argparse.ArgumentTypeError(f"{given!r} names {' '.join(repeated)} more than once")
    return dict(pairs)


def options(description: str | None, classes: str = "default: all that occur") -> argparse.ArgumentParser:
    """Make a parser with the options that every prepare script has; ``classes``: which are kept by default."""
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="data directory to write")
    add("--nj", type=int, default=2, help="processes that read audio headers")
    add("--speakers", choices=("required", "known"), default="required", help="known: train on unknown ones too")
    add("--skip_broken", type=boolean, default=False, help="leave out broken audio and lone speakers")
    text = "of files with several channels, the one to read (1, 2, ...; mean: average), unless a table names one"
    add("--channel", type=channel, default="mean", help=text)
    add("--min_seconds", type=float, default=0.0, help="leave out shorter utterances")
    add("--max_seconds", type=float, default=math.inf, help="leave out longer utterances")
    add("--classes", help=f"emotions to keep, as --label_map names them ({classes})")
    add("--label_map", type=label_map, default={}, help="'old=new old=new', or a file of two columns")
    add("--max_classes", type=int, default=20, help="more classes than this are refused")
    return parser


def warn(message: str) -> None:
    """Print a warning."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def listed(items: Sequence[str], shown: int = 100) -> str:
    """Lay out items one a line, indented, with the number of those that are not shown."""
    more = f"\n  and {len(items) - shown} more" if len(items) > shown else ""
    return "".join(f"\n  {item}" for item in items[:shown]) + more


def entries(folder: Path, *suffixes: str) -> dict[str, Path]:
    """Map stem to path of the files (or, without suffixes, the folders) in a folder; no hidden ones."""
    try:
        found = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    if suffixes:
        return {path.stem: path for path in found if path.suffix.lower() in suffixes}
    return {path.name: path for path in found if path.is_dir()}


def is_unknown(speaker: str) -> bool:
    """Whether a speaker's id says that the speaker is not known."""
    return speaker.casefold() in ("", "?", "unknown", "unk", "none", "nan", "n/a")


def with_speaker(name: str, speaker: str) -> tuple[str, str]:
    """The ids of an utterance, which begins with the speaker's, and of its speaker: if unknown, the utterance's."""
    known = "unknown" if is_unknown(speaker) else speaker
    utt = name if name.startswith(f"{known}-") else f"{known}-{name}"
    return utt, utt if is_unknown(speaker) else speaker
