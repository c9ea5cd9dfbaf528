"""Locks of run.sh: who is kept out, and which lock is taken over."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest


def script(recipe: Path, body: str) -> list[str]:
    text = f'. utils/log.sh; busy() {{ echo "busy: $1"; exit 2; }}; . utils/lock.sh; trap release_locks EXIT; {body}'
    return ["bash", "-c", f"cd '{recipe}'; set -eu; {text}"]


def run(recipe: Path, body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(script(recipe, body), capture_output=True, text=True, timeout=60)


def hold(recipe: Path, lock: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(script(recipe, f"take_lock '{lock}' 1 busy; sleep 30 & wait"), start_new_session=True)
    for _ in range(200):
        if (lock / "owner").exists():
            return process
        time.sleep(0.05)
    raise AssertionError("the lock was never taken")


def test_the_second_is_told_who_is_first(recipe: Path, tmp_path: Path) -> None:
    first = hold(recipe, tmp_path / "a b")
    second = run(recipe, f"take_lock '{tmp_path}/a b' 1 busy; echo taken")
    os.killpg(first.pid, signal.SIGTERM)
    first.wait()
    assert second.returncode == 2
    assert f"busy: {os.uname().nodename} {first.pid} 20" in second.stdout and "taken" not in second.stdout


def test_a_lock_is_given_back(recipe: Path, tmp_path: Path) -> None:
    assert run(recipe, f"take_lock '{tmp_path}/l' 1 busy").returncode == 0
    assert not (tmp_path / "l").exists()


@pytest.mark.parametrize("waited_for", [True, False])
def test_the_lock_of_a_killed_process_is_taken_over(recipe: Path, tmp_path: Path, waited_for: bool) -> None:
    first = hold(recipe, tmp_path / "l")
    os.killpg(first.pid, signal.SIGKILL)
    if waited_for:
        first.wait()
    else:  # a zombie, as in a container whose first process does not ask for its orphans
        os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
    second = run(recipe, f"take_lock '{tmp_path}/l' 60 busy; echo taken")
    assert second.stdout.endswith("taken\n") and f"{first.pid}" in second.stderr


def test_an_owner_on_another_host_lives_while_it_beats(recipe: Path, tmp_path: Path) -> None:
    lock = tmp_path / "l"
    lock.mkdir()
    beat = f"for i in $(seq 40); do echo \"elsewhere 7 then $i\" > '{lock}/owner'; sleep 0.2; done &"
    assert "busy: elsewhere 7 then" in run(recipe, f"{beat} take_lock '{lock}' 3 busy; echo taken").stdout
    (lock / "owner").write_text("elsewhere 7 then 1\n")
    assert run(recipe, f"take_lock '{lock}' 1 busy; echo taken").stdout == "taken\n"


def test_a_directory_without_permission_is_an_error(recipe: Path, tmp_path: Path) -> None:
    result = run(recipe, f"take_lock '{tmp_path}/none/l' 1 busy")
    assert (result.returncode, result.stderr) == (
        1,
        f"cannot make the lock {tmp_path}/none/l: No such file or directory\n",
    )


@pytest.mark.parametrize("reason", ["No space left on device", "Permission denied"])
def test_a_full_disk_is_told_from_one_without_permission(recipe: Path, tmp_path: Path, reason: str) -> None:
    (tmp_path / "mkdir").write_text(f"#!/bin/sh\necho \"mkdir: cannot create directory '$1': {reason}\" >&2; exit 1\n")
    (tmp_path / "mkdir").chmod(0o755)
    result = run(recipe, f"PATH={tmp_path}:$PATH; take_lock '{tmp_path}/l' 1 busy")
    assert (result.returncode, result.stderr) == (1, f"cannot make the lock {tmp_path}/l: {reason}\n")


def test_a_number_that_another_process_got_since_does_not_keep_a_lock(recipe: Path, tmp_path: Path) -> None:
    lock = tmp_path / "l"
    stat = Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()
    started, later = stat[19], str(int(stat[19]) + 1)
    for owner, said in ((f"{os.getpid()} then 1 {started}", "busy"), (f"{os.getpid()} then 1 {later}", "taken"),
                        (f"{os.getpid()} then 1", "busy"), ("4194304 then 1", "taken")):  # fmt: skip
        lock.mkdir(exist_ok=True)
        (lock / "owner").write_text(f"{os.uname().nodename} {owner}\n")
        assert said in run(recipe, f"take_lock '{lock}' 60 busy; echo taken").stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_users_living_lock_is_kept(recipe: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        first = hold(recipe, Path(name, "l"))
        words = script(recipe, f"take_lock '{name}/l' 1 busy; echo taken")
        words[2] = f"cp utils/log.sh utils/lock.sh '{name}/'; cd '{name}'; mkdir utils; mv *.sh utils/"
        subprocess.run(words, check=True, cwd=recipe)
        words = script(Path(name), f"take_lock '{name}/l' 1 busy; echo taken")
        second = subprocess.run(words, capture_output=True, text=True, timeout=60, user=65534)
        os.killpg(first.pid, signal.SIGTERM)
        first.wait()
    assert second.returncode == 2 and f"busy: {os.uname().nodename} {first.pid} 20" in second.stdout


def test_who_was_robbed_stops_and_leaves_the_lock_to_the_other(recipe: Path, tmp_path: Path) -> None:
    body = f"trap 'exit 143' TERM; take_lock '{tmp_path}/l' 1 busy; sleep 30 & wait"
    first = subprocess.Popen(script(recipe, body), stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (tmp_path / "l" / "owner").exists():
        time.sleep(0.05)
    (tmp_path / "l" / "owner").write_text("elsewhere 7 then 1\n")
    assert first.wait(20) == 143
    os.killpg(first.pid, signal.SIGKILL)
    assert "was taken over by another process (elsewhere 7 then 1): stopping" in first.communicate()[1]
    assert (tmp_path / "l" / "owner").read_text() == "elsewhere 7 then 1\n"
