"""Experiments grouped into settings, and settings into families within which they may be compared."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from sermtl.fileio.text_table import plural
from sermtl.report.document import Cell, Table
from sermtl.report.load import Experiment
from sermtl.score import metrics
from sermtl.score.result_files import UNTRAINED, dependence, never_trained

EMOTION_RATE = re.compile(r"\b(WA|UA|macro F1|emotion accuracy)\b")
RATE = "learning_rate"
VARIED = ("alpha", "beta", "grl", "seed")
"""The settings that the paper varies; two experiments of one family differ in nothing else."""


LEAST_POSTERIOR = 5e-7
"""Half the last digit of ``emo_post``."""


@dataclass(eq=False)
class Setting:
    """One value of alpha, beta and direction, with an experiment a seed, all tested on the same utterances."""

    alpha: float
    beta: float
    grl: str
    experiments: list[Experiment] = field(default_factory=list)
    set_aside: list[str] = field(default_factory=list)
    """Experiments of this setting that are in none of its numbers, and why."""
    name: str = ""

    @property
    def first(self) -> Experiment:
        """The first experiment, for what all of them share: labels, folds, test utterances."""
        return self.experiments[0]

    @property
    def seeds(self) -> list[int]:
        """Seeds of its experiments."""
        return [made.seed for made in self.experiments]

    @cached_property
    def counts(self) -> np.ndarray:
        """(N, K, 2C + 2) additive counts of each seed."""
        return np.stack([made.counts for made in self.experiments], axis=1)

    @cached_property
    def sums(self) -> np.ndarray:
        """(U, K, 2C + 2) counts of each cluster and seed."""
        sums = np.zeros((int(self.first.cluster.max()) + 1, *self.counts.shape[1:]))
        np.add.at(sums, self.first.cluster, self.counts)
        return sums

    @cached_property
    def calibration(self) -> tuple[np.ndarray, np.ndarray]:
        """Bins of `metrics.reliability`, and losses of the utterances that have posteriors, in nats."""
        known = [(made, (made.ref >= 0) & np.isfinite(made.posteriors[:, 0])) for made in self.experiments]
        parts = np.concatenate([np.column_stack([made.posteriors, made.right])[rows] for made, rows in known])
        return metrics.reliability(parts[:, 0], parts[:, 2]), -np.log(np.maximum(parts[:, 1], LEAST_POSTERIOR))

    def rates(self, rows: np.ndarray | slice = slice(None)) -> dict[str, Any]:
        """Counts and rates of some of the test utterances, summed over seeds.

        Args:
            rows: Mask or slice of the N utterances.
        """
        confusion = np.sum([made.confusion(rows) for made in self.experiments], axis=0)
        edits = np.sum([made.edits[rows].sum(axis=0) for made in self.experiments], axis=0)
        words, errors, chars, char_errors = edits.tolist()
        asr = {"wer": metrics.ratio(errors, words), "cer": metrics.ratio(char_errors, chars)}
        return metrics.emotion_scores(confusion, self.first.labels) | asr


@dataclass(eq=False)
class Family:
    """Settings that may be compared: same protocol, and all else the same but alpha, beta, direction, seed."""

    protocol: str
    base: dict[str, Any]
    settings: list[Setting]
    title: str = ""
    label: str = ""
    """Distinguishes its headings from those of other families; empty where there is no other."""

    @property
    def experiments(self) -> list[Experiment]:
        """Those of all its settings."""
        return [made for setting in self.settings for made in setting.experiments]

    @property
    def shared(self) -> str:
        """What training and test data share, and that folds share training data."""
        first, parts = self.settings[0].first, []
        for what in ("speakers", "sessions"):
            audits = [first.scores.get("audit", {}).get(fold, {}) for fold in first.folds]
            counts = [audit.get(f"{what}_shared_train_test") for audit in audits]
            in_folds = f"in {sum(map(bool, counts))} of {plural(len(counts), 'fold')}"
            parts.append(f"{what} {'unknown' if None in counts else in_folds}")
        others = " The folds share training data: they are not independent." if len(first.folds) > 1 else ""
        return f"Shared by train and test: {', '.join(parts)}.{others}"

    @property
    def dependent(self) -> str:
        """The mark of speaker-dependent numbers, the longest of its experiments; empty where no speaker is shared."""
        return max((dependence(made.scores) for made in self.experiments), key=len)

    @property
    def untrained(self) -> str:
        """What the mark beside rates that an untrained class lowers means; empty where there is none."""
        return max((never_trained(made.scores) for made in self.experiments), key=len)

    @property
    def slug(self) -> str:
        """Its part of file names."""
        return "".join(c if c.isalnum() or c == "." else "-" for c in self.title.lower()).replace("--", "-").strip("-")

    @property
    def mark(self) -> str:
        """What every caption says: the protocol, whether it is speaker-dependent, how many folds are missing."""
        marks = [f"Protocol {self.protocol}{', ' * bool(self.dependent)}{self.dependent.upper()}."]
        marks += [f"{self.untrained}."] if self.untrained else []
        if missing := max((setting.first.missing_folds for setting in self.settings), key=len):
            total = len(set(missing).union(*(setting.first.folds for setting in self.settings)))
            marks.append(f"{len(missing)} OF {total} FOLDS MISSING.")
        return " ".join(marks)

    def table(
        self, name: str, caption: str, head: Sequence[str], rows: Sequence[Sequence[Cell]], note: str = ""
    ) -> Table:
        """A table with the family's name and mark; rates of emotions that an untrained class lowers are marked."""
        if self.untrained:
            head = [f"{name}{UNTRAINED}" if EMOTION_RATE.search(name) else name for name in head]
        return Table(f"{self.slug}-{name}", f"{caption} {self.mark}", head, rows, f"{note} {self.shared}".strip())

    @property
    def alpha(self) -> float:
        """The usual alpha: the most frequent one above 0, else 0."""
        positive = Counter(s.alpha for s in self.settings if s.alpha > 0)
        return positive.most_common(1)[0][0] if positive else 0.0

    def find(self, beta: float, grl: str = "", alpha: float | None = None) -> Setting | None:
        """The setting with these values; the direction does not matter where beta is 0."""
        wanted = self.alpha if alpha is None else alpha
        for setting in self.settings:
            if setting.alpha == wanted and setting.beta == beta and (beta == 0 or setting.grl == grl):
                return setting
        return None

    @property
    def most_reversed(self) -> Setting | None:
        """The setting with the largest reversed beta, at the usual alpha."""
        found = [s for s in self.settings if s.beta and s.grl == "reverse" and s.alpha == self.alpha]
        return max(found, key=lambda setting: setting.beta, default=None)

    def baseline(self, setting: Setting) -> Setting | None:
        """What a setting is compared with: beta 0 of its alpha; for beta 0 itself, beta 0 of the usual alpha."""
        found = self.find(0.0, alpha=setting.alpha if setting.beta else None)
        return None if found is setting else found


