"""The audio headers of a corpus: durations, and all broken files in one message."""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from prepare_common import Dropped, Utterance, clean, listed, warn

from sermtl.audio.formats import open_sound
from sermtl.audio.headers import map_recordings, seconds_or_fault
from sermtl.errors import UserError
from sermtl.fileio.files import write_text
from sermtl.fileio.wav_scp import locate


def audio_seconds(path: str) -> float | str:
    """Seconds of a recording by its header, or what is wrong with the file."""
    seconds = seconds_or_fault(path)
    if isinstance(seconds, str) or path.lower().endswith(".wav") or locate(path).offset:
        return seconds
    # Compressed formats keep the length in the header; only reading the end shows that it is there.
    try:
        with open_sound(path, path) as audio:
            audio.seek(audio.frames - 1)
            whole = len(audio.read(1)) == 1
    except (OSError, RuntimeError, ValueError):
        whole = False
    return seconds if whole else "not readable as audio: truncated, its last sample cannot be read"


def channels_of(entry: str) -> int:
    """Channels of a recording whose header was read before."""
    source = locate(entry)
    with open_sound(io.BytesIO(source.read()) if source.path != entry else entry, entry) as sound:
        return sound.channels


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


def report_broken(broken: Sequence[Dropped], out: Path, skip: bool) -> None:
    """List all that is broken in one message; the whole list is also ``broken.txt`` in ``out``.

    Raises:
        UserError: Something is broken and ``skip`` is false.
    """
    file = out / "broken.txt"
    if not broken:
        file.unlink(missing_ok=True)
        return
    lines = [clean(f"{utt}: {why}{'' if where in why else f' ({where})'}") for utt, why, where in broken]
    write_text(file, "\n".join([*lines, ""]))
    if not skip:
        raise UserError(
            f"{len(lines)} broken or missing (also in {file}):{listed(lines)}\n"
            "repair them, or pass --skip_broken true to leave them out"
        )
    warn(f"{len(lines)} broken utterances are left out:{listed(lines)}")


def check_audio(
    utterances: list[Utterance], args: argparse.Namespace, broken: Iterable[Dropped] = ()
) -> tuple[list[Utterance], list[Dropped]]:
    """Read all audio headers and note the durations.

    Args:
        utterances: Those to check; ``seconds`` is set in place.
        args: Those of `prepare_common.options`.
        broken: What was already found broken, to be reported in the same message.

    Returns:
        The sound utterances, and with their reasons the broken ones and those that are too short or too long.

    Raises:
        UserError: A file is missing, empty, truncated or no audio, unless broken ones are skipped; lists all of them.
    """
    bad = list(broken)
    good = []
    found = map_recordings(audio_seconds, [u.path for u in utterances], args.nj)
    for utterance, seconds in zip(utterances, found, strict=True):
        if isinstance(seconds, str):
            bad.append(Dropped(utterance.utt, f"{utterance.path}: {seconds}", utterance.where))
        else:
            utterance.seconds = seconds
            good.append(utterance)
    report_broken(bad, args.out, args.skip_broken)
    good, others = keep_durations(good, args)
    return good, bad + others
