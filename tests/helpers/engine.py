"""A real Grid Engine or Slurm of one node, started from Debian's packages."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from runner import Runner


class Engine(Runner):
    """A running scheduler, the runner that submits to it, and a recipe root."""

    def __init__(self, name: str, recipe: Path, base: str) -> None:
        self.name, self.recipe, self.base = name, recipe, base
        self.script = str(recipe / "tests" / "cluster" / f"{name}.sh")
        self.program = {"sge": "queue.pl", "slurm": "slurm.pl"}[name]
        env = {k: v for k, v in os.environ.items() if not k.startswith(("SERMTL_", "SLURM_", "SGE_"))}
        super().__init__([sys.executable, str(recipe / "utils" / self.program)], Path(base + ".root"), env)
        (self.root / "conf").mkdir(parents=True)
        for conf in ("queue.conf", "slurm.conf"):
            shutil.copy(recipe / "conf" / conf, self.root / "conf")
        # The environment's Python first, as the recipe's own does.
        (self.root / "path.sh").write_text(f"export FROM_PATH_SH=yes PATH='{Path(sys.executable).parent}':$PATH\n")

    def up(self) -> None:
        # One at a time on a machine: another process of the tests may be about to start one too.
        self.turn = open(Path(tempfile.gettempdir()) / "sermtl-tests-engine.lock", "w")
        fcntl.flock(self.turn, fcntl.LOCK_EX)
        done = subprocess.run([self.script, "start", self.base], capture_output=True, text=True, timeout=300)
        if done.returncode == 77:
            pytest.skip(done.stderr.strip().splitlines()[-1])
        assert done.returncode == 0, done.stderr
        for line in done.stdout.splitlines():
            name, _, value = line[len("export ") :].partition("=")
            self.env[name] = value

    def down(self) -> None:
        subprocess.run([self.script, "stop", self.base], timeout=60, check=True)
        shutil.rmtree(self.root)
        self.turn.close()

    def ask(self, *words: str) -> str:
        return subprocess.run(words, cwd=self.root, env=self.env, capture_output=True, text=True, timeout=120).stdout

    def queue(self) -> str:
        """Jobs that wait or run; empty where there are none."""
        return self.ask("qstat", "-u", "*") if self.name == "sge" else self.ask("squeue", "-h")

    def job(self) -> str:
        """Number of the newest job in the queue; one that has ended may still be listed."""
        lines = (
            self.queue().splitlines()[2:] if self.name == "sge" else self.ask("squeue", "-h", "-o", "%F").splitlines()
        )
        return max((line.split()[0] for line in lines), key=int)

    def contents(self, *names: str) -> list[str]:
        """Contents of files that tasks write, once there."""
        self.until(*names)
        while not all((self.root / name).read_text() for name in names):
            time.sleep(0.1)
        return [(self.root / name).read_text().strip() for name in names]


@contextmanager
def running(name: str, recipe: Path, **env: str) -> Iterator[Engine]:
    """Start an engine, with more variables for what it runs, and end it afterwards."""
    # Socket paths are short of room, so not under pytest's own folder.
    base = tempfile.mkdtemp(prefix=f"{name}-")
    os.rmdir(base)
    engine = Engine(name, recipe, base)
    engine.env.update(env)
    try:
        engine.up()
        yield engine
    finally:
        engine.down()
