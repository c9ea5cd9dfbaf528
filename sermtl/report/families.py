"""Experiments grouped into settings, and settings into families within which they may be compared."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mode
from typing import Any

import numpy as np

from sermtl.fileio.text_table import plural
from sermtl.report.compare import MARGIN, Comparison, Setting, holm
from sermtl.report.document import Cell, Table
from sermtl.report.load import Experiment
from sermtl.score import metrics
from sermtl.score.result_files import UNTRAINED, dependence, never_trained

EMOTION_RATE = re.compile(r"\b(WA|UA|macro F1|emotion accuracy)\b")
RATE = "learning_rate"
VARIED = ("alpha", "beta", "grl", "seed", "spk_norm", "enrol")
"""The settings that the paper varies, and the methods; two experiments of one family differ in nothing else."""


@dataclass(eq=False)
class Family:
    """Settings that may be compared: same protocol, and all else the same but what is `VARIED`."""

    protocol: str
    base: dict[str, Any]
    settings: list[Setting]
    title: str = ""
    label: str = ""
    """Distinguishes its headings from those of other families; empty where there is no other."""
    comparisons: list[Comparison] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    """Pairs that were not compared, and what differs."""

    @property
    def experiments(self) -> list[Experiment]:
        """Those of all its settings."""
        return [made for setting in self.settings for made in setting.experiments]

    @property
    def shared(self) -> str:
        """What training and test data share, and that folds share training data."""
        first, parts = self.settings[0].first, []
        for what in ("speakers", "sessions"):
            counts = [first.audit(fold).get(f"{what}_shared_train_test") for fold in first.folds]
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
        marks += ["WER counts characters."] * any(metrics.main_rate(m.scores["asr"]) == "cer" for m in self.experiments)
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
        return mode([s.alpha for s in self.settings if s.alpha > 0] or [0.0])

    def find(self, beta: float, method: str = "none", alpha: float | None = None) -> Setting | None:
        """The setting with these values; where nothing is done about the speaker, one name is as good as another."""
        wanted = Setting(self.alpha if alpha is None else alpha, beta, method)
        same = (s for s in self.settings if (s.alpha, s.beta, s.plain) == (wanted.alpha, beta, wanted.plain))
        return next((setting for setting in same if setting.plain or setting.method == method), None)

    @property
    def base_name(self) -> str:
        """What the other settings are compared with."""
        return base.name if (base := self.find(0.0)) else "β 0"

    @property
    def strongest(self) -> list[Setting]:
        """At the usual alpha, the setting with the largest reversed beta, and those that erase or standardise."""
        usual = [s for s in self.settings if s.alpha == self.alpha and not s.plain]
        reverse = max((s for s in usual if s.method == "reverse"), key=lambda setting: setting.beta, default=None)
        return [s for s in usual if s is reverse or not s.beta]

    def baseline(self, setting: Setting) -> Setting | None:
        """What a setting is compared with: the plain one of its alpha; for a plain one, that of the usual alpha."""
        found = self.find(0.0, alpha=None if setting.plain else setting.alpha)
        return None if found is setting else found

    def compare(self) -> None:
        """Compare each setting with its baseline on paired seeds (Holm over all t tests, and all equivalence tests)."""
        for setting in self.settings:
            baseline = self.baseline(setting)
            if baseline is None:
                if not setting.plain:
                    self.refused.append(f"{setting.name}: there is no β 0 with α {setting.alpha:g} to compare it with")
                continue
            partners = {made.seed: made for made in baseline.experiments}
            seeds = []
            for made in setting.experiments:
                if (partner := partners.get(made.seed)) is None:
                    known = f"{baseline.name} has seeds {' '.join(map(str, baseline.seeds))}"
                    self.refused.append(f"{made.tag}: no partner with seed {made.seed}; {known}")
                elif found := differences(partner, made):
                    self.refused.append(f"{made.tag} and {partner.tag} differ in {'; '.join(found)}")
                else:
                    seeds.append(made.seed)
            if seeds:
                one, other = ([made for made in s.experiments if made.seed in seeds] for s in (baseline, setting))
                first, second = replace(baseline, experiments=one), replace(setting, experiments=other)
                self.comparisons.append(Comparison(first, second))
        keys = [(c, rate) for c in self.comparisons for rate in c.rates]
        tests = holm([c.measured[rate].p() for c, rate in keys])
        equivalence = holm([c.measured[rate].equivalence(MARGIN) for c, rate in keys])
        for (comparison, rate), p, equivalent in zip(keys, tests, equivalence, strict=True):
            comparison.p_holm[rate], comparison.equivalent[rate] = p, equivalent


def group(experiments: Sequence[Experiment]) -> list[Family]:
    """Sort experiments into families and settings, in the order of the paper's tables, and compare the settings.

    A family is named by its protocol and by the settings in which the families of one protocol differ; of settings that
    divide them alike, by the first.
    """
    families: dict[str, Family] = {}
    for made in sorted(experiments, key=lambda made: float(made.settings.get("alpha", 0)) == 0):
        alpha, beta = (float(made.settings.get(key, 0)) for key in ("alpha", "beta"))
        base = {key: value for key, value in made.settings.items() if key not in VARIED}
        if alpha == 0 and RATE in base:  # which may need a lower learning rate (Cai et al.)
            rates = [f.base.get(RATE) for f in families.values() if {**f.base, RATE: 0} == {**base, RATE: 0}]
            base[RATE] = (rates or [base[RATE]])[0]
        key = json.dumps([made.scores["protocol"], base], sort_keys=True, default=str)
        family = families.setdefault(key, Family(made.scores["protocol"], base, []))
        method = method_of(made.settings)
        if (setting := family.find(beta, method, alpha)) is None:
            family.settings.append(setting := Setting(alpha, beta, method))
        setting.experiments.append(made)
    ordered = sorted(families.values(), key=lambda family: family.protocol != "speaker")
    for family in ordered:
        usual = family.alpha
        family.settings.sort(
            key=lambda s: (s.alpha != usual, s.alpha, not s.plain, not s.beta, s.method != "reverse", s.beta, s.method)
        )
        for setting in family.settings:
            _settle(setting)
            setting.name = f"{setting.method} {setting.beta:g}" if setting.beta else setting.method
            if setting.plain and setting.method != "none":
                setting.name = "β 0"
            if setting.alpha != usual:
                setting.name += f", α {setting.alpha:g}"
            if (rate := setting.first.settings.get(RATE)) != family.base.get(RATE):
                setting.name += f", learning rate {rate}"
        rivals = [other.base for other in ordered if other.protocol == family.protocol]
        varied: dict[tuple[int, ...], str] = {}  # by how it divides the families
        for key in sorted({key for base in rivals for key in base}):
            values = [repr(base.get(key)) for base in rivals]
            if len(set(values)) > 1:
                varied.setdefault(tuple(map(values.index, values)), key)
        family.title = ", ".join([family.protocol, *(f"{key} {family.base.get(key)}" for key in varied.values())])
        family.label = f" ({family.title})" if len(ordered) > 1 else ""
        family.compare()
    return ordered


def method_of(settings: Mapping[str, Any]) -> str:
    """Direction of the gradient, or what ``spk_norm`` does instead, and whose audio it reads."""
    method = str(settings.get("spk_norm", "grl"))
    if method == "grl":
        return str(settings.get("grl", "reverse"))
    return f"{method} (enrol {settings.get('enrol', 'all')})" if "standardise" in method else method


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
        audits = first.audit(fold), second.audit(fold)
        size, size_of_second = (audit.get("utterances_train") for audit in audits)
        if None not in (size, size_of_second) and size != size_of_second:  # as with another dev_ratio
            return [*found, f"training lists: {size} against {size_of_second} utterances in fold {fold}"]
        if len({audit["utterances_train_digest"] for audit in audits if "utterances_train_digest" in audit}) > 1:
            return [*found, f"training lists: {size} utterances each, but not the same ones, in fold {fold}"]
    return found


def _settle(setting: Setting) -> None:
    """Keep one experiment a seed, of those with most folds and equal test sets; name the others."""
    first, *others = sorted(setting.experiments, key=lambda made: (-len(made.folds), made.seed, made.tag))
    setting.experiments = [first]
    for made in others:
        repeated = [f"seed {made.seed} is there already"] if made.seed in setting.seeds else []
        if reasons := differences(first, made) or repeated:
            setting.set_aside.append(f"{made.tag}: {'; '.join(reasons)}")
        else:
            setting.experiments.append(made)
    setting.experiments.sort(key=lambda made: made.seed)
