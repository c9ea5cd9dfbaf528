"""Speaker information in the embeddings: probe, verification, the model's own head, a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sermtl.errors import UserError
from sermtl.fileio.files import load_json
from sermtl.fileio.tables import UNKNOWN, known_speakers, read_list, read_table
from sermtl.report import curves as logs
from sermtl.report import figures
from sermtl.report.document import Cell, Estimate, Table
from sermtl.report.families import Family, Setting
from sermtl.report.tables import speaker_accuracy
from sermtl.score import metrics, speaker_probe
from sermtl.score.score_files import is_count

MOST_POINTS = 600


@dataclass(frozen=True)
class Knowledge:
    """Speaker information in a setting's embeddings, pooled over its folds and seeds."""

    setting: Setting
    probe: float | None
    chance: Estimate
    """What the probe reaches with shuffled speakers: mean, lowest and highest of `speaker_probe.PERMUTATIONS` times."""
    by_fold: dict[str, list[float]]
    """Fold -> probe accuracy of each seed."""
    head: float | None
    """The model's own head on the same utterances."""
    head_loss: float | None
    """Its cross-entropy there after the last epoch, nats."""
    speakers: int | None
    """Training speakers, among whom the head chooses."""
    utterances: int
    eer: float | None
    eer_folds: int
    reasons: tuple[str, ...]
    damaged: tuple[str, ...]
    """Damaged files, each with the command that writes it again."""


def table(family: Family, rows: Sequence[Knowledge]) -> Table:
    """Probe, head and verification, a row a setting."""
    cells: list[list[Cell]] = []
    for row in rows:
        accuracies = [value for values in row.by_fold.values() for value in values]
        span = f"{min(accuracies):.2f} to {max(accuracies):.2f}" if accuracies else None
        uniform = math.log(row.speakers) if row.speakers else None
        known: list[Cell] = [row.setting.name, row.probe, span, row.chance, row.head, row.head_loss, uniform]
        cells.append([*known, row.utterances, row.eer, row.eer_folds, speaker_accuracy(row.setting)["acc"]])
    head = ["setting", "probe accuracy", "lowest to highest fold", "chance [range]", "speaker head's accuracy"]
    head += ["speaker head's cross-entropy", "ln(training speakers)", "held-out utterances", "EER, unseen speakers"]
    head += ["folds with EER", "speaker head on the test folds"]
    note = (
        "Probe: a logistic regression trained on the frozen embeddings, cross-validated on held-out utterances of "
        "training speakers. Speaker head: that of the model, on the same utterances. Chance: the probe with the "
        f"speakers shuffled among utterances of equal emotion, mean [lowest, highest] of "
        f"{speaker_probe.PERMUTATIONS} shuffles. "
        "EER: equal error rate of speaker verification on unseen test speakers by cosine similarity, mean over "
        "folds (embeddings of different folds, which have different models, are not compared); where a fold tests one "
        "speaker, its impostors are held-out utterances of training speakers."
    )
    if reasons := sorted({reason for row in rows for reason in row.reasons}):
        note += f" Undefined: {'; '.join(reasons)}."
    return family.table("speakers", "Speakers in the embeddings.", head, cells, note)


