"""Prepare the speech of RAVDESS as it is distributed (`Actor_12/03-01-06-01-02-01-12.wav`); songs are left out."""

from known_corpus import Corpus, program

EMOTIONS = "neutral calm happy sad angry fearful disgust surprised".split()
STATEMENTS = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}
SPEAKERS = [f"{number:02d}" for number in range(1, 25)]
# S. R. Livingstone and F. A. Russo, PLoS ONE 13(5), 2018: 24 actors x 2 statements x 2 repetitions x 2 intensities,
# of which neutral has one; 1,440 files of speech.
CORPUS = Corpus(
    name="RAVDESS",
    codes={
        "emotion": {f"{number:02d}": emotion for number, emotion in enumerate(EMOTIONS, 1)},
        "style": {"01": "normal", "02": "strong"},
        "text": STATEMENTS,
        "speaker": {speaker: speaker for speaker in SPEAKERS},
    },
    classes=EMOTIONS,
    counts={f"class {label}": 96 if label == "neutral" else 192 for label in EMOTIONS},
    # Modality, vocal channel, emotion, intensity, statement, repetition, actor.
    pattern=r"03-01-(?P<emotion>\d\d)-(?P<style>\d\d)-(?P<text>\d\d)-\d\d-(?P<speaker>\d\d)",
    of_speaker={"gender": {speaker: "fm"[int(speaker) % 2] for speaker in SPEAKERS}},
    left_out={r"\d\d-02-.*": "song", r"0[12]-.*": "sound of a video, which is also an audio-only file"},
    example="Actor_12/03-01-06-01-02-01-12.wav",
    folders=("Actor_*", "Audio_Speech_Actors_01-24/Actor_*"),
)
main = program(CORPUS, __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
