"""Combine data directories into one, for `--corpus kaldi`: every id gets its corpus in front, utt2corpus names it.

local/combine_data.sh --label_map nemo "happiness=happy" data/emodb data/nemo data/emodb+nemo
./run.sh --corpus kaldi --corpus_dir data/emodb+nemo --corpus_name both --protocol corpus
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from checks import map_labels
from prepare_common import Scan, Utterance, label_map, warn
from prepare_kaldi import optional, read_utterances
from write_data import write_tables

from sermtl.errors import UserError, command
from sermtl.fileio.tables import read_table
from sermtl.fileio.wav_scp import CHANNELS


def read_source(folder: Path, new_names: Mapping[str, str], scan: Scan) -> list[Utterance]:
    """The utterances of a corpus, its name in front of all ids; they, its recordings and segments join the scan."""
    utterances, own, front = read_utterances(folder), optional(folder / "segments"), f"{folder.name}-"
    map_labels(utterances, new_names)
    seconds, channels = read_table(folder / "utt2dur"), optional(folder / CHANNELS)
    for table in filter(None, (seconds, own)):
        if lacking := [u.where for u in utterances if u.utt not in table]:
            raise UserError(f"{folder}: utt2dur or segments lacks {len(lacking)} utterances, first {lacking[0]}")
    scan.wav_scp |= {front + key: entry for key, entry in read_table(folder / "wav.scp").items()}
    for u in utterances:
        segment = own.get(u.utt, f"{u.utt} 0 -1")
        u.path, u.channel = front + segment.split()[0], channels.get(segment.split()[0], "")
        u.seconds, u.corpus = float(seconds[u.utt]), folder.name
        u.utt, u.speaker = front + u.utt, front + u.speaker
        u.session, u.fold = u.session and front + u.session, u.fold and front + u.fold
        scan.segments[u.utt] = front + segment
    scan.utterances += utterances
    return utterances


def check_together(sources: Mapping[str, Sequence[Utterance]]) -> None:
    """Refuse a corpus without a label of the others, or with a speaker of another; warn of labels it alone has."""
    owner: dict[str, str] = {}
    for corpus, own in sources.items():
        labels = {u.emotion for u in own} - {""}
        others = {u.emotion for name, source in sources.items() if name != corpus for u in source}
        if not labels & others:
            raise UserError(
                f"{corpus} has {' '.join(sorted(labels))}, none of the others' labels ({' '.join(sorted(others))}): "
                f"rename some, as with --label_map {corpus} 'old=new old=new'"
            )
        if alone := sorted(labels - others):
            warn(f"{corpus} alone has {', '.join(alone)}: map them, or leave them out by --classes in stage 1")
        for speaker in sorted({u.speaker for u in own}):
            if owner.setdefault(speaker, corpus) != corpus:
                raise UserError(f"speaker {speaker} would be in {owner[speaker]} and {corpus}: rename a directory")


@command
def main() -> None:
    """Read the sources, combine and write."""
    parser = argparse.ArgumentParser(prog="local/combine_data.sh", description=__doc__)
    parser.add_argument("sources", type=Path, nargs="+", help="data directories of stage 1, named as corpora")
    parser.add_argument("out", type=Path, help="data directory to write")
    text, names = "of one source: 'old=new old=new', or a file", ("CORPUS", "MAP")
    parser.add_argument("--label_map", nargs=2, action="append", default=[], metavar=names, help=text)
    args = parser.parse_args()
    folders = {folder.name: folder for folder in args.sources}
    if len(folders) < max(2, len(args.sources)) or args.out.resolve() in [f.resolve() for f in args.sources]:
        raise UserError("give two directories or more of different names, then another one to write")
    if unknown := {corpus for corpus, _ in args.label_map} - folders.keys():
        raise UserError(f"--label_map {min(unknown)}: no source has this name; they are {' '.join(folders)}")
    try:
        maps = {corpus: label_map(given) for corpus, given in args.label_map}
    except argparse.ArgumentTypeError as error:
        raise UserError(f"--label_map: {error}") from error
    scan = Scan(args, args.out, wav_scp={}, segments={})
    check_together({name: read_source(folder, maps.get(name, {}), scan) for name, folder in folders.items()})
    if not any((folder / "segments").exists() for folder in args.sources):
        scan.segments = None
    languages = {(f / "lang").read_text().strip() if (f / "lang").exists() else "und" for f in args.sources}
    write_tables(scan, languages.pop() if len(languages) == 1 else "und")


if __name__ == "__main__":
    raise SystemExit(main())
