"""The script of a cluster job: its place, its variables, and the words that submit it."""

from __future__ import annotations

import os
import re
import shlex

from jobs.engines import ALONE, GridEngine, Slurm
from jobs.request import Request

BODY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "task.sh")


class Script:
    """Paths under `q/` beside the logs; ``index`` maps each task to the engine's number for it."""

    def __init__(self, request: Request, tasks: list[int], engine: GridEngine | Slurm) -> None:
        self.request, self.engine = request, engine
        self.root = _working_directory()
        base = os.path.join(self.root, folder_of(request), "q", stem_of(request))
        self.path, self.output = base + ".sh", base + ".out"
        self.marks = f"{base}.{os.uname().nodename}.{os.getpid()}"
        # Grid Engine takes ranges only, so selected tasks are renumbered.
        self.renumbered = len(tasks) != request.last - request.first + 1
        numbers = range(1, len(tasks) + 1) if self.renumbered else tasks
        self.index = {task: numbers[i] if request.job else ALONE for i, task in enumerate(tasks)}

    def submit_words(self) -> list[str]:
        """Words of the submit command that name the job, its output and its range."""
        # Grid Engine's names begin with a letter.
        name = self.request.options.get("name") or re.sub(r"^(?![A-Za-z])", "j", stem_of(self.request))
        numbers = self.index.values()
        array = f"{min(numbers)}-{max(numbers)}" if self.request.job and numbers else ""
        return self.engine.submit_words(name, self.output, self.request, array)

    def write(self, submission: list[str]) -> None:
        """Write the script; ``submission``, the command that submits it, is noted in its head."""
        with open(BODY, encoding="utf-8") as file:
            body = file.read()
        with open(self.path, "w", encoding="utf-8", errors="surrogateescape") as file:
            words = " ".join(map(shlex.quote, submission))
            file.write(f"#!/bin/bash\n# Submitted with: {words}\n{self._variables()}\n{body}")

    def _variables(self) -> str:
        request = self.request
        values = {
            "root": self.root,
            "log": request.log,
            "mark": os.path.join(self.marks, "done"),
            "name": request.job or "",
            "command": request.command,
            "threads": str(request.number("num_threads", 1, 1)),
            "set_threads": str("num_threads" in request.options).lower(),
            "gpu": str(request.number("gpu", 0)),
        }
        lines = [f"job_{name}={shlex.quote(value)}\n" for name, value in values.items()]
        # Clusters pass little more than PATH; path.sh must know which Python to use.
        passed = sorted((k, v) for k, v in os.environ.items() if re.match(r"SERMTL_\w+$", k))
        lines += [f"export {name}={shlex.quote(value)}\n" for name, value in passed]
        shown = f"${{!{self.engine.environment}@}}" if self.engine.environment else ""
        return "".join(lines) + f"job_shown=({shown})\njob_task={self._task()}\n"

    def _task(self) -> str:
        if not self.request.job:
            return str(ALONE)
        if self.renumbered:
            return f'$(set -- {" ".join(map(str, self.index))}; echo "${{!{self.engine.index}}}")'
        return f"${{{self.engine.index}}}"


def folder_of(request: Request) -> str:
    """Folder of the logs; where each task has another, the one above these."""
    folder = os.path.dirname(request.log)
    if request.job:
        folder = re.split(rf"(?:^|/)[^/]*\b{request.job}\b", folder)[0]
    return folder or ("/" if request.log.startswith("/") else "")


def stem_of(request: Request) -> str:
    """The log's name without the task's number and the ending, fit for a job's name."""
    name = re.sub(r"\.[A-Za-z]{1,5}$", "", os.path.basename(request.log))
    if request.job:
        name = re.sub(rf"[.-]?\b{request.job}\b", "", name)
    return re.sub(r"[^\w.-]", "_", name).strip(".-") or "job"


def _working_directory() -> str:
    """The working directory as the shell names it, for the target of a link may be missing on other hosts."""
    name = os.environ.get("PWD", "")
    return name if os.path.isdir(name) and os.path.samefile(name, ".") else os.getcwd()
