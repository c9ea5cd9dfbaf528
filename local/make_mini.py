"""Make the synthetic corpus `mini`: spoken by espeak-ng, laid out exactly as IEMOCAP_full_release.

The emotion is in the prosody alone (rate, pitch, range, loudness, vocal effort, each with jitter): every
sentence occurs with every emotion. The same versions of the libraries make the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from espeak import SAMPLE_RATE, Synthesizer
from mini_plan import VOICES, Dialog, Turn, dialogs
from scipy.io import wavfile
from scipy.signal import lfilter, resample_poly

from sermtl.errors import UserError, command
from sermtl.fileio.files import remove_leftovers, replaced_directory

RATE = 16000
MARKER = ".mini-version"
APPLE_DOUBLE = bytes.fromhex("00051607") + b"\0\2\0\0Mac OS X        " + bytes(64)


@dataclass(frozen=True)
class Style:
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
# Valence, activation, dominance as the annotators' mean.
VALUES = {"neu": "2.5000, 2.5000, 2.5000", "hap": "4.0000, 3.5000, 3.0000", "ang": "1.5000, 4.0000, 4.0000"}
CATEGORY = {"neu": "Neutral", "hap": "Happiness", "ang": "Anger", "sad": "Sadness", "exc": "Excited"}


def spoken(text: str) -> str:
    """The words to speak: tags are left out, laughter alone is spoken."""
    return re.sub(r"\[.*?\]|\{.*?\}|\+\+.*?\+\+", "", text).strip() or "Ha, ha, ha."


def ssml(text: str, style: Style, rng: random.Random) -> str:
    """Mark every word up with the style's prosody, jittered by up to 8 percent."""
    words = spoken(text).replace("&", "and").split()
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
    speaker = turn.name[3:5] + turn.name[-4]
    style = STYLES[SOUNDS_LIKE.get(turn.label, turn.label if turn.label in STYLES else "neu")]
    rng, voice = random.Random(f"mini {turn.name}"), VOICES[speaker]
    samples = espeak.speak(
        ssml(turn.text, style, rng),
        f"en-us+{voice.variant}",
        turn.seed,
        rate=voice.rate,
        pitch=voice.pitch,
        range=voice.range,
    )
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


def label_block(turn: Turn, start: float, end: float) -> str:
    """The label line of a turn and the lines of its annotators."""
    values = VALUES.get(SOUNDS_LIKE.get(turn.label, turn.label), "2.0000, 2.0000, 2.0000")
    names = [f"C-{who}:\t{CATEGORY.get(turn.label, 'Other')};\t()" for who in ("E2", "E3", "E4")]
    numbers = [f"A-{who}:\tval 3; act 2; dom  2;\t()" for who in ("E3", "E4")]
    head = f"[{start:.4f} - {end:.4f}]\t{turn.name}\t{turn.label}\t[{values}]"
    return "\n".join([head, *names, *numbers]) + "\n\n"


def transcript_line(turn: Turn, number: int, start: float, end: float) -> bytes:
    """A transcript line as the real files have it: some without times, some not UTF-8."""
    times = "" if number % 7 == 5 else f" [{start:08.4f}-{end:08.4f}]"
    line = f"{turn.name}{times}: {turn.text}\n"
    return line.replace("'", "\u2019").encode("cp1252") if number % 3 == 0 else line.encode()


def write_dialog(root: Path, dialog: Dialog, espeak: Synthesizer, number: int) -> None:
    """Write a dialog's wavs, labels and transcript, with the litter that is found among them."""
    session = root / f"Session{dialog.session}"
    wavs = session / "sentences" / "wav" / dialog.name
    wavs.mkdir(parents=True)
    labels = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
    transcript = b""
    clock = 6.2901
    for place, turn in enumerate(dialog.turns):
        end = clock + 1.0
        if turn.label:
            samples = synthesize(espeak, turn)
            end = clock + len(samples) / RATE
            suffix = ".WAV" if (number, place) == (1, 3) else ".wav"
            wavfile.write(wavs / f"{turn.name}{suffix}", RATE, samples)
            labels += label_block(turn, clock, end)
        transcript += transcript_line(turn, place, clock, end)
        clock = end + 0.35
    for folder, name, data in (
        ("dialog/EmoEvaluation", f"{dialog.name}.txt", labels.encode()),
        ("dialog/transcriptions", f"{dialog.name}.txt", transcript + b"\n"),
        ("sentences/wav", f"{dialog.name}/._{dialog.turns[0].name}.wav", APPLE_DOUBLE),
        ("dialog/EmoEvaluation", f"._{dialog.name}.txt", APPLE_DOUBLE),
        ("dialog/transcriptions", f"._{dialog.name}.txt", APPLE_DOUBLE),
        ("dialog/EmoEvaluation/Categorical", f"{dialog.name}_e2_cat.txt", b""),
    ):
        file = session / folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def version() -> str:
    """Digest of the programs that make the corpus: another version makes it again."""
    sources = (Path(__file__).with_name(name) for name in ("make_mini.py", "mini_plan.py", "espeak.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def make(out: Path) -> bool:
    """Make the corpus at ``out``, whole or not at all; False if it exists already.

    Raises:
        UserError: Something else is at ``out``.
    """
    marker = out / MARKER
    if marker.is_file() and marker.read_text() == version():
        return False
    if out.exists() and not marker.is_file():
        raise UserError(f"{out} exists and was not made by local/make_mini.py: name another --out or remove it")
    remove_leftovers(out.parent)
    with replaced_directory(out) as new:
        espeak = Synthesizer()
        for number, dialog in enumerate(dialogs()):
            write_dialog(new, dialog, espeak, number)
        (new / MARKER).write_text(version())
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
