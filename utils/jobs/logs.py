"""Logs of tasks: what is written to them, and what is read back."""

from __future__ import annotations

import os
import re
import time


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
    """Exit status that a log's last line gives; None where it has no such line."""
    for line in reversed([line for line in lines[-3:] if line]):
        match = re.match(r"# Ended \(code (\d+)|# Finished at .* with status (\d+)$", line)
        if match:
            return int(match[1] or match[2])
    return None
