"""Prepare the Berlin Database of Emotional Speech as it is distributed (`wav/03a01Wa.wav`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from audio_headers import check_audio
from labels import chosen_classes, label_options, map_labels, refuse_absent
from prepare_common import Dropped, Utterance, entries, leave_out_lone_speakers, listed, options, warn
from write_data import write_data

from sermtl.errors import UserError, command
from sermtl.text.normalise import normalise

CLASSES = ("anger", "happiness", "neutral", "sadness")
# Speaker, sentence, emotion, version.
NAME = re.compile(r"(\d\d)([ab]\d\d)([WLEAFTN])([a-z]?)")
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
# The corpus has no sessions; a man and a woman are taken as one.
PAIRS = (("03", "08"), ("10", "09"), ("11", "13"), ("12", "14"), ("15", "16"))
SESSIONS = {speaker: "+".join(pair) for pair in PAIRS for speaker in pair}


def wav_folder(root: Path) -> Path:
    """Find the folder of the recordings.

    Raises:
        UserError: The corpus folder is missing, empty or not laid out as distributed.
    """
    if not root.is_dir():
        raise UserError(f"no corpus folder {root}: give --corpus_dir the folder that holds wav/03a01Wa.wav")
    for folder in (root / "wav", root):
        if any(NAME.fullmatch(stem) for stem in entries(folder, ".wav", ".flac")):
            return folder
    state = "holds no wav/03a01Wa.wav or the like" if any(root.iterdir()) else "is empty"
    raise UserError(f"{root} {state}: give --corpus_dir the folder of EMO-DB as it is distributed")


def scan(folder: Path, classes: list[str], new_names: Mapping[str, str]) -> tuple[list[Utterance], list[Dropped]]:
    """Read the file names: utterances whose labels get the names asked for, and the rest with reasons."""
    utterances, dropped = [], []
    for stem, path in entries(folder, ".wav", ".flac").items():
        match = NAME.fullmatch(stem)
        if not match or match[1] not in GENDERS or match[2] not in SENTENCES:
            dropped.append(Dropped(stem, "not an EMO-DB name", str(path)))
            continue
        speaker, sentence, letter, _ = match.groups()
        emotion = EMOTIONS[letter]
        if new_names.get(emotion, emotion) not in classes:
            dropped.append(Dropped(stem, f"class {emotion} is not asked for", str(path)))
            continue
        utterances.append(
            Utterance(
                utt=f"{speaker}-{stem}",
                path=str(path),
                speaker=speaker,
                emotion=emotion,
                text=normalise(SENTENCES[sentence], "de"),
                session=SESSIONS[speaker],
                gender=GENDERS[speaker],
                where=str(path),
            )
        )
    return utterances, dropped


@command
def main() -> None:
    """Read the options, scan, check and write.

    Raises:
        UserError: The folder is no such corpus, a class is unknown, or audio is broken.
    """
    parser = options(__doc__)
    parser.add_argument("--corpus_dir", type=Path, required=True, help="the folder that holds wav/")
    label_options(parser, f"out of {' '.join(EMOTIONS.values())}; default: {' '.join(CLASSES)}")
    args = parser.parse_args()
    classes = chosen_classes(args, CLASSES, EMOTIONS.values())
    utterances, dropped = scan(wav_folder(args.corpus_dir), classes, args.label_map)
    map_labels(utterances, args.label_map)
    refuse_absent(classes, utterances, args.corpus_dir)
    speakers = sorted(GENDERS.keys() - {u.speaker for u in utterances})
    if speakers:
        warn(f"{args.corpus_dir} is a partial copy; speakers without an utterance:{listed(speakers)}")
    utterances, broken = check_audio(utterances, args)
    utterances, alone = leave_out_lone_speakers(utterances, args)
    write_data(args.out, utterances, "de", dropped + broken + alone)


if __name__ == "__main__":
    raise SystemExit(main())
