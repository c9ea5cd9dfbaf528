"""Prepare a release of MSP-Podcast: `Labels/labels_consensus.csv`, `Audios/` and `Transcripts/`.

Its partitions become utt2split: `--protocol lists` trains on Train, and tests on Test1, Test2, ... in a fold each.
"""

import argparse
import csv
import re
from collections import Counter
from pathlib import Path

from known_corpus import Corpus, corpus_options, report_counts, write_corpus
from prepare_common import Dropped, Scan, Utterance, entries, with_speaker

from sermtl.errors import UserError, command

EMOTIONS = {
    "A": "anger", "S": "sadness", "H": "happiness", "U": "surprise", "F": "fear", "D": "disgust", "C": "contempt",
    "N": "neutral", "O": "other", "X": "no-agreement",
}  # fmt: skip
COLUMNS = {"FileName", "EmoClass", "SpkrID", "Gender", "Split_Set"}
# Turns of each partition of a release: the corpus's page, ecs.utdallas.edu/research/researchlabs/msp-lab. Test3 has no
# public labels.
RELEASES = {"1.11": {"Train": 84030, "Development": 19815, "Test1": 30647, "Test2": 14815}}
USUAL = ("anger", "happiness", "neutral", "sadness")
CORPUS = Corpus(name="MSP-Podcast", codes={"emotion": EMOTIONS}, classes=USUAL, counts={})


def scan_labels(args: argparse.Namespace) -> tuple[Scan, Counter[str]]:
    """Read labels, speakers, partitions and transcripts; also counts the lines of each partition."""
    root, parts = args.corpus_dir, Counter[str]()
    table, scan = root / "Labels/labels_consensus.csv", Scan(args, root)
    if not table.is_file():
        raise UserError(f"no {table}: give --corpus_dir the folder that holds Labels/, Audios/ and Transcripts/")
    wavs, texts = entries(root / "Audios", ".wav"), entries(root / "Transcripts", ".txt")
    with open(table, encoding="utf-8-sig", newline="") as file:
        lines = csv.DictReader(file)
        if absent := COLUMNS - set(lines.fieldnames or ()):
            raise UserError(f"{table}:1: the header lacks {' '.join(sorted(absent))}")
        for row in lines:
            name, where = Path(row["FileName"]).stem, f"{table}:{lines.line_num}"
            utt, speaker = with_speaker(name, row["SpkrID"])
            parts[row["Split_Set"]] += 1
            if row["EmoClass"] not in EMOTIONS:
                scan.dropped.append(Dropped(name, f"unknown emotion code {row['EmoClass'][:20]}", where))
                continue
            path = wavs.pop(name, root / "Audios" / f"{name}.wav")
            text = texts[name].read_text(encoding="utf-8", errors="replace") if name in texts else ""
            gender = {"Male": "m", "Female": "f"}.get(row["Gender"], "")
            emotion, split = EMOTIONS[row["EmoClass"]], row["Split_Set"]
            u = Utterance(utt, str(path), speaker, emotion, text.strip(), gender=gender, split=split, where=where)
            scan.utterances.append(u)
    scan.dropped += [Dropped(name, "no label", str(path)) for name, path in wavs.items()]
    return scan, parts


@command
def main() -> None:
    """Read the options, scan, check and write."""
    args = corpus_options(CORPUS, __doc__).parse_args()
    scan, parts = scan_labels(args)
    write_corpus(CORPUS, scan)
    readme = args.corpus_dir / "readme.txt"
    said = re.search(r"Release\s+([\d.]*\d)", readme.read_text(errors="replace")) if readme.is_file() else None
    if said and said[1] in RELEASES:
        report_counts(f"{CORPUS.name} {said[1]}", parts, RELEASES[said[1]])
    elif args.known_counts:
        print(f"{readme} names none of the releases with known counts ({' '.join(RELEASES)}): nothing was compared")


if __name__ == "__main__":
    raise SystemExit(main())
