"""Speaker information in the embeddings: probes, verification, the model's own head, a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sermtl.errors import UserError
from sermtl.fileio.files import load_json
from sermtl.fileio.tables import UNKNOWN, known_speakers, read_list, read_table
from sermtl.report import figures
from sermtl.report.compare import Setting
from sermtl.report.document import Cell, Estimate, Table
from sermtl.report.families import Family
from sermtl.score import metrics, speaker_probe
from sermtl.score.statistics import FEWEST_UNITS, Measured

MOST_POINTS = 600
PARTS = {"held_out": "training", "unseen": "unseen"}
PROBES = {"linear": "logistic regression", "nearest": "nearest neighbour", "mlp": "perceptron"}
KINDS = PROBES | {"head": "speaker head", "refit": "refit on the training list"}
PROBED = (
    "Probes: classifiers of speakers on the vectors that the emotion head reads, cross-validated on utterances of "
    "training speakers that fitted neither encoder nor statistics (dev), and on a fold's unseen test speakers."
)
Key = tuple[int, str, str, str]
"""Seed, fold, utterance and its speaker."""


@dataclass
class Outcome:
    """One classifier of speakers, over the folds and seeds of a setting."""

    hits: dict[Key, float] = field(default_factory=dict)
    """The share of the splits in which the speaker was recognised."""
    shuffled: np.ndarray = field(default_factory=lambda: np.zeros((1, 2)))
    """Numbers recognised and tested in each of the `speaker_probe.SHUFFLES` shuffles."""
    units: Mapping[str, str] = field(default_factory=dict)
    """Speaker -> the cluster (see `statistics.clusters`) that it is in; one that is not here is one itself."""

    @property
    def chance(self) -> Estimate:
        """Mean, lowest and highest of the shuffles; without any, the share of the speaker with most tests."""
        if self.shuffled.any():
            rates = self.shuffled[:, 0] / self.shuffled[:, 1]
            return Estimate(float(rates.mean()), float(rates.min()), float(rates.max()))
        counts = Counter(speaker for *_, speaker in self.hits)
        return Estimate(max(counts.values()) / len(self.hits) if counts else None)

    @property
    def accuracy(self) -> Estimate:
        """Share of the tests in which the speaker was recognised."""
        return mean_of(self.hits, self.units)

    def minus(self, other: Outcome) -> Estimate:
        """Difference of the accuracies, on the utterances, folds and seeds that both have."""
        both = {key: hit - other.hits[key] for key, hit in self.hits.items() if key in other.hits}
        return mean_of(both, self.units, signed=True)


@dataclass(frozen=True)
class Knowledge:
    """Speaker information in a setting's embeddings, pooled over its folds and seeds."""

    outcomes: dict[tuple[str, str], Outcome]
    """By part and kind, see `PARTS` and `KINDS`."""
    eers: list[float] = field(default_factory=list)
    """Of each fold and seed that has one."""
    reasons: set[str] = field(default_factory=set)
    damaged: list[str] = field(default_factory=list)
    """Damaged files, each with the command that writes it again."""


def mean_of(values: Mapping[Key, float], units: Mapping[str, str], signed: bool = False) -> Estimate:
    """Mean with a 95 % t interval over units and seeds, alone where there are fewer than `FEWEST_UNITS` units.

    The variance is that over units plus that over seeds, as of the rates. All of a unit, of whatever model, is one
    observation, so that folds that test the same utterances count as what they are. Variance of a ratio, for units of
    unequal size: Cochran, Sampling Techniques (1977), 6.3. With ``signed`` the values are differences of shares.
    """
    if not values:
        return Estimate(None, signed=signed)
    shares = np.array(list(values.values()))
    mean, parts = float(shares.mean()), []
    for names in ([units.get(key[3], key[3]) for key in values], [key[0] for key in values]):
        sums = np.bincount(np.unique(names, return_inverse=True)[1], shares - mean) / len(shares)
        parts.append((float((sums**2).sum() * len(sums) / max(1, len(sums) - 1)), len(sums) - 1))
    if parts[0][1] + 1 < FEWEST_UNITS:
        return Estimate(mean, signed=signed)
    variance, spread = sum(part for part, _ in parts), sum(part**2 / max(1, df) for part, df in parts)
    ends = Measured(mean, variance**0.5, variance**2 / spread).interval(not signed) if spread else (mean, mean)
    low, high = np.clip(ends, -1.0 if signed else 0.0, 1.0).tolist()
    return Estimate(mean, low, high, signed)


