"""The plan of local/reproduce_paper.sh: which folds of which experiments to train, by which commands, in which time.

It is made from what `run.sh --stage 3 --stop_stage 6 --dry_run true` prints for each setting and seed, so that the grid
runs the very commands of run.sh; only, training and decoding of one fold are one job, and all of them are one array.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from sermtl.config import TrainConfig, load_config, read_yaml
from sermtl.errors import UserError
from sermtl.fileio.files import atomic_write

FIGURES = {
    ("mini", "tiny"): (5.0, "one CPU core"),
    ("emodb", "small"): (3.0, "one CPU core"),
    ("iemocap", "facebook/wav2vec2-base"): (864.0, "a V100: the paper's day for 100 epochs"),
}
"""Data directory and upstream -> seconds an epoch of one fold, and on what; used until a fold was trained here."""
FOLDS = {"session": 5}
"""Folds of a protocol before stage 1 has made them; of others ten, of ``kfoldK`` K."""


@dataclass(frozen=True)
class Task:
    """One fold of one experiment."""

    exp: str
    fold: str
    train: str
    """Shell text."""
    decode: str
    epochs: int
    finished: bool = False

    @property
    def folder(self) -> Path:
        """``exp/<tag>/<fold>``."""
        return Path(self.exp, self.fold)


@dataclass(frozen=True)
class Plan:
    """The whole grid."""

    runner: str
    """run.pl, queue.pl or slurm.pl, with options."""
    tasks: list[Task]
    scoring: dict[str, list[list[str]]]
    """Experiment -> the commands of stage 5."""
    report: list[str]
    """The command of stage 6."""
    epoch_seconds: float | None
    """Expected seconds of an epoch of one fold; None where nothing is known."""
    source: str
    """Where that comes from, in words."""
    logs: str
    """Folder of the logs of the array's jobs: one for each start, for jobs of an earlier one may still end."""

    @property
    def left(self) -> list[Task]:
        """The array's tasks in order."""
        return [task for task in self.tasks if not task.finished]

    def log(self, number: int) -> Path:
        """Log of a task of the array, from 1."""
        return Path(self.logs, f"{number}.log")


def make_plan(printed: str, logs: str) -> Plan:
    """A plan from what run.sh printed.

    Raises:
        UserError: It printed no training.
    """
    runner, report = "", []
    tasks: list[Task] = []
    scoring: dict[str, list[list[str]]] = {}
    begun: list[tuple[str, str, str]] = []
    trained: list[str] = []
    epochs = 0
    for words in (split_bash(line) for line in printed.splitlines() if line.startswith("  ")):
        if "sermtl.bin.train" in words:
            runner, begun, trained = *split_array(words), words
            epochs = config_of(begun[0][2]).epochs
        elif "sermtl.bin.decode" in words:
            for (exp, fold, train), (*_, decode) in zip(begun, split_array(words)[1], strict=True):
                tasks.append(Task(exp, fold, train, decode, epochs))
        elif "sermtl.bin.score" in words:
            scoring.setdefault(value(words, "--exp"), []).append(words)
        elif "sermtl.bin.report" in words:
            report = words
    if not trained:
        raise UserError("nothing to train: --protocols, --seeds or --settings is empty")
    tasks = [replace(task, finished=is_finished(task)) for task in tasks]
    return Plan(runner, tasks, scoring, report, *expected(tasks[0]), logs)


def split_bash(text: str) -> list[str]:
    """Words that bash's ``printf %q`` has quoted; ``$'...'``, where not all is printable ASCII, is unknown to shlex."""

    def plain(found: re.Match[str]) -> str:
        value, _ = codecs.escape_decode(found[1].encode())  # type: ignore[attr-defined]
        return shlex.quote(value.decode("utf-8", "surrogateescape"))

    return shlex.split(re.sub(r"(?<![\\\w])\$'((?:[^'\\]|\\.)*)'", plain, text))


def split_array(words: list[str]) -> tuple[str, list[tuple[str, str, str]]]:
    """``RUNNER JOB=1:n LOG COMMAND...`` as the runner's words, and experiment, fold and shell text of each job."""
    start = next(index for index, word in enumerate(words) if word.startswith("JOB=1:"))
    # A word without blanks stands there as the job's shell reads it.
    plain = [word if not word or re.search(r"\s", word) else split_bash(word)[0] for word in words[start + 2 :]]
    folds = plain[plain.index("--folds") + 1 : plain.index("--job")]
    if folds == ["all"]:  # printed before stage 1 was run
        protocol = Path(value(plain, "--folds_dir")).name
        count = re.fullmatch(r"kfold(\d+)", protocol)
        folds = ["?"] * (int(count[1]) if count else FOLDS.get(protocol, 10))
    texts = [
        shlex.join(str(number) if word == "JOB" else word for word in plain) for number in range(1, len(folds) + 1)
    ]
    exp = value(plain, "--exp")
    return shlex.join(words[:start]), [(exp, fold, text) for fold, text in zip(folds, texts, strict=True)]


