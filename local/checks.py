"""What keeps an utterance out: its audio, its duration, its label, a speaker of whom it is all."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from prepare_common import Scan, Utterance, listed, warn, words_of

from sermtl.audio.formats import open_sound
from sermtl.audio.headers import map_recordings, seconds_or_fault
from sermtl.errors import UserError
from sermtl.fileio.files import write_text
from sermtl.fileio.text_table import printable
from sermtl.fileio.wav_scp import locate

JOINED = re.compile(r".*[;,|/+&].*", re.DOTALL)  # two emotions in one label
NUMBER = re.compile(r"[-+]?\d*[.,]?\d+([eE][-+]?\d+)?")
FEW = 20  # labels that a message names


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


def check_audio(scan: Scan) -> None:
    """Read all audio headers and set the durations; report what is broken, drop what is too short or too long."""
    found = map_recordings(audio_seconds, [u.path for u in scan.utterances], scan.args.nj)

    def problem(u: Utterance) -> str | None:
        seconds = next(found)
        if isinstance(seconds, str):
            return f"{u.path}: {seconds}"
        u.seconds = seconds
        return None

    scan.drop(problem, scan.broken)
    report_broken(scan)
    keep_durations(scan)


def report_broken(scan: Scan) -> None:
    """List all that is broken, also in ``broken.txt``: as a warning with --skip_broken, else as a UserError."""
    file = scan.args.out / "broken.txt"
    if not scan.broken:
        file.unlink(missing_ok=True)
        return
    lines = [printable(f"{utt}: {why}{'' if where in why else f' ({where})'}") for utt, why, where in scan.broken]
    write_text(file, "\n".join([*lines, ""]))
    if not scan.args.skip_broken:
        raise UserError(
            f"{len(lines)} broken or missing (also in {file}):{listed(lines)}\n"
            "repair them, or pass --skip_broken true to leave them out"
        )
    warn(f"{len(lines)} broken utterances are left out:{listed(lines)}")
    scan.dropped += scan.broken


def keep_durations(scan: Scan) -> None:
    """Drop what does not last from --min_seconds to --max_seconds; note --channel where no table names one."""
    args = scan.args

    def problem(u: Utterance) -> str | None:
        if args.min_seconds <= u.seconds <= args.max_seconds:
            return None
        limit = "shorter than --min_seconds" if u.seconds < args.min_seconds else "longer than --max_seconds"
        return f"{u.seconds:.2f} s: {limit}"

    scan.drop(problem)
    if args.channel != "mean":
        for u in scan.utterances:
            u.channel = u.channel or f"{u.utt} {args.channel}"


def map_labels(utterances: Sequence[Utterance], new_names: Mapping[str, str]) -> None:
    """Rename labels in place, and print how many utterances each had before and after; what is not named stays."""
    before = Counter(u.emotion for u in utterances if u.emotion)
    for u in utterances:
        u.emotion = new_names.get(u.emotion, u.emotion)
    after = Counter(u.emotion for u in utterances)
    for new in sorted(set(new_names.values())):
        parts = [f"{old} {count}" for old, count in sorted(before.items()) if new_names.get(old, old) == new]
        print(f"labels: {' + '.join(parts) or 'none'} -> {new} {after[new]}")
    if absent := sorted(new_names.keys() - before.keys()):
        print(f"labels: --label_map names {', '.join(absent)}, which no utterance has")


def keep_classes(scan: Scan, default: Iterable[str] = (), known: Iterable[str] = ()) -> None:
    """Rename labels by --label_map, then keep --classes and the utterances without emotion.

    Where the user names no class, ``default`` (as named before the map) are kept, else all that occur; ``known`` are
    all labels of the corpus, where they are known. A class that is not known, named twice or absent is a UserError.
    """
    args, source = scan.args, scan.source
    map_labels(scan.utterances, args.label_map)
    present = {u.emotion for u in scan.utterances} - {""}
    if not present:
        what = ": no utterance has an emotion: there is nothing to learn"
        raise UserError(f"{source}{what if scan.utterances else ' has no utterance to use'}")
    usual, renamed = (list(dict.fromkeys(args.label_map.get(n, n) for n in names)) for names in (default, known))
    wanted = words_of(args.classes or "") or ([] if renamed and args.classes is not None else usual or sorted(present))
    if renamed and (not wanted or set(wanted) - set(renamed) or len(set(wanted)) < len(wanted)):
        raise UserError(f"--classes {args.classes!r}: name each once, out of {' '.join(renamed)}")
    if absent := [name for name in wanted if name not in present]:
        there = " ".join(sorted(present))
        raise UserError(f"--classes: {source} has no utterance of {' '.join(absent)}; it has {there}")
    scan.drop(lambda u: f"class {u.emotion} is not asked for" if u.emotion and u.emotion not in wanted else None)
    check_labels(scan)


def check_labels(scan: Scan) -> None:
    """Warn of labels that differ in their spelling only; UserError for numbers, combinations, or too many labels."""
    counts, source, most = Counter(u.emotion for u in scan.utterances if u.emotion), scan.source, scan.args.max_classes
    for names in spelling_variants(counts):
        usual = max(names, key=lambda name: (counts[name], name.islower()))
        pairs = ",".join(f"{name}={usual}" for name in names if name != usual)
        found = ", ".join(f"{name} {counts[name]}" for name in names)
        warn(f"{source}: labels that differ in spelling only: {found}; --label_map {pairs!r} joins them")
    for what, pattern, remedy in (
        ("numbers", NUMBER, "name each (0=neutral 1=happy), or divide a scale into classes"),
        ("combinations of emotions", JOINED, "give each one class, or another name"),
    ):
        if names := list(filter(pattern.fullmatch, counts)):
            raise UserError(
                f"{source}: {len(names)} of {len(counts)} labels are {what}: {shown(names)}; this recipe learns one "
                f"class an utterance: {remedy}, by a file of two columns, old and new label, as --label_map FILE"
            )
    if len(counts) > most:
        raise UserError(
            f"{source}: {len(counts)} labels, and --max_classes is {most}: {shown(sorted(counts))}; join some "
            "with --label_map, choose some with --classes, or give a larger --max_classes"
        )


def shown(names: Sequence[str]) -> str:
    """The first names, and the number of the others."""
    return ", ".join(names[:FEW]) + (f" and {len(names) - FEW} more" if len(names) > FEW else "")


def spelling_variants(names: Collection[str]) -> list[list[str]]:
    """Groups of names that are equal but for case, blanks, ``_ - .``, leading zeros and Unicode's composition."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        plain = re.sub(r"(?<!\d)0+(?=\d)", "", unicodedata.normalize("NFC", name).casefold())
        between_digits = re.sub(r"(?<=\d)[\s_.-]+(?=\d)", "-", plain)  # 1_11 is not 11_1
        groups.setdefault(re.sub(r"[\s_.]+|(?<!\d)-+|-+(?!\d)", "", between_digits), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def label_problem(label: str) -> str | None:
    """Why a label cannot stand in a table, or None."""
    return None if label.isprintable() else f"{label!r} has an unprintable character"


def name_problem(name: str) -> str | None:
    """Why a speaker or session cannot name a fold or a folder, or None."""
    if not name.isprintable() or len(name.split()) != 1 or name != name.strip():
        return f"{name!r} is not one printable word"
    # Speakers and sessions become folders of experiments and words of command lines.
    if "/" in name or name[0] in ".-":
        return f"{name!r} begins with . or - or holds /"
    return None


def leave_out_lone_speakers(scan: Scan) -> None:
    """Drop the utterances whose speaker has no other, unless speakers need not be known.

    Neither the speaker head nor a fold that holds speakers out can use them; later stages call them unknown. They are
    a UserError where neither --speakers nor --skip_broken says what to do.
    """
    numbers = Counter(u.speaker for u in scan.utterances)
    lines = [f"{u.speaker}: {u.utt} ({u.where})" for u in scan.utterances if numbers[u.speaker] == 1]
    if not lines:
        return
    if scan.args.speakers == "known":
        of = f"{len(lines)} of {len(scan.utterances)}"
        warn(f"the speakers of {of} utterances are unknown, or have no other utterance")
        return
    if not scan.args.skip_broken:
        raise UserError(
            f"speakers that are unknown or have a single utterance, from which no speaker is learned "
            f"({len(lines)}):{listed(lines)}\ncorrect their speaker ids, pass --skip_broken true to leave them out, or "
            "train on them with --speakers known (the default of --protocol random5; if no speaker is known, with "
            "--beta 0 too)"
        )
    warn(f"speakers with a single utterance are left out ({len(lines)}):{listed(lines)}")
    scan.drop(lambda u: "the only utterance of its speaker" if numbers[u.speaker] == 1 else None)
