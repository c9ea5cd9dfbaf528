"""Messages about tasks that failed."""

from __future__ import annotations

import re
import shlex
import signal
import sys

from jobs.logs import last_lines
from jobs.request import Request

SHOWN_LINES = 30
STOPPED = 75  # status (EX_TEMPFAIL) of a program that saved when SIGTERM came, and can be continued
HAS_SAVED = f"stopped by SIGTERM after saving (status {STOPPED}); the same command continues"
MEMORY_SIGNS = re.compile(
    r"oom[-_ ]?kill|out[- ]of[- ]memory|OutOfMemoryError|\bMemoryError\b|Cannot allocate memory|std::bad_alloc", re.I
)


def describe(status: int, log: str) -> str:
    """Why a task failed, from its exit status and its log."""
    if status == STOPPED:
        return HAS_SAVED
    lines = [line for line in last_lines(log)[-SHOWN_LINES:] if not line.startswith("# ")]
    short = any(MEMORY_SIGNS.search(line) for line in lines)
    if status == 128 + signal.SIGKILL:
        if short:
            return "killed for memory (signal 9): ask for more with --mem"
        return "killed by signal 9, probably for a lack of memory: give it more (--mem), or less to do at once"
    if 128 < status < 128 + 65:
        names = {number.value: number.name for number in signal.Signals}
        return f"killed by signal {status - 128} ({names.get(status - 128, 'unknown')})"
    return f"status {status}" + (": it ran out of memory" if short else "")


def report(request: Request, failures: dict[int, str], scheduler_log: str = "") -> int:
    """Print on stderr which tasks failed, and the end of the first one's log, or of the scheduler's where it has none.

    Returns:
        Exit status: 0 where no task failed, 75 where all that failed can be continued, else 1.
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
    task = f"task {first}: " if request.job else ""
    if shown:
        say(request, f"{task}{failures[first]}; the last lines of {shown}:")
        sys.stderr.write("".join(f"    {line}\n" for line in last_lines(shown)[-SHOWN_LINES:]))
    else:
        say(request, f"{task}{failures[first]}; {request.log_of(first)} is empty or missing")
    if total > 1:
        words = re.sub(r"--pick \w+ ", "", " ".join(map(shlex.quote, request.words)), count=1)
        say(request, f"to rerun only what failed: {request.program} --pick failed {words}")
    return STOPPED if set(failures.values()) == {HAS_SAVED} else 1


def say(request: Request, message: str) -> None:
    """Write a message to stderr under the program's name."""
    print(f"{request.program}: {message}", file=sys.stderr, flush=True)
