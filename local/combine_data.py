"""Combine data directories into one, for `--corpus kaldi`: every id gets its corpus in front, utt2corpus names it.

    local/combine_data.sh --label_map nemo "happiness=happy" data/emodb data/nemo data/emodb+nemo
    ./run.sh --corpus kaldi --corpus_dir data/emodb+nemo --corpus_name both --protocol corpus

A corpus is named as its directory. Sources, which stage 1 prepared, come first, the directory to write last.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from labels import label_map, map_labels
from prepare_common import Utterance, name_problem, warn
from prepare_kaldi import optional, read_utterances
from write_data import write_data

from sermtl.errors import UserError, command
from sermtl.fileio.tables import read_table
from sermtl.fileio.wav_scp import CHANNELS


def read_source(
    folder: Path, new_names: Mapping[str, str], wav_scp: dict[str, str], segments: dict[str, str]
) -> list[Utterance]:
    """The utterances of a corpus, its name in front of all ids; its recordings and segments are added to those given.

    Raises:
        UserError: A table is missing or broken.
    """
    utterances, own, front = read_utterances(folder), optional(folder / "segments"), f"{folder.name}-"
    map_labels(utterances, new_names)
    seconds, channels = read_table(folder / "utt2dur"), optional(folder / CHANNELS)
    for table in filter(None, (seconds, own)):
        if lacking := [u.where for u in utterances if u.utt not in table]:
            raise UserError(f"{folder}: utt2dur or segments lacks {len(lacking)} utterances, first {lacking[0]}")
    wav_scp |= {front + key: entry for key, entry in read_table(folder / "wav.scp").items()}
    for u in utterances:
        segment = own.get(u.utt, f"{u.utt} 0 -1")
        u.path, u.channel = front + segment.split()[0], channels.get(segment.split()[0], "")
        u.seconds, u.corpus = float(seconds[u.utt]), folder.name
        u.utt, u.speaker = front + u.utt, front + u.speaker
        u.session, u.fold = u.session and front + u.session, u.fold and front + u.fold
        segments[u.utt] = front + segment
    return utterances


def check_labels(counts: Mapping[str, Counter[str]]) -> None:
    """Print the labels of each corpus; warn of those that one corpus alone has.

    Raises:
        UserError: A corpus has none in common with the others.
    """
    for corpus, own in counts.items():
        others = {label for name, found in counts.items() if name != corpus for label in found}
        print(f"{corpus}: {' '.join(f'{label} {count}' for label, count in sorted(own.items()))}")
        if not own.keys() & others:
            raise UserError(
                f"{corpus} has no label of the others ({' '.join(sorted(others))}): rename some, as with "
                f"--label_map {corpus} 'old=new old=new'"
            )
        if alone := sorted(own.keys() - others):
            warn(f"{corpus} alone has {', '.join(alone)}: map them, or leave them out by --classes in stage 1")


@command
def main() -> None:
    """Read the sources, combine and write.

    Raises:
        UserError: A source is missing or broken, or the corpora do not fit together.
    """
    parser = argparse.ArgumentParser(
        prog="local/combine_data.sh", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("sources", type=Path, nargs="+", help="data directories that stage 1 prepared")
    parser.add_argument("out", type=Path, help="data directory to write")
    text = "of one source: 'old=new old=new', or a file"
    parser.add_argument("--label_map", nargs=2, action="append", default=[], metavar=("CORPUS", "MAP"), help=text)
    args = parser.parse_args()
    names = [folder.name for folder in args.sources]
    if len(set(names)) < len(names) or len(names) < 2:
        raise UserError(f"expected two directories or more of different names, then the one to write; got {names}")
    if args.out.resolve() in [folder.resolve() for folder in args.sources]:
        raise UserError(f"{args.out} would be overwritten: the directory to write comes last, behind its sources")
    for name in names:
        if problem := name_problem(name):
            raise UserError(f"the name of a directory becomes its corpus: {problem}")
    if unknown := sorted({corpus for corpus, _ in args.label_map} - set(names)):
        raise UserError(f"--label_map {unknown[0]}: no source has this name; they are {' '.join(names)}")
    try:
        maps = {corpus: label_map(given) for corpus, given in args.label_map}
    except argparse.ArgumentTypeError as error:
        raise UserError(f"--label_map: {error}") from error
    wav_scp: dict[str, str] = {}
    segments: dict[str, str] = {}
    sources = {f.name: read_source(f, maps.get(f.name, {}), wav_scp, segments) for f in args.sources}
    check_labels({corpus: Counter(u.emotion for u in source if u.emotion) for corpus, source in sources.items()})
    speakers = Counter(speaker for source in sources.values() for speaker in {u.speaker for u in source})
    if twice := [speaker for speaker, count in speakers.items() if count > 1]:
        raise UserError(f"speaker {twice[0]} is in two corpora: rename one of the directories {' '.join(names)}")
    languages = {(f / "lang").read_text().strip() if (f / "lang").exists() else "und" for f in args.sources}
    segmented = any((folder / "segments").exists() for folder in args.sources)
    write_data(
        args.out, [u for source in sources.values() for u in source],
        languages.pop() if len(languages) == 1 else "und", [], wav_scp, segments if segmented else None,
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