def group(experiments: Sequence[Experiment]) -> list[Family]:
    """Sort experiments into families and settings, in the order of the paper's tables.

    A family is named by its protocol and by the settings in which the families of one protocol differ.
    """
    families: dict[str, Family] = {}
    for made in sorted(experiments, key=lambda made: float(made.settings.get("alpha", 0)) == 0):
        base = {key: value for key, value in made.settings.items() if key not in VARIED}
        if float(made.settings.get("alpha", 0)) == 0:  # which may need a lower learning rate (Cai et al.)
            rates = [f.base.get(RATE) for f in families.values() if {**f.base, RATE: 0} == {**base, RATE: 0}]
            base = {**base, RATE: rates[0]} if rates and RATE in base else base
        key = json.dumps([made.scores["protocol"], base], sort_keys=True, default=str)
        family = families.setdefault(key, Family(made.scores["protocol"], base, []))
        alpha, beta = float(made.settings.get("alpha", 0)), float(made.settings.get("beta", 0))
        grl = str(made.settings.get("grl", "reverse"))
        if (setting := family.find(beta, grl, alpha)) is None:
            family.settings.append(setting := Setting(alpha, beta, grl))
        setting.experiments.append(made)
    ordered = sorted(families.values(), key=lambda family: family.protocol != "speaker")
    for family in ordered:
        for setting in family.settings:
            _settle(setting)
        usual = family.alpha
        family.settings.sort(key=lambda s: (s.alpha != usual, s.alpha, s.beta != 0, s.grl != "reverse", s.beta))
        for setting in family.settings:
            setting.name = "β 0" if setting.beta == 0 else f"{setting.grl} {setting.beta:g}"
            if setting.alpha != usual:
                setting.name += f", α {setting.alpha:g}"
            if (rate := setting.first.settings.get(RATE)) != family.base.get(RATE):
                setting.name += f", learning rate {rate}"
    for family in ordered:
        rivals = [other.base for other in ordered if other.protocol == family.protocol]
        keys = sorted({key for base in rivals for key in base})
        varied = [key for key in keys if len({repr(base.get(key)) for base in rivals}) > 1]
        family.title = ", ".join([family.protocol, *(f"{key} {family.base.get(key)}" for key in varied)])
        family.label = f" ({family.title})" if len(ordered) > 1 else ""
    return ordered


