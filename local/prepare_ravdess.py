"""Prepare the speech of RAVDESS as it is distributed (`Actor_12/03-01-06-01-02-01-12.wav`); songs are left out."""

from __future__ import annotations

import re

from known_corpus import Corpus, prepare_by_names
from prepare_common import Utterance

from sermtl.errors import command

EMOTIONS = dict(enumerate("neutral calm happy sad angry fearful disgust surprised".split(), 1))
STATEMENTS = {1: "Kids are talking by the door.", 2: "Dogs are sitting by the door."}
SPEAKERS = [f"{number:02d}" for number in range(1, 25)]
# S. R. Livingstone and F. A. Russo, PLoS ONE 13(5), 2018: 24 actors x 2 statements x 2 repetitions x 2 intensities,
# of which neutral has one; 1,440 files of speech.
COUNTS = dict.fromkeys(EMOTIONS.values(), 192) | {"neutral": 96}
CORPUS = Corpus(
    name="RAVDESS",
    labels=EMOTIONS.values(),
    classes=EMOTIONS.values(),
    counts={f"class {label}": count for label, count in COUNTS.items()},
    # Modality, vocal channel, emotion, intensity, statement, repetition, actor.
    example="Actor_12/03-01-06-01-02-01-12.wav",
    pattern="-".join([r"(\d\d)"] * 7),
    folders=("Actor_*", "Audio_Speech_Actors_01-24/Actor_*"),
    speakers=SPEAKERS,
)


def read(utterance: Utterance, match: re.Match[str]) -> str | None:
    """Set an utterance's fields by its file's name; returns why it is not used, or None."""
    modality, channel, emotion, intensity, statement, _, _ = map(int, match.groups())
    speaker = match[7]
    if channel == 2:
        return "song"
    if emotion not in EMOTIONS or statement not in STATEMENTS or speaker not in SPEAKERS or channel != 1:
        return "unknown code in the name"
    if modality != 3:
        return "sound of a video, which is also an audio-only file"
    utterance.speaker, utterance.emotion, utterance.text = speaker, EMOTIONS[emotion], STATEMENTS[statement]
    utterance.gender, utterance.style = "fm"[int(speaker) % 2], "strong" if intensity == 2 else "normal"
    return None


@command
def main() -> None:
    """Read the options, scan, check and write."""
    prepare_by_names(CORPUS, read, __doc__)


if __name__ == "__main__":
    raise SystemExit(main())