def by_speaker(family: Family, known: Mapping[Setting, Knowledge]) -> list[list[Cell]]:
    """Of each classifier, seed and speaker the sum of the hits over utterances and folds, and their number."""
    rows: list[list[Cell]] = []
    for setting, row in known.items():
        for (part, kind), outcome in row.outcomes.items():
            hits: dict[tuple[int, str], list[float]] = {}
            for (seed, _, _, speaker), hit in outcome.hits.items():
                hits.setdefault((seed, speaker), []).append(hit)
            names = family.slug, setting.name, PARTS[part], KINDS[kind]
            rows += [[*names, *key, sum(own), len(own)] for key, own in sorted(hits.items())]
    return rows


def adversary_tested(family: Family, setting: Setting, known: Mapping[Setting, Knowledge]) -> bool:
    """Whether the interval of the speaker head lies above chance with beta 0 and the setting's alpha."""
    if (base := family.find(0.0, alpha=setting.alpha)) is None:
        return False
    head = known[base].outcomes["held_out", "head"]
    return (head.accuracy.low or 0) > (head.chance.value or 0)


def tables(family: Family, known: Mapping[Setting, Knowledge]) -> list[Table]:
    """The classifiers, a row a setting and kind; verification, a row a setting."""
    classified: list[list[Cell]] = []
    verified: list[list[Cell]] = []
    for setting, row in known.items():
        base = family.baseline(setting)
        for (part, kind), found in row.outcomes.items():
            if not found.hits and (part, kind) != ("held_out", "linear"):
                continue
            change: Cell = found.minus(known[base].outcomes[part, kind]) if base else Estimate(None, signed=True)
            if kind not in PROBES and not adversary_tested(family, setting, known):
                change = "not tested"
            cells: list[Cell] = [setting.name, PARTS[part], KINDS[kind], found.accuracy, found.chance]
            classified.append([*cells, change, len({utt for _, _, utt, _ in found.hits}), len(found.hits)])
        verified.append([setting.name, metrics.mean(row.eers), len(row.eers)])
    head = ["setting", "speakers", "classifier", "accuracy", "chance [range]"]
    head += [f"difference from {family.base_name}", "utterances", "tests"]
    note = (
        f"{PROBED} An utterance is tested by each fold and seed that held it out, in {speaker_probe.SPLITS} splits. "
        f"Intervals: 95 %, Student's t (of accuracies' logit) over {FEWEST_UNITS} {family.settings[0].first.unit}s or "
        "more and over seeds (with one seed, for these trainings); differences are paired by utterance, fold and seed. "
        "Chance: one split each, the penalty fixed, with the speakers shuffled among utterances of equal emotion, in "
        f"all folds alike, mean [lowest, highest] of {speaker_probe.SHUFFLES} shuffles (too high where a fold has few "
        "utterances of a speaker); of head and refit, the share of the most frequent one. Refit: a logistic regression "
        "fitted to the training list, a check of the head only: not tested where the head's interval with β 0 is not "
        "above chance."
    )
    if reasons := sorted({reason for row in known.values() for reason in row.reasons}):
        note += f" Undefined: {'; '.join(reasons)}."
    eer = (
        "EER: equal error rate of verification on unseen test speakers by cosine similarity, mean over folds. Where a "
        "fold tests one speaker, its impostors are held-out utterances of training speakers."
    )
    return [
        family.table("speakers", "Speakers in the embeddings.", head, classified, note),
        family.table("verification", "Speaker verification.", ["setting", "EER", "folds with EER"], verified, eer),
    ]


