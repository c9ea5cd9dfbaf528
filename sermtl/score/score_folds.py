"""Stage 5: hypotheses joined to references by utterance id, a fold at a time; then folds pooled."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sermtl.config import read_yaml
from sermtl.errors import UserError
from sermtl.fileio import stamp as stamps
from sermtl.fileio.files import write_json, write_text
from sermtl.fileio.tables import UNKNOWN, known_speakers, read_list, read_table
from sermtl.score import metrics, score_files
from sermtl.score.result_files import fold_files
from sermtl.score.score_files import Utterance

AUDIT_WORDS = (
    "train_test", "speakers_train", "overlap", "_seen", "speaker_dependent", "utterances_t", "utterances_dev",
    "majority_share", "broken", "warnings", "speaker_unknown",
)  # fmt: skip
"""A figure of ``audit.json`` whose name holds one of these is copied into the scores."""
FOLD_OWN = frozenset({"fold", "inputs", "num_workers", "in_memory", "accum_grad"})
"""Settings that may differ from fold to fold without making the folds another experiment."""
TABLES = ("utt2emo", "text", "utt2spk")


def score_fold(name: str, data: Path, fold_dir: Path, exp: Path) -> dict[str, Any]:
    """Score one fold; write all but ``probe.json`` into ``exp/<fold>/score_<name>/``, and return ``scores.json``.

    ``name`` is ``test``, or another corpus, all of which is then scored: ``decode_<name>`` has `TABLES`, and perhaps
    ``emo_post``. ``data`` has the references, ``fold_dir`` the lists ``train`` and ``test`` and ``audit.json``, and the
    fold's name. ``exp`` is ``exp/<tag>``.

    Raises:
        UserError: A table is missing or broken; hypotheses are missing or left over; a class is unknown.
    """
    fold, labels, own = fold_dir.name, score_files.read_labels(exp / "labels.txt"), name == "test"
    settings, decode = read_yaml(exp / fold / "config.yaml"), exp / fold / f"decode_{name}"
    test = read_list(fold_dir / "test") if own else list(read_table(data / "utt2spk"))
    hyp = {table: read_table(decode / table) for table in TABLES}
    protocol, options = f"all of {name}", f"--corpus {name} --stage 4 --trained {exp}"
    if own:
        corpus, protocol = settings.get("corpus", data.name), settings.get("protocol", fold_dir.parent.name)
        options = f"--corpus {corpus} --protocol {protocol} --tag {exp.name} --folds {fold} --stage 4 --stop_stage 5"
    again = f"decode again with: ./run.sh {options}"
    _refuse_stale(decode, exp / fold, stamps.fold_roots(exp / fold, data, fold_dir), again)
    _refuse_mismatch(test, {decode / table: found for table, found in hyp.items()}, fold_dir / "test", again)
    emotions, speakers = read_table(data / "utt2emo"), read_table(data / "utt2spk")
    ref = {table: _lookup(data / table, test) for table in TABLES}
    known, trained = known_speakers(speakers), _lookup(data / "utt2spk", read_list(fold_dir / "train") if own else [])
    scored = [utt for utt in test if ref["utt2emo"][utt]]
    spk = {utt: speaker if speaker in known else UNKNOWN for utt, speaker in ref["utt2spk"].items()}
    edits = {utt: metrics.count_edits(ref["text"][utt], hyp["text"][utt]) for utt in scored}
    posteriors = score_files.read_posteriors(decode / "emo_post", labels)
    enrolled = {path.name: read_table(path) for path in sorted((decode / "enrol").glob("*"))}
    seconds_of: dict[str, list[float]] = {}
    for utt, seconds in _lookup(data / "utt2dur", test).items() if enrolled else ():
        seconds_of.setdefault(ref["utt2spk"][utt], []).append(float(seconds))
    rows = [
        Utterance(
            utt, spk[utt], ref["utt2emo"][utt], hyp["utt2emo"][utt],
            (e := edits[utt])["words"], e["errors"] + e["no_reference_words"], e["chars"],
            e["char_errors"] + e["no_reference_chars"], hyp["utt2spk"][utt],
            *(posteriors.get(utt, {}).get(table["utt2emo"][utt], math.nan) for table in (hyp, ref)),
        )
        for utt in scored
    ]  # fmt: skip
    train, of_known = set(trained.values()) & known, [row for row in rows if row.spk in known]
    untrained = {row.ref for row in rows} - {emotions[utt] for utt in trained} if own else ()
    found = score_files.read_audit(fold_dir / "audit.json") if own else {}
    audit = {key: value for key, value in found.items() if any(word in key for word in AUDIT_WORDS)}
    try:
        ser = _emotion(rows, labels)
    except UserError as error:
        raise UserError(f"{decode / 'utt2emo'} against the data's utt2emo: {error}") from None
    scores: dict[str, Any] = {
        "protocol": protocol,
        "speaker_dependent": bool(audit.pop("speaker_dependent", train & {row.spk for row in rows})),
        "speakers_unknown": int(audit.get("utterances_speaker_unknown") or 0),
        "folds": [fold],
        "settings": settings,
        "ser": ser | {"no_reference": len(test) - len(scored), "untrained": sorted(untrained)},
        "asr": metrics.asr_scores(list(edits.values())),
        "spk": metrics.speaker_scores([row.spk for row in of_known], [row.spk_hyp for row in of_known], train),
        "audit": audit,
        "enrol": {
            condition: [
                sum(guesses.get(row.utt) == row.ref for row in rows),
                len(rows),
                sum(metrics.enrolled_seconds(condition, seconds_of[ref["utt2spk"][row.utt]]) for row in rows),
            ]
            for condition, guesses in enrolled.items()
        },
    }
    out = exp / fold / f"score_{name}"
    named = {r.utt: r.utt if r.utt.startswith(f"{r.spk}-") else f"{r.spk}-{r.utt}" for r in rows if r.words}
    for kind, texts in (("ref", ref["text"]), ("hyp", hyp["text"])):
        lines = (f"{texts[utt]} ({utt_name})\n".lstrip() for utt, utt_name in named.items())
        write_text(out / f"{kind}.trn", "".join(lines))
    score_files.write_utterances(out / "per_utt.tsv", rows)
    for file, text in fold_files(scores).items():
        write_text(out / file, text)
    write_json(out / "scores.json", scores)
    return scores


def pool_models(exp: Path, data: Path, parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """``scores_<corpus>.json``: scores of each fold's model, their spread, and those of the averaged posteriors."""
    posteriors: dict[str, Any] = {}
    for fold in parts:
        for utt, row in read_table(exp / fold / f"decode_{data.name}" / "emo_post").items():
            posteriors[utt] = posteriors.get(utt, 0) + np.array(row.split(), float)
    labels = next(iter(parts.values()))["ser"]["labels"]
    emotions = {utt: emotion for utt, emotion in read_table(data / "utt2emo").items() if emotion}
    guesses = [labels[posteriors[utt].argmax()] for utt in emotions]
    averaged = metrics.emotion_scores(metrics.confusion_matrix([*emotions.values()], guesses, labels), labels)
    spread = means(list(parts.values()))
    return {"corpus": data.name, "averaged": averaged, "mean_over_folds": spread, "per_fold": dict(parts)}


