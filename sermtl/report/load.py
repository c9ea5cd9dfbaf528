"""All experiments of a corpus, read back from their score files and checked against each other."""

from __future__ import annotations

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


@dataclass(frozen=True, eq=False)
class Experiment:
    """One experiment with its N test utterances, sorted by id."""

    path: Path
    scores: dict[str, Any]
    utts: np.ndarray
    """(N,) ids."""
    spk: np.ndarray
    """(N,) real speakers."""
    fold: np.ndarray
    """(N,) fold in which it was tested."""
    session: np.ndarray
    """(N,) session, empty where unknown."""
    style: np.ndarray
    """(N,) speaking style, empty where unknown."""
    ref: np.ndarray
    """(N,) class index, -1 without an emotion."""
    hyp: np.ndarray
    """(N,) class index."""
    edits: np.ndarray
    """(N, 4) reference words, word errors, reference characters, character errors; 0 without reference, and in
    an experiment that was trained without the CTC loss."""
    posteriors: np.ndarray
    """(N, 2) posteriors of the hypothesis and of the reference, NaN where unknown."""

    @property
    def tag(self) -> str:
        """Name of the experiment's directory."""
        return self.path.name

    @property
    def settings(self) -> dict[str, Any]:
        """What its folds were trained with."""
        return self.scores["settings"]

    @property
    def folds(self) -> list[str]:
        """Folds that are in its scores."""
        return self.scores["folds"]

    @property
    def missing_folds(self) -> list[str]:
        """Folds of the protocol that its scores lack."""
        return self.scores.get("missing_folds", [])

    @property
    def coverage(self) -> str:
        """How many of the protocol's folds are in its scores: ``3 of 4``, or ``4``."""
        missing, scored = len(self.missing_folds), len(self.folds)
        return f"{scored} of {scored + missing}" if missing else str(scored)

    @property
    def labels(self) -> list[str]:
        """Class names in logit order."""
        return self.scores["ser"]["labels"]

    @property
    def seed(self) -> int:
        """The training's seed."""
        return self.settings.get("seed", 0)

    @property
    def reads(self) -> bool:
        """Whether it was trained with the CTC loss; otherwise its transcripts are those of an untrained head."""
        return self.settings.get("alpha", 1) > 0

    @cached_property
    def histories(self) -> dict[str, list[dict[str, Any]]]:
        """Fold -> epochs of its training, none where it has no ``history.jsonl``."""
        return {fold: read_history(self.path / fold / "history.jsonl") for fold in self.folds}

    @cached_property
    def counts(self) -> np.ndarray:
        """(N, 2C + 2), see `statistics.additive_counts`."""
        words, errors = self.edits[:, 0], self.edits[:, 1]
        return statistics.additive_counts(self.ref, self.hyp, words, errors, len(self.labels))

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
        return np.array(
            [name in never.get(fold, []) for name, fold in zip(names, self.fold.tolist(), strict=True)], bool
        )

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
    """Read every experiment of a corpus; damaged ones are named in ``left_out``.

    Args:
        exp: Directory of the experiments.
        data: Data directory, for sessions and speaking styles.
        corpus: Name that the experiments' settings hold.

    Raises:
        UserError: There is no experiment of this corpus at all.
    """
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
    if not loaded.experiments and not loaded.left_out and not loaded.unfinished:
        raise UserError(f"{exp}: no experiment of corpus {corpus}; ./run.sh --corpus {corpus} makes one")
    if not loaded.experiments:
        reasons = loaded.left_out + [f"{tag}/{fold}: {state}" for tag, fold, state in loaded.unfinished]
        raise UserError(
            "\n  ".join([f"{exp}: no experiment of corpus {corpus} with whole scores:", *reasons, "./run.sh --stage 5"])
        )
    return loaded


def read_history(path: Path) -> list[dict[str, Any]]:
    """The epochs of ``history.jsonl``, each once; an absent file has none, a cut last line is left out."""
    if not path.exists():
        return []
    epochs: dict[int, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            if isinstance(record["epoch"], int) and 1 <= record["epoch"] <= MOST_EPOCHS:
                epochs[record["epoch"]] = record
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return [epochs[number] for number in sorted(epochs)]


def _load(folder: Path, scores: dict[str, Any], sessions: dict[str, str], styles: dict[str, str]) -> Experiment:
    if stale := outdated(folder / STAMP, {"exp": folder}):
        raise UserError(f"{stale[0]}; pool again with: ./run.sh --tag {folder.name} --stage 5 --stop_stage 5")
    rows: list[tuple[Utterance, str]] = []
    for fold in scores["folds"]:
        rows += [(row, fold) for row in read_utterances(folder / fold / "score_test" / "per_utt.tsv")]
    rows.sort(key=lambda item: item[0].utt)
    labels = scores["ser"]["labels"]
    index = {"": -1} | {label: number for number, label in enumerate(labels)}
    unknown = {name for row, _ in rows for name in (row.ref, row.hyp)} - set(index)
    if unknown:
        raise UserError(f"{folder}: per_utt.tsv has classes that scores.json lacks: {' '.join(sorted(unknown))}")
    edits = [(r.words, r.errors, r.chars, r.char_errors) if r.words else (0, 0, 0, 0) for r, _ in rows]
    made = Experiment(
        path=folder,
        scores=scores,
        utts=np.array([row.utt for row, _ in rows]),
        spk=np.array([row.spk for row, _ in rows]),
        fold=np.array([fold for _, fold in rows]),
        session=np.array([sessions.get(row.utt, "") for row, _ in rows]),
        style=np.array([styles.get(row.utt, "") for row, _ in rows]),
        ref=np.array([index[row.ref] for row, _ in rows], dtype=np.int32),
        hyp=np.array([index[row.hyp] for row, _ in rows], dtype=np.int32),
        edits=np.array(edits, dtype=np.int64).reshape(-1, 4),
        posteriors=np.array([(row.conf, row.ref_post) for row, _ in rows], dtype=np.float64).reshape(-1, 2),
    )
    _check(made)
    return made if made.reads else replace(made, edits=np.zeros_like(made.edits))


def _check(made: Experiment) -> None:
    """Refuse pooled scores that are not those of the folds' utterances."""
    asr, same = made.scores["asr"], made.confusion().tolist() == made.scores["ser"]["confusion"]
    if not all(isinstance(found, dict) for found in made.scores.get("audit", {}).values()):
        raise UserError(f"{made.path / 'scores.json'}: damaged: its audit is not one of folds")
    if not same or made.edits[:, :2].sum(0).tolist() != [asr["words"], asr["errors"]]:
        raise UserError(
            f"{made.path / 'scores.json'}: does not fit the folds' scores (was one scored again?); "
            f"pool again with: ./run.sh --tag {made.tag} --stage 5 --stop_stage 5"
        )


def _corpus_of(folder: Path) -> str | None:
    for config in sorted(folder.glob("*/config.yaml")):
        try:
            return str(read_yaml(config).get("corpus"))
        except UserError:
            continue
    return None


def _unfinished(folder: Path, pooled: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Folds that were begun but are not in the pooled scores, and their state."""
    for config in sorted(folder.glob("*/config.yaml")):
        fold = config.parent
        if fold.name in pooled:
            continue
        if (fold / "score_test" / "scores.json").exists():
            state = "scored, not pooled: run stage 5"
        elif (fold / "decode_test" / "utt2emo").exists():
            state = "decoded, not scored"
        elif (fold / "model.safetensors").exists():
            state = "trained, not decoded"
        else:
            state = f"in training, or stopped, after {len(read_history(fold / 'history.jsonl'))} epochs"
        yield folder.name, fold.name, state
