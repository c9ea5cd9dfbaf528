"""The published counts of IEMOCAP's four classes (happy and excited merged), and how a copy differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from prepare_common import Utterance

CLASSES = ("neu", "hap", "ang", "sad")
# Utterances of each class by real speaker.
BY_SPEAKER = {
    "01F": (171, 132, 147, 78),
    "01M": (213, 146, 82, 116),
    "02F": (135, 166, 67, 113),
    "02M": (227, 161, 70, 84),
    "03F": (130, 128, 92, 172),
    "03M": (190, 158, 148, 133),
    "04F": (76, 185, 205, 62),
    "04M": (182, 118, 122, 81),
    "05F": (221, 159, 78, 132),
    "05M": (163, 283, 92, 113),
}
# The same by the prefix of the file name: the published folds.
BY_PREFIX = {
    "01F": (226, 117, 97, 67),
    "01M": (158, 161, 132, 127),
    "02F": (209, 148, 65, 83),
    "02M": (153, 179, 72, 114),
    "03F": (156, 145, 88, 147),
    "03M": (164, 141, 152, 158),
    "04F": (128, 174, 177, 74),
    "04M": (130, 129, 150, 69),
    "05F": (192, 236, 78, 138),
    "05M": (192, 206, 92, 107),
}
HAPPY_ALONE = {"hap": 595, "exc": 1041}


def differences(utterances: Iterable[Utterance], classes: Collection[str], merged: bool) -> list[str]:
    """List every count that differs from the published one, for the sessions that the copy holds.

    Args:
        utterances: Prepared ones, with ``fold`` and ``paper`` set.
        classes: The classes prepared; only those with known counts are compared.
        merged: Whether excited was merged into happy.
    """
    counts: Counter[tuple[str, str, str]] = Counter()
    for u in utterances:
        counts.update([("speaker", u.fold, u.emotion), ("prefix", u.paper, u.emotion), ("class", "", u.emotion)])
    present = {name[:2] for _, name, _ in counts if name}
    compared = [c for c in CLASSES if c in classes and (c != "hap" or merged)]
    known = {
        (what, name, label): row[CLASSES.index(label)]
        for what, table in (("speaker", BY_SPEAKER), ("prefix", BY_PREFIX))
        for name, row in table.items()
        for label in compared
        if name[:2] in present
    }
    known |= {("class", "", label): sum(row[CLASSES.index(label)] for row in BY_SPEAKER.values()) for label in compared}
    known |= {("class", "", label): HAPPY_ALONE[label] for label in HAPPY_ALONE if not merged and label in classes}
    return [
        f"{' '.join(filter(None, key))}: {counts[key]} utterances, published {number}"
        for key, number in known.items()
        if counts[key] != number
    ]
