"""Fold lists of others: files of ids, EmoBox's JSON lines, and the column ``split`` of a corpus."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from sermtl.corpus.corpus import Corpus, table_values
from sermtl.errors import UserError
from sermtl.fileio.tables import PARTS, UNKNOWN, raw_lines, read_ids
from sermtl.fileio.text_table import plural

NAMES = {
    "train": ["train"],
    "dev": ["dev", "valid", "val", "validation", "development"],
    "test": ["test", "eval", "evaluation"],
}
"""Names of a part."""
PART_OF = {name: part for part, names in NAMES.items() for name in names}
JSON_LINES = re.compile(rf"({'|'.join(PART_OF)})(?:_fold_(\w+))?\.jsonl")

Lists = dict[str, list[str]]
Parts = tuple[np.ndarray, "np.ndarray | None", np.ndarray]
"""Sorted indices of train, dev (None: there is none but a share of train) and test."""


def read_fold(fold: Path) -> Lists | None:
    """Read a fold's lists of ids; None where the directory is not a fold."""
    lists: Lists = {"dev": []}
    for part, names in NAMES.items():
        paths = [fold / f"{name}{suffix}" for name in names for suffix in ("", ".txt", ".lst")]
        found = [path for path in paths if path.is_file()]
        if len(found) > 1:
            raise UserError(f"{fold}: {found[0].name} or {found[1].name}? Keep one list for {part}")
        if found:
            lists[part] = read_ids(found[0])
    return lists if len(lists) == 3 else None


def read_json_lines(root: Path) -> dict[str, Lists]:
    """Read ``train_fold_1.jsonl`` and the like: ``key`` of each line, without the name of its ``dataset``."""
    folds: dict[str, Lists] = {}
    for path in sorted(root.glob("*.jsonl")):
        if match := JSON_LINES.fullmatch(path.name):
            lists = folds.setdefault(match[2] or "split", {part: [] for part in PARTS})
            for number, line in raw_lines(path):
                try:
                    entry = json.loads(line)
                    lists[PART_OF[match[1]]].append(entry["key"].removeprefix(f"{entry.get('dataset')}-"))
                except (ValueError, LookupError, TypeError, AttributeError) as error:
                    raise UserError(f"{path}:{number}: not a line of JSON with a key, as EmoBox writes it") from error
    return folds


def read_folds(root: Path) -> dict[str, Lists]:
    """All folds of a directory, by name in byte order: folders of lists, a fold's lists, JSON lines; or `UserError`."""
    if not root.is_dir():
        raise UserError(f"no directory {root}")
    if (lists := read_fold(root)) is not None:
        return {root.name: lists}
    found = {path.name: read_fold(path) for path in root.iterdir() if path.is_dir()} | read_json_lines(root)
    folds = {name: lists for name, lists in sorted(found.items()) if lists is not None}
    if not folds:
        raise UserError(
            f"{root}: no fold, that is a directory with the lists train and test, or train_fold_1.jsonl and "
            "test_fold_1.jsonl"
        )
    return folds


def read_split(corpus: Corpus, root: Path | None) -> tuple[dict[str, Parts], list[str]]:
    """The folds of the user's lists (None: of the table ``utt2split``) by name, and what was left out, in sentences.

    `UserError` where there are no lists, none of their entries is in the corpus, an entry fits several utterances, or
    an utterance is tested in two folds.
    """
    source = root or corpus.path / "utt2split"
    if root:
        folds = read_folds(root)
    elif source.exists():
        folds = split_folds(corpus.utts, table_values(source, corpus.index))
    else:
        raise UserError(f"no {source}: give --lists DIR, or a manifest with the column split (train, dev, test)")
    entries = sorted({utt for lists in folds.values() for ids in lists.values() for utt in ids})
    rows = rows_of(entries, corpus, source)
    if not rows:
        first = f"; the first are {entries[0]} there and {corpus.utts[0]} here" if entries else ""
        raise UserError(f"{source}: none of its {len(entries)} entries is in {corpus.path}{first}")
    divided = {}
    for name, lists in folds.items():
        train, dev, test = (np.array(sorted({rows[u] for u in lists[p] if u in rows}), np.int64) for p in PARTS)
        divided[name] = (train, dev if len(dev) else None, test)
    tested = Counter(row for _, _, test in divided.values() for row in test.tolist())
    if twice := [corpus.utts[row] for row, times in tested.items() if times > 1]:
        raise UserError(
            f"{source}: {plural(len(twice), 'utterance')} in the test lists of several folds, first {min(twice)}: "
            "pooled scores would count them again; give each repetition its own --lists and --corpus_name"
        )
    lost = [name for name in entries if name not in rows]
    notes = [f"{len(lost)} of {len(entries)} entries not in {corpus.path}, first {lost[0]}: left out"] if lost else []
    if unlisted := len(corpus.utts) - len(set(rows.values())):
        notes.append(f"{plural(unlisted, 'utterance')} of the corpus in no list")
    return divided, notes


def split_folds(utts: Sequence[str], values: Iterable[str]) -> dict[str, Lists]:
    """The folds of a table utt2split: one, ``split``, or one for each test list (Test1, Test2), so named."""
    rows: dict[str, list[str]] = {}
    for utt, value in zip(utts, values, strict=True):
        rows.setdefault(value.casefold(), []).append(utt)
    tests = [value for value in sorted(rows) if PART_OF.get(value.rstrip("0123456789")) == "test"] or ["test"]
    lists = {part: [utt for value in rows if PART_OF.get(value) == part for utt in rows[value]] for part in PARTS}
    return {name if len(tests) > 1 else "split": {**lists, "test": rows.get(name, [])} for name in tests}


def rows_of(entries: Iterable[str], corpus: Corpus, source: Path) -> dict[str, int]:
    """The utterances that entries of others' lists name: by id, by what stands behind the speaker in it, or as a file.

    `UserError` where one names several.
    """
    known: dict[str, list[int]] = {utt: [row] for utt, row in corpus.index.items()}
    for row, (utt, code) in enumerate(zip(corpus.utts, corpus.speaker.codes, strict=True)):
        short = utt.removeprefix(f"{corpus.speaker.names[code] if code >= 0 else UNKNOWN}-")
        if short not in corpus.index:
            known.setdefault(short, []).append(row)
    found = {name: rows for name in entries if (rows := known.get(name) or known.get(Path(name).stem))}
    for name, rows in found.items():
        if len(rows) > 1:
            raise UserError(f"{source}: {name} fits {len(rows)} utterances; write ids as in utt2spk")
    return {name: rows[0] for name, rows in found.items()}
