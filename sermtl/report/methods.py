"""What the methods of speaker normalisation do: to speaker and emotion, with little audio, with few utterances."""

from collections.abc import Mapping, Sequence

import numpy as np

from sermtl.fileio.files import load_json
from sermtl.report import figures
from sermtl.report.compare import Setting
from sermtl.report.document import Figure, Section
from sermtl.report.families import Family
from sermtl.report.figures import Sources
from sermtl.report.speaker import Knowledge


def enrolment(family: Family, sources: Sources) -> list[Figure]:
    """WA by what enrols a test speaker, where speakers are standardised."""
    found = {
        setting.name: {name: np.sum([e.scores["enrol"][name] for e in setting.experiments], 0) for name in enrolled}
        for setting in family.settings
        if (enrolled := set.intersection(*(set(e.scores.get("enrol") or {}) for e in setting.experiments)))
    }
    order = {"half": 1, "all": 2}
    every = {name for row in found.values() for name in row}
    names = sorted(every, key=lambda name: (0 if name.isdecimal() else order.get(name, 3), len(name), name))
    if not names:
        return []
    seconds = [next(row[name][2] / row[name][1] for row in found.values() if name in row) for name in names]
    words = [name.replace("_of_one_emotion", ", one\nemotion") for name in names]
    ticks = [f"{word}\n{s:.0f} s" for word, s in zip(words, seconds, strict=True)]
    values = {name: [row[one][0] / row[one][1] if one in row else None for one in names] for name, row in found.items()}
    caption = (
        "WA by how many other utterances of a test speaker, without labels, give the speaker's statistics, and how "
        "much audio that is on average. Five of one emotion are the case that can do harm."
    )
    drawn = figures.by_fold(values, ticks, "WA", "other utterances of the test speaker")
    return [sources.draw(drawn, family.slug, "enrolment", caption)]


def erasing(family: Family, sources: Sources) -> list[Figure]:
    """What a linear probe finds of speakers by how many utterances fitted an eraser, as stage 4 found it."""
    digits: dict[str, str] = {}
    for made in family.experiments:
        for path in sorted(made.path.glob("*/decode_dev/erasing.json")):
            if path.parents[1].name in made.folds:
                for most, hits in load_json(path)["hits"].items():
                    digits[most] = digits.get(most, "") + hits.replace("-", "")
    shares = {most: hits.count("1") / len(hits) for most, hits in digits.items() if hits}
    if not shares:
        return []
    caption = (
        "Accuracy of logistic regressions (C = 1) of the speaker on held-out utterances of training speakers, by how "
        "many utterances of each speaker fitted an eraser, where training erases nothing."
    )
    values = {"none": list(shares.values())}
    drawn = figures.by_fold(values, list(shares), "speaker accuracy", "utterances of a speaker")
    return [sources.draw(drawn, family.slug, "erasing", caption)]


def section(
    families: Sequence[Family], known_of: Mapping[str, Mapping[Setting, Knowledge]], sources: Sources
) -> list[Section]:
    """Speaker accuracy against emotion accuracy, a point a setting of all families of a protocol."""
    found = Section(f"Speaker and emotion, protocol {families[0].protocol}", 3)
    for part, who in (("held_out", "held-out utterances of training speakers"), ("unseen", "unseen speakers")):
        places, chances = {}, []
        for family in families:
            for setting, row in known_of[family.title].items():
                if (outcome := row.outcomes[part, "linear"]).hits:
                    name = ", ".join([setting.name, *family.title.split(", ")[1:]])
                    places[name] = (outcome.accuracy, setting.estimates["wa"])
                    chances.append(outcome.chance.value)
        if len(places) < 2:
            continue
        known = [chance for chance in chances if chance is not None]
        caption = (
            f"Speaker accuracy of a linear probe on {who}, against WA, with 95 % intervals. Dotted: chance. Less "
            "speaker is to the left, more emotion is up."
        )
        drawn = figures.points(places, "speaker accuracy", "WA", float(np.mean(known)) if known else None)
        found.items.append(sources.draw(drawn, families[0].slug, f"methods-{part.replace('_', '-')}", caption))
    return [found] if found.items else []
