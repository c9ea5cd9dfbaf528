"""queue.pl and slurm.pl: tasks as one array job of the cluster.

A task's end is a file, the mark, that holds its exit status; the engine is asked now and then, so that a task which
cannot leave a mark any more is noticed. Files may come late over a shared file system; nothing is locked.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from dataclasses import replace

from jobs.config import Config, option_words, read_config
from jobs.engines import Engine, GridEngine, Slurm, ask
from jobs.logs import last_lines, read_lines, status_in
from jobs.report import describe, report, say
from jobs.request import JobError, Request, make_way_for
from jobs.script import Script, folder_of, stem_of
from jobs.signals import Signals

ASK_EVERY = float(os.environ.get("SERMTL_ASK_EVERY", "10"))  # seconds between questions to the engine
LATE_FILES = float(os.environ.get("SERMTL_LATE_FILES", "30"))  # seconds that a file may take from host to host
PATIENCE = float(os.environ.get("SERMTL_QUEUE_PATIENCE", "30"))  # seconds before waiting, or silence, is reported
RETRIES = 3  # submissions after one that failed for a reason that passes
PASSING = re.compile(
    r"unable to contact|temporarily unable|timed out|gdi request|connection refused|communication", re.I
)
TERMINATED = 143


def run(request: Request) -> int:
    """Run the request's tasks on the cluster; 0, or as `report` says; 2 interrupted.

    Raises:
        JobError: the configuration or an option is wrong, or the scheduler takes no job.
    """
    engine = GridEngine() if request.program == "queue.pl" else Slurm()
    config = read_config(request.options.get("config", engine.config))
    request = replace(request, options={**config.defaults, **request.options})
    signals = Signals()
    if request.options.get("check") == "true":
        status = _Job(_probe(request), engine, config, signals).run()
        if status:
            say(request, "path.sh does not set the environment up on the cluster; nothing else was submitted")
            return status
    return _Job(request, engine, config, signals).run()


def _probe(request: Request) -> Request:
    log = os.path.join(folder_of(request), stem_of(request) + ".check.log")
    return replace(request, log=log, command="python3 -c pass", job=None, first=1, last=1)


class _Job:
    """One submission: its script, its marks, and what is known of its tasks."""

    def __init__(self, request: Request, engine: Engine, config: Config, signals: Signals) -> None:
        self.request, self.engine, self.signals = request, engine, signals
        self.tasks = request.picked_tasks()
        self.script = Script(request, self.tasks, engine)
        self.command = [
            *config.command,
            *self.script.submit_words(),
            *option_words(config, request, engine.example),
            self.script.path,
        ]
        self.index = self.script.index  # task -> the engine's number for it
        self.id = ""
        self.open = set(self.tasks)
        self.failures: dict[int, str] = {}
        self.killed: dict[int, int] = {}  # task -> status above 128, to be explained
        self.terminated: set[int] = set()
        self.missing: dict[int, float] = {}  # task -> since when it is in neither the queue nor the marks
        self.silent_since: float | None = None
        self.said: set[str] = set()
        self.has_run = False

    def run(self) -> int:
        if not self.tasks:
            return 0
        self._prepare()
        try:
            self.id = self._submit()
            self._wait()
            if self.signals.number is not None:
                return self._cancel()
            self._explain()
            self._await_logs()
        finally:
            shutil.rmtree(self.script.marks, ignore_errors=True)
        return report(self.request, self.failures, self.script.output)

    def _prepare(self) -> None:
        logs = [self.request.log_of(task) for task in self.tasks]
        for path in (self.script.path, self.script.output, os.path.join(self.script.marks, "x"), *logs):
            make_way_for(path)
        self.script.write(self.command)

    def _submit(self) -> str:
        for attempt in range(RETRIES + 1):
            status, said = self._call()
            job = self.engine.job_id(said)
            if status == 0 and job:
                return job
            if attempt == RETRIES or not PASSING.search(said) or self.signals.number is not None:
                break
            self.signals.pause(ASK_EVERY)
        if self.signals.number is not None:
            return ""
        shown = " ".join(map(shlex.quote, self.command))
        raise JobError(f"{self.command[0]} took no job: {said.strip() or f'status {status}'}\nthe command was: {shown}")

    def _call(self) -> tuple[int, str]:
        try:
            # Out of reach of Ctrl-C: a submission that is cut off may have been made, with no number to cancel it by.
            pipe, null = subprocess.PIPE, subprocess.DEVNULL
            done = subprocess.run(
                self.command, stdin=null, stdout=pipe, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            raise JobError(
                f"cannot start {self.command[0]} ({error.strerror}): jobs go out from a host where "
                f"{self.engine.submits} is on PATH; --cmd_backend local runs them here"
            ) from None
        return done.returncode, done.stdout.decode(errors="replace")

    def _wait(self) -> None:
        self.begun = time.monotonic()
        question, nap = self.begun + ASK_EVERY, 0.05
        while self.open and self.signals.number is None:
            if self._read_marks():
                nap = 0.05
            if self.terminated:
                question = min(question, time.monotonic() + 1)
            if self.open and time.monotonic() >= question:
                self._ask()
                question = time.monotonic() + ASK_EVERY
            if self.open:
                self.signals.wait(nap)
                nap = min(nap * 1.5, 1.0, ASK_EVERY)

    def _read_marks(self) -> bool:
        """Take what has come; True if anything has. Listing a folder makes a shared file system look anew."""
        before = len(self.open), len(self.terminated)
        for name in _names(self.script.marks):
            match = re.match(r"done\.(\d+)$", name)
            task = int(match[1]) if match else -1
            if task not in self.open or task in self.terminated:
                continue
            lines = read_lines(os.path.join(self.script.marks, name))
            if len(lines) < 2 or not lines[0].isdigit():
                continue  # it is being written, or still on its way
            status = int(lines[0])
            self.has_run = True
            if status == TERMINATED:
                # Cancelled, or put back into the queue to run again: the engine knows.
                self.terminated.add(task)
                os.remove(os.path.join(self.script.marks, name))
                continue
            self.open.discard(task)
            if status > 128:
                self.killed[task] = status
            elif status:
                self.failures[task] = describe(status, self.request.log_of(task))
        return (len(self.open), len(self.terminated)) != before

    def _ask(self) -> None:
        queued = self.engine.queued(self.id)
        now = time.monotonic()
        if queued is None:
            self.silent_since = self.silent_since or now
            if now - self.silent_since >= PATIENCE:
                self._tell(f"the scheduler does not answer; job {self.id} is waited for all the same")
            return
        self.silent_since = None
        for task in sorted(self.open):
            state = queued.get(self.index[task])
            if state == "waiting":
                self.terminated.discard(task)
            if state in ("waiting", "running"):
                self.missing.pop(task, None)
                self.has_run = self.has_run or state == "running"
            elif state:
                self._fail(task, state)
            else:
                self.missing.setdefault(task, now)
        self._read_marks()
        self._look_for_missing(now)
        if self.open and not self.has_run and now - self.begun >= PATIENCE:
            reason = self.engine.why_waiting(self.id)
            if reason:
                cancel = " ".join(self.engine.cancel_words(self.id))
                self._tell(f"job {self.id} still waits; {reason} (to give it up: Ctrl-C, or {cancel})")

    def _look_for_missing(self, now: float) -> None:
        gone = sorted(self.open & set(self.missing))
        ended = self.engine.ended(self.id) if gone else {}
        for task in gone:
            reason = ended.get(self.index[task])
            if reason:
                self._fail(task, reason)
            elif task in self.terminated:
                self._fail(task, describe(TERMINATED, self.request.log_of(task)))
            elif now - self.missing[task] >= LATE_FILES:
                self._fail(
                    task,
                    f"it left the queue of job {self.id} without a mark in {self.script.marks}: "
                    "it was deleted or killed, or its host does not share this folder",
                )

    def _fail(self, task: int, reason: str) -> None:
        self.open.discard(task)
        self.failures[task] = reason

    def _tell(self, message: str) -> None:
        if message not in self.said:
            say(self.request, message)
            self.said.add(message)

    def _explain(self) -> None:
        """Replace "killed by signal" by the engine's own reason, where it has one; leave nothing in the queue."""
        ended = self.engine.ended(self.id) if self.killed else {}
        for task, status in self.killed.items():
            index = self.index[task]
            self.failures[task] = ended.get(index) or describe(status, self.request.log_of(task))
        if any("could not start it" in reason for reason in self.failures.values()):
            ask(self.engine.cancel_words(self.id))

    def _await_logs(self) -> None:
        deadline = time.monotonic() + LATE_FILES
        late = [task for task in self.tasks if task not in self.failures]
        while self.signals.number is None:
            late = [task for task in late if status_in(last_lines(self.request.log_of(task))) is None]
            if not late or time.monotonic() >= deadline:
                break
            self.signals.wait(0.2)
        for task in late:
            self.failures[task] = f"it succeeded, but its log did not reach this host within {LATE_FILES:.0f} s"

    def _cancel(self) -> int:
        if not self.id:
            say(self.request, f"interrupted by {self.signals.name()}: nothing was submitted")
            return self.signals.status()
        words = self.engine.cancel_words(self.id)
        status, out, err = ask(words)
        done = len(self.tasks) - len(self.open)
        shown = " ".join(words)
        if status == 0:
            ending = f"cancelled job {self.id} ({done} of {len(self.tasks)} tasks had ended)"
        else:
            ending = f"job {self.id} could NOT be cancelled: {(err or out).strip()}; do it by hand: {shown}"
        say(self.request, f"interrupted by {self.signals.name()}: {ending}")
        return self.signals.status()


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
