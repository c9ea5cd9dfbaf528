"""The result files of stage 5 for people: ``result_*.txt`` of a fold, ``RESULTS.md`` of an experiment."""

import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sermtl.errors import UserError
from sermtl.fileio.text_table import aligned, markdown, number, plural
from sermtl.score import metrics

DEPENDENCE = {
    "speaker-dependent": "test speakers are also in the training set",
    "speaker-dependent or unknown": "test speakers are, or may be, also in the training set",
}
UNTRAINED = "†"
"""Stands beside a number that is lowered by a class that a fold never trained."""


def dependence(scores: Mapping[str, Any]) -> str:
    """The mark of numbers whose test speakers are, or may be, in training too; else empty."""
    if not scores["speaker_dependent"]:
        return ""
    return f"speaker-dependent{' or unknown' if scores.get('speakers_unknown') else ''}"


def protocol_line(scores: Mapping[str, Any]) -> str:
    """The protocol, with the warning that every number of a speaker-dependent one carries."""
    mark = dependence(scores)
    return f"{scores['protocol']}{f' ({mark}: {DEPENDENCE[mark]})' if mark else ''}"


def never_trained(scores: Mapping[str, Any]) -> str:
    """What `UNTRAINED` means in a fold's or an experiment's scores; empty where every class was trained."""
    folds: dict[str, list[str]] = {}
    for fold, part in (scores.get("per_fold") or dict.fromkeys(scores["folds"][:1], scores)).items():
        for label in part["ser"].get("untrained", []):
            folds.setdefault(label, []).append(fold)
    where = "; ".join(f"{label} in {plural(len(names), 'fold')}: {' '.join(names)}" for label, names in folds.items())
    return f"{UNTRAINED} lowered by classes that a fold tests and never trained ({where})" if where else ""


def rate(value: float | None, part: Mapping[str, Any]) -> str:
    """A number of emotion scores, with the mark of those that have an untrained class."""
    return number(value) + (UNTRAINED if part.get("untrained") else "")


def against_reference(ref: Mapping[str, str], guesses: Sequence[tuple[str, str]], labels: Sequence[str]) -> str:
    """WA, UA and confusion of predicted (utterance, emotion), for the terminal; a `UserError` if ``ref`` has none."""
    pairs = [(ref[utt], guess) for utt, guess in guesses if ref.get(utt)]
    if not pairs:
        raise UserError("--ref has no emotion of any recording: its keys are utterances, or file names without suffix")
    references, hypotheses = zip(*pairs, strict=True)
    ser = metrics.emotion_scores(metrics.confusion_matrix(references, hypotheses, labels), labels)
    counts = f"{ser['n']} of {plural(len(guesses), 'recording')} have a reference"
    return f"{counts}: WA {number(ser['wa'])}  UA {number(ser['ua'])}\n{aligned(_confusion(ser))}"


