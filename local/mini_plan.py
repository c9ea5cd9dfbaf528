"""Who says what, and how, in the synthetic corpus: speakers, sentences, emotions, turns."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

FOUR = ("neu", "hap", "ang", "sad")
# What the preparation must drop, one a dialog.
OTHERS = ("xxx", "fru", "sur", "xxx", "fru", "fea", "xxx", "oth", "fru", "dis")


@dataclass(frozen=True)
class Voice:
    """A speaker: espeak-ng's voice variant, its pitch and range (0 to 100), words a minute."""

    variant: str
    pitch: int
    range: int
    rate: int


# Variants of much the same brightness, so that the spectral tilt of vocal effort carries over to new speakers.
VOICES = {
    "01F": Voice("f2", 50, 50, 198),
    "01M": Voice("m3", 45, 50, 190),
    "02F": Voice("Andrea", 35, 45, 204),
    "02M": Voice("m1", 55, 55, 200),
    "03F": Voice("f3", 55, 50, 190),
    "03M": Voice("Gene2", 40, 45, 206),
    "04F": Voice("belinda", 45, 55, 196),
    "04M": Voice("m4", 50, 50, 194),
    "05F": Voice("f1", 40, 50, 202),
    "05M": Voice("m5", 60, 45, 198),
}

SCRIPTED = (
    "I put the keys on the table.",
    "It's five o'clock already.",
    "You said that last week.",
    "They moved to the city.",
    "We have 2 tickets left.",
    "The letter came today.",
    "He is waiting outside.",
    "I don't know her name.",
    "That was the last train.",
    "She called me twice.",
)
IMPROVISED = (
    "Let me see your card.",
    "I think it's over there.",
    "We can go home now.",
    "It took all day, you know.",
    "My brother told me so.",
    "There are 3 forms & a letter.",
    "So that is your answer.",
    "They gave it to him.",
    "I was here before you.",
    "Well, look at the time.",
)
TAGGED = {"hap": "[LAUGHTER]", "sad": "{LG}", "ang": "++BREATHING++"}
ROUND = 3  # how often a speaker uses each emotion with each of the two kinds of dialog


@dataclass(frozen=True)
class Turn:
    """One utterance of a dialog; ``label`` is empty for a turn that has neither audio nor label."""

    name: str
    label: str
    text: str
    seed: int


@dataclass
class Dialog:
    """A dialog's name, its session and its turns in order of time."""

    name: str
    session: int
    turns: list[Turn]


def dialog_names(session: int) -> list[str]:
    """The session's four dialogs, two improvised and two scripted; some ids are irregular."""
    first = f"Ses{session:02d}"
    impro = {3: "impro05a", 5: "impro08b"}.get(session, "impro01")
    script = {5: "script01_1b"}.get(session, "script01_1")
    return [f"{first}F_{impro}", f"{first}M_impro02", f"{first}F_script02_2", f"{first}M_{script}"]


def _parts(number: int, sentences: tuple[str, ...], rng: random.Random) -> list[tuple[str, str]]:
    """(emotion, sentence) pairs of one speaker: over ten speakers each pair occurs ``ROUND`` times."""
    pairs = [
        (emotion, sentences[(ROUND * number + ROUND * place + turn) % len(sentences)])
        for place, emotion in enumerate(FOUR)
        for turn in range(ROUND)
    ]
    rng.shuffle(pairs)
    return pairs


def _turns(dialog: str, number: int, parts: dict[str, list[tuple[str, str]]]) -> Iterator[Turn]:
    """Let the two speakers of a dialog alternate, then add what real dialogs hold besides."""
    counts = {"F": 0, "M": 0}

    def turn(letter: str, label: str, text: str) -> Turn:
        name = f"{dialog}_{letter}{counts[letter]:03d}"
        counts[letter] += 1
        return Turn(name, label, text, seed=1000 * number + counts["F"] + counts["M"])

    for place in range(len(parts["F"])):
        for letter in ("F", "M"):
            emotion, text = parts[letter][place]
            # Half of the happy ones carry the label that is merged into it.
            label = "exc" if emotion == "hap" and (place + number) % 2 else emotion
            if (place + number) % 5 == 0 and emotion in TAGGED:
                text = f"{TAGGED[emotion]} {text}"
            yield turn(letter, label, text)
    yield turn("M", OTHERS[number % len(OTHERS)], "What do you mean?")
    yield Turn(f"{dialog}_FXX0", "", "Yeah.", seed=0)
    if number in (0, 9):
        yield turn("F", "hap", "[LAUGHTER]")


def dialogs() -> list[Dialog]:
    """The whole corpus, 20 dialogs; a pure function."""
    result = []
    for session in range(1, 6):
        shares: dict[str, list[list[tuple[str, str]]]] = {}
        for letter, number in (("F", 2 * session - 2), ("M", 2 * session - 1)):
            rng = random.Random(f"mini {session} {letter}")
            halves = []
            for sentences in (IMPROVISED, SCRIPTED):
                pairs = _parts(number, sentences, rng)
                halves += [pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :]]
            shares[letter] = halves
        for place, name in enumerate(dialog_names(session)):
            parts = {letter: halves[place] for letter, halves in shares.items()}
            result.append(Dialog(name, session, list(_turns(name, 4 * (session - 1) + place, parts))))
    return result
