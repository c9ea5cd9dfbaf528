"""queue.pl and slurm.pl: tasks as one array job of the cluster.

A task's end is a file, the mark, that holds its exit status; the scheduler is queried at intervals, so that a task
that cannot leave a mark is noticed. Files may come late over a shared file system; nothing is locked.
"""

from __future__ import annotations

import glob
import os
import re
import shlex
import shutil
import subprocess
import time
from dataclasses import replace
from subprocess import DEVNULL, PIPE, STDOUT

from jobs.engines import GridEngine, Slurm, ask, job_id
from jobs.report import describe, picked_tasks, read_text, report, say, status_in
from jobs.request import JobError, Request, clear_path
from jobs.script import Config, Script, folder_of, stem_of
from jobs.signals import Signals

ASK_EVERY = float(os.environ.get("SERMTL_ASK_EVERY", "10"))  # seconds between questions to the engine
LATE_FILES = float(os.environ.get("SERMTL_LATE_FILES", "30"))  # seconds that a file may take from host to host
PATIENCE = float(os.environ.get("SERMTL_QUEUE_PATIENCE", "30"))  # seconds before waiting, or silence, is reported
RETRIES = 3  # submissions after one that failed for a reason that passes
PASSING = r"unable to contact|temporarily unable|timed out|gdi request|connection refused|communication"
TERMINATED = 143


def run(request: Request) -> int:
    """Run the request's tasks on the cluster; exit status as `report` gives it, 2 where interrupted."""
    engine = GridEngine() if request.program == "queue.pl" else Slurm()
    config = Config(request.options.get("config", engine.config))
    request = replace(request, options={**config.defaults, **request.options})
    signals = Signals()
    if request.options.get("check") == "true":
        log = os.path.join(folder_of(request), stem_of(request) + ".check.log")
        probe = replace(request, log=log, command="python3 -c pass", job=None, first=1, last=1)
        status = _Job(probe, engine, config, signals).run()
        if status:
            say(request, "path.sh does not set the environment up on the cluster; nothing else was submitted")
            return status
    return _Job(request, engine, config, signals).run()


