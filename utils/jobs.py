"""What run.pl, queue.pl and slurm.pl share: command line, words for the job's shell, logs, reports.

    X.pl [--option value]... [JOB=1:n] LOG COMMAND...

Python 3.8's standard library is all this needs, for it runs on head nodes outside the recipe's environment.
"""

from __future__ import annotations

import difflib
import os
import re
import select
import shlex
import signal
import sys
import time
from dataclasses import dataclass, field

LOCAL_OPTIONS = "gpu mem num_threads time name max_jobs_run config pick jobs_per_gpu num_nodes check".split()
NO_VALUE = {"-V", "-cwd", "-notify", "-H", "-h", "-k", "-s", "-O", "-Q", "-W"}  # of qsub and sbatch
SHOWN_LINES = 30
RANGE = re.compile(r"([A-Za-z_]\w*)=(\d+)(?::(\d+))?$")
LIKE_A_RANGE = re.compile(r"[A-Za-z_]\w*=[\d:,.-]*$|[A-Za-z_]\w*=[^/]*:[^/]*$")
MEMORY_SIGNS = re.compile(
    r"oom[-_ ]?kill|out[- ]of[- ]memory|OutOfMemoryError|\bMemoryError\b|Cannot allocate memory|std::bad_alloc", re.I
)


class JobError(Exception):
    """A command line, configuration or scheduler that cannot be worked with; the program ends with status 1."""


@dataclass
class Request:
    """One call of a runner. Without a range there is one task, numbered 1."""

    program: str
    words: list[str]
    log: str
    command: str
    options: dict[str, str] = field(default_factory=dict)
    engine_words: list[str] = field(default_factory=list)
    job: str | None = None
    first: int = 1
    last: int = 1

    def all_tasks(self) -> list[int]:
        """Task numbers of the range."""
        return list(range(self.first, self.last + 1))

    def picked_tasks(self) -> list[int]:
        """Tasks to run: all, or with `--pick failed` those whose log does not end in success."""
        if self.options.get("pick", "all") == "all":
            return self.all_tasks()
        return [task for task in self.all_tasks() if not self._is_done(task)]

    def log_of(self, task: int) -> str:
        """Path of a task's log."""
        return self._numbered(self.log, task)

    def command_of(self, task: int) -> str:
        """Text for the task's shell."""
        return self._numbered(self.command, task)

    def number(self, option: str, default: int, least: int = 0) -> int:
        """Value of an option that is a whole number."""
        value = self.options.get(option, str(default))
        if not re.match(r"\d+$", value) or int(value) < least:
            raise JobError(f"--{option} is a whole number from {least} on, not '{value}'")
        return int(value)

    def _numbered(self, text: str, task: int) -> str:
        return text if self.job is None else re.sub(rf"\b{self.job}\b", str(task), text)

    def _is_done(self, task: int) -> bool:
        # The log of another command proves nothing about this one.
        lines = read_lines(self.log_of(task))
        head = commented(self.command_of(task)).split("\n")
        begins = any(lines[i : i + len(head)] == head for i in range(len(lines) - len(head) + 1))
        return begins and status_in(lines) == 0


def parse(program: str, words: list[str]) -> Request:
    """Read a runner's command line.

    Raises:
        JobError: an unknown option, a range or option that cannot be read, an array without JOB in its log's name.
    """
    rest = list(words)
    request = Request(program, list(words), "", "")
    while rest and (rest[0].startswith("-") or LIKE_A_RANGE.match(rest[0])):
        if rest[0].startswith("-"):
            _take_option(request, rest)
        else:
            _take_range(request, rest.pop(0))
    if len(rest) < 2:
        raise JobError(f"usage: {program} [--option value]... [JOB=1:n] LOG COMMAND...")
    request.log, request.command = rest[0], shell_text(rest[1:])
    if request.options.get("pick", "all") not in ("all", "failed"):
        raise JobError(f"--pick is 'all' or 'failed', not '{request.options['pick']}'")
    if request.options.get("check", "false") not in ("true", "false"):
        raise JobError(f"--check is 'true' or 'false', not '{request.options['check']}'")
    if request.job is not None:
        _check_job_name(request, rest)
    return request


def _take_option(request: Request, rest: list[str]) -> None:
    word = rest.pop(0)
    if word in NO_VALUE:
        request.engine_words.append(word)
        return
    if word.startswith("--") and "=" in word:
        name, _, value = word.partition("=")
        raise JobError(f"options are two words: write {name} {value}, not {word}")
    values = 2 if word == "-pe" else 1
    if len(rest) < values or rest[0].startswith("--"):
        raise JobError(f"option {word} needs a value")
    if not word.startswith("--"):
        request.engine_words += [word, *rest[:values]]
        if word == "-tc" and request.program == "run.pl":
            request.options["max_jobs_run"] = rest[0]
    else:
        name = word[2:].replace("-", "_")
        if request.program == "run.pl" and name not in LOCAL_OPTIONS:
            near = difflib.get_close_matches(name, LOCAL_OPTIONS, 1, 0)[0]
            raise JobError(f"unknown option {word} (did you mean --{near}?)")
        before = request.options.get(name)
        request.options[name] = rest[0]
        # A stage may lower the site's limit, not raise it.
        if name == "max_jobs_run" and before is not None:
            request.options[name] = str(min(int(before), request.number(name, 1, 1)))
        if name == "max_jobs_run":
            request.number(name, 1, 1)
    del rest[:values]