def picture(family: Family, data: Path, read: Callable[[str], np.ndarray]) -> tuple[Figure, str] | str:
    """The embeddings of one fold in the plane, beta 0 above the largest reversed beta.

    Args:
        family: The settings.
        data: Data directory, for speakers, emotions and the fold's lists.
        read: Gives the vector at a location of ``emb.scp``.

    Returns:
        The figure and what it shows in words, or why there is none.
    """
    shown = [setting for setting in (family.find(0.0), family.most_reversed) if setting is not None]
    if not shown:
        return "neither β 0 nor a reversed β was run"
    fold = next((f for f in shown[0].first.folds if all(f in s.first.folds for s in shown)), None)
    if fold is None:
        return f"{' and '.join(s.name for s in shown)} have no fold in common"
    lists = data / "folds" / family.protocol / fold
    try:
        part = "dev" if all(_has(s, fold, "dev") for s in shown) and read_list(lists / "dev") else "test"
        missing = [setting.first.tag for setting in shown if not _has(setting, fold, part)]
        if missing:
            return f"no stored embeddings: {', '.join(missing)}"
        utts = read_list(lists / part)
        if len(utts) < 2:
            return f"fold {fold} has fewer than two {part} utterances"
        utts = utts[:: -(-len(utts) // MOST_POINTS)]
        speakers, emotions = read_table(data / "utt2spk"), read_table(data / "utt2emo")
        known = known_speakers(speakers)
        clouds = []
        for setting in shown:
            vectors = speaker_probe.embeddings(setting.first.path / fold / f"decode_{part}", utts, read)
            points, shares = speaker_probe.principal_plane(vectors)
            title = f"{setting.name} ({100 * shares.sum():.0f} % of variance)"
            names = [speakers[u] if speakers[u] in known else UNKNOWN for u in utts]
            clouds.append((title, points, names, [emotions.get(u) or "none" for u in utts]))
    except (UserError, KeyError) as error:
        return f"embeddings cannot be read: {error}"
    who = "held-out utterances of training speakers" if part == "dev" else "test utterances"
    return figures.planes(clouds), f"fold {fold}, seed {shown[0].first.seed}, {len(utts)} {who}"


def _has(setting: Setting, fold: str, part: str) -> bool:
    return (setting.first.path / fold / f"decode_{part}" / "emb.scp").exists()


def knowledge(setting: Setting) -> Knowledge:
    """Pool ``score_test/probe.json`` of all folds and seeds."""
    found: list[tuple[str, dict[str, Any]]] = []
    reasons, damaged = set(), []
    for made in setting.experiments:
        for fold in made.folds:
            path = made.path / fold / "score_test" / "probe.json"
            if not path.exists():
                reasons.add("folds without score_test/probe.json (stage 5 writes it where stage 4 left embeddings)")
            elif content := _read_probe(path):
                found.append((fold, content))
            else:
                damaged.append(f"{path}: damaged; ./run.sh --tag {made.tag} --stage 5 --stop_stage 5 writes it again")
    contents = [content for _, content in found]
    parts = [part for content in contents for part in content.values() if isinstance(part, dict)]
    reasons |= {str(part["reason"]) for part in parts if "reason" in part}
    probes = [content["probe"] for content in contents if content["probe"].get("acc") is not None]
    heads = [content["head"] for content in contents if content["head"].get("acc") is not None]
    eers = [content["verification"]["eer"] for content in contents if content["verification"].get("eer") is not None]
    n = sum(part["n"] for part in probes)
    shuffled = np.sum([part["permuted"] for part in probes], axis=0) / max(n, 1)
    by_fold: dict[str, list[float]] = {}
    for fold, content in found:
        if content["probe"].get("acc") is not None:
            by_fold.setdefault(fold, []).append(content["probe"]["acc"])
    return Knowledge(
        setting=setting,
        probe=metrics.pool_speakers(probes)["acc"],
        chance=Estimate(float(shuffled.mean()), float(shuffled.min()), float(shuffled.max())) if n else Estimate(None),
        by_fold=by_fold,
        head=metrics.pool_speakers(heads)["acc"],
        head_loss=logs.last(setting, "dev", "loss_sid"),
        speakers=max((content["training_speakers"] for content in contents), default=None),
        utterances=n,
        eer=metrics.mean(eers),
        eer_folds=len(eers),
        reasons=tuple(sorted(reasons)),
        damaged=tuple(damaged),
    )


def _read_probe(path: Path) -> dict[str, Any] | None:
    """A ``probe.json``; None where it does not hold what `probe_fold` puts there."""
    try:
        content = load_json(path)
        tested = [content[key] for key in ("probe", "head") if content[key]["acc"] is not None]
        if content["probe"]["acc"] is not None:
            shuffled = content["probe"]["permuted"]
            if len(shuffled) != speaker_probe.PERMUTATIONS or not all(map(is_count, shuffled)):
                return None
        eer = content["verification"]["eer"]
        whole = (
            is_count(content["training_speakers"])
            and all(is_count(part["n"]) and part["n"] and is_count(part["correct"]) for part in tested)
            and all(abs(part["acc"] - part["correct"] / part["n"]) < 1e-9 for part in tested)
            and (eer is None or 0 <= eer <= 1)
        )
        return content if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