def config_of(train: str) -> TrainConfig:
    """The settings of a training's shell text."""
    words = shlex.split(train)
    return load_config(TrainConfig, value(words, "--config"), words[words.index("--set") + 1 :])


def is_finished(task: Task) -> bool:
    """Whether a fold is trained to its last epoch with these settings on these inputs, and decoded since."""
    folder = task.folder
    if not (folder / "decode_test" / "stamp.json").is_file():
        return False
    from sermtl.bin import decode, train
    from sermtl.data.stored_features import dump_name
    from sermtl.train import history

    words = shlex.split(task.train)
    try:
        paths, config, fold = train.resolve(train.parse(words[words.index("sermtl.bin.train") + 1 :]))
        saved = read_yaml(folder / "config.yaml")
    except UserError:
        return False  # the job runs into it too, and its log tells
    wanted = train.resolved_settings(paths, config, fold)
    if any(saved.get(key) != value for key, value in wanted.items() if key not in train.RESUMABLE):
        return False
    if not history.is_finished(folder, config) or train.train_stamp(paths, fold).changed(contents=False):
        return False
    parts = [part for part in ("test", "dev") if fold.examples[part]]
    return not any(decode.decode_stamp(paths, part, dump_name(config)).changed(contents=False) for part in parts)


def expected(task: Task) -> tuple[float | None, str]:
    """Seconds an epoch of such a fold: the median of those trained here, else the documented figure."""
    words, config = shlex.split(task.train), config_of(task.train)
    corpus = Path(value(words, "--data")).name
    alike = {"corpus": corpus} | {key: getattr(config, key) for key in ("upstream", "feats_type", "batch_size")}
    seconds = []
    for settings in Path(task.exp).parent.glob("*/*/config.yaml"):
        log = settings.with_name("history.jsonl")
        if log.is_file() and alike.items() <= read_yaml(settings).items():
            seconds += [json.loads(line)["seconds"] for line in log.read_text(encoding="utf-8").splitlines()]
    if seconds:
        return median(seconds), f"median of {len(seconds)} epochs trained here"
    figure, machine = FIGURES.get((corpus, config.upstream), (None, ""))
    if figure is None:
        return None, f"no figure for {config.upstream} on {corpus}: train one fold, and ask again"
    return figure, f"documented for {machine}"


def write_plan(plan: Plan, grid: Path) -> None:
    """Write ``plan.json``, and for the shell ``array``: runner, number of its tasks, number of experiments."""
    with atomic_write(grid / "plan.json") as file:
        json.dump(asdict(plan), file, indent=1)
    with atomic_write(grid / "array") as file:
        file.write(f"{plan.runner}\n{len(plan.left)}\n{len(plan.scoring)}\n")


def read_plan(grid: Path) -> Plan:
    """Read ``plan.json``."""
    content = json.loads((grid / "plan.json").read_text(encoding="utf-8"))
    return Plan(**content | {"tasks": [Task(**task) for task in content["tasks"]]})


def told(plan: Plan) -> Iterable[str]:
    """The plan for people."""
    for exp in plan.scoring:
        tasks = [task for task in plan.tasks if task.exp == exp]
        finished = sum(task.finished for task in tasks)
        yield f"  {Path(exp).name}: {len(tasks)} folds, {finished} finished"
    unmade = (
        "" if all(task.fold != "?" for task in plan.tasks) else " (stage 1, which was not run yet, counts the folds)"
    )
    left = plan.left
    counted = f"{len(plan.tasks)} trainings in {len(plan.scoring)} experiments{unmade}"
    yield f"{counted}: {len(plan.tasks) - len(left)} finished, {len(left)} to do by {plan.runner}"
    if plan.epoch_seconds is None:
        yield f"hours: {plan.source}"
    elif left:
        hours = plan.epoch_seconds * sum(task.epochs for task in left) / 3600
        at_once = "divided by the jobs that run at once"
        if plan.runner.split()[0] == "run.pl" and "--gpu" not in plan.runner:
            cores = len(os.sched_getaffinity(0))
            at_once = f"which is {readable(hours / cores)} on the {cores} cores of this machine"
        yield (
            f"estimated: {readable(hours)} of training, {at_once} "
            f"({plan.epoch_seconds:.3g} s an epoch of a fold: {plan.source})"
        )


def readable(hours: float) -> str:
    """A duration in the unit that fits."""
    if hours < 0.025:
        return f"{3600 * hours:.0f} s"
    return f"{60 * hours:.0f} min" if hours < 1.5 else f"{hours:.1f} hours" if hours < 100 else f"{hours:.0f} hours"


def value(words: list[str], option: str) -> str:
    """The word after an option."""
    return words[words.index(option) + 1]
