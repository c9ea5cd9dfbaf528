"""The steps of local/reproduce_paper.sh between its calls of run.sh."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from grid_plan import Plan, Task, make_plan, read_plan, readable, told, write_plan

from sermtl.errors import command

SUCCEEDED = re.compile(r"^# (Ended \(code 0\)|Finished at .* with status 0$)", re.MULTILINE)
ENDED = re.compile(r"^# (Ended \(code |Finished at .* with status )", re.MULTILINE)
SECONDS = re.compile(r"^# Accounting: time=(\d+)", re.MULTILINE)


@command
def main() -> int:
    """Do one step."""
    parser = argparse.ArgumentParser(description=__doc__)
    steps = (
        "plan (from stdin), train (a job), score (a job), report, watch (until killed), end (what failed; 1 if any did)"
    )
    parser.add_argument("step", choices=["plan", "train", "score", "report", "watch", "end"], help=steps)
    parser.add_argument("--grid", type=Path, required=True, help="exp/grid/<corpus>")
    parser.add_argument("--logs", default="", help="plan: folder for the logs of the array's jobs")
    parser.add_argument("--dry_run", choices=["true", "false"], default="false", help="plan: write nothing")
    parser.add_argument("--job", type=int, default=1, help="train, score: number of the fold or experiment, from 1")
    parser.add_argument("--every", type=float, default=60, help="watch: least seconds between lines")
    args = parser.parse_args()
    if args.step == "plan":
        plan = make_plan(sys.stdin.read(), args.logs)
        print(*told(plan), sep="\n")
        if args.dry_run == "false":
            write_plan(plan, args.grid)
        return 0
    plan = read_plan(args.grid)
    if args.step == "train":
        task = plan.left[args.job - 1]
        os.execvp("bash", ["bash", "-euc", f"{task.train}\n{task.decode}"])
    if args.step == "watch":
        watch(plan, args.every)
        return 0
    if args.step == "score":
        return score(plan, list(plan.scoring)[args.job - 1])
    return subprocess.run(plan.report).returncode if args.step == "report" else end(plan)


def score(plan: Plan, exp: str) -> int:
    """Stage 5 of one experiment, over the folds that are decoded."""
    outcomes = states(plan)
    folds = [task.fold for task in plan.tasks if task.exp == exp and outcomes[task] == "done"]
    if not folds:
        print(f"{exp}: no fold is decoded")
        return 0
    for words in plan.scoring[exp]:
        if "--folds" in words:
            words = [*words[: words.index("--folds") + 1], *folds]
        if status := subprocess.run(words).returncode:
            return status
    return 0


def states(plan: Plan) -> dict[Task, str]:
    """Each fold is done, failed, running or left, as the logs of the array's jobs tell."""
    found = {task: "done" for task in plan.tasks}
    for number, task in enumerate(plan.left, 1):
        text = end_of(plan.log(number))
        known = "done" if SUCCEEDED.search(text) else "failed" if ENDED.search(text) else "running"
        found[task] = known if text else "left"
    return found


def end_of(log: Path) -> str:
    """The last lines of a log; nothing where there is none."""
    try:
        return log.read_bytes()[-2000:].decode("utf-8", "replace")
    except OSError:
        return ""


def watch(plan: Plan, every: float) -> None:
    """Tell how the array stands when that has changed, until killed or left alone."""
    parent, last, told_at = os.getppid(), "", float("-inf")
    while os.getppid() == parent:
        line = progress(plan)
        if line != last and time.monotonic() - told_at >= every:
            print(time.strftime("%Y-%m-%dT%H:%M:%S"), line, flush=True)
            last, told_at = line, time.monotonic()
        time.sleep(1)


def progress(plan: Plan) -> str:
    """``done / running / failed / left``, and the time to go."""
    found = states(plan)
    counts = {state: list(found.values()).count(state) for state in ("done", "running", "failed", "left")}
    kept = len(plan.tasks) - len(plan.left)
    line = f"{counts['done']} of {len(found)} done{f' ({kept} before)' if kept else ''}, " + ", ".join(
        f"{counts[state]} {state}" for state in ("running", "failed", "left")
    )
    texts = (end_of(plan.log(number + 1)) for number in range(len(plan.left)))
    times = [int(match[1]) for text in texts if SUCCEEDED.search(text) and (match := SECONDS.search(text))]
    if times:
        each: float | None = median(times)
    else:
        each = plan.epoch_seconds and plan.epoch_seconds * plan.tasks[0].epochs
    if not each or not counts["running"]:
        return line
    folds = counts["left"] + sum(1 - trained(task) for task, state in found.items() if state == "running")
    return f"{line}; about {readable(each * folds / counts['running'] / 3600)} to go"


def trained(task: Task) -> float:
    """About the share of a fold's job that is behind it; decoding comes after the last epoch."""
    try:
        return min(0.95, len((task.folder / "history.jsonl").read_bytes().splitlines()) / task.epochs)
    except OSError:
        return 0.0


def end(plan: Plan) -> int:
    """List the folds that are not done, with their logs."""
    found = states(plan)
    print(progress(plan))
    for number, task in enumerate(plan.left, 1):
        if found[task] != "done":
            print(f"{found[task]}: {task.folder}, log {plan.log(number)}", file=sys.stderr)
    return 0 if set(found.values()) == {"done"} else 1


if __name__ == "__main__":
    sys.exit(main())
