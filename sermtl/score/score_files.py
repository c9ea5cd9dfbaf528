"""The files of stage 5, written and read back: ``scores.json``, ``per_utt.tsv``; and those it reads."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sermtl.errors import UserError
from sermtl.fileio.files import atomic_write, load_json
from sermtl.fileio.tables import read_table


class Utterance(NamedTuple):
    """One line of ``per_utt.tsv``: the counts of one test utterance.

    ``ref`` is empty without an emotion, ``words`` 0 without a transcript, ``spk_hyp`` empty where no speaker was
    decoded. ``conf`` and ``ref_post`` are the posteriors of hypothesis and reference, NaN where none was decoded.
    """

    utt: str
    spk: str
    ref: str
    hyp: str
    words: int
    errors: int
    chars: int
    char_errors: int
    spk_hyp: str
    conf: float = float("nan")
    ref_post: float = float("nan")


def read_labels(path: Path) -> list[str]:
    """Class names in logit order, one a line."""
    try:
        labels = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not labels or "" in labels or len(set(labels)) < len(labels):
        raise UserError(f"{path}: expected one class a line, each once")
    return labels


def read_audit(path: Path) -> dict[str, Any]:
    """The content of ``audit.json``, or a `UserError` that it is damaged; empty where there is none."""
    try:
        audit = load_json(path) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); ./run.sh --stage 1 --stop_stage 1 writes it again") from error
    if not isinstance(audit, dict):
        raise UserError(f"{path}: expected a mapping")
    return audit


def read_scores(path: Path) -> dict[str, Any]:
    """A ``scores.json`` of a fold or an experiment; raises a `UserError` where it is damaged or contradicts itself."""
    try:
        scores = load_json(path)
        ser, asr, spk, settings = (scores[key] for key in ("ser", "asr", "spk", "settings"))
        confusion = np.asarray(ser["confusion"], dtype=np.int64)
        counts = [asr[key] for key in ("utterances", "words", "errors", "no_reference")]
        counts += [scores.get("speakers_unknown", 0), settings.get("seed", 0), asr.get("unseparated", 0)]
        counts += [] if spk["acc"] is None else [spk["n"], spk["correct"]]
        weights = [settings.get(key, 0) for key in ("alpha", "beta")]
        names = [ser["labels"], scores["folds"], scores.get("missing_folds", [])]
        names += [part["ser"].get("untrained", []) for part in [scores, *scores.get("per_fold", {}).values()]]
        whole = (
            confusion.shape == (len(ser["labels"]),) * 2
            and confusion.sum() == ser["n"]
            and (confusion >= 0).all()
            and np.trace(confusion) == ser["correct"]
            and all(type(count) is int and count >= 0 for count in counts)
            and all(_is_rate(ser[key], ser["n"], 1.0) for key in ("wa", "ua", "macro_f1"))
            and all(_is_rate(asr[key], asr["words"]) for key in ("wer", "cer"))
            and all(map(_are_names, names))
            and not any("/" in fold or fold in (".", "..") for fold in scores["folds"])
            and all(type(value) in (int, float) and abs(value) < float("inf") for value in weights)
            and settings.get("grl", "reverse") in ("reverse", "forward")
            and isinstance(scores.get("audit", {}), dict)
            and isinstance(scores["protocol"], str)
            and isinstance(scores["speaker_dependent"], bool)
            and (spk["acc"] is not None or (isinstance(spk["reason"], str) and spk["reason"]))
            and (spk["acc"] is None or 0 < spk["n"] >= spk["correct"])
        )
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{path}: damaged or half-written ({type(error).__name__}: {error})") from error
    if not whole:
        raise UserError(f"{path}: damaged: its counts contradict each other")
    return scores


def _is_rate(value: object, counted: int, most: float = float("inf")) -> bool:
    """Whether it is a rate, or None where nothing was counted."""
    return value is None if not counted else isinstance(value, (int, float)) and 0 <= value <= most


def _are_names(values: Any) -> bool:
    """Whether they are names, each once."""
    names = isinstance(values, list) and all(isinstance(name, str) and name for name in values)
    return names and len(set(values)) == len(values)


def read_utterances(path: Path) -> list[Utterance]:
    """Read ``per_utt.tsv``; raises a `UserError` where a line is not as `write_utterances` wrote it."""
    rows = []
    try:
        with open(path, encoding="utf-8") as file:
            if file.readline().rstrip("\n") != "\t".join(Utterance._fields):
                again = "if an older version wrote it, score again with ./run.sh --stage 5 --stop_stage 5"
                raise UserError(f"{path}:1: expected the columns {' '.join(Utterance._fields)}; {again}")
            for number, line in enumerate(file, 2):
                values = line.rstrip("\n").split("\t")
                if len(values) != len(Utterance._fields) or not line.endswith("\n"):
                    raise UserError(f"{path}:{number}: damaged or half-written")
                utt, spk, ref, hyp, *counts, spk_hyp, conf, ref_post = values
                words, errors, chars, char_errors = map(int, counts)
                posteriors = float(conf), float(ref_post)
                rows.append(Utterance(utt, spk, ref, hyp, words, errors, chars, char_errors, spk_hyp, *posteriors))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged or half-written ({error})") from error
    return rows


def write_utterances(path: Path, rows: Iterable[Utterance]) -> None:
    """Write ``per_utt.tsv``: a head line, then one utterance a line."""
    with atomic_write(path) as file:
        file.write("\t".join(Utterance._fields) + "\n")
        file.writelines("\t".join(map(str, row)) + "\n" for row in rows)


def read_posteriors(path: Path, labels: Sequence[str]) -> dict[str, dict[str, float]]:
    """Utterance -> class -> posterior; nothing where the hypotheses are another program's and have none."""
    table = read_table(path) if path.exists() else {}
    try:
        return {utt: dict(zip(labels, map(float, line.split()), strict=True)) for utt, line in table.items()}
    except ValueError as error:
        raise UserError(f"{path}: expected {len(labels)} numbers for each utterance ({error})") from error
