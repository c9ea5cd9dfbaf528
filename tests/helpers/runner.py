"""A job runner called as its user calls it, and what is left of the processes that it started."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

DATE = r"[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \S+ \d{4}"


class Runner:
    """A command in a folder; a call gives exit status and stderr (stdout must stay empty)."""

    def __init__(self, command: list[str], root: Path, env: dict[str, str]) -> None:
        self.command, self.root, self.env = command, root, env
        self.watched = root

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([*self.command, *words], cwd=self.root, env=self.env | env, text=True, **pipes)

    def __call__(self, *words: str, **env: str) -> tuple[int, str]:
        process = self.start(*words, **env)
        out, err = process.communicate(timeout=120)
        assert out == ""
        return process.returncode, err

    def until(self, *names: str) -> None:
        """Wait for files."""
        deadline = time.monotonic() + 40
        while not all((self.watched / name).exists() for name in names):
            assert time.monotonic() < deadline, f"{names} did not come"
            time.sleep(0.02)


def gone(pid: int | str) -> bool:
    """Whether a process has ended, waited for or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
