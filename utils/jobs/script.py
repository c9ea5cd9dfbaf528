"""What goes to a cluster: the submit command with the words of conf/queue.conf or conf/slurm.conf, and the script."""

from __future__ import annotations

import os
import re
import shlex

from jobs.engines import ALONE, GridEngine, Slurm
from jobs.request import JobError, Request

BODY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "task.sh")
RUNNER_OPTIONS = ("config", "pick", "check")  # never passed on to the scheduler
LINE = re.compile(r"command\s+(\S.*)|option\s+([\w-]+)=(\S+)(?:\s+(.*))?$|default\s+([\w-]+)=(\S+)$")


class Config:
    """A configuration file: the submit command, and for each option and value (or `*`) the words it becomes."""

    def __init__(self, path: str) -> None:
        self.path, self.command = path, []
        self.options: dict[str, dict[str, list[str]]] = {}
        self.defaults: dict[str, str] = {}
        try:
            with open(path, encoding="utf-8") as file:
                lines = file.read().splitlines()
        except OSError as error:
            raise JobError(f"cannot read {path}: {error.strerror}") from None
        for number, line in enumerate(lines, 1):
            text = re.sub(r"(^|\s)#.*", "", line).strip()
            match = LINE.match(text)
            if text and not match:
                raise JobError(
                    f"{path}:{number}: cannot read '{line.strip()}'; a line is `command WORDS`, `option name=value "
                    "WORDS`, `option name=* WORDS with $0`, or `default name=value`"
                )
            command, option, value, words, default, default_value = match.groups() if match else [None] * 6
            try:
                words = shlex.split(command or words or "")
            except ValueError as error:
                raise JobError(f"{path}:{number}: cannot read '{text}': {error}") from None
            if command:
                self.command = words
            elif option:
                self.options.setdefault(option.replace("-", "_"), {})[value] = words
            elif default:
                self.defaults[default.replace("-", "_")] = default_value
        if not self.command:
            raise JobError(f"{path}: no line gives the submit command: `command qsub ...` or `command sbatch ...`")


class Script:
    """Paths under `q/` beside the logs; ``index`` maps each task to the engine's number for it."""

    def __init__(self, request: Request, tasks: list[int], engine: GridEngine | Slurm, config: Config) -> None:
        self.request, self.engine, self.config = request, engine, config
        # As the shell names it, for the target of a link may be missing on other hosts.
        self.root = os.environ.get("PWD", "")
        if not (os.path.isdir(self.root) and os.path.samefile(self.root, ".")):
            self.root = os.getcwd()
        base = os.path.join(self.root, folder_of(request), "q", stem_of(request))
        self.path, self.output = base + ".sh", base + ".out"
        self.marks = f"{base}.{os.uname().nodename}.{os.getpid()}"
        # Grid Engine takes ranges only, so selected tasks are renumbered.
        first = 1 if len(tasks) <= request.last - request.first else request.first
        self.index = {task: number if request.job else ALONE for number, task in enumerate(tasks, first)}

    def submission(self) -> list[str]:
        """The command that submits it; JobError where the configuration does not describe an option, or its value."""
        request, engine, config, numbers = self.request, self.engine, self.config, self.index.values()
        # Grid Engine's names begin with a letter.
        name = request.options.get("name") or re.sub(r"^(?![A-Za-z])", "j", stem_of(request))
        words = [*config.command, *(word.format(name=name, output=self.output) for word in engine.job_words)]
        if request.job and numbers:
            most = request.options.get("max_jobs_run")
            limit = f"{engine.at_once}{most}" if most and engine.at_once else ""
            words += [engine.array_word, f"{min(numbers)}-{max(numbers)}{limit}"]
        for option, value in request.options.items():
            if option in RUNNER_OPTIONS or (option == "max_jobs_run" and request.job is None):
                continue
            known = config.options.get(option, {})
            if value not in known and "*" not in known:
                line = f"option {option}={value if known else '*'} {engine.example.replace('NAME', option)}"
                raise JobError(f"{config.path} has no line for --{option} {value}: add one, for example `{line}`")
            words += [word.replace("$0", value) for word in known.get(value, known.get("*", []))]
        return [*words, *request.engine_words, self.path]

    def write(self, submission: list[str]) -> None:
        """Write the script; the command that submits it is noted in its head."""
        request, index = self.request, self.engine.index
        values = {
            "root": self.root,
            "log": request.log,
            "mark": os.path.join(self.marks, "done"),
            "name": request.job or "",
            "command": request.command,
            "threads": str(request.number("num_threads", 1, 1)),
            "gpu": str(request.number("gpu", 0)),
        }
        lines = [f"job_{name}={shlex.quote(value)}\n" for name, value in values.items()]
        # Clusters pass little more than PATH; path.sh must know which Python to use.
        passed = sorted((k, v) for k, v in os.environ.items() if re.match(r"SERMTL_\w+$", k))
        if "num_threads" in request.options:
            passed.append(("OMP_NUM_THREADS", values["threads"]))
        lines += [f"export {name}={shlex.quote(value)}\n" for name, value in passed]
        shown = f"${{!{self.engine.environment}@}}" if self.engine.environment else ""
        task = f"${{{index}}}" if request.job else str(ALONE)
        if any(task != number for task, number in self.index.items()):
            task = f'$(set -- {" ".join(map(str, self.index))}; echo "${{!{index}}}")'
        lines.append(f"job_shown=({shown})\njob_task={task}\n\n")
        with open(BODY, encoding="utf-8") as file:
            lines.append(file.read())
        with open(self.path, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(f"#!/bin/bash\n# Submitted with: {' '.join(map(shlex.quote, submission))}\n{''.join(lines)}")


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
