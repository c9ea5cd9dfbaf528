"""Combine data directories into one, for `--corpus kaldi`: every id gets its corpus in front, utt2corpus names it.

    local/combine_data.sh --label_map nemo "happiness=happy" data/emodb data/nemo data/emodb+nemo
    ./run.sh --corpus kaldi --corpus_dir data/emodb+nemo --corpus_name both --protocol corpus

A corpus is named as its directory. Sources come first, the directory to write last.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

from labels import label_map, map_labels
from prepare_common import FIELDS, SPEAKER_FIELDS, listed, name_problem, warn
from prepare_kaldi import optional, read_utterances

from sermtl.errors import UserError, command
from sermtl.fileio.files import write_text
from sermtl.fileio.tables import read_table, spk2utt_of, write_table
from sermtl.fileio.wav_scp import CHANNELS

COPIED = (CHANNELS, "reco2dur", "utt2dur", *FIELDS, *SPEAKER_FIELDS)
"""Tables that a source may lack."""
PREFIXED = ("utt2spk", "utt2session", "spk2fold", "segments")
"""Tables whose values begin with an id."""


def read_source(folder: Path, new_names: Mapping[str, str], segmented: bool) -> dict[str, dict[str, str]]:
    """The tables of one corpus, its name in front of all ids; with ``segmented``, whole recordings are segments too.

    Raises:
        UserError: A table is missing or broken.
    """
    utterances = read_utterances(folder)
    map_labels(utterances, new_names)
    tables = {name: optional(folder / name) for name in COPIED} | {"wav.scp": read_table(folder / "wav.scp")}
    tables["utt2spk"] = {u.utt: u.speaker for u in utterances}
    tables["utt2emo"] = {u.utt: u.emotion for u in utterances}
    tables["utt2corpus"] = {u.utt: folder.name for u in utterances}
    tables["segments"] = optional(folder / "segments")
    if segmented and not tables["segments"]:
        tables["segments"] = {u.utt: f"{u.utt} 0 -1" for u in utterances}
    for name, table in tables.items():
        front = f"{folder.name}-" if name in PREFIXED else ""
        tables[name] = {f"{folder.name}-{key}": value and front + value for key, value in table.items()}
    return tables | {"spk2utt": spk2utt_of(tables["utt2spk"])}


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
    parser.add_argument("sources", type=Path, nargs="+", help="data directories with wav.scp, utt2spk, utt2emo")
    parser.add_argument("out", type=Path, help="data directory to write")
    text = "'old=new old=new', or a file of two columns, for the labels of one source"
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
    segmented = any((folder / "segments").exists() for folder in args.sources)
    combined: dict[str, dict[str, str]] = defaultdict(dict)
    labels, languages, clashes = {}, set(), []
    for folder in args.sources:
        tables = read_source(folder, maps.get(folder.name, {}), segmented)
        labels[folder.name] = Counter(filter(None, tables["utt2emo"].values()))
        languages.add((folder / "lang").read_text().strip() if (folder / "lang").exists() else "und")
        for name, table in tables.items():
            clashes += [f"{key} ({name})" for key in table if key in combined[name]]
            combined[name] |= table
    if clashes:
        raise UserError(f"ids of two corpora are the same:{listed(clashes, 5)}\nrename one of the directories")
    check_labels(labels)
    for name, table in combined.items():
        if table:
            write_table(args.out / name, table)
        else:
            (args.out / name).unlink(missing_ok=True)
    write_text(args.out / "lang", f"{languages.pop() if len(languages) == 1 else 'und'}\n")
    print(f"{args.out}: {len(combined['utt2spk'])} utterances, {len(combined['spk2utt'])} speakers")


if __name__ == "__main__":
    raise SystemExit(main())