def _take_range(request: Request, word: str) -> None:
    match = RANGE.match(word)
    if not match:
        raise JobError(f"cannot read the range {word}: write JOB=1:n or JOB=n")
    if request.job is not None:
        raise JobError(f"a second range, {word}: one is allowed")
    request.job, request.first = match[1], int(match[2])
    request.last = int(match[3] or match[2])
    if not 1 <= request.first <= request.last:
        raise JobError(f"the range {word} is empty or begins below 1")


def _check_job_name(request: Request, words: list[str]) -> None:
    job = str(request.job)
    whole = re.compile(rf"\b{job}\b")
    for word in words:
        if len(whole.findall(word)) != word.count(job):
            raise JobError(f"'{job}' is part of a longer word in '{word}': set it off with . - or /")
    if request.last > request.first and not whole.search(request.log):
        tasks = request.last - request.first + 1
        raise JobError(f"{tasks} tasks cannot share the log {request.log}: put {job} in its name")


def shell_text(words: list[str]) -> str:
    """Join words for the job's shell: those with blanks quoted, others as they are, so that `|` and `>` work."""
    return " ".join(shlex.quote(word) if not word or re.search(r"\s", word) else word for word in words)


def commented(text: str) -> str:
    """Text as comment lines of a log."""
    return "# " + text.replace("\n", "\n# ")


def date() -> str:
    """The time in the form of the program `date`."""
    return time.strftime("%a %b %e %H:%M:%S %Z %Y")


def read_lines(path: str) -> list[str]:
    """Lines of a log, none where it is not there."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().split("\n")
    except OSError:
        return []


def last_lines(path: str) -> list[str]:
    """Lines of a log's last 64 KiB, without empty ones at the end; none where it is not there."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - 65536))
            return file.read().decode(errors="replace").rstrip("\n").split("\n")
    except OSError:
        return []


def status_in(lines: list[str]) -> int | None:
    """Exit status that a log's last line tells; None where it has no such line."""
    for line in reversed([line for line in lines[-3:] if line]):
        match = re.match(r"# Ended \(code (\d+)|# Finished at .* with status (\d+)$", line)
        if match:
            return int(match[1] or match[2])
    return None


def describe(status: int, log: str) -> str:
    """Why a task failed, for people, from its exit status and what its log says."""
    lines = [line for line in last_lines(log)[-SHOWN_LINES:] if not line.startswith("# ")]
    short = any(MEMORY_SIGNS.search(line) for line in lines)
    if status == 128 + signal.SIGKILL:
        if short:
            return "killed for memory (signal 9): ask for more with --mem"
        return "killed by signal 9, which is what happens to a task that uses too much memory (--mem)"
    if 128 < status < 128 + 65:
        try:
            name = signal.Signals(status - 128).name
        except ValueError:
            name = "unknown"
        return f"killed by signal {status - 128} ({name})"
    return f"status {status}" + (": it ran out of memory" if short else "")


def report(request: Request, failures: dict[int, str], scheduler_log: str = "") -> int:
    """Tell on stderr which tasks failed, show the end of the first one's log, or of the scheduler's where it has none.

    Returns:
        Exit status: 0 where no task failed, else 1.
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
        say(request, f"{task}{failures[first]}; {request.log_of(first)} is empty or not there")
    if total > 1:
        again = [request.program, "--pick", "failed", *_without_pick(request.words)]
        say(request, "to rerun only what failed: " + " ".join(map(shlex.quote, again)))
    return 1


def _without_pick(words: list[str]) -> list[str]:
    for i, word in enumerate(words):
        if word == "--pick":
            return words[:i] + words[i + 2 :]
    return words


def say(request: Request, message: str) -> None:
    """Write a message to stderr under the program's name."""
    print(f"{request.program}: {message}", file=sys.stderr, flush=True)


class Signals:
    """Notes SIGINT, SIGTERM and SIGHUP in `number`; `wait` returns early when any signal arrives."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.again = False
        self._read, write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(write, False)
        # The pipe remembers a signal that comes between a check and the wait.
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # nohup ignores SIGHUP and means it; a shell's `&` ignores SIGINT and does not.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._note)

    def _note(self, number: int, _frame: object) -> None:
        self.again = self.number is not None
        self.number = self.number or number

    def name(self) -> str:
        """Name of the signal noted."""
        return signal.Signals(self.number or 0).name

    def wait(self, seconds: float) -> None:
        """Sleep until a signal comes, a child's end included, for at most so long."""
        select.select([self._read], [], [], seconds)
        try:
            while os.read(self._read, 4096):
                pass
        except BlockingIOError:
            pass


def make_folder_of(path: str) -> None:
    """Make the folder that a file is to stand in.

    Raises:
        JobError: where that is not possible.
    """
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    except OSError as error:
        raise JobError(f"cannot make the folder of {path}: {error.strerror}") from None


def main(program: str) -> int:
    """Run a runner by name with the words of the command line; its exit status: 0, 1 or 2."""
    try:
        request = parse(program, sys.argv[1:])
        if program == "run.pl":
            import jobs_local

            return jobs_local.run(request)
        import jobs_cluster

        return jobs_cluster.run(request)
    except JobError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
