"""What all prepare scripts share: the utterance record, the check of audio headers, the tables."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import soundfile

from sermtl.audiocheck import header_seconds
from sermtl.datadir import write_table
from sermtl.errors import UserError
from sermtl.files import atomic_write
from sermtl.sameaudio import locate
from sermtl.text import is_english

OPTIONAL = ("segments", "utt2session", "spk2gender", "utt2style", "spk2fold", "utt2paper")
SHOWN = 100
_IN_PROCESS = 2000


@dataclass(slots=True)
class Utterance:
    """One utterance of a corpus; an empty field is unknown.

    ``where`` is the file and line that named it, for messages; ``paper`` and ``fold`` are the names of its
    folds under the protocols `paper` and `speaker`.
    """

    utt: str
    path: str
    speaker: str
    emotion: str = ""
    text: str = ""
    session: str = ""
    gender: str = ""
    style: str = ""
    paper: str = ""
    fold: str = ""
    where: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Dropped:
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
    parser.add_argument("--skip_broken", type=boolean, default=False, help="leave broken audio out instead of stopping")
    return parser


def warn(message: str) -> None:
    """Print a warning."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def listed(items: Sequence[str], shown: int = SHOWN) -> str:
    """Lay out items one a line, indented; says how many more there are than are shown."""
    more = [f"and {len(items) - shown} more"] if len(items) > shown else []
    return "".join(f"\n  {item}" for item in [*items[:shown], *more])


def entries(folder: Path, *suffixes: str) -> dict[str, Path]:
    """Map stem to path of the files (or, without suffixes, the folders) in a folder; no hidden ones."""
    found = {}
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                stem, suffix = os.path.splitext(entry.name)
                if entry.name.startswith("."):
                    continue
                if suffixes and suffix.lower() in suffixes:
                    found[stem] = Path(entry.path)
                elif not suffixes and entry.is_dir():
                    found[entry.name] = Path(entry.path)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}") from error
    return found


def audio_seconds(path: str) -> float | str:
    """Seconds of a recording by its header, or what is wrong with the file."""
    try:
        seconds = header_seconds(path)
        if not path.lower().endswith(".wav"):
            # Compressed formats keep the length in the header; only reading the end shows that it is there.
            read_last_sample(path)
        return seconds
    except FileNotFoundError:
        return "no such file"
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return f"not readable as audio: {reason.rpartition(path)[2].lstrip(chr(39) + ': ')}"


def read_last_sample(path: str) -> None:
    """Raise ValueError where the end of a compressed file cannot be decoded."""
    if locate(path).offset:
        return
    with soundfile.SoundFile(path) as audio:
        try:
            audio.seek(audio.frames - 1)
            last = audio.read(1)
        except soundfile.SoundFileError:
            last = ()
        if len(last) != 1:
            raise ValueError("truncated, its last sample cannot be read")


def all_seconds(paths: Sequence[str], nj: int) -> Iterable[float | str]:
    """`audio_seconds` of many files, in a pool of processes where there are many."""
    if nj < 2 or len(paths) < _IN_PROCESS:
        yield from map(audio_seconds, paths)
        return
    with ProcessPoolExecutor(nj) as pool:
        yield from pool.map(audio_seconds, paths, chunksize=250)


def stop_on_broken(broken: Sequence[str], out: Path) -> None:
    """Raise one error that lists all that is broken; the whole list is also ``broken.txt`` in ``out``."""
    file = out / "broken.txt"
    if broken:
        with atomic_write(file) as lines:
            lines.writelines(f"{item}\n" for item in broken)
        raise UserError(
            f"{len(broken)} broken or missing (also in {file}):{listed(broken)}\n"
            "put them right, or pass --skip_broken true to leave them out"
        )
    file.unlink(missing_ok=True)


