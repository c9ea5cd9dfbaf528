"""Make the synthetic corpus `mini`: spoken by espeak-ng, laid out exactly as IEMOCAP_full_release.

The emotion is in the prosody alone (rate, pitch, range, loudness, vocal effort, each with jitter): every
sentence occurs with every emotion. The same versions of the libraries make the same bytes.
"""

import argparse
import hashlib
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from espeak import SAMPLE_RATE, Synthesizer
from scipy.io import wavfile
from scipy.signal import lfilter, resample_poly

from sermtl.errors import UserError, command
from sermtl.fileio.files import remove_leftovers, replaced_directory

RATE = 16000
MARKER = ".mini-version"
APPLE_DOUBLE = bytes.fromhex("00051607") + b"\0\2\0\0Mac OS X        " + bytes(64)


class Style(NamedTuple):
    """How an emotion sounds, relative to the speaker's own voice (percent of rate, pitch, range).

    `volume` is espeak-ng's (above 200 it overdrives the voice), `level` the loudness of the file in dB below
    full scale, `swing` is added to and taken from the pitch of every other word, `fade` is the volume lost
    from the first to the last word, `effort` tilts the spectrum (above 0 brighter, below 0 duller).
    """

    rate: int
    pitch: int
    range: int
    volume: int
    level: int
    swing: int = 0
    fade: int = 0
    effort: float = 0.0


STYLES = {
    "neu": Style(rate=100, pitch=-5, range=40, volume=100, level=25),
    "hap": Style(rate=118, pitch=45, range=180, volume=110, level=22, swing=35, effort=0.55),
    "ang": Style(rate=150, pitch=5, range=120, volume=230, level=19, effort=0.9),
    "sad": Style(rate=68, pitch=-25, range=10, volume=70, level=31, fade=45, effort=-0.7),
}
SOUNDS_LIKE = {"exc": "hap", "fru": "ang", "fea": "sad", "sur": "hap", "dis": "ang"}
# What the preparation must drop, one a dialog.
OTHERS = ("xxx", "fru", "sur", "xxx", "fru", "fea", "xxx", "oth", "fru", "dis")
# Valence, activation, dominance as the annotators' mean.
VALUES = {"neu": "2.5000, 2.5000, 2.5000", "hap": "4.0000, 3.5000, 3.0000", "ang": "1.5000, 4.0000, 4.0000"}
CATEGORY = {"neu": "Neutral", "hap": "Happiness", "ang": "Anger", "sad": "Sadness", "exc": "Excited"}
# A speaker's voice variant, pitch and range (0 to 100), words a minute. The variants are of much the same brightness,
# so that the spectral tilt of vocal effort carries over to new speakers.
VOICES = {
    "01F": ("f2", 50, 50, 198),
    "01M": ("m3", 45, 50, 190),
    "02F": ("Andrea", 35, 45, 204),
    "02M": ("m1", 55, 55, 200),
    "03F": ("f3", 55, 50, 190),
    "03M": ("Gene2", 40, 45, 206),
    "04F": ("belinda", 45, 55, 196),
    "04M": ("m4", 50, 50, 194),
    "05F": ("f1", 40, 50, 202),
    "05M": ("m5", 60, 45, 198),
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
Part = tuple[str, str]  # an emotion and a sentence


class Turn(NamedTuple):
    """One utterance of a dialog; ``label`` is empty for a turn that has neither audio nor label."""

    name: str
    label: str
    text: str
    seed: int


def parts_of(number: int, sentences: tuple[str, ...], rng: random.Random) -> tuple[list[Part], list[Part]]:
    """What a speaker says in two dialogs of a kind: over ten speakers each pair occurs ``ROUND`` times."""
    pairs = [
        (emotion, sentences[(ROUND * number + ROUND * place + turn) % len(sentences)])
        for place, emotion in enumerate(STYLES)
        for turn in range(ROUND)
    ]
    rng.shuffle(pairs)
    return pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :]


def turns_of(dialog: str, number: int, parts: dict[str, list[Part]]) -> Iterator[Turn]:
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


def dialogs() -> dict[str, list[Turn]]:
    """The whole corpus, 20 dialogs and their turns in order of time; a pure function."""
    result = {}
    for session in range(1, 6):
        shares: dict[str, list[list[Part]]] = {"F": [], "M": []}
        for number, letter in enumerate(shares, 2 * session - 2):
            rng = random.Random(f"mini {session} {letter}")
            for sentences in (IMPROVISED, SCRIPTED):
                shares[letter] += parts_of(number, sentences, rng)
        # Two improvised dialogs and two scripted ones; some ids are irregular.
        impro = {3: "impro05a", 5: "impro08b"}.get(session, "impro01")
        script = {5: "script01_1b"}.get(session, "script01_1")
        for place, kind in enumerate((f"F_{impro}", "M_impro02", "F_script02_2", f"M_{script}")):
            name = f"Ses{session:02d}{kind}"
            parts = {letter: share[place] for letter, share in shares.items()}
            result[name] = list(turns_of(name, 4 * (session - 1) + place, parts))
    return result