def pool_folds(exp: Path, folds: Sequence[str]) -> dict[str, Any]:
    """What ``exp/<tag>/scores.json`` holds: the counts of the scored folds are summed and rates made from the sums.

    ``folds`` are all folds of the protocol; those without scores are listed under ``missing_folds``.

    Raises:
        UserError: No fold is scored; scores are damaged (all are named); folds differ in their settings
            or classes; a scored fold is no fold of the protocol; an utterance is tested twice.
    """
    found = {path.parents[1].name for path in exp.glob("*/score_test/scores.json")}
    if unknown := sorted(found - set(folds)):
        raise UserError(
            f"{exp}: scored folds that the protocol does not have: {' '.join(unknown)}; "
            "move their directories out of the experiment, or give it another --tag"
        )
    scored = [fold for fold in folds if fold in found]
    if not scored:
        raise UserError(f"{exp}: no scored fold; ./run.sh --tag {exp.name} --stage 3 makes them")
    per_fold, rows = _read_folds(exp, scored)
    _refuse_differences(exp, per_fold)
    tested = [row for part_rows in rows.values() for row in part_rows]
    untrained = {
        row.utt for fold in rows for row in rows[fold] if row.ref in per_fold[fold]["ser"].get("untrained", [])
    }
    if repeated := sorted(utt for utt, times in Counter(row.utt for row in tested).items() if times > 1):
        raise UserError(
            f"{exp}: {len(repeated)} utterances are tested in more than one fold: {metrics.first(repeated)}; "
            "the fold lists overlap: make them again with ./run.sh --stage 1"
        )
    parts = list(per_fold.values())
    enrolled = [part.get("enrol", {}) for part in parts]
    labels = parts[0]["ser"]["labels"]
    confusion = np.sum([part["ser"]["confusion"] for part in parts], axis=0)
    unlabelled = sum(part["ser"].get("no_reference", 0) for part in parts)
    labels_untrained = sorted({label for part in parts for label in part["ser"].get("untrained", [])})
    return {
        "protocol": parts[0]["protocol"],
        "speaker_dependent": any(part["speaker_dependent"] for part in parts),
        "speakers_unknown": max(part.get("speakers_unknown", 0) for part in parts),
        "folds": scored,
        "missing_folds": [fold for fold in folds if fold not in found],
        "settings": common_settings(parts[0]["settings"]),
        "ser": metrics.emotion_scores(confusion, labels) | {"no_reference": unlabelled, "untrained": labels_untrained},
        "asr": metrics.asr_scores([part["asr"] for part in parts]),
        "spk": metrics.pool_speakers([part["spk"] for part in parts]),
        "per_fold": {fold: {key: part[key] for key in ("ser", "asr", "spk")} for fold, part in per_fold.items()},
        "mean_over_folds": means(parts),
        "enrol": {
            condition: [sum(counts) for counts in zip(*(part[condition] for part in enrolled), strict=True)]
            for condition in sorted(set.intersection(*map(set, enrolled)))
        },
        "per_speaker": {
            speaker: group_scores(own, labels) | {"untrained": sorted({row.ref for row in own if row.utt in untrained})}
            for speaker in sorted({row.spk for row in tested})
            for own in [[row for row in tested if row.spk == speaker]]
        },
        "audit": {fold: part["audit"] for fold, part in per_fold.items() if part.get("audit")},
    }