def fold_files(scores: Mapping[str, Any]) -> dict[str, str]:
    """``result_ser.txt``, ``result_asr.txt`` and ``result_spk.txt`` of a fold, by their names."""
    ser, asr, spk = scores["ser"], scores["asr"], scores["spk"]
    emotion = [
        ["utterances", ser["n"]],
        ["correct", ser["correct"]],
        ["WA (correct / all)", rate(ser["wa"], ser)],
        ["UA (mean class recall)", rate(ser["ua"], ser)],
        ["macro F1", rate(ser["macro_f1"], ser)],
    ]
    if ser.get("no_reference"):
        emotion.append(["without an emotion, not counted", ser["no_reference"]])
    notes = [f"{note}\n"] if (note := never_trained(scores)) else []
    confusion = "confusion: rows are references, columns hypotheses\n" + aligned(_confusion(ser))
    speech = [
        ["utterances", asr["utterances"]],
        ["reference words", asr["words"]],
        ["word errors", asr["errors"]],
        *([f"  {kind}", asr[kind]] for kind in ("substitutions", "deletions", "insertions")),
        ["WER (errors / reference words)", number(asr["wer"])],
        ["reference characters", asr["chars"]],
        ["character errors", asr["char_errors"]],
        ["CER (errors / reference characters)", number(asr["cer"])],
        ["utterances without reference, not counted", asr["no_reference"]],
        ["  words decoded for them", asr["no_reference_words"]],
    ]
    speaker = f"accuracy: undefined, {spk.get('reason')}\n"
    if spk["acc"] is not None:
        speaker = aligned([["utterances", spk["n"]], ["correct", spk["correct"]], ["accuracy", number(spk["acc"])]])
    files = {
        "ser": ["Speech emotion recognition", aligned(emotion), aligned(_classes(ser)), *notes, confusion],
        "asr": ["Speech recognition", aligned(speech)],
        "spk": ["Speaker head", speaker],
    }
    where = f"fold {' '.join(scores['folds'])}\nprotocol: {protocol_line(scores)}\n"
    return {f"result_{name}.txt": "\n".join([f"{title}, {where}", *parts]) for name, (title, *parts) in files.items()}


def results_md(tag: str, scores: Mapping[str, Any]) -> str:
    """``RESULTS.md`` of an experiment: environment, one table a metric, classes, confusion, speakers."""
    parts = [f"# RESULTS: {tag}\n", "## Environments\n" + environment()]
    if missing := scores["missing_folds"]:
        lacking = f"{len(missing)} of {len(scores['folds']) + len(missing)} folds"
        parts.append(f"**MISSING: {lacking} are not scored and not in these numbers: {' '.join(missing)}**\n")
    parts += [
        f"- protocol: {protocol_line(scores)}\n- folds: {' '.join(scores['folds'])}\n"
        f"- settings: {', '.join(f'{key} {value}' for key, value in scores['settings'].items())}\n",
        "Pooled: counts summed over folds, then divided. Each table also has the mean over folds.\n",
    ]
    parts += [f"{note}.\n"] if (note := never_trained(scores)) else []
    named = metrics.RATES
    if metrics.main_rate(scores["asr"]) == "cer":  # which comes first
        named = {"cer": "CER", **metrics.RATES, "wer": "WER, a character is a word"}
    parts += [_metric(scores, key, name) for key, name in named.items()]
    ser, spk = scores["ser"], scores["spk"]
    if spk["acc"] is None:
        parts.append(f"## Speaker head\n\nAccuracy undefined: {spk['reason']}.\n")
    else:
        counts = [spk["n"], spk["correct"], number(spk["acc"])]
        parts.append(_section("Speaker head", [["n", "correct", "accuracy"], counts]))
    parts.append(_section("Per class, pooled", _classes(ser)))
    parts.append(_section("Confusion, pooled (rows are references, columns hypotheses)", _confusion(ser)))
    speakers: list[list[Any]] = [["speaker", "n", "correct", "WA", "UA", "words", "errors", "WER"]]
    for name, row in scores["per_speaker"].items():
        rates = [rate(row["wa"], row), rate(row["ua"], row)]
        speakers.append([name, row["n"], row["correct"], *rates, row["words"], row["errors"], number(row["wer"])])
    parts.append(_section("Per speaker", speakers))
    if enrolled := scores.get("enrol"):
        rows: list[list[Any]] = [["enrolled", "audio, mean", "correct", "n", "WA"]]
        for name, (right, n, seconds) in enrolled.items():
            audio = f"{metrics.ratio(seconds, n) or 0:.0f} s"
            rows.append([name.replace("_", " "), audio, right, n, number(metrics.ratio(right, n))])
        parts.append(_section("Other utterances of the test speaker", rows))
    return "\n".join(parts)


