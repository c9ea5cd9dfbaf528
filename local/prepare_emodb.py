"""Prepare the Berlin Database of Emotional Speech as it is distributed (`wav/03a01Wa.wav`)."""

from known_corpus import Corpus, program

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
GENDERS = dict.fromkeys(("03", "10", "11", "12", "15"), "m") | dict.fromkeys(("08", "09", "13", "14", "16"), "f")
# The 535 files of the distribution (F. Burkhardt et al., "A database of German emotional speech", Interspeech 2005).
COUNTS = {"anger": 127, "boredom": 81, "disgust": 46, "fear": 69, "happiness": 71, "neutral": 79, "sadness": 62}
CORPUS = Corpus(
    name="EMO-DB",
    codes={"emotion": EMOTIONS, "text": SENTENCES, "speaker": {speaker: speaker for speaker in sorted(GENDERS)}},
    classes=("anger", "happiness", "neutral", "sadness"),
    counts={f"class {label}": count for label, count in COUNTS.items()},
    example="wav/03a01Wa.wav",
    pattern=r"(?P<speaker>\d\d)(?P<text>[ab]\d\d)(?P<emotion>[WLEAFTN])[a-z]?",
    of_speaker={"gender": GENDERS},
    folders=("wav",),
    lang="de",
)
main = program(CORPUS, __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
