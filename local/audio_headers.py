"""The audio headers of a corpus: durations, and all broken files in one message."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import soundfile
from prepare_common import Dropped, Utterance, clean, listed, warn

from sermtl.audio.headers import header_seconds
from sermtl.corpus.duplicate_audio import locate
from sermtl.errors import UserError
from sermtl.fileio.files import atomic_write

# Fewer files than this are read faster than processes start.
_IN_PROCESS = 2000


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


def report_broken(broken: Sequence[Dropped], out: Path, skip: bool) -> None:
    """List all that is broken in one message; the whole list is also ``broken.txt`` in ``out``.

    Raises:
        UserError: Something is broken and ``skip`` is false.
    """
    file = out / "broken.txt"
    if not broken:
        file.unlink(missing_ok=True)
        return
    places = ["" if item.where in item.reason else f" ({item.where})" for item in broken]
    lines = [clean(f"{item.utt}: {item.reason}{place}") for item, place in zip(broken, places, strict=True)]
    with atomic_write(file) as handle:
        handle.writelines(f"{line}\n" for line in lines)
    if not skip:
        raise UserError(
            f"{len(lines)} broken or missing (also in {file}):{listed(lines)}\n"
            "put them right, or pass --skip_broken true to leave them out"
        )
    warn(f"{len(lines)} broken utterances are left out:{listed(lines)}")


def check_audio(
    utterances: list[Utterance], out: Path, nj: int = 2, skip: bool = False, broken: Iterable[Dropped] = ()
) -> tuple[list[Utterance], list[Dropped]]:
    """Read all audio headers and note the durations.

    Args:
        utterances: Those to check; ``seconds`` is set in place.
        out: The data directory, for the list of broken files.
        nj: Processes.
        skip: Leave broken files out instead of raising.
        broken: What was already found broken, to be reported in the same message.

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
    report_broken(bad, out, skip)
    return good, bad
