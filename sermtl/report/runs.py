"""What was run: settings, experiments, audit of the folds, what is missing or was left out."""

from collections.abc import Sequence

from sermtl.fileio.text_table import plural
from sermtl.report.document import Cell, Table
from sermtl.report.families import Family
from sermtl.report.load import Experiment, Loaded
from sermtl.score import metrics
from sermtl.score.result_files import DEPENDENCE, UNTRAINED

AUDIT = {
    "utterances_train": "train",
    "utterances_dev": "dev",
    "utterances_test": "test",
    "speakers_shared_train_test": "speakers in train and test",
    "sessions_shared_train_test": "sessions in train and test",
    "test_utterances_speaker_seen": "test utterances of seen speakers",
    "transcripts_shared_train_test": "transcripts in train and test",
    "test_utterances_transcript_seen": "test utterances with a seen transcript",
    "majority_share_test": "share of the largest class",
}


def settings(families: Sequence[Family]) -> Table:
    """What all experiments of a family share, a column a family."""
    keys = list(dict.fromkeys(key for family in families for key in family.base if key != "protocol"))
    rows: list[list[Cell]] = [["protocol", *(family.protocol for family in families)]]
    for key in keys:
        values = [family.base.get(key) for family in families]
        words = [" ".join(map(str, v)) or "none" if isinstance(v, list) else v for v in values]
        rows.append([key, *("–" if word is None else str(word) for word in words)])
    caption = (
        "Settings shared by the experiments of a column; α, β, direction and seed vary. code_version is that of the "
        "trainings; the versions under Environment are those of this report."
    )
    return Table("run-settings", caption, ["setting", *(family.title for family in families)], rows)


def counted(family: Family) -> str:
    """How many of all trainings of the family (settings x seeds x folds) have scores."""
    seeds = {seed for setting in family.settings for seed in setting.seeds}
    first = family.settings[0].first
    folds = len(first.folds) + len(first.missing_folds)
    whole = len(family.settings) * len(seeds) * folds
    scored = sum(len(made.folds) for made in family.experiments)
    parts = f"{plural(len(family.settings), 'setting')}, {plural(len(seeds), 'seed')}, {plural(folds, 'fold')}"
    return f"Protocol {family.title}: {scored} of {whole} trainings ({parts}) have scores."


def experiments(families: Sequence[Family]) -> Table:
    """Every experiment that is in the report."""
    rows: list[list[Cell]] = []
    for family in families:
        for setting in family.settings:
            for made in setting.experiments:
                missing, ser = made.missing_folds, made.scores["ser"]
                folds = f"{len(made.folds)} of {len(made.folds) + len(missing)}"
                tag = made.tag + UNTRAINED * bool(made.untrained.any())
                logs = [log for log in made.histories.values() if log]
                seconds = [record.get("seconds") for log in logs for record in log]
                hours = sum(s for s in seconds if isinstance(s, (int, float))) / 3600 if logs else None
                epochs = min((log[-1]["epoch"] for log in logs), default=None)
                rates = [ser["wa"], ser["ua"], made.scores["asr"]["wer"] if made.reads else None]
                row: list[Cell] = [tag, family.title, setting.name, made.seed, folds, " ".join(missing) or "none"]
                rows.append([*row, epochs, hours, *rates])
    head = ["experiment", "family", "setting", "seed", "folds", "missing folds", "epochs", "hours", "WA", "UA", "WER"]
    caption = "Experiments in this report. Hours: training time of all folds together."
    return Table("run-experiments", caption, head, rows, " ".join(f"{f.title}: {f.shared}" for f in families))


def audit(family: Family) -> list[Table]:
    """What the folds' lists share; nothing where no audit was kept."""
    figures = family.settings[0].first.scores.get("audit") or {}
    keys = [key for key in AUDIT if any(key in found for found in figures.values())]
    rows: list[list[Cell]] = [[fold, *(found.get(key) for key in keys)] for fold, found in figures.items()]
    head = ["fold", *(AUDIT[key] for key in keys)]
    return [family.table("audit", "Audit of the folds.", head, rows)] if keys else []


def unfinished(loaded: Loaded) -> list[Table]:
    """Folds that were started but have no pooled scores."""
    caption = "Folds that were started but have no pooled scores; they are in none of the numbers."
    table = Table("run-unfinished", caption, ["experiment", "fold", "state"], loaded.unfinished)
    return [table] if loaded.unfinished else []


def warnings(loaded: Loaded, families: Sequence[Family], damaged: Sequence[str]) -> list[str]:
    """The report's warnings, each beginning with its kind in capitals."""
    found = [f"LEFT OUT: {message}" for message in [*loaded.left_out, *damaged]]
    concerns: dict[str, list[str]] = {}
    for made in loaded.experiments:
        for fold in made.folds:
            path = made.path / fold / "warnings.txt"
            for message in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
                # The folds' messages differ only in their numbers.
                what, _, numbers = message.partition(": ")
                concerns.setdefault(what, []).append(f"{made.tag}/{fold} ({numbers})")
    found += [f"TRAINING: {what}, in {metrics.first(where, 3)}" for what, where in concerns.items()]
    for family in families:
        if family.dependent:
            found.append(
                f"Protocol {family.protocol} is {family.dependent.upper()}: {DEPENDENCE[family.dependent]}. "
                "Its numbers are comparable only with others of the same split."
            )
        if family.untrained:
            found.append(f"UNTRAINED: {family.untrained}; protocol {family.title}")
        by_folds: dict[str, list[Experiment]] = {}
        for made in family.experiments:
            if made.missing_folds:
                by_folds.setdefault(" ".join(made.missing_folds), []).append(made)
        for missing, several in by_folds.items():
            lacking = len(several[0].missing_folds)
            found.append(
                f"MISSING: {lacking} of {lacking + len(several[0].folds)} folds of "
                f"{plural(len(several), 'experiment')} ({family.title}) are in none of the numbers: {missing} of "
                f"{metrics.first([one.tag for one in several], 3)}"
            )
        seeds = sorted({seed for setting in family.settings for seed in setting.seeds})
        for setting in family.settings:
            if others := [str(seed) for seed in seeds if seed not in setting.seeds]:
                found.append(f"MISSING: {setting.name} ({family.title}) has no seed {' '.join(others)}")
        found += [f"SET ASIDE: {message}" for setting in family.settings for message in setting.set_aside]
    if loaded.unfinished:
        found.append(
            f"UNFINISHED: {len(loaded.unfinished)} folds were started but have no pooled scores (listed below)."
        )
    return found + [f"NOT PAIRED: {message}" for family in families for message in family.refused]
