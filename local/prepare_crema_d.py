"""Prepare CREMA-D as it is distributed (`AudioWAV/1001_DFA_ANG_XX.wav`); labels are the intended emotions."""

import argparse
import csv
from pathlib import Path

from known_corpus import Corpus, program, scan_names
from prepare_common import Scan, warn

EMOTIONS = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
SENTENCES = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
# H. Cao et al., IEEE Transactions on Affective Computing 5(4), 2014: 7,442 clips of 91 actors; by emotion as the
# distribution's SentenceFilenames.csv lists them.
CORPUS = Corpus(
    name="CREMA-D",
    codes={
        "emotion": EMOTIONS,
        "text": SENTENCES,
        "speaker": {str(number): str(number) for number in range(1001, 1092)},
        "style": dict(zip("LO MD HI XX X".split(), "low medium high unspecified unspecified".split(), strict=True)),
    },
    classes=EMOTIONS.values(),
    counts={f"class {label}": 1087 if label == "neutral" else 1271 for label in EMOTIONS.values()},
    pattern=r"(?P<speaker>\d{4})_(?P<text>[A-Z]{3})_(?P<emotion>[A-Z]{3})_(?P<style>LO|MD|HI|XX?)",
    example="AudioWAV/1001_DFA_ANG_XX.wav",
    folders=("AudioWAV",),
)


def column(path: Path, key: str, value: str) -> dict[str, str]:
    """Read two columns of a table of the distribution; empty with a warning where a copy lacks it."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return {row[key]: row[value] for row in csv.DictReader(file)}
    except (OSError, KeyError) as error:
        warn(f"{path}: {error}: what it says of {value} is not known")
        return {}


def scan_tables(corpus: Corpus, args: argparse.Namespace) -> Scan:
    """Scan the files' names, and the tables of actors and of clips."""
    scan = scan_names(corpus, args)
    genders = column(args.corpus_dir / "VideoDemographics.csv", "ActorID", "Sex")
    for u in scan.utterances:
        u.gender = genders.get(u.speaker, "")[:1].lower()
    there, table = {Path(u.path).stem for u in scan.utterances}, args.corpus_dir / "SentenceFilenames.csv"
    names = column(table, "Filename", "Stimulus_Number")
    scan.missing += [f"{name}, which {table} names" for name in names if name not in there]
    return scan


main = program(CORPUS, __doc__, scan_tables)

if __name__ == "__main__":
    raise SystemExit(main())
