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


def read_text(path: str, last: int = 0) -> str:
    """Text of a file, or of its last bytes; empty where it is missing."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - last) if last else 0)
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def last_lines(path: str) -> list[str]:
    """Lines of a log's last 64 KiB, without empty ones at the end; a single empty one where it is missing."""
    return read_text(path, 65536).rstrip("\n").split("\n")


def status_in(path: str) -> int | None:
    """Exit status that the end of a log gives; None where it gives none."""
    for line in reversed(last_lines(path)[-3:]):
        match = re.match(r"# Ended \(code (\d+)|# Finished at .* with status (\d+)$", line)
        if match:
            return int(match[1] or match[2])
    return None