def common_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that all folds share; a path that holds the fold's name (its token list) has ``<fold>`` there."""
    fold = str(settings.get("fold", ""))
    shared = {key: value for key, value in settings.items() if key not in FOLD_OWN}
    for key, value in shared.items():
        if isinstance(value, str) and "/" in value:
            shared[key] = "/".join("<fold>" if part == fold else part for part in value.split("/"))
    return shared


def group_scores(rows: Sequence[Utterance], labels: Sequence[str]) -> dict[str, Any]:
    """Counts and rates of any group of utterances: WA, UA, macro F1, WER, CER."""
    ser, counted = _emotion(rows, labels), ("words", "errors", "chars", "char_errors")
    sums = {key: sum(getattr(row, key) for row in rows if row.words) for key in counted}
    return {
        **{key: ser[key] for key in ("n", "correct", "wa", "ua", "macro_f1", "recall")},
        **sums,
        "wer": metrics.ratio(sums["errors"], sums["words"]),
        "cer": metrics.ratio(sums["char_errors"], sums["chars"]),
    }


def _emotion(rows: Sequence[Utterance], labels: Sequence[str]) -> dict[str, Any]:
    counted = [row for row in rows if row.ref]
    confusion = metrics.confusion_matrix([row.ref for row in counted], [row.hyp for row in counted], labels)
    return metrics.emotion_scores(confusion, labels)


def _refuse_stale(decode: Path, trained: Path, roots: Mapping[str, Path], again: str) -> None:
    """Refuse incomplete hypotheses and those of other weights or data; without stamp and model none are checked."""
    stamp = decode / stamps.NAME
    if (trained / "model.safetensors").exists() and not stamp.exists():
        raise UserError(f"{decode} is incomplete (no {stamps.NAME}); {again}")
    beside = [trained / f"decode_{part}" / stamps.NAME for part in ("dev", "train")]
    for path in (stamp, *(beside if decode.name == "decode_test" else [])):
        stamps.refuse_damaged(path, again)
        for message in stamps.outdated(path, roots)[:1]:
            raise UserError(f"{message}; {again}")


