"""torchrun from inside a job: one exit status for what happens to any of its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runner import gone

pytestmark = pytest.mark.slow
LAUNCH = "import sys; from sermtl.train.launch import launch; sys.exit(launch('rank_program', sys.argv[1:], {}, {}))"


def start(recipe: Path, folder: Path, what: str, processes: int = 2, nodes: int = 1) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(recipe), str(recipe / "tests" / "helpers"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH.format(processes, nodes), what, str(folder)],
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def pids(folder: Path, processes: int = 2) -> list[int]:
    """Process numbers, once all are there."""
    files = [folder / f"pid.{rank}" for rank in range(processes)]
    deadline = time.monotonic() + 60
    while not all(file.exists() and file.read_text() for file in files):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return [int(file.read_text()) for file in files]


def test_all_processes_take_part_and_nothing_is_left(recipe: Path, tmp_path: Path) -> None:
    process = start(recipe, tmp_path, "add")
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert [(tmp_path / f"sum.{rank}").read_text() for rank in (0, 1)] == ["3 of 2"] * 2
    assert not list(tmp_path.glob("torchelastic*")) and not list(tmp_path.glob("tmp*"))


@pytest.mark.parametrize(
    ("what", "status", "message"),
    [("kill", 137, "error: process 1 was killed by signal 9 (SIGKILL)"), ("raise", 2, "error: this one's own error")],
)
def test_a_process_that_ends_badly_ends_the_job(
    recipe: Path, tmp_path: Path, what: str, status: int, message: str
) -> None:
    process = start(recipe, tmp_path, what)
    _, err = process.communicate(timeout=100)
    assert process.returncode == status, err
    assert message in err
    assert all(map(gone, pids(tmp_path)))


@pytest.mark.parametrize("whom", ["launcher", "process"])
def test_sigterm_ends_with_the_status_of_a_stop(recipe: Path, tmp_path: Path, whom: str) -> None:
    process = start(recipe, tmp_path, "wait")
    started = pids(tmp_path)
    os.kill(started[1] if whom == "process" else process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 75, err


def test_without_their_launcher_processes_stop(recipe: Path, tmp_path: Path) -> None:
    process = start(recipe, tmp_path, "wait")
    started = pids(tmp_path)
    process.kill()
    deadline = time.monotonic() + 30
    while not all(map(gone, started)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_several_nodes_without_slurm_are_refused(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    _, err = start(recipe, tmp_path, "add", nodes=2).communicate(timeout=100)
    assert "--num_nodes 2: only jobs of Slurm have several nodes" in err