def check_audio(
    utterances: list[Utterance],
    out: Path,
    nj: int = 2,
    skip: bool = False,
    broken: Iterable[Dropped] = (),
) -> tuple[list[Utterance], list[Dropped]]:
    """Read all audio headers and note the durations.

    Args:
        utterances: Those to check; ``seconds`` is set in place.
        out: The data directory, for the list of broken files.
        nj: Processes.
        skip: Leave broken files out instead of raising.
        broken: What was already found broken, to be told in the same message.

    Returns:
        The sound utterances, and the broken ones with their reasons.

    Raises:
        UserError: A file is missing, empty, truncated or no audio, unless ``skip``; lists all of them.
    """
    bad = list(broken)
    good = []
    for utterance, seconds in zip(utterances, all_seconds([u.path for u in utterances], nj), strict=True):
        if isinstance(seconds, str):
            bad.append(Dropped(utterance.utt, f"{utterance.path}: {seconds}", utterance.where))
        else:
            utterance.seconds = seconds
            good.append(utterance)
    found = [f"{item.utt}: {item.reason} ({item.where})" for item in bad]
    if not skip:
        stop_on_broken(found, out)
    elif found:
        warn(f"{len(found)} broken utterances are left out:{listed(found)}")
    return good, bad


def path_problem(path: str) -> str | None:
    """Why a path cannot stand in wav.scp, or None."""
    if not path.isprintable():
        return f"path {path!r} holds a control character or bytes that are not UTF-8"
    if path != path.strip() or path.endswith("|"):
        return f"path {path!r} begins or ends with a blank or |, which wav.scp would misread"
    return None


def check_ids(utterances: Iterable[Utterance]) -> None:
    """Check that ids are unique and that sorting by utterance and by speaker agree.

    Raises:
        UserError: They do not; lists all repeated ids.
    """
    seen: dict[str, str] = {}
    repeated = []
    for utterance in utterances:
        if utterance.utt in seen:
            repeated.append(f"{utterance.utt}: {seen[utterance.utt]} and {utterance.where}")
        seen[utterance.utt] = utterance.where
    if repeated:
        raise UserError(f"{len(repeated)} utterance ids occur twice:{listed(repeated)}")
    previous = ""
    for utterance in sorted(utterances, key=lambda u: u.utt.encode()):
        if utterance.speaker.encode() < previous.encode():
            raise UserError(
                f"speaker ids {utterance.speaker!r} and {previous!r} make utterances sort in another order than "
                f"speakers ({utterance.where}): rename one so that neither id begins with the other"
            )
        previous = utterance.speaker


def write_data(
    out: Path,
    utterances: list[Utterance],
    lang: str,
    dropped: Iterable[Dropped],
    wav_scp: dict[str, str] | None = None,
    segments: dict[str, str] | None = None,
) -> None:
    """Write all tables of a data directory; optional tables that have no values are removed.

    ``wav_scp`` and ``segments`` are those of a corpus that comes with them; else every utterance is a file.

    Raises:
        UserError: No utterance is left, an id or path cannot stand in a table, or nothing can be written.
    """
    dropped = list(dropped)
    if not utterances:
        reasons = Counter(item.reason for item in dropped).most_common(5)
        why = listed([f"{count} x {reason}" for reason, count in reasons])
        raise UserError(f"no utterance is left for {out}{': dropped were' if why else ''}{why}")
    if wav_scp is None:
        problems = [f"{p} ({u.where})" for u in utterances if (p := path_problem(u.path))]
        if problems:
            raise UserError(f"{len(problems)} paths cannot stand in wav.scp:{listed(problems)}")
        wav_scp = {u.utt: u.path for u in utterances}
    check_ids(utterances)
    for name in OPTIONAL:
        (out / name).unlink(missing_ok=True)
    write_table(out / "wav.scp", wav_scp)
    if segments:
        write_table(out / "segments", segments)
    write_utterance_tables(out, utterances, lang, dropped)


