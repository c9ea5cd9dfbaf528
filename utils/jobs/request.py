"""The command line that run.pl, queue.pl and slurm.pl have in common.

X.pl [--option value]... [JOB=1:n] LOG COMMAND...
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from dataclasses import dataclass, field

LOCAL_OPTIONS = "gpu mem num_threads time name max_jobs_run config pick jobs_per_gpu num_nodes check".split()
NO_VALUE = {"-V", "-cwd", "-notify", "-H", "-h", "-k", "-s", "-O", "-Q", "-W"}  # of qsub and sbatch
RANGE = re.compile(r"([A-Za-z_]\w*)=(\d+)(?::(\d+))?$")
LIKE_A_RANGE = re.compile(r"[A-Za-z_]\w*=[\d:,.-]*$|[A-Za-z_]\w*=[^/]*:[^/]*$")


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

    def log_of(self, task: int) -> str:
        """Path of a task's log."""
        return self.numbered(self.log, task)

    def numbered(self, text: str, task: int) -> str:
        """Text with the task's number in the place of JOB."""
        return text if self.job is None else re.sub(rf"\b{self.job}\b", str(task), text)

    def number(self, option: str, default: int, least: int = 0) -> int:
        """Value of an option that is a whole number."""
        value = self.options.get(option, str(default))
        if not re.match(r"\d+$", value) or int(value) < least:
            raise JobError(f"--{option} is a whole number from {least} on, not '{value}'")
        return int(value)


def parse(program: str, words: list[str]) -> Request:
    """Read a runner's command line; JobError for an option, range or log's name that is wrong."""
    rest = list(words)
    request = Request(program, list(words), "", "")
    while rest and (rest[0].startswith("-") or LIKE_A_RANGE.match(rest[0])):
        if rest[0].startswith("-"):
            _take_option(request, rest)
        else:
            _take_range(request, rest.pop(0))
    if len(rest) < 2:
        raise JobError(f"usage: {program} [--option value]... [JOB=1:n] LOG COMMAND...")
    # Words with blanks are quoted for the job's shell; others stay as they are, so that `|` and `>` work.
    words = [shlex.quote(word) if not word or re.search(r"\s", word) else word for word in rest[1:]]
    request.log, request.command = rest[0], " ".join(words)
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
    value, taken = rest[0], rest[:values]
    del rest[:values]
    if not word.startswith("--"):
        request.engine_words += [word, *taken]
        if word == "-tc" and request.program == "run.pl":
            request.options["max_jobs_run"] = value
        return
    name = word[2:].replace("-", "_")
    if request.program == "run.pl" and name not in LOCAL_OPTIONS:
        near = difflib.get_close_matches(name, LOCAL_OPTIONS, 1, 0)[0]
        raise JobError(f"unknown option {word} (did you mean --{near}?)")
    before = request.options.get(name, value)
    request.options[name] = value
    if name == "max_jobs_run":
        # A stage may lower the site's limit, not raise it.
        request.options[name] = str(min(request.number(name, 1, 1), int(before)))


def _take_range(request: Request, word: str) -> None:
    match = RANGE.match(word)
    if not match:
        raise JobError(f"cannot read the range {word}: write JOB=1:n or JOB=n")
    if request.job is not None:
        raise JobError(f"a second range, {word}: one is allowed")
    request.job, request.first, request.last = match[1], int(match[2]), int(match[3] or match[2])
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


def clear_path(path: str) -> None:
    """Make the folder of a file, and remove an earlier file of that name; JobError where that is not possible."""
    task = f"make the folder of {path}"
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        task = f"write {path}"
        if os.path.lexists(path):
            os.remove(path)
    except OSError as error:
        raise JobError(f"cannot {task}: {error.strerror}") from None
