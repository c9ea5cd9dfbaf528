"""Logs of tasks, read and written, and messages about tasks that failed."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
import time

from jobs.request import Request

SHOWN_LINES = 30
STOPPED = 75  # status (EX_TEMPFAIL) of a program that saved when SIGTERM came, and can be continued
HAS_SAVED = f"stopped by SIGTERM after saving (status {STOPPED}); the same command continues"
MEMORY_SIGNS = re.compile(
    r"(?i)oom[-_ ]?kill|out[- ]?of[- ]?memory|\bMemoryError\b|Cannot allocate memory|bad_alloc|by signal: Killed"
)


def commented(text: str) -> str:
    """Text as comment lines of a log."""
    return "# " + text.replace("\n", "\n# ")


def date() -> str:
    """The time in the form of the program `date`."""
    return time.strftime("%a %b %e %H:%M:%S %Z %Y")


def read_text(path: str, last: int = 0) -> str:
    """Text of a file, or of its last bytes; empty where it is missing."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - last) if last else 0)
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def last_lines(path: str) -> list[str]:
    """The last lines of a log, without empty ones at the end; a single empty one where it is missing."""
    return read_text(path, 65536).rstrip("\n").split("\n")[-SHOWN_LINES:]


def status_in(path: str) -> int | None:
    """Exit status that the end of a log gives; None where it gives none."""
    for line in reversed(last_lines(path)[-3:]):
        match = re.match(r"# Ended \(code (\d+)|# Finished at .* with status (\d+)$", line)
        if match:
            return int(match[1] or match[2])
    return None


def picked_tasks(request: Request) -> list[int]:
    """Tasks to run: all, or with `--pick failed` those whose log does not end in success."""
    tasks = list(range(request.first, request.last + 1))
    if request.options.get("pick") != "failed":
        return tasks

    def is_done(task: int) -> bool:
        # The log of another command proves nothing about this one.
        log, command = request.log_of(task), commented(request.numbered(request.command, task))
        return f"\n{command}\n" in f"\n{read_text(log)}" and status_in(log) == 0

    return [task for task in tasks if not is_done(task)]


def describe(status: int, log: str) -> str:
    """Why a task failed, from its exit status and its log."""
    if status == STOPPED:
        return HAS_SAVED
    short = any(MEMORY_SIGNS.search(line) for line in last_lines(log) if not line.startswith("# "))
    if status == 128 + signal.SIGKILL:
        if short:
            return "killed for memory (signal 9): ask for more with --mem"
        return "killed by signal 9, probably for a lack of memory: give it more (--mem), or less to do at once"
    if 128 < status < 128 + 65:
        names = {number.value: number.name for number in signal.Signals}
        return f"killed by signal {status - 128} ({names.get(status - 128, 'unknown')})"
    return f"status {status}" + (": it ran out of memory" if short else "")


def report(request: Request, failures: dict[int, str], scheduler_log: str = "") -> int:
    """Print on stderr which tasks failed, and the end of the first one's log, or of the scheduler's where it has none,
    and the errors of the others.

    Gives the exit status: 0 where no task failed, 75 where all that failed can be continued, else 1.
    """
    if not failures:
        return 0
    first = min(failures)
    total = request.last - request.first + 1
    if total == 1:
        say(request, f"job failed, log is in {request.log_of(first)}")
    else:
        everywhere = re.sub(rf"\b{request.job}\b", "*", request.log)
        say(request, f"{len(failures)} / {total} failed, log is in {everywhere}")
    if request.job is None and re.search(r"\bJOB\b", request.log):
        say(request, "the log's name holds JOB, but no range was given: JOB=1:n")
    shown = next((path for path in (request.log_of(first), scheduler_log) if any(last_lines(path))), "")
    ending = f"; the last lines of {shown}:" if shown else f"; {request.log_of(first)} is empty or missing"
    say(request, (f"task {first}: " if request.job else "") + failures[first] + ending)
    if shown:
        sys.stderr.write("".join(f"    {line}\n" for line in last_lines(shown)))
    for task in sorted(failures)[1:]:
        errors = (line for line in last_lines(request.log_of(task)) if line.startswith("error: "))
        sys.stderr.write("".join(f"    task {task}: {line}\n" for line in errors))
    if total > 1:
        words = re.sub(r"--pick \w+ ", "", " ".join(map(shlex.quote, request.words)), count=1)
        say(request, f"to rerun only what failed: {request.program} --pick failed {words}")
    return STOPPED if set(failures.values()) == {HAS_SAVED} else 1


def say(request: Request, message: str) -> None:
    """Write a message to stderr under the program's name."""
    print(f"{request.program}: {message}", file=sys.stderr, flush=True)