def picture(family: Family, data: Path) -> tuple[Figure, str] | str:
    """The embeddings of one fold, beta 0 above the strongest settings, and what is shown; or why there is none."""
    shown = [setting for setting in (family.find(0.0), *family.strongest) if setting is not None]
    if not shown:
        return "neither β 0 nor a reversed β was run"
    fold = next((f for f in shown[0].first.folds if all(f in s.first.folds for s in shown)), None)
    if fold is None:
        return f"{' and '.join(s.name for s in shown)} have no fold in common"
    lists = data / "folds" / family.protocol / fold
    try:
        decoded = [setting.first.path / fold / "decode_dev" / "emb.scp" for setting in shown]
        part = "dev" if read_list(lists / "dev") and all(path.exists() for path in decoded) else "test"
        utts = read_list(lists / part)
        if len(utts) < 2:
            return f"fold {fold} has fewer than two {part} utterances"
        utts = utts[:: -(-len(utts) // MOST_POINTS)]
        speakers, emotions = read_table(data / "utt2spk"), read_table(data / "utt2emo")
        known = known_speakers(speakers)
        clouds = []
        for setting in shown:
            vectors = speaker_probe.embeddings(setting.first.path / fold / f"decode_{part}", utts)
            points, shares = speaker_probe.principal_plane(vectors)
            title = f"{setting.name} ({100 * shares.sum():.0f} % of variance)"
            names = [speakers[u] if speakers[u] in known else UNKNOWN for u in utts]
            clouds.append((title, points, names, [emotions.get(u) or "none" for u in utts]))
    except (UserError, KeyError) as error:
        return f"embeddings cannot be read: {error}"
    who = "held-out utterances of training speakers" if part == "dev" else "test utterances"
    return figures.planes(clouds), f"fold {fold}, seed {shown[0].first.seed}, {len(utts)} {who}"


def knowledge(setting: Setting) -> Knowledge:
    """Pool ``score_test/probe.json`` of all folds and seeds."""
    first = setting.first
    names = first.spk[np.unique(first.cluster, return_index=True)[1]]  # of each cluster one speaker
    units = dict(zip(first.spk.tolist(), names[first.cluster].tolist(), strict=True))
    row = Knowledge({(part, kind): Outcome(units=units) for part in PARTS for kind in KINDS})
    for made in setting.experiments:
        for fold in made.folds:
            path = made.path / fold / "score_test" / "probe.json"
            try:
                _add(row, made.seed, fold, load_json(path))
            except FileNotFoundError:
                row.reasons.add("folds without score_test/probe.json (stage 5 writes it where stage 4 left embeddings)")
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                again = f"./run.sh --tag {made.tag} --stage 5 --stop_stage 5 writes it again"
                row.damaged.append(f"{path}: damaged, or of an older version; {again}")
    return row


def _add(row: Knowledge, seed: int, fold: str, content: dict[str, Any]) -> None:
    """Add a fold's ``probe.json``; raise where it lacks what `speaker_probe.probe_fold` puts there, adding nothing."""
    found, eer = [], content["verification"]["eer"]
    eers = [] if eer is None else [float(eer)]
    for (part, kind), outcome in row.outcomes.items():
        tested = content[part]
        if kind in tested.get("hits", {}):
            keys = [(seed, fold, *pair) for pair in zip(tested["utts"], tested["speakers"], strict=True)]
            marks = [(key, "".join(digits)) for key, *digits in zip(keys, *tested["hits"][kind], strict=True)]
            hits = {key: digits.count("1") / len(digits) for key, digits in marks if "-" not in digits}
            found.append((outcome, hits, np.array(tested["chance"].get(kind, [[0, 0]]), float).reshape(-1, 2)))
    for outcome, hits, shuffled in found:
        outcome.hits.update(hits)
        outcome.shuffled = outcome.shuffled + shuffled
    row.reasons.update(part["reason"] for part in content.values() if isinstance(part, dict) and "reason" in part)
    row.eers.extend(eers)