def refuse_stale_folds(exp: Path, folds_dir: Path, folds: Sequence[str]) -> None:
    """Raise a `UserError` that names the folds whose scores are incomplete, or not of the present data."""
    stale, problems = [], []
    for fold in folds:
        stamp = exp / fold / "score_test" / stamps.NAME
        if messages := stamps.outdated(stamp, stamps.fold_roots(exp / fold, folds_dir.parents[1], folds_dir / fold)):
            stale.append(fold)
            problems += messages
    if problems:
        again = f"add to the command: --folds {' '.join(stale)!r} --stage 4"
        raise UserError("\n  ".join(["folds that would be pooled are out of date:", *problems, again]))


def _refuse_mismatch(test: Sequence[str], tables: Mapping[Path, Mapping[str, str]], wanted: Path, again: str) -> None:
    problems = [
        f"{path} {what} {len(ids)} of {len(test)} test utterances: {metrics.first(sorted(ids))}"
        for path, table in tables.items()
        for what, ids in (("lacks", set(test) - set(table)), ("has extra", set(table) - set(test)))
        if ids
    ]
    if problems:
        raise UserError("\n  ".join([f"hypotheses are not those of {wanted}:", *problems, again]))


def _lookup(path: Path, utts: Sequence[str]) -> dict[str, str]:
    table = read_table(path)
    if missing := [utt for utt in utts if utt not in table]:
        raise UserError(f"{path} lacks {len(missing)} utterances: {metrics.first(missing)}; run ./run.sh --stage 1")
    return {utt: table[utt] for utt in utts}


def _read_folds(exp: Path, folds: Sequence[str]) -> tuple[dict[str, dict[str, Any]], dict[str, list[Utterance]]]:
    """Scores and utterances of each fold; everything that is damaged is named in one message."""
    scores, rows, problems = {}, {}, []
    for fold in folds:
        try:
            folder = exp / fold / "score_test"
            scores[fold] = score_files.read_scores(folder / "scores.json")
            rows[fold] = score_files.read_utterances(folder / "per_utt.tsv")
            if sum(bool(row.ref) for row in rows[fold]) != scores[fold]["ser"]["n"]:
                raise UserError(f"{folder}: scores.json and per_utt.tsv count different utterances")
        except UserError as error:
            problems.append(f"{error}")
    if problems:
        again = f"score again with: ./run.sh --tag {exp.name} --stage 5 --stop_stage 5"
        raise UserError("\n  ".join(["damaged scores:", *problems, again]))
    return scores, rows


def _refuse_differences(exp: Path, per_fold: Mapping[str, Mapping[str, Any]]) -> None:
    shared = {
        fold: common_settings(part["settings"]) | {"protocol": part["protocol"], "labels": part["ser"]["labels"]}
        for fold, part in per_fold.items()
    }
    problems = []
    for key in sorted({key for settings in shared.values() for key in settings}):
        by_value: dict[str, list[str]] = {}
        for fold, settings in shared.items():
            by_value.setdefault(repr(settings.get(key)), []).append(fold)
        if len(by_value) > 1:
            values = "; ".join(f"{value} in {metrics.first(names)}" for value, names in by_value.items())
            problems.append(f"{key}: {values}")
    if problems:
        head, again = "folds of different settings cannot be pooled:", "train them again alike, or under another --tag"
        raise UserError("\n  ".join([f"{exp}: {head}", *problems, again]))


def means(parts: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Mean and sample standard deviation over folds of each rate that is defined there."""
    rates = [{**part["ser"], **part["asr"], "spk_acc": part["spk"]["acc"]} for part in parts]
    found = {}
    for name in (*metrics.RATES, "spk_acc"):
        values = [part[name] for part in rates if part[name] is not None]
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        found[name] = {"mean": metrics.mean(values), "std": deviation, "folds": len(values)}
    return found
