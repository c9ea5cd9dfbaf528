"""path.sh: an environment made once, renewed, redone, shared. Python and pip are played by a stand-in."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

# Plays python3 of FAKE_VERSION; `-m venv` copies itself; `-m pip` notes the call, may wait or fail.
PYTHON = r"""#!/bin/bash
echo "$*" >>python.calls
case "$1 $2" in
    "-c import sys"*) echo "${FAKE_VERSION:-3.11}" ;;
    "-c import ensurepip"*) [[ -z ${FAKE_NO_VENV:-} ]] ;;
    "-V "*) echo "Python ${FAKE_VERSION:-3.11}.7" ;;
    "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && ln -s python "$3/bin/python3" ;;
    "-m pip")
        echo "$*" >>pip.calls
        echo "Collecting torch"
        [[ -z ${FAKE_WAIT:-} ]] || { touch waiting; while [[ -e waiting ]]; do sleep 0.05; done; }
        [[ -z ${FAKE_FAIL:-} ]] || { echo "ERROR: No matching distribution"; exit 1; }
        ;;
esac
"""


class Recipe:
    """A folder with path.sh and a stand-in Python; called with a bash text to run after `. ./path.sh`."""

    def __init__(self, folder: Path, recipe: Path) -> None:
        self.folder = folder / "recipe"
        (self.folder / "utils").mkdir(parents=True)
        shutil.copy(recipe / "path.sh", self.folder)
        for name in ("make_env.sh", "lock.sh"):
            shutil.copy(recipe / "utils" / name, self.folder / "utils")
        (self.folder / "pyproject.toml").write_text("[project]\n")
        (self.folder / "constraints.txt").write_text("torch==1\n")
        fake = folder / "fake" / "python3"
        fake.parent.mkdir()
        fake.write_text(PYTHON)
        fake.chmod(0o755)
        self.path = f"{fake.parent}:/usr/bin:/bin"

    def start(self, script: str = "true", **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", "-c", f"set -euo pipefail; . ./path.sh; {script}"],
            cwd=self.folder,
            env={"PATH": self.path, "HOME": "/tmp", **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # a test run that was started in the background ignores SIGINT, and so would its children
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def __call__(self, script: str = "true", **env: str) -> tuple[int, str, str]:
        process = self.start(script, **env)
        out, err = process.communicate(timeout=20)
        return process.returncode, out, err

    def pip_calls(self) -> int:
        file = self.folder / "pip.calls"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def until(self, name: str) -> None:
        deadline = time.monotonic() + 10
        while not (self.folder / name).exists():
            assert time.monotonic() < deadline, f"{name} did not come"
            time.sleep(0.02)


@pytest.fixture
def shell(tmp_path: Path, recipe: Path) -> Recipe:
    return Recipe(tmp_path, recipe)


def test_first_use_installs_and_says_so(shell: Recipe) -> None:
    status, out, err = shell('echo "${PATH%%:/usr*}"; command -v python3')
    root = shell.folder
    assert status == 0
    assert out.splitlines()[0].startswith(f"{root}/utils:{root}/.venv/bin:")
    assert out.splitlines()[1] == f"{root}/.venv/bin/python3"
    assert "path.sh: making .venv with Python 3.11.7" in err and "installed in" in err
    assert (root / "pip.calls").read_text() == (
        "-m pip --disable-pip-version-check --no-input install --no-compile -c constraints.txt -e .[test]\n"
    )
    assert "Collecting torch" in (root / ".venv" / "install.log").read_text()


def test_second_use_is_silent_and_starts_no_python(shell: Recipe) -> None:
    shell()
    before = (shell.folder / "python.calls").read_text()
    assert shell() == (0, "", "")
    assert shell.pip_calls() == 1
    assert (shell.folder / "python.calls").read_text() == before, "a second use must not cost a start of Python"


def test_what_it_sets(shell: Recipe) -> None:
    names = "LC_ALL OMP_NUM_THREADS PYTHONUTF8 PYTHONUNBUFFERED"
    show = f"for n in {names}; do echo $n=${{!n}}; done"
    assert shell(show)[1].split() == ["LC_ALL=C", "OMP_NUM_THREADS=1", "PYTHONUTF8=1", "PYTHONUNBUFFERED=1"]
    assert "OMP_NUM_THREADS=4" in shell(show, OMP_NUM_THREADS="4")[1]


def test_sourcing_twice_adds_nothing_and_leaves_no_names(shell: Recipe) -> None:
    shell()
    out = shell("a=$PATH; . ./path.sh; [[ $a == $PATH ]]; unset a; compgen -v; compgen -A function")[1]
    bare = subprocess.run(["bash", "-c", "compgen -v; compgen -A function"], capture_output=True, text=True).stdout
    new = set(out.split()) - set(bare.split())
    assert new <= {
        "OMP_NUM_THREADS",
        "OMP_WAIT_POLICY",
        "PYTHONUTF8",
        "PYTHONUNBUFFERED",
        "LC_ALL",
        "PIPESTATUS",
        "BASH_REMATCH",
    }


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_change_renews(shell: Recipe, name: str) -> None:
    shell()
    (shell.folder / name).write_text("other\n")
    (shell.folder / ".venv" / "kept").touch()
    assert "renewing .venv" in shell()[2]
    assert (shell.pip_calls(), (shell.folder / ".venv" / "kept").exists()) == (2, True)
    assert shell() == (0, "", "")


def test_a_failing_renewal_keeps_the_environment(shell: Recipe) -> None:
    shell()
    (shell.folder / "constraints.txt").write_text("other\n")
    (shell.folder / ".venv" / "kept").touch()
    assert shell(FAKE_FAIL="1")[0] == 1
    assert shell()[0] == 0
    assert (shell.folder / ".venv" / "kept").exists()


def test_a_moved_recipe_is_installed_anew(shell: Recipe) -> None:
    shell()
    shell.folder = shell.folder.rename(shell.folder.parent / "elsewhere")
    assert "making .venv" in shell()[2]
    assert shell.pip_calls() == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_install_is_redone(shell: Recipe, number: int) -> None:
    process = shell.start(FAKE_WAIT="1")
    shell.until("waiting")
    os.killpg(process.pid, number)
    assert process.wait(10) != 0
    (shell.folder / ".venv" / "half").touch()
    (shell.folder / "waiting").unlink()
    status, _, err = shell()
    assert (status, "making .venv" in err) == (0, True)
    assert not (shell.folder / ".venv" / "half").exists()


def test_never_two_installs_at_once(shell: Recipe) -> None:
    first = shell.start(FAKE_WAIT="1")
    shell.until("waiting")
    others = [shell.start() for _ in range(3)]
    time.sleep(0.7)
    assert shell.pip_calls() == 1
    (shell.folder / "waiting").unlink()
    messages = [process.communicate(timeout=10)[1] for process in [first, *others]]
    assert [process.returncode for process in [first, *others]] == [0, 0, 0, 0]
    assert shell.pip_calls() == 1
    assert all("waiting for the install" in message for message in messages[1:])


def test_a_pip_that_outlives_its_install_is_waited_for(shell: Recipe) -> None:
    first = shell.start(FAKE_WAIT="1")
    shell.until("waiting")
    install = int((shell.folder / ".venv" / "installing").read_text().split()[1])
    os.kill(install, signal.SIGKILL)
    assert first.wait(10) != 0
    second = shell.start()
    time.sleep(0.7)
    assert shell.pip_calls() == 1
    (shell.folder / "waiting").unlink()
    assert f"process {install}," in second.communicate(timeout=10)[1]
    assert (second.returncode, shell.pip_calls()) == (0, 2)


def test_pip_failure_shows_the_log(shell: Recipe) -> None:
    status, out, err = shell("echo reached", FAKE_FAIL="1")
    assert (status, out) == (1, "")
    assert "ERROR: No matching distribution" in err
    assert f"pip could not install what the recipe needs (the whole log: {shell.folder}/.venv/install.log)" in err


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"FAKE_VERSION": "3.9"}, ["needs Python 3.10 to 3.12", "python3 is 3.9", "SERMTL_PYTHON="]),
        ({"FAKE_VERSION": "3.13"}, ["needs Python 3.10 to 3.12", "python3 is 3.13"]),
        ({"FAKE_NO_VENV": "1"}, ["without venv", "apt install python3.11-venv"]),
    ],
)
def test_unusable_python_is_named(shell: Recipe, env: dict[str, str], words: list[str]) -> None:
    shell.path = f"{shell.path.split(':')[0]}:{_only_tools(shell.folder.parent)}"
    status, _, err = shell(**env)
    assert status == 1
    for word in words:
        assert word in err


def _only_tools(folder: Path) -> Path:
    """A folder with the programs that path.sh uses, and no Python."""
    tools = folder / "tools"
    tools.mkdir()
    for name in "bash cat date find flock mkdir mv readlink rm tail uname".split():
        (tools / name).symlink_to(str(shutil.which(name)))
    return tools


def test_a_hand_made_environment_is_left_alone(shell: Recipe) -> None:
    mine = shell.folder / ".venv" / "mine"
    mine.mkdir(parents=True)
    status, _, err = shell()
    assert (status, mine.exists()) == (1, True)
    assert "was not made by path.sh" in err


def test_an_existing_python_is_used_as_it_is(shell: Recipe) -> None:
    own = shell.folder.parent / "fake" / "python3"
    out = shell("command -v python3; echo $PYTHONPATH; . ./path.sh; echo $PYTHONPATH", SERMTL_PYTHON=str(own))[1]
    assert out.split() == [str(own), str(shell.folder), str(shell.folder)]
    assert not (shell.folder / ".venv").exists()


def test_wrong_sermtl_python(shell: Recipe) -> None:
    assert "is no absolute path of a program" in shell(SERMTL_PYTHON="/none/python3")[2]
    other = shell.folder / "python3.11"
    shutil.copy(shell.folder.parent / "fake" / "python3", other)
    status, _, err = shell(SERMTL_PYTHON=str(other))
    assert (status, "is not the same program" in err) == (1, True)


def test_a_site_file_is_sourced_last(shell: Recipe) -> None:
    (shell.folder / "local").mkdir()
    (shell.folder / "local" / "path.sh").write_text("export OMP_NUM_THREADS=7\n")
    assert shell("echo $OMP_NUM_THREADS")[1] == "7\n"
    (shell.folder / "local" / "path.sh").write_text("false\n")
    assert shell("echo reached")[:2] == (1, "")


def test_elsewhere_than_in_the_root(shell: Recipe) -> None:
    done = subprocess.run(
        ["bash", "-c", f"set -e; . {shell.folder}/path.sh"], cwd="/", capture_output=True, text=True, timeout=10
    )
    assert (done.returncode, f"cd '{shell.folder}' && . ./path.sh" in done.stderr) == (1, True)