def write_utterance_tables(out: Path, utterances: list[Utterance], lang: str, dropped: Iterable[Dropped]) -> None:
    """Write all tables but ``wav.scp``."""
    by_speaker: dict[str, list[str]] = {}
    for u in sorted(utterances, key=lambda u: u.utt.encode()):
        by_speaker.setdefault(u.speaker, []).append(u.utt)
    write_table(out / "text", {u.utt: u.text for u in utterances})
    write_table(out / "utt2spk", {u.utt: u.speaker for u in utterances})
    write_table(out / "spk2utt", {speaker: " ".join(utts) for speaker, utts in by_speaker.items()})
    write_table(out / "utt2emo", {u.utt: u.emotion for u in utterances})
    write_table(out / "utt2dur", {u.utt: round(u.seconds, 6) for u in utterances})
    for name, field in (("utt2session", "session"), ("utt2style", "style"), ("utt2paper", "paper")):
        if any(getattr(u, field) for u in utterances):
            write_table(out / name, {u.utt: getattr(u, field) for u in utterances})
    for name, field, unknown in (("spk2gender", "gender", "u"), ("spk2fold", "fold", "")):
        if any(getattr(u, field) for u in utterances):
            write_table(out / name, {u.speaker: getattr(u, field) or unknown for u in utterances})
    with atomic_write(out / "lang") as file:
        file.write(f"{lang}\n")
    with atomic_write(out / "dropped.tsv") as file:
        for item in dropped:
            file.write("\t".join(clean(field) for field in (item.utt, item.reason, item.where)) + "\n")


def choose_lang(given: str, texts: Iterable[str]) -> str:
    """Language code of a corpus: the one given, else ``en`` for A to Z alone, else ``und`` (undetermined).

    Raises:
        UserError: The code is no code.
    """
    if given:
        if not re.fullmatch(r"[a-z]{2,3}", given):
            raise UserError(f"--lang {given}: expected a code of two or three letters, such as en, de, ru")
        return given
    if is_english(texts):
        return "en"
    warn("the text has letters outside A to Z: --lang und; name the language (--lang de) to spell out digits")
    return "und"


def keep_classes(utterances: list[Utterance], classes: str) -> tuple[list[Utterance], list[Dropped]]:
    """Keep the classes asked for (all where ``classes`` is empty) and the utterances without emotion.

    Raises:
        UserError: A class does not occur, or no utterance has an emotion.
    """
    present = {u.emotion for u in utterances} - {""}
    if not present:
        raise UserError("no utterance has an emotion: there is nothing to learn")
    wanted = set(classes.split()) or present
    if wanted - present:
        names = " ".join(sorted(wanted - present))
        raise UserError(f"--classes: the corpus has no {names}; it has {' '.join(sorted(present))}")
    kept = [u for u in utterances if not u.emotion or u.emotion in wanted]
    others = (u for u in utterances if u.emotion and u.emotion not in wanted)
    return kept, [Dropped(u.utt, f"class {u.emotion} is not asked for", u.where) for u in others]


def name_problem(name: str) -> str | None:
    """Why a speaker, session or emotion cannot name a fold, a folder or a class, or None."""
    if not name.isprintable() or len(name.split()) != 1 or name != name.strip():
        return f"{name!r} is not one printable word"
    # Speakers and sessions become folders of experiments and words of command lines.
    if "/" in name or name[0] in ".-":
        return f"{name!r} begins with . or - or holds /"
    return None


def clean(field: str) -> str:
    """Make a field fit for a TSV: control characters and foreign bytes become escapes."""
    if field.isprintable():
        return field
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in field)


def summarise(out: Path, utterances: list[Utterance], dropped: Sequence[Dropped]) -> None:
    """Print what was prepared and what was dropped, by reason."""
    hours = sum(u.seconds for u in utterances) / 3600
    speakers = len({u.speaker for u in utterances})
    classes = Counter(u.emotion or "(no emotion)" for u in utterances)
    counts = " ".join(f"{name} {count}" for name, count in sorted(classes.items()))
    empty = sum(not u.text for u in utterances)
    print(f"{out}: {len(utterances)} utterances, {speakers} speakers, {hours:.2f} h: {counts}")
    if empty:
        print(f"{out}: {empty} utterances have an empty transcript after normalisation")
    for reason, count in sorted(Counter(item.reason.rpartition(": ")[2] for item in dropped).items()):
        print(f"{out}: dropped {count}: {reason}")
    if dropped:
        print(f"{out}: every dropped one with its place is in {out / 'dropped.tsv'}")
