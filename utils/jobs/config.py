"""conf/queue.conf and conf/slurm.conf: which words an option of queue.pl or slurm.pl becomes."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field

from jobs.request import JobError, Request

RUNNER_OPTIONS = ("config", "pick", "check")  # never passed on to the scheduler
LINE = re.compile(r"command\s+(\S.*)|option\s+([\w-]+)=(\S+)(?:\s+(.*))?$|default\s+([\w-]+)=(\S+)$")


@dataclass
class Config:
    """A configuration file: the submit command, and for each option and value (or `*`) the words it becomes."""

    path: str
    command: list[str] = field(default_factory=list)
    options: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    defaults: dict[str, str] = field(default_factory=dict)


def read_config(path: str) -> Config:
    """Read a configuration file.

    Raises:
        JobError: it cannot be read, a line is neither command, option nor default, or there is no command.
    """
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise JobError(f"cannot read {path}: {error.strerror}") from None
    config = Config(path)
    for number, line in enumerate(lines, 1):
        text = re.sub(r"(^|\s)#.*", "", line).strip()
        if not text:
            continue
        match = LINE.match(text)
        if not match:
            raise JobError(
                f"{path}:{number}: cannot read '{line.strip()}'; a line is `command WORDS`, `option name=value WORDS`, "
                "`option name=* WORDS with $0`, or `default name=value`"
            )
        command, option, value, words, default, default_value = match.groups()
        try:
            words = shlex.split(command or words or "")
        except ValueError as error:
            raise JobError(f"{path}:{number}: cannot read '{text}': {error}") from None
        if command:
            config.command = words
        elif option:
            config.options.setdefault(option.replace("-", "_"), {})[value] = words
        else:
            config.defaults[default.replace("-", "_")] = default_value
    if not config.command:
        raise JobError(f"{path}: no line gives the submit command: `command qsub ...` or `command sbatch ...`")
    return config


def option_words(config: Config, request: Request, example: str) -> list[str]:
    """Words for the submit command that the request's options stand for.

    ``example`` shows, in the message about an option not described, how the engine would take option NAME.

    Raises:
        JobError: an option, or its value, that the file does not describe.
    """
    words: list[str] = []
    for name, value in request.options.items():
        if name in RUNNER_OPTIONS or (name == "max_jobs_run" and request.job is None):
            continue
        known = config.options.get(name, {})
        if value not in known and "*" not in known:
            line = f"option {name}={value if known else '*'} {example.replace('NAME', name)}"
            raise JobError(f"{config.path} has no line for --{name} {value}: add one, for example `{line}`")
        words += [word.replace("$0", value) for word in known.get(value, known.get("*", []))]
    return words + request.engine_words
