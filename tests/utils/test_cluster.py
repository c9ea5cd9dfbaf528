"""queue.pl and slurm.pl on a real Grid Engine and a real Slurm of one node, started here from Debian's packages."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine import Engine, running
from runner import gone

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["sge", "slurm"])
def engine(request: pytest.FixtureRequest, recipe: Path) -> Iterator[Engine]:
    with running(request.param, recipe) as engine:
        yield engine


def test_an_array_with_a_failing_task(engine: Engine) -> None:
    words = ["JOB=1:4", "a/x.JOB.log", "echo", "task  JOB", "$FROM_PATH_SH;", "test", "JOB", "-ne", "3"]
    status, err = engine("--num-threads", "1", "--max-jobs-run", "3", *words)
    assert status == 1
    assert f"{engine.program}: 1 / 4 failed, log is in a/x.*.log" in err
    assert f"{engine.program}: task 3: status 1; the last lines of a/x.3.log:" in err
    for task in (1, 2, 3, 4):
        log = (engine.root / f"a/x.{task}.log").read_text()
        assert f"\ntask  {task} yes\n" in log
        assert re.search(rf"# Finished at .* with status {int(task == 3)}\n$", log)
    status, err = engine("--pick", "failed", *words)
    assert status == 1
    assert "1 / 4 failed" in err
    assert engine(*words[:-1], "9") == (0, "")


def test_a_task_cancelled_by_the_user(engine: Engine) -> None:
    process = engine.start(
        "JOB=1:3", "b/x.JOB.log", "echo", "$$", ">b/pid.JOB;", "test", "JOB", "-ne", "2", "||", "sleep", "100"
    )
    engine.contents("b/pid.1", "b/pid.2", "b/pid.3")
    job = engine.job()
    deadline = time.monotonic() + 60
    # A deletion may be lost while Grid Engine does not know yet that the tasks have begun ("t", in transfer).
    while engine.name == "sge" and re.search(rf"^ *{job} .* t ", engine.queue(), re.M) and time.monotonic() < deadline:
        time.sleep(0.5)
    begin = time.monotonic()
    engine.ask(*(["qdel", f"{job}.2"] if engine.name == "sge" else ["scancel", f"{job}_2"]))
    err = process.communicate(timeout=150)[1]
    assert (process.returncode, "1 / 3 failed" in err) == (1, True)
    assert {"sge": "task 2: killed by signal 9 from outside: deleted (qdel)", "slurm": "task 2: cancelled (scancel)"}[
        engine.name
    ] in err
    assert time.monotonic() - begin < 60


def test_a_task_killed_by_signal_9(engine: Engine) -> None:
    # First a process of the task, which leaves its script alive; then the script too, which leaves no mark.
    status, err = engine("c/x.log", "sh", "-c", "kill -9 $$")
    assert (status, "killed by signal 9, probably for a lack of memory" in err) == (1, True)
    process = engine.start("c/y.log", "echo", "$PPID", ">c/pid;", "sleep", "100")
    (pid,) = engine.contents("c/pid")
    os.kill(int(pid), signal.SIGKILL)
    begin = time.monotonic()
    err = process.communicate(timeout=150)[1]
    assert (process.returncode, "killed by signal 9 from outside" in err) == (1, True), err
    assert time.monotonic() - begin < 60


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_cancels_the_job(engine: Engine, number: signal.Signals) -> None:
    folder = f"d{number}"
    process = engine.start("JOB=1:3", f"{folder}/x.JOB.log", "echo", "$$", f">{folder}/pid.JOB;", "sleep", "100")
    pids = engine.contents(*(f"{folder}/pid.{task}" for task in (1, 2, 3)))
    process.send_signal(number)
    err = process.communicate(timeout=20)[1]
    assert process.returncode == 2
    assert re.search(rf"interrupted by {number.name}: cancelled job \d+ \(0 of 3 tasks had ended\)", err)
    deadline = time.monotonic() + 20
    while not all(map(gone, pids)) or engine.queue():
        assert time.monotonic() < deadline, engine.queue()
        time.sleep(0.2)


def test_a_job_that_can_never_run_is_reported(engine: Engine) -> None:
    words = {"sge": ["--gpu", "1"], "slurm": ["-p", "short", "--time", "10"]}[engine.name]
    process = engine.start(*words, "e/x.log", "true", SERMTL_QUEUE_PATIENCE="2", SERMTL_ASK_EVERY="1")
    assert process.stderr
    line = process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    reason = {"sge": "cannot run in queue .* job requests unknown resource \\(gpu\\)", "slurm": "PartitionTimeLimit"}
    assert re.search(rf"{engine.program}: job \d+ still waits; .*{reason[engine.name]}", line)
    assert process.returncode == 2


def test_a_probe_finds_a_broken_environment(engine: Engine) -> None:
    assert engine("--check", "true", "p/x.log", "true") == (0, "")
    good = (engine.root / "path.sh").read_text()
    (engine.root / "path.sh").write_text("echo no such module >&2\nreturn 1\n")
    status, err = engine("--check", "true", "p/y.log", "true")
    (engine.root / "path.sh").write_text(good)
    assert (status, "no such module" in err, "nothing else was submitted" in err) == (1, True, True)
    assert not (engine.root / "p/y.log").exists()


def test_a_refused_job_is_reported(engine: Engine) -> None:
    words = {"sge": ["-q", "nope"], "slurm": ["-p", "nope"]}[engine.name]
    status, err = engine(*words, "f/x.log", "true")
    assert (status, "took no job" in err, "nope" in err) == (1, True, True)


def test_a_task_over_its_time(engine: Engine) -> None:
    if engine.name == "slurm":
        pytest.skip("Slurm's shortest limit is a minute, which it looks at every half minute")
    status, err = engine("--time", "0:0:2", "g/x.log", "sleep", "60")
    assert (status, "over its time or memory limit" in err) == (1, True)


def test_an_array_of_many_tasks(engine: Engine) -> None:
    assert engine("JOB=1:60", "h/x.JOB.log", "true") == (0, "")
    assert len(list((engine.root / "h").glob("x.*.log"))) == 60


@pytest.fixture
def two_nodes(engine: Engine) -> Engine:
    if engine.name == "sge":
        pytest.skip("one fold on several hosts is for Slurm only")
    engine.env["PYTHONPATH"] = str(engine.recipe)
    return engine


def test_one_fold_on_two_nodes(two_nodes: Engine, tmp_path: Path) -> None:
    """Both nodes are this host; the training is that of one process."""
    from processes import check_same, small_corpus_without_dropout, words

    corpus = small_corpus_without_dropout(tmp_path)
    program = [sys.executable, "-m", "sermtl.bin.train"]
    runner = ["-p", "pair", "--num_nodes", "2", "--num_threads", "1"]
    subprocess.run(
        [*program, *map(str, words(corpus, tmp_path / "one"))], env=two_nodes.env, check=True, capture_output=True
    )
    given = [*program, "--num_nodes", "2", *map(str, words(corpus, tmp_path / "two"))]
    assert two_nodes(*runner, "n/x.log", *given) == (0, "")
    assert "2 processes, each 1 CPU threads" in (two_nodes.root / "n/x.log").read_text()
    check_same(tmp_path / "two", tmp_path / "one")


def test_a_process_killed_on_one_node_ends_the_job_on_both(two_nodes: Engine) -> None:
    two_nodes.env["PYTHONPATH"] = f"{two_nodes.recipe}:{two_nodes.recipe}/tests/helpers"
    launch = "import sys; from sermtl.train.launch import launch; sys.exit(launch('rank_program', sys.argv[1:], 1, 2))"
    words = ["-p", "pair", "--num_nodes", "2", "o/x.log", sys.executable, "-c", launch]
    process = two_nodes.start(*words, "wait", "o")
    pids = two_nodes.contents("o/pid.0", "o/pid.1")
    os.kill(int(pids[1]), signal.SIGKILL)
    begin = time.monotonic()
    err = process.communicate(timeout=150)[1]
    # Which node Slurm ends first, and so the signal that it tells, is chance; the process's own end is not.
    assert (process.returncode, "slurm.pl: killed by signal" in err) == (1, True), err
    assert "error: process 1 was killed by signal 9 (SIGKILL)" in err
    assert time.monotonic() - begin < 60
    assert all(map(gone, pids))
