"""Locks of run.sh and of the installation by path.sh: which process waits or is refused, and until when."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest


def script(recipe: Path, body: str) -> list[str]:
    return ["bash", "-euc", f"cd '{recipe}'; . utils/lock.sh; busy() {{ echo \"busy: $1\"; exit 2; }}; {body}"]


def run(recipe: Path, body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(script(recipe, body), capture_output=True, text=True, timeout=60)


def hold(recipe: Path, lock: Path, then: str = "sleep 30") -> subprocess.Popen[bytes]:
    body = f"take_lock '{lock}' busy; (without_locks {then}) & wait"
    process = subprocess.Popen(script(recipe, body), start_new_session=True)
    for _ in range(200):
        if lock.exists() and lock.read_text().endswith("\n"):
            return process
        time.sleep(0.05)
    raise AssertionError("the lock was never taken")


def test_the_second_learns_who_is_first(recipe: Path, tmp_path: Path) -> None:
    first = hold(recipe, tmp_path / "a b")
    second = run(recipe, f"take_lock '{tmp_path}/a b' busy; echo taken")
    os.killpg(first.pid, signal.SIGTERM)
    first.wait()
    assert second.returncode == 2
    assert second.stdout.startswith(f"busy: (host {os.uname().nodename}, process {first.pid}, since 20")
    assert "taken" not in second.stdout


def test_one_that_waits_gets_the_lock_when_the_first_ends(recipe: Path, tmp_path: Path) -> None:
    first = hold(recipe, tmp_path / "l", "sleep 1")
    second = run(recipe, f"wait_for() {{ echo \"waits for $1\"; }}; take_lock '{tmp_path}/l' wait_for; echo taken")
    assert second.stdout.startswith(f"waits for (host {os.uname().nodename}, process {first.pid}, since 20")
    assert second.stdout.endswith("taken\n")
    assert first.wait() == 0


def test_a_killed_process_leaves_its_lock_though_its_child_lives_on(recipe: Path, tmp_path: Path) -> None:
    first = hold(recipe, tmp_path / "l")
    first.kill()
    first.wait()
    os.killpg(first.pid, 0)  # the child is there
    second = run(recipe, f"take_lock '{tmp_path}/l' busy; echo taken")
    os.killpg(first.pid, signal.SIGKILL)
    assert (second.stdout, second.stderr) == ("taken\n", "")


def test_a_directory_that_cannot_be_written_is_an_error(recipe: Path, tmp_path: Path) -> None:
    result = run(recipe, f"take_lock '{tmp_path}/none/l' busy")
    assert result.returncode == 1
    assert result.stderr == f"cannot make the lock {tmp_path}/none/l: No such file or directory\n"


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [("{fake}", 0, "{lock}: no locks on this file system"), ("/none", 1, "there is no program flock")],
)
def test_what_cannot_be_locked_is_named(recipe: Path, tmp_path: Path, path: str, status: int, message: str) -> None:
    fake, lock = tmp_path / "flock", tmp_path / "l"
    fake.write_text('#!/bin/sh\necho "flock: $2: Function not implemented" >&2; exit 65\n')
    fake.chmod(0o755)
    result = run(recipe, f"PATH={path.format(fake=tmp_path)}; take_lock '{lock}' busy; echo goes on")
    assert (result.returncode, "goes on" in result.stdout) == (status, status == 0)
    assert message.format(lock=lock) in result.stderr
