"""Emotion labels of a corpus: renamed by --label_map, chosen by --classes, and those that are no classes refused."""

from __future__ import annotations

import argparse
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from prepare_common import SHOWN, Dropped, Utterance, warn

from sermtl.errors import UserError

JOINED = re.compile(r".*[;,|/+&].*", re.DOTALL)
"""Two emotions in one label."""
NUMBER = re.compile(r"[-+]?\d*[.,]?\d+([eE][-+]?\d+)?")


def label_options(parser: argparse.ArgumentParser, classes: str = "default: all that occur") -> None:
    """Add the options on labels; ``classes`` says in the help which are kept by default."""
    parser.add_argument("--classes", help=f"emotions to keep, as --label_map names them ({classes})")
    parser.add_argument("--label_map", type=label_map, default={}, help="'old=new old=new', or a file of two columns")
    parser.add_argument("--max_classes", type=int, default=20, help="more classes than this are refused")


def words_of(given: str) -> list[str]:
    """Split an option's list at its commas where it has any, so that labels may hold blanks, else at its blanks."""
    parts = given.split(",") if "," in given else given.split()
    return [" ".join(part.split()) for part in parts if part.strip()]


def label_map(given: str) -> dict[str, str]:
    """Read --label_map: ``old=new`` pairs, or a file with two columns (between tabs where labels hold blanks).

    An error is refused by argparse.
    """
    if given and Path(given).is_file():
        lines = [line for line in Path(given).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        pairs = [line.split("\t") if "\t" in line else line.split() for line in lines]
    else:
        words = [given] if given.count("=") == 1 else words_of(given)
        pairs = [word.split("=") for word in words]
    pairs = [[" ".join(part.split()) for part in pair] for pair in pairs]
    for pair in pairs:
        if len(pair) != 2 or not all(pair):
            raise argparse.ArgumentTypeError(
                f"{'='.join(pair)!r} of {given!r} is no pair: give 'excited=happy anger=angry', or an existing file "
                "with the columns old and new"
            )
    if repeated := [old for old, count in Counter(old for old, _ in pairs).items() if count > 1]:
        raise argparse.ArgumentTypeError(f"{given!r} names {' '.join(repeated)} more than once")
    return {old: new for old, new in pairs}


def map_labels(utterances: Iterable[Utterance], new_names: Mapping[str, str]) -> None:
    """Rename labels in place, and print how many utterances each had before and after; what is not named stays."""
    utterances = list(utterances)
    before = Counter(u.emotion for u in utterances if u.emotion)
    for u in utterances:
        u.emotion = new_names.get(u.emotion, u.emotion)
    after = Counter(u.emotion for u in utterances)
    for new in sorted(set(new_names.values())):
        parts = [f"{old} {count}" for old, count in sorted(before.items()) if new_names.get(old, old) == new]
        print(f"labels: {' + '.join(parts) or 'none'} -> {new} {after[new]}")
    if absent := sorted(new_names.keys() - before.keys()):
        print(f"labels: --label_map names {', '.join(absent)}, which no utterance has")


def keep_classes(
    utterances: list[Utterance],
    args: argparse.Namespace,
    source: Path,
    default: Iterable[str] = (),
    known: Iterable[str] = (),
) -> tuple[list[Utterance], list[Dropped]]:
    """Rename by --label_map, then keep --classes and the utterances without emotion.

    Args:
        utterances: Their labels are changed in place.
        args: Those of `label_options`.
        source: What they were read from, for messages.
        default: The classes where the user names none, under their names before the map; none: all that occur.
        known: All labels of the corpus, where they are known.

    Returns:
        Those that are kept, and the others with their reasons.

    Raises:
        UserError: A class is unknown, is named twice or does not occur, no utterance has an emotion, or labels are no
            classes.
    """
    map_labels(utterances, args.label_map)
    present = {u.emotion for u in utterances} - {""}
    if not present:
        what = ": no utterance has an emotion: there is nothing to learn" if utterances else " has no utterance to use"
        raise UserError(f"{source}{what}")
    usual, renamed = (list(dict.fromkeys(args.label_map.get(n, n) for n in names)) for names in (default, known))
    wanted = words_of(args.classes or "") or ([] if renamed and args.classes is not None else usual or sorted(present))
    if renamed and (not wanted or set(wanted) - set(renamed) or len(set(wanted)) < len(wanted)):
        raise UserError(f"--classes {args.classes!r}: name each once, out of {' '.join(renamed)}")
    if absent := [name for name in wanted if name not in present]:
        raise UserError(
            f"--classes: {source} has no utterance of {' '.join(absent)}; it has {' '.join(sorted(present))}"
        )
    kept = [u for u in utterances if not u.emotion or u.emotion in wanted]
    others = (u for u in utterances if u.emotion and u.emotion not in wanted)
    check_labels(Counter(u.emotion for u in kept if u.emotion), args.max_classes, source)
    return kept, [Dropped(u.utt, f"class {u.emotion} is not asked for", u.where) for u in others]


def check_labels(counts: Mapping[str, int], max_classes: int, source: Path) -> None:
    """Warn of labels that differ in their spelling only; refuse labels that are no classes.

    Args:
        counts: Utterances by label.
        max_classes: The largest number of classes.
        source: What they were read from, for messages.

    Raises:
        UserError: Labels are numbers or combinations, or too many.
    """
    for names in spelling_variants(counts):
        most = max(names, key=lambda name: (counts[name], name.islower()))
        pairs = [f"{name}={most}" for name in names if name != most]
        found = ", ".join(f"{name} {counts[name]}" for name in names)
        warn(f"{source}: labels that differ in spelling only: {found}; --label_map {','.join(pairs)!r} joins them")
    for what, pattern, remedy in (
        ("numbers", NUMBER, "name each (0=neutral 1=happy), or divide a scale into classes"),
        ("combinations of emotions", JOINED, "give each one class, or another name"),
    ):
        if names := list(filter(pattern.fullmatch, counts)):
            raise UserError(
                f"{source}: {len(names)} of {len(counts)} labels are {what}: {shown(names)}; this recipe learns one "
                f"class an utterance: {remedy}, by a file of two columns, old and new label, as --label_map FILE"
            )
    if len(counts) > max_classes:
        raise UserError(
            f"{source}: {len(counts)} labels, and --max_classes is {max_classes}: {shown(sorted(counts))}; join some "
            "with --label_map, choose some with --classes, or give a larger --max_classes"
        )


def shown(names: Sequence[str], most: int = SHOWN // 5) -> str:
    """The first names, and the number of the others."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


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
