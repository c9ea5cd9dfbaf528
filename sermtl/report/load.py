"""All experiments of a corpus, read back from their score files and checked against each other."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sermtl.config import read_yaml
from sermtl.errors import UserError
from sermtl.fileio.stamp import NAME as STAMP
from sermtl.fileio.stamp import outdated
from sermtl.fileio.tables import read_table
from sermtl.score import statistics
from sermtl.score.score_files import Utterance, read_scores, read_utterances

MOST_EPOCHS = 1_000_000
"""More than any training has: a line of ``history.jsonl`` with a larger number is damaged."""


@dataclass(eq=False)
class Experiment:
    """One experiment with its N test utterances, sorted by id.

    (N,) each: ids, real speakers, fold that tested it, session and style (empty where unknown), class index of the
    reference (-1 without an emotion) and of the hypothesis. ``edits``, (N, 4): reference words, word errors, reference
    characters, character errors; 0 without reference, and in an experiment that was trained without the CTC loss.
    ``posteriors``, (N, 2): of the hypothesis and of the reference, NaN where unknown.
    """

    path: Path
    scores: dict[str, Any]
    utts: np.ndarray
    spk: np.ndarray
    fold: np.ndarray
    session: np.ndarray
    style: np.ndarray
    ref: np.ndarray
    hyp: np.ndarray
    edits: np.ndarray
    posteriors: np.ndarray

    def __post_init__(self) -> None:
        self.tag = self.path.name
        self.settings: dict[str, Any] = self.scores["settings"]
        self.labels: list[str] = self.scores["ser"]["labels"]
        self.folds: list[str] = self.scores["folds"]
        self.missing_folds: list[str] = self.scores.get("missing_folds", [])
        missing, scored = len(self.missing_folds), len(self.folds)
        self.coverage = f"{scored} of {scored + missing}" if missing else str(scored)
        self.seed: int = self.settings.get("seed", 0)
        self.reads: bool = self.settings.get("alpha", 1) > 0
        """Whether it was trained with the CTC loss; otherwise its transcripts are those of an untrained head."""

    def audit(self, fold: str) -> dict[str, Any]:
        """Figures of a fold's audit that its scores keep; empty without one."""
        return self.scores.get("audit", {}).get(fold, {})

    @cached_property
    def histories(self) -> dict[str, list[dict[str, Any]]]:
        """Fold -> epochs of its training, none where it has no ``history.jsonl``."""
        return {fold: read_history(self.path / fold / "history.jsonl") for fold in self.folds}

    @cached_property
    def counts(self) -> np.ndarray:
        """(N, 2C + 2), see `statistics.additive_counts`."""
        return statistics.additive_counts(self.ref, self.hyp, self.edits[:, 0], self.edits[:, 1], len(self.labels))

    @cached_property
    def cluster(self) -> np.ndarray:
        """(N,) see `statistics.clusters`."""
        return statistics.clusters(self.spk, self.fold, self.session)

    @cached_property
    def unit(self) -> str:
        """What a cluster is."""
        units = {len(np.unique(self.session)): "session", len(np.unique(self.spk)): "speaker"}
        return units.get(int(self.cluster.max()) + 1, "speaker group")

    @cached_property
    def untrained(self) -> np.ndarray:
        """(N,) bool: the utterance's class was in no training utterance of its fold."""
        never = {fold: part["ser"].get("untrained", []) for fold, part in self.scores.get("per_fold", {}).items()}
        names = np.array([*self.labels, ""])[self.ref]  # -1: no emotion
        pairs = zip(names, self.fold.tolist(), strict=True)
        return np.array([name in never.get(fold, []) for name, fold in pairs], bool)

    @property
    def right(self) -> np.ndarray:
        """(N,) bool: the emotion was recognised."""
        return (self.ref >= 0) & (self.ref == self.hyp)

    def confusion(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """(C, C) counts of some of the N utterances, references in rows."""
        size, kept = len(self.labels), self.ref[rows] >= 0
        pairs = self.ref[rows][kept] * size + self.hyp[rows][kept]
        return np.bincount(pairs, minlength=size * size).reshape(size, size)


@dataclass
class Loaded:
    """The experiments that were found, and those that are left out."""

    experiments: list[Experiment] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """Damaged files and the experiments that they keep out of the report."""
    unfinished: list[tuple[str, str, str]] = field(default_factory=list)
    """Tag, fold and where it stopped, of folds that have no scores."""


def load_experiments(exp: Path, data: Path, corpus: str) -> Loaded:
    """Read every experiment in ``exp`` whose settings name the corpus; raise a `UserError` where none is whole."""
    loaded = Loaded()
    labels = {name: read_table(data / name) if (data / name).exists() else {} for name in ("utt2session", "utt2style")}
    for folder in sorted(path for path in exp.glob("*") if path.is_dir()):
        configured, scores = _corpus_of(folder), {}
        if (folder / "scores.json").exists():
            try:
                scores = read_scores(folder / "scores.json")
                if scores["settings"].get("corpus") != corpus:
                    continue
                loaded.experiments.append(_load(folder, scores, *labels.values()))
            except UserError as error:
                if configured in (corpus, None):
                    loaded.left_out.append(f"{error}; all of {folder.name} is left out")
                continue
        if scores or configured == corpus:
            loaded.unfinished += _unfinished(folder, scores.get("folds", []))
    if not loaded.experiments:
        reasons = loaded.left_out + [f"{tag}/{fold}: {state}" for tag, fold, state in loaded.unfinished]
        if not reasons:
            raise UserError(f"{exp}: no experiment of corpus {corpus}; ./run.sh --corpus {corpus} makes one")
        head = f"{exp}: no experiment of corpus {corpus} with whole scores:"
        raise UserError("\n  ".join([head, *reasons, "./run.sh --stage 5"]))
    return loaded


def read_history(path: Path) -> list[dict[str, Any]]:
    """The epochs of ``history.jsonl``, each once; an absent file has none, a cut last line is left out."""
    if not path.exists():
        return []
    epochs: dict[int, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            record = json.loads(line)
            if isinstance(record["epoch"], int) and 1 <= record["epoch"] <= MOST_EPOCHS:
                epochs[record["epoch"]] = record
    return [epochs[number] for number in sorted(epochs)]


def _load(folder: Path, scores: dict[str, Any], sessions: dict[str, str], styles: dict[str, str]) -> Experiment:
    """Read an experiment; refuse pooled scores that are not those of the folds' utterances."""
    again = f"pool again with: ./run.sh --tag {folder.name} --stage 5 --stop_stage 5"
    if stale := outdated(folder / STAMP, {"exp": folder}):
        raise UserError(f"{stale[0]}; {again}")
    rows: list[tuple[Utterance, str]] = []
    for fold in scores["folds"]:
        rows += [(row, fold) for row in read_utterances(folder / fold / "score_test" / "per_utt.tsv")]
    if not rows:
        raise UserError(f"{folder}: no test utterance has an emotion, so nothing was scored")
    rows.sort(key=lambda item: item[0].utt)
    index = {"": -1} | {label: number for number, label in enumerate(scores["ser"]["labels"])}
    unknown = {name for row, _ in rows for name in (row.ref, row.hyp)} - set(index)
    if unknown:
        raise UserError(f"{folder}: per_utt.tsv has classes that scores.json lacks: {' '.join(sorted(unknown))}")
    names = [(r.utt, r.spk, fold, sessions.get(r.utt, ""), styles.get(r.utt, "")) for r, fold in rows]
    classes = [(index[row.ref], index[row.hyp]) for row, _ in rows]
    edits = [(r.words, r.errors, r.chars, r.char_errors) if r.words else (0, 0, 0, 0) for r, _ in rows]
    columns = [
        *np.array(names, dtype=str).reshape(-1, 5).T,
        *np.array(classes, dtype=np.int32).reshape(-1, 2).T,
        np.array(edits, dtype=np.int64).reshape(-1, 4),
        np.array([(row.conf, row.ref_post) for row, _ in rows], dtype=np.float64).reshape(-1, 2),
    ]
    made = Experiment(folder, scores, *columns)
    if not all(isinstance(found, dict) for found in scores.get("audit", {}).values()):
        raise UserError(f"{folder / 'scores.json'}: damaged: its audit is not one of folds")
    asr, same = scores["asr"], made.confusion().tolist() == scores["ser"]["confusion"]
    if not same or made.edits[:, :2].sum(0).tolist() != [asr["words"], asr["errors"]]:
        what = "does not fit the folds' scores (was one scored again?)"
        raise UserError(f"{folder / 'scores.json'}: {what}; {again}")
    return made if made.reads else replace(made, edits=np.zeros_like(made.edits))


def _corpus_of(folder: Path) -> str | None:
    for config in sorted(folder.glob("*/config.yaml")):
        with contextlib.suppress(UserError):
            return str(read_yaml(config).get("corpus"))
    return None


def _unfinished(folder: Path, pooled: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Folds that were begun but are not in the pooled scores, and their state."""
    states = {
        "score_test/scores.json": "scored, not pooled: run stage 5",
        "decode_test/utt2emo": "decoded, not scored",
        "model.safetensors": "trained, not decoded",
    }
    for fold in sorted(config.parent for config in folder.glob("*/config.yaml")):
        if fold.name not in pooled:
            state = f"in training, or stopped, after {len(read_history(fold / 'history.jsonl'))} epochs"
            yield folder.name, fold.name, next((states[name] for name in states if (fold / name).exists()), state)