def ssml(text: str, style: Style, rng: random.Random) -> str:
    """Mark every word up with the style's prosody, jittered by up to 8 percent; of tags, laughter alone is spoken."""
    spoken = re.sub(r"\[.*?\]|\{.*?\}|\+\+.*?\+\+", "", text).strip() or "Ha, ha, ha."
    words = spoken.replace("&", "and").split()
    marked = []
    for place, word in enumerate(words):
        share = place / max(1, len(words) - 1)
        pitch = style.pitch + style.swing * (1 if place % 2 else -1) + rng.uniform(-4, 4)
        volume = (style.volume - style.fade * share) * rng.uniform(0.94, 1.06)
        marked.append(f'<prosody pitch="{pitch:+.0f}%" volume="{volume:.0f}%">{word}</prosody>')
    rate, wide = style.rate * rng.uniform(0.94, 1.06), style.range * rng.uniform(0.92, 1.08)
    return f'<prosody rate="{rate:.0f}%" range="{wide:.0f}%">{" ".join(marked)}</prosody>'


def synthesize(espeak: Synthesizer, turn: Turn) -> np.ndarray:
    """Speak one turn: int16 samples at 16 kHz, shape (S,), silence around the words kept short."""
    style = STYLES[SOUNDS_LIKE.get(turn.label, turn.label if turn.label in STYLES else "neu")]
    rng = random.Random(f"mini {turn.name}")
    variant, pitch, wide, rate = VOICES[turn.name[3:5] + turn.name[-4]]
    text = ssml(turn.text, style, rng)
    samples = espeak.speak(text, f"en-us+{variant}", turn.seed, rate=rate, pitch=pitch, range=wide)
    wav = resample_poly(samples.astype(np.float64), RATE // 50, SAMPLE_RATE // 50)
    effort = style.effort * rng.uniform(0.9, 1.1)
    # A first-order filter, high-pass above 0 and low-pass below.
    brighter, duller = max(effort, 0.0), max(-effort, 0.0)
    wav = lfilter([1.0, -brighter], [1.0, -duller], wav)
    level = 10 ** (-(style.level + rng.uniform(-1.5, 1.5)) / 20) * 32768 / wav.std()
    wav *= min(level, 32000 / np.abs(wav).max())
    (loud,) = np.nonzero(np.abs(wav) > 0.02 * np.abs(wav).max())
    margin = RATE // 33
    wav = wav[max(0, loud[0] - margin) : loud[-1] + margin]
    return np.clip(np.round(wav), -32768, 32767).astype("<i2")


def write_dialog(root: Path, name: str, turns: list[Turn], espeak: Synthesizer) -> None:
    """Write a dialog's wavs, labels and transcript, with the litter that is found among them."""
    session = root / f"Session{int(name[3:5])}"
    wavs = session / "sentences" / "wav" / name
    wavs.mkdir(parents=True)
    labels = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
    transcript = b""
    clock = 6.2901
    for place, turn in enumerate(turns):
        end = clock + 1.0
        if turn.label:
            samples = synthesize(espeak, turn)
            end = clock + len(samples) / RATE
            suffix = ".WAV" if (name, place) == ("Ses01M_impro02", 3) else ".wav"
            wavfile.write(wavs / f"{turn.name}{suffix}", RATE, samples)
            values = VALUES.get(SOUNDS_LIKE.get(turn.label, turn.label), "2.0000, 2.0000, 2.0000")
            labels += f"[{clock:.4f} - {end:.4f}]\t{turn.name}\t{turn.label}\t[{values}]\n"
            labels += "".join(f"C-{who}:\t{CATEGORY.get(turn.label, 'Other')};\t()\n" for who in ("E2", "E3", "E4"))
            labels += "".join(f"A-{who}:\tval 3; act 2; dom  2;\t()\n" for who in ("E3", "E4")) + "\n"
        # As in the real files, some lines are without times, some are not UTF-8.
        times = "" if place % 7 == 5 else f" [{clock:08.4f}-{end:08.4f}]"
        line = f"{turn.name}{times}: {turn.text}\n"
        transcript += line.replace("'", "\u2019").encode("cp1252") if place % 3 == 0 else line.encode()
        clock = end + 0.35
    for file, data in (
        (f"dialog/EmoEvaluation/{name}.txt", labels.encode()),
        (f"dialog/transcriptions/{name}.txt", transcript + b"\n"),
        (f"sentences/wav/{name}/._{turns[0].name}.wav", APPLE_DOUBLE),
        (f"dialog/EmoEvaluation/._{name}.txt", APPLE_DOUBLE),
        (f"dialog/transcriptions/._{name}.txt", APPLE_DOUBLE),
        (f"dialog/EmoEvaluation/Categorical/{name}_e2_cat.txt", b""),
    ):
        path = session / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def make(out: Path) -> bool:
    """Make the corpus, whole or not at all; False if it is there already, UserError if something else is there."""
    sources = (Path(__file__).with_name(name) for name in ("make_mini.py", "espeak.py"))
    version = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    marker = out / MARKER
    if marker.is_file() and marker.read_text() == version:
        return False
    if out.exists() and not marker.is_file():
        raise UserError(f"{out} exists and was not made by local/make_mini.py: name another --out or remove it")
    remove_leftovers(out.parent)
    with replaced_directory(out) as new:
        espeak = Synthesizer()
        for name, turns in dialogs().items():
            write_dialog(new, name, turns, espeak)
        (new / MARKER).write_text(version)
    return True


@command
def main() -> None:
    """Make the corpus where it is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to make, as IEMOCAP_full_release")
    out = parser.parse_args().out
    print(f"{out} {'made' if make(out) else 'exists already'}")


if __name__ == "__main__":
    raise SystemExit(main())