def summary(tag: str, scores: Mapping[str, Any]) -> str:
    """A few lines for the terminal."""
    ser, asr, spk = scores["ser"], scores["asr"], scores["spk"]
    words = f"WER {number(asr['wer'])} ({asr['errors']}/{asr['words']})  CER {number(asr['cer'])}"
    if metrics.main_rate(asr) == "cer":
        words = f"CER {number(asr['cer'])} ({asr['char_errors']}/{asr['chars']})"
    if scores["settings"].get("alpha") == 0:
        words = "WER undefined, alpha is 0: characters were not trained"
    lines = [
        f"{tag}: {plural(len(scores['folds']), 'fold')}, protocol {protocol_line(scores)}",
        f"  WA {rate(ser['wa'], ser)} ({ser['correct']}/{ser['n']})  UA {rate(ser['ua'], ser)}  "
        f"macro F1 {rate(ser['macro_f1'], ser)}",
        f"  {words}",
        f"  speaker head: {number(spk['acc']) if spk['acc'] is not None else 'undefined, ' + spk['reason']}",
    ]
    lines += [f"  {note}"] if (note := never_trained(scores)) else []
    if scores["missing_folds"]:
        lines.append(f"  MISSING, not in these numbers: folds {' '.join(scores['missing_folds'])}")
    return "\n".join(lines)


def environment() -> str:
    """Date, versions and git revision (``none`` outside git), in the form of ESPnet's ``RESULTS.md``."""
    date = datetime.now().astimezone().strftime("%a %b %d %H:%M:%S %Z %Y")
    versions = {"python": platform.python_version()}
    for package in ("sermtl", "torch", "torchaudio", "transformers", "numpy", "scikit-learn"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    lines = [f"- {name} version: `{version}`" for name, version in versions.items()]
    root = Path(__file__).resolve().parents[2]
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        revision = done.stdout.strip() or "none"
    except (OSError, subprocess.SubprocessError):
        revision = "none"
    return "\n".join([f"- date: `{date}`", *lines, f"- Git hash: `{revision}`\n"])


def _confusion(ser: Mapping[str, Any]) -> list[list[Any]]:
    """The confusion matrix with its head and margins."""
    labels, counts = ser["labels"], ser["confusion"]
    columns = [sum(column) for column in zip(*counts, strict=True)]
    rows = [[label, *row, sum(row)] for label, row in zip(labels, counts, strict=True)]
    return [["", *labels, "all"], *rows, ["all", *columns, sum(columns)]]


def _classes(ser: Mapping[str, Any]) -> list[list[Any]]:
    """Counts and rates of each class, with their head."""
    rows: list[list[Any]] = [["class", "n", "correct", "recall", "precision", "F1"]]
    for index, label in enumerate(ser["labels"]):
        counts, own = ser["confusion"][index], {"untrained": label in ser.get("untrained", ())}
        rates = [rate(ser["recall"][index], own), number(ser["precision"][index]), rate(ser["f1"][index], own)]
        rows.append([label, sum(counts), counts[index], *rates])
    return rows


def _section(title: str, rows: list[list[Any]]) -> str:
    return f"## {title}\n\n" + markdown(rows[0], rows[1:])


def _metric(scores: Mapping[str, Any], key: str, name: str) -> str:
    head = "ser" if key in scores["ser"] else "asr"
    counts = ("n", "correct") if head == "ser" else ("words", "errors") if key == "wer" else ("chars", "char_errors")
    rows: list[list[Any]] = []
    for fold, part in scores["per_fold"].items():
        rows.append([fold, *(part[head][count] for count in counts), rate(part[head][key], part[head])])
    pooled, spread = scores[head], scores["mean_over_folds"][key]
    rows.append(["**pooled**", *(pooled[count] for count in counts), f"**{rate(pooled[key], pooled)}**"])
    mean = f"mean over {plural(spread['folds'], 'fold')} (std {number(spread['std'])})"
    rows.append([mean, "", "", rate(spread["mean"], pooled)])
    return _section(name, [["fold", *counts, name], *rows])