class _Job:
    """One submission: its script, its marks, and what is known of its tasks."""

    def __init__(self, request: Request, engine: GridEngine | Slurm, config: Config, signals: Signals) -> None:
        self.request, self.engine, self.signals = request, engine, signals
        self.tasks = picked_tasks(request)
        self.script = Script(request, self.tasks, engine, config)
        self.command = self.script.submission()
        self.index = self.script.index  # task -> the engine's number for it
        self.id = ""
        self.open = set(self.tasks)
        self.failures: dict[int, str] = {}
        self.killed: dict[int, int] = {}  # task -> status above 128, to be explained
        self.terminated: set[int] = set()
        self.missing: dict[int, float] = {}  # task -> since when it is in neither the queue nor the marks
        self.said: set[str] = set()
        self.has_run = False

    def run(self) -> int:
        if not self.tasks:
            return 0
        logs = map(self.request.log_of, self.tasks)
        for path in (self.script.path, self.script.output, f"{self.script.marks}/x", *logs):
            clear_path(path)
        self.script.write(self.command)
        try:
            self.id = self._submit()
            self.cancel = [self.engine.cancels, self.id]
            self._wait()
            if self.signals.number is not None:
                return self._cancel()
            self._explain()
            self._await_logs()
        finally:
            shutil.rmtree(self.script.marks, ignore_errors=True)
        return report(self.request, self.failures, self.script.output)

    def _submit(self) -> str:
        # Out of reach of Ctrl-C: an interrupted submission may have been made, without a number to cancel it.
        for attempt in range(RETRIES + 1):
            try:
                done = subprocess.run(self.command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, start_new_session=True)
            except OSError as error:
                raise JobError(
                    f"cannot start {self.command[0]} ({error.strerror}): submit from a host where "
                    f"{self.engine.submits} is on PATH; --cmd_backend local runs jobs here"
                ) from None
            answer = done.stdout.decode(errors="replace")
            if done.returncode == 0 and job_id(answer):
                return job_id(answer)
            if attempt == RETRIES or not re.search(PASSING, answer, re.I):
                break
            again = time.monotonic() + ASK_EVERY
            while self.signals.number is None and time.monotonic() < again:
                self.signals.wait(again - time.monotonic())
            if self.signals.number is not None:
                break
        if self.signals.number is not None:
            return ""
        reason = answer.strip() or f"status {done.returncode}"
        shown = " ".join(map(shlex.quote, self.command))
        raise JobError(f"{self.command[0]} took no job: {reason}\nthe command was: {shown}")

    def _wait(self) -> None:
        self.begun = self.answered = time.monotonic()
        question, nap = self.begun + ASK_EVERY, 0.05
        while self.open and self.signals.number is None:
            self._read_marks()
            if self.terminated:
                question = min(question, time.monotonic() + 1)
            if self.open and time.monotonic() >= question:
                self._ask()
                question = time.monotonic() + ASK_EVERY
            if self.open:
                self.signals.wait(nap)
                nap = min(nap * 1.5, 1.0, ASK_EVERY)

    def _read_marks(self) -> None:
        """Take the new marks. Listing the folder refreshes a shared file system's view."""
        for path in glob.glob(os.path.join(glob.escape(self.script.marks), "done.*")):
            task = int(path.rpartition(".")[2])
            if task not in self.open or task in self.terminated:
                continue
            text = read_text(path)
            if not re.fullmatch(r"\d+\n", text):
                continue  # still being written
            status = int(text)
            self.has_run = True
            if status == TERMINATED:
                # Cancelled, or put back into the queue to run again: the next query shows which.
                self.terminated.add(task)
                os.remove(path)
                continue
            self.open.discard(task)
            if status > 128:
                self.killed[task] = status
            elif status:
                self.failures[task] = describe(status, self.request.log_of(task))

    def _ask(self) -> None:
        queued = self.engine.queued(self.id)
        now = time.monotonic()
        if queued is None:
            if now - self.answered >= PATIENCE:
                self._say_once(f"the scheduler does not answer; still waiting for job {self.id}")
            return
        self.answered = now
        for task in sorted(self.open):
            state = queued.get(self.index[task])
            if state == "waiting":
                self.terminated.discard(task)
            if state in ("waiting", "running"):
                self.missing.pop(task, None)
                self.has_run = self.has_run or state == "running"
            elif state:
                self.failures[task] = state
                self.open.discard(task)
            else:
                self.missing.setdefault(task, now)
        self._read_marks()
        self._look_for_missing(now)
        if self.open and not self.has_run and now - self.begun >= PATIENCE:
            reason = self.engine.why_waiting(self.id)
            if reason:
                self._say_once(f"job {self.id} still waits; {reason} (to cancel: Ctrl-C, or {' '.join(self.cancel)})")

    def _look_for_missing(self, now: float) -> None:
        gone = sorted(self.open & self.missing.keys())
        ended = self.engine.ended(self.id) if gone else {}
        for task in gone:
            reason = ended.get(self.index[task])
            if not reason and task in self.terminated:
                reason = describe(TERMINATED, self.request.log_of(task))
            elif not reason and now - self.missing[task] >= LATE_FILES:
                reason = (
                    f"it left the queue of job {self.id} without a mark in {self.script.marks}: "
                    "it was deleted or killed, or its host does not share this folder"
                )
            if reason:
                self.failures[task] = reason
        self.open.difference_update(self.failures)

    def _say_once(self, message: str) -> None:
        if message not in self.said:
            say(self.request, message)
            self.said.add(message)

    def _explain(self) -> None:
        """Replace "killed by signal" by the scheduler's reason, where it gives one; leave nothing in the queue."""
        ended = self.engine.ended(self.id) if self.killed else {}
        for task, status in self.killed.items():
            self.failures[task] = ended.get(self.index[task]) or describe(status, self.request.log_of(task))
        if any("could not start it" in reason for reason in self.failures.values()):
            ask(self.cancel)

    def _await_logs(self) -> None:
        deadline = time.monotonic() + LATE_FILES
        late = [task for task in self.tasks if task not in self.failures]
        while self.signals.number is None:
            late = [task for task in late if status_in(self.request.log_of(task)) is None]
            if not late or time.monotonic() >= deadline:
                break
            self.signals.wait(0.2)
        for task in late:
            self.failures[task] = f"it succeeded, but its log did not reach this host within {LATE_FILES:.0f} s"

    def _cancel(self) -> int:
        ending = "nothing was submitted"
        if self.id:
            status, out, err = ask(self.cancel)
            done = len(self.tasks) - len(self.open)
            ending = f"cancelled job {self.id} ({done} of {len(self.tasks)} tasks had ended)"
            if status != 0:
                why = (err or out).strip()
                ending = f"job {self.id} could NOT be cancelled: {why}; run: {' '.join(self.cancel)}"
        say(self.request, f"interrupted by {self.signals.name()}: {ending}")
        return self.signals.status()
