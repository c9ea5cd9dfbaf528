"""What a grid of experiments costs on a cluster, by simulating run.sh's arrays in a queue.

    python tests/helpers/simulate_queue.py --fold_hours 24 --gpus 1 8 64 250 500

Standard library only. An experiment (one setting, one seed) is one run.sh: its folds are an array, a GPU a fold; when
the last task has ended, failed ones are submitted again after somebody has noticed, and go on from their checkpoints;
then decoding is another array, then scoring runs on the head node. The scheduler is first come, first served.
All experiments are submitted at the same time, or --at_once of them side by side.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial


@dataclass
class Cluster:
    """GPUs, and the tasks that are submitted to them; times in hours."""

    gpus: int
    wait_hours: float
    submit_seconds: float
    task_seconds: float
    random: random.Random
    now: float = 0.0
    busy_hours: float = 0.0
    free: int = 0
    submitter_free: float = 0.0
    events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    ready: list[tuple[float, int, float, Callable[[], None]]] = field(default_factory=list)
    count: int = 0

    def __post_init__(self) -> None:
        self.free = self.gpus

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Do something at a time."""
        self.count += 1
        heapq.heappush(self.events, (time, self.count, action))

    def submit(self, tasks: list[tuple[float, Callable[[], None]]]) -> None:
        """Submit an array: for each task its hours on a GPU and what is to happen at its end.

        One scheduler takes submissions and starts tasks one by one, at the rates that were measured.
        """
        begin = max(self.now, self.submitter_free) + self.submit_seconds / 3600
        for hours, end in tasks:
            begin += self.task_seconds / 3600
            wait = self.random.expovariate(1 / self.wait_hours) if self.wait_hours else 0.0
            self.at(begin + wait, partial(self._enter, hours, end))
        self.submitter_free = begin

    def _enter(self, hours: float, end: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.ready, (self.now, self.count, hours, end))

    def run(self) -> float:
        """Go on until nothing is left; the time then."""
        while self.events:
            self.now, _, action = heapq.heappop(self.events)
            action()
            while self.free and self.ready:
                _, _, hours, end = heapq.heappop(self.ready)
                self.free -= 1
                self.busy_hours += hours
                self.at(self.now + hours, partial(self._leave, end))
        return self.now

    def _leave(self, end: Callable[[], None]) -> None:
        self.free += 1
        end()


class Experiment:
    """One run.sh, from stage 3 to the scores."""

    def __init__(self, cluster: Cluster, args: argparse.Namespace, done: Callable[[], None]) -> None:
        self.cluster, self.args, self.done, self.reruns = cluster, args, done, 0
        spread = (1 - args.spread, 1 + args.spread)
        self.left = [args.fold_hours * cluster.random.uniform(*spread) for _ in range(args.folds)]
        self._train()

    def _train(self) -> None:
        failing = self.args.failures_per_day / 24
        open_folds = [fold for fold, hours in enumerate(self.left) if hours > 0]
        self.running = len(open_folds)
        tasks = []
        for fold in open_folds:
            work = self.left[fold]
            until_failure = self.cluster.random.expovariate(failing) if failing else math.inf
            if until_failure < work:
                step = self.args.save_minutes / 60
                work, self.left[fold] = until_failure, work - math.floor(until_failure / step) * step
            else:
                self.left[fold] = 0.0
            tasks.append((work + self.args.start_minutes / 60, self._trained))
        self.cluster.submit(tasks)

    def _trained(self) -> None:
        self.running -= 1
        if self.running:
            return
        if any(self.left):
            self.reruns += 1
            self.cluster.at(self.cluster.now + self.args.reaction_hours, self._train)
        else:
            self.running = self.args.folds
            hours = (self.args.start_minutes + self.args.decode_minutes) / 60
            self.cluster.submit([(hours, self._decoded)] * self.args.folds)

    def _decoded(self) -> None:
        self.running -= 1
        if not self.running:
            self.cluster.at(self.cluster.now + self.args.score_minutes / 60, self.done)


def simulate(args: argparse.Namespace, gpus: int, seed: int) -> tuple[float, float, int]:
    """Hours until the last score, GPU hours used, and how many times somebody reran a command."""
    cluster = Cluster(gpus, args.wait_hours, args.submit_seconds, args.task_seconds, random.Random(seed))
    waiting = args.settings * args.seeds
    experiments: list[Experiment] = []

    def begin() -> None:
        nonlocal waiting
        if waiting:
            waiting -= 1
            experiments.append(Experiment(cluster, args, begin))

    for _ in range(min(args.at_once or waiting, waiting)):
        begin()
    hours = cluster.run()
    return hours, cluster.busy_hours, sum(experiment.reruns for experiment in experiments)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options: list[tuple[str, type, float, str]] = [
        ("fold_hours", float, 24, "training of a fold on one GPU"),
        ("spread", float, 0.1, "folds differ by this share, evenly"),
        ("folds", int, 10, "folds of an experiment"),
        ("settings", int, 5, "settings"),
        ("seeds", int, 5, "seeds of each setting"),
        ("at_once", int, 0, "run.sh that are started side by side; 0 is all"),
        ("wait_hours", float, 1, "mean time that other people's jobs keep a task waiting (exponential)"),
        ("submit_seconds", float, 1, "of an array"),
        ("task_seconds", float, 0.15, "of the scheduler for each task"),
        ("start_minutes", float, 2, "of a task before its first update"),
        ("decode_minutes", float, 5, "of a fold's decoding"),
        ("score_minutes", float, 2, "of an experiment's scoring on the head node"),
        ("save_minutes", float, 10, "between two checkpoints"),
        ("failures_per_day", float, 0.02, "of a GPU at work (exponential)"),
        ("reaction_hours", float, 8, "until somebody reruns what failed"),
        ("repeats", int, 20, "simulations of each line"),
    ]
    for name, kind, default, about in options:
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"{about} (default {default})")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64, 250, 500])
    return parser.parse_args()


def main() -> None:
    """Print a Markdown table, a line for each number of GPUs."""
    args = parse()
    print("| GPUs | days | GPU days used | GPUs at work, mean | reruns by hand |\n|---|---|---|---|---|")
    for gpus in args.gpus:
        runs = [simulate(args, gpus, seed) for seed in range(args.repeats)]
        hours, used, reruns = (statistics.fmean(column) for column in zip(*runs, strict=True))
        at_work = used / hours
        share = f"{at_work:.1f} ({100 * at_work / gpus:.0f} %)"
        print(f"| {gpus} | {hours / 24:.1f} | {used / 24:.0f} | {share} | {reruns:.1f} |")


if __name__ == "__main__":
    main()
