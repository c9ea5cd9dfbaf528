"""What all prepare scripts share: the utterance record, options, folders, names."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sermtl.errors import UserError
from sermtl.fileio.wav_scp import channel_number

SHOWN = 100
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


def boolean(value: str) -> bool:
    """Read an option's ``true`` or ``false``; anything else is refused by argparse."""
    if value not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{value!r} is neither true nor false")
    return value == "true"


def options(description: str | None) -> argparse.ArgumentParser:
    """Make a parser with the options that every prepare script has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True, help="data directory to write")
    parser.add_argument("--nj", type=int, default=2, help="processes that read audio headers")
    parser.add_argument(
        "--speakers", choices=("required", "known"), default="required", help="known: unknown ones are trained on too"
    )
    parser.add_argument("--skip_broken", type=boolean, default=False, help="leave out broken audio and lone speakers")
    text = "of files with several channels, the one to read (1, 2, ...; mean: average), unless a table names one"
    parser.add_argument("--channel", type=channel, default="mean", help=text)
    parser.add_argument("--min_seconds", type=float, default=0.0, help="leave out shorter utterances")
    parser.add_argument("--max_seconds", type=float, default=math.inf, help="leave out longer utterances")
    return parser


def channel(word: str) -> str:
    """Read --channel; what is none is refused by argparse."""
    if not word or channel_number(word) is None:
        raise argparse.ArgumentTypeError(f"{word!r} is neither mean nor a number from 1")
    return word


def warn(message: str) -> None:
    """Print a warning."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def listed(items: Sequence[str], shown: int = SHOWN) -> str:
    """Lay out items one a line, indented, with the number of those that are not shown."""
    more = [f"and {len(items) - shown} more"] if len(items) > shown else []
    return "".join(f"\n  {item}" for item in [*items[:shown], *more])


def entries(folder: Path, *suffixes: str) -> dict[str, Path]:
    """Map stem to path of the files (or, without suffixes, the folders) in a folder; no hidden ones."""
    try:
        found = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}") from error
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


def clean(field: str) -> str:
    """Make a field fit for a TSV: control characters and undecodable bytes become escapes."""
    if field.isprintable():
        return field
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in field)
