"""Prepare the Berlin Database of Emotional Speech as it is distributed (`wav/03a01Wa.wav`)."""

from __future__ import annotations

import re

from known_corpus import Corpus, prepare_by_names
from prepare_common import Utterance

from sermtl.errors import command

EMOTIONS = {"W": "anger", "L": "boredom", "E": "disgust", "A": "fear", "F": "happiness", "N": "neutral", "T": "sadness"}
SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    # The printed documentation has "Stück Papier"; the recordings say "Blatt".
    "a05": "Das schwarze Blatt Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
# The corpus has no sessions; a man and a woman are taken as one.
PAIRS = (("03", "08"), ("10", "09"), ("11", "13"), ("12", "14"), ("15", "16"))
GENDERS = {speaker: gender for pair in PAIRS for speaker, gender in zip(pair, "mf", strict=True)}
SESSIONS = {speaker: "+".join(pair) for pair in PAIRS for speaker in pair}
# The 535 files of the distribution (F. Burkhardt et al., "A database of German emotional speech", Interspeech 2005).
COUNTS = {"anger": 127, "boredom": 81, "disgust": 46, "fear": 69, "happiness": 71, "neutral": 79, "sadness": 62}
CORPUS = Corpus(
    name="EMO-DB",
    labels=EMOTIONS.values(),
    classes=("anger", "happiness", "neutral", "sadness"),
    counts={f"class {label}": count for label, count in COUNTS.items()},
    example="wav/03a01Wa.wav",
    pattern=r"(\d\d)([ab]\d\d)([WLEAFTN])([a-z]?)",  # speaker, sentence, emotion, version
    folders=("wav",),
    speakers=sorted(GENDERS),
    lang="de",
)


def read(utterance: Utterance, match: re.Match[str]) -> str | None:
    """Set an utterance's fields by its file's name; returns why it is not used, or None."""
    speaker, sentence, letter, _ = match.groups()
    if speaker not in GENDERS or sentence not in SENTENCES:
        return "unknown speaker or sentence"
    utterance.speaker, utterance.emotion, utterance.text = speaker, EMOTIONS[letter], SENTENCES[sentence]
    utterance.session, utterance.gender = SESSIONS[speaker], GENDERS[speaker]
    return None


@command
def main() -> None:
    """Read the options, scan, check and write."""
    prepare_by_names(CORPUS, read, __doc__)


if __name__ == "__main__":
    raise SystemExit(main())
