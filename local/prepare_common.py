"""What all prepare scripts share: the utterance record, options, folders, names."""

from __future__ import annotations

import argparse
import math
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sermtl.errors import UserError
from sermtl.fileio.wav_scp import channel_number
from sermtl.text.normalise import is_english, normalise

SHOWN = 100
FEW_FOREIGN = 0.02
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


def keep_durations(utterances: Iterable[Utterance], args: argparse.Namespace) -> tuple[list[Utterance], list[Dropped]]:
    """Keep what lasts from --min_seconds to --max_seconds; gives those and the others with their reasons."""
    kept: list[Utterance] = []
    dropped: list[Dropped] = []
    for u in utterances:
        u.channel = u.channel or (f"{u.utt} {args.channel}" if args.channel != "mean" else "")
        if args.min_seconds <= u.seconds <= args.max_seconds:
            kept.append(u)
        else:
            limit = "shorter than --min_seconds" if u.seconds < args.min_seconds else "longer than --max_seconds"
            dropped.append(Dropped(u.utt, f"{u.seconds:.2f} s: {limit}", u.where))
    return kept, dropped


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


def normalise_texts(utterances: Sequence[Utterance], given: str, source: Path) -> str:
    """Normalise all transcripts in place by the language given, else ``en`` for A to Z alone, else ``und`` (unknown).

    A few words of another script (at most `FEW_FOREIGN` of all) among words of A to Z leave it at ``en``.

    Returns:
        The language's code.

    Raises:
        UserError: The code is no code.
    """
    if given and not re.fullmatch(r"[a-z]{2,3}", given):
        raise UserError(f"--lang {given}: expected a code of two or three letters, such as en, de, ru")
    foreign = [u for u in utterances if not is_english([u.text])]
    words = [word for u in foreign for word in u.text.split() if not is_english([word])]
    count = sum(len(u.text.split()) for u in utterances)
    few = len(words) <= FEW_FOREIGN * count and not any(
        "LATIN" in unicodedata.name(c, "") for c in "".join(words) if not c.isascii()
    )
    lang = given or ("und" if foreign and not few else "en")
    if foreign and lang == "en":
        shown = listed([f"{u.utt} ({u.where})" for u in foreign], 5)
        warn(
            f"--lang en: {len(foreign)} transcripts lose letters outside A to Z (give --lang if it is another):{shown}"
        )
    elif foreign and not given:
        warn("the text has letters outside A to Z: --lang und; name the language (--lang de) to spell out digits")
    for utterance in utterances:
        utterance.text = normalise(utterance.text, lang)
    if not any(u.text for u in utterances):
        warn(f"{source} has no transcripts: train with alpha 0")
    return lang


def leave_out_lone_speakers(
    utterances: list[Utterance], args: argparse.Namespace
) -> tuple[list[Utterance], list[Dropped]]:
    """Leave out the utterances whose speaker has no other, unless speakers need not be known.

    Neither the speaker head nor a fold that holds speakers out can use them; later stages call them unknown.

    Raises:
        UserError: There are some, and neither ``speakers`` nor ``skip_broken`` says what to do; lists them.
    """
    numbers = Counter(u.speaker for u in utterances)
    alone = [u for u in utterances if numbers[u.speaker] == 1]
    lines = [f"{u.speaker}: {u.utt} ({u.where})" for u in alone]
    if alone and args.speakers == "known":
        warn(f"the speakers of {len(alone)} of {len(utterances)} utterances are unknown, or have no other utterance")
        return utterances, []
    if alone and not args.skip_broken:
        raise UserError(
            f"speakers that are unknown or have a single utterance, from which no speaker is learned "
            f"({len(lines)}):{listed(lines)}\ncorrect their speaker ids, pass --skip_broken true to leave them out, or "
            "train on them with --speakers known (the default of --protocol random5; if no speaker is known, with "
            "--beta 0 too)"
        )
    if alone:
        warn(f"speakers with a single utterance are left out ({len(lines)}):{listed(lines)}")
    dropped = [Dropped(u.utt, "the only utterance of its speaker", u.where) for u in alone]
    return [u for u in utterances if numbers[u.speaker] > 1], dropped


def is_unknown(speaker: str) -> bool:
    """Whether a speaker's id says that the speaker is not known."""
    return speaker.casefold() in ("", "?", "unknown", "unk", "none", "nan", "n/a")


def with_speaker(name: str, speaker: str) -> tuple[str, str]:
    """The ids of an utterance, which begins with the speaker's, and of its speaker: if unknown, the utterance's."""
    known = "unknown" if is_unknown(speaker) else speaker
    utt = name if name.startswith(f"{known}-") else f"{known}-{name}"
    return utt, utt if is_unknown(speaker) else speaker


def name_problem(name: str) -> str | None:
    """Why a speaker or session cannot name a fold or a folder, or None."""
    if not name.isprintable() or len(name.split()) != 1 or name != name.strip():
        return f"{name!r} is not one printable word"
    # Speakers and sessions become folders of experiments and words of command lines.
    if "/" in name or name[0] in ".-":
        return f"{name!r} begins with . or - or holds /"
    return None


def clean(field: str) -> str:
    """Make a field fit for a TSV: control characters and undecodable bytes become escapes."""
    if field.isprintable():
        return field
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in field)