def differences(first: Experiment, second: Experiment) -> list[str]:
    """Why two experiments must not be paired: other labels, test sets, references or training lists; else empty."""
    found = []
    if first.labels != second.labels:
        found.append(f"labels: {' '.join(first.labels)} against {' '.join(second.labels)}")
    if not np.array_equal(first.utts, second.utts):
        for one, other in ((first, second), (second, first)):
            only = [str(utt) for utt in np.setdiff1d(one.utts, other.utts)]
            folds = " ".join(sorted(set(one.fold.tolist()) - set(other.fold.tolist())))
            where = f"; fold {folds}" if folds else ""
            if only:
                found.append(f"test sets: {len(only)} utterances only in {one.tag} ({metrics.first(only, 2)}{where})")
    elif not np.array_equal(first.fold, second.fold):
        found.append("folds: the same utterances are tested in other folds")
    elif first.labels == second.labels and not np.array_equal(first.ref, second.ref):
        found.append(f"reference emotions of {int((first.ref != second.ref).sum())} utterances")
    elif first.reads and second.reads and not np.array_equal(first.edits[:, [0, 2]], second.edits[:, [0, 2]]):
        found.append("reference transcripts")
    for fold in first.folds:
        audits = [made.scores.get("audit", {}).get(fold, {}) for made in (first, second)]
        one, other = (audit.get("utterances_train") for audit in audits)
        if None not in (one, other) and one != other:  # as with another dev_ratio
            return [*found, f"training lists: {one} against {other} utterances in fold {fold}"]
        if len({audit["utterances_train_digest"] for audit in audits if "utterances_train_digest" in audit}) > 1:
            return [*found, f"training lists: {one} utterances each, but not the same ones, in fold {fold}"]
    return found


def _settle(setting: Setting) -> None:
    """Keep one experiment a seed, of those with most folds and equal test sets; name the others."""
    best_first = sorted(setting.experiments, key=lambda made: (-len(made.folds), made.seed, made.tag))
    setting.experiments = []
    for made in best_first:
        reasons = differences(setting.first, made) if setting.experiments else []
        if not reasons and made.seed in setting.seeds:
            reasons = [f"seed {made.seed} is there already"]
        if reasons:
            setting.set_aside.append(f"{made.tag}: {'; '.join(reasons)}")
        else:
            setting.experiments.append(made)
    setting.experiments.sort(key=lambda made: made.seed)
