"""run.pl: tasks on this machine, as many at once as it has GPUs or cores."""

from __future__ import annotations

import contextlib
import glob
import os
import platform
import signal
import subprocess
import time
from importlib import metadata
from typing import NamedTuple

from jobs.report import commented, date, describe, picked_tasks, read_text, report, say
from jobs.request import JobError, Request, clear_path
from jobs.signals import Signals

GRACE = 10.0  # seconds between SIGTERM and SIGKILL


class Task(NamedTuple):
    """A running task: its shell leads a new session and process group."""

    number: int
    shell: subprocess.Popen
    begun: float


class Runner:
    """Runs a request's tasks; JobError for an option's value that does not fit this machine."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.threads = request.number("num_threads", 1, 1)
        if request.number("num_nodes", 1, 1) > 1:
            raise JobError("--num_nodes: this runner has one machine; choose another cmd_backend in conf/cmd.sh")
        self.slots = slots(request)
        torch = next((found.version for found in metadata.distributions(name="torch")), "none")
        # Of the environment that tasks are started in, the one that runs this program.
        self.versions = f"Python {platform.python_version()}, torch {torch}"
        self.running: dict[int, Task] = {}
        self.failures: dict[int, str] = {}
        self.signals = Signals()

    def run(self) -> int:
        """Run the tasks; exit status as `report` gives it, 2 where interrupted."""
        waiting = picked_tasks(self.request)
        for number in waiting:
            clear_path(self.request.log_of(number))
        while (waiting or self.running) and self.signals.number is None:
            while waiting and len(self.running) < len(self.slots) and self.signals.number is None:
                self._start(waiting.pop(0))
            self.signals.wait(1.0)
            self._collect()
        if self.signals.number is not None:
            return self._stop(len(waiting))
        return report(self.request, self.failures)

    def _start(self, number: int) -> None:
        slot = min(set(range(len(self.slots))) - set(self.running))
        command = self.request.numbered(self.request.command, number)
        env = dict(os.environ, CUDA_VISIBLE_DEVICES=self.slots[slot])
        if "num_threads" in self.request.options:
            env["OMP_NUM_THREADS"] = str(self.threads)
        try:
            with open(self.request.log_of(number), "a", encoding="utf-8", errors="surrogateescape") as file:
                file.write(f"{commented(command)}\n# Started at {date()}\n#\n")
                file.write(f"# Running on {os.uname().nodename}, GPU {self.slots[slot] or 'none'}, {self.versions}\n")
                file.flush()
                words, null = ["bash", "-o", "pipefail", "-c", command], subprocess.DEVNULL
                shell = subprocess.Popen(words, stdin=null, stdout=file, stderr=file, env=env, start_new_session=True)
        except OSError as error:
            self.failures[number] = f"cannot start: {error}"
            return
        self.running[slot] = Task(number, shell, time.time())

    def _collect(self) -> None:
        for slot, task in list(self.running.items()):
            code = task.shell.poll()
            if code is None:
                continue
            del self.running[slot]
            log = self.request.log_of(task.number)
            status = code if code >= 0 else 128 - code
            shown = f"code {status}" if code >= 0 else f"code {status}; signal {-code}"
            seconds = int(time.time() - task.begun)
            with open(log, "a", encoding="utf-8") as file:
                file.write(f"# Accounting: time={seconds} threads={self.threads}\n")
                file.write(f"# Ended ({shown}) at {date()}, elapsed time {seconds} seconds\n")
            if status:
                self.failures[task.number] = describe(status, log)

    def _stop(self, not_begun: int) -> int:
        """End what runs, with all that it started, even in other sessions (as torchrun's workers are)."""
        killed = len(self.running)
        shells = {task.shell.pid for task in self.running.values()}
        others = descendants(shells)
        kill_groups(shells | set(others.values()), signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline and (self.running or any(map(alive, others))) and not self.signals.again:
            self.signals.wait(0.05)
            self._collect()
        left = {task.shell.pid for task in self.running.values()}
        kill_groups(left | {others[pid] for pid in others if alive(pid)}, signal.SIGKILL)
        while self.running:
            time.sleep(0.02)
            self._collect()
        say(self.request, f"interrupted by {self.signals.name()}: {killed} running tasks ended, {not_begun} not begun")
        return self.signals.status()


def slots(request: Request) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each task that may run at once; without GPUs empty strings.

    With `--gpu n` each slot has n GPUs out of those this process may use, and `--jobs_per_gpu` slots share them;
    `--max_jobs_run` may lower that. Without GPUs it counts alone, else there is a slot for each core.
    """
    per_task = request.number("gpu", 0)
    shared = request.number("jobs_per_gpu", 1, 1)
    available = visible_gpus() if per_task else []
    most = request.number("max_jobs_run", 0)
    if not available:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return [""] * (most or max(1, cores // request.number("num_threads", 1, 1)))
    groups = [available[i : i + per_task] for i in range(0, len(available) - per_task + 1, per_task)]
    if not groups:
        raise JobError(f"--gpu {per_task}: there are {len(available)} GPUs ({','.join(available)})")
    devices = [",".join(group) for group in groups] * shared
    return devices[:most] if most else devices


def visible_gpus() -> list[str]:
    """GPUs that this process may use: CUDA_VISIBLE_DEVICES, else all that nvidia-smi lists."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [gpu.strip() for gpu in given.split(",") if gpu.strip() not in ("", "-1", "NoDevFiles")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    count = sum(line.startswith(b"GPU ") for line in listed.stdout.splitlines())
    return [str(i) for i in range(count)] if listed.returncode == 0 else []


def descendants(pids: set[int]) -> dict[int, int]:
    """Process groups of the processes that the given ones started, and of all started in turn; none without /proc."""
    stats = {int(path[6:]): stat(int(path[6:])) for path in glob.glob("/proc/[1-9]*")}
    found: dict[int, int] = {}
    new = pids
    while new:
        new = {pid for pid, fields in stats.items() if fields and int(fields[1]) in new and pid not in found}
        found.update((pid, int(stats[pid][2])) for pid in new)
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    return stat(pid)[:1] not in ([], ["Z"], ["X"])


def stat(pid: int) -> list[str]:
    """State, parent, process group, ... of a process; empty where there is none."""
    return read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()


def kill_groups(groups: set[int], number: int) -> None:
    """Send a signal to process groups; some may have ended."""
    for group in groups:
        with contextlib.suppress(OSError):
            os.killpg(group, number)
