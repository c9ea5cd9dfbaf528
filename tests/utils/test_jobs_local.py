"""utils/run.pl, as a user calls it: logs, quoting, exit status, concurrency, GPUs, interrupts."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runner import DATE, Runner, gone

IN_FRONT = ("env", "--default-signal")  # nohup and `&` leave signals ignored, and these tests may be started so


class RunPl(Runner):
    """run.pl in an empty folder."""

    def __init__(self, folder: Path, recipe: Path) -> None:
        command = [*IN_FRONT, sys.executable, str(recipe / "utils" / "run.pl")]
        super().__init__(command, folder, {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"})

    def read(self, name: str) -> str:
        return (self.root / name).read_text(encoding="utf-8")

    def output(self, name: str) -> str:
        """A log without its comment lines."""
        return "".join(line for line in self.read(name).splitlines(True) if not line.startswith("# ") and line != "#\n")


@pytest.fixture
def run(tmp_path: Path, recipe: Path) -> RunPl:
    return RunPl(tmp_path, recipe)


def test_success_is_silent_and_the_log_has_head_and_tail(run: RunPl) -> None:
    assert run("deep/er/a.log", "echo", "hello") == (0, "")
    lines = run.read("deep/er/a.log").splitlines()
    assert lines[0] == "# echo hello"
    assert re.fullmatch(f"# Started at {DATE}", lines[1])
    assert lines[2] == "#"
    assert re.fullmatch(r"# Running on \S+, GPU none, Python \S+, torch \S+", lines[3])
    assert lines[4] == "hello"
    assert re.fullmatch(r"# Accounting: time=\d+ threads=1", lines[5])
    assert re.fullmatch(rf"# Ended \(code 0\) at {DATE}, elapsed time \d+ seconds", lines[6])
    assert len(lines) == 7


def test_failure_names_the_log_and_shows_its_end(run: RunPl) -> None:
    status, err = run("a.log", "seq", "40", ";", "exit", "7")
    assert status == 1
    lines = err.splitlines()
    assert lines[0] == "run.pl: job failed, log is in a.log"
    assert lines[1] == "run.pl: status 7; the last lines of a.log:"
    assert len(lines) == 2 + 30
    assert lines[-3].strip() == "40"
    assert "# Ended (code 7) at" in lines[-1]


def test_array_failure_counts_and_the_others_finish(run: RunPl) -> None:
    status, err = run("JOB=1:10", "dir/x.JOB.log", "echo", "error:", "JOB;", "test", "$((JOB", "%", "4))", "-ne", "3")
    assert status == 1
    assert err.startswith("run.pl: 2 / 10 failed, log is in dir/x.*.log\nrun.pl: task 3: status 1; the last lines of ")
    assert "\n    error: 3\n" in err and "\n    task 7: error: 7\n" in err
    assert [run.output(f"dir/x.{i}.log") for i in range(1, 11)] == [f"error: {i}\n" for i in range(1, 11)]


@pytest.mark.parametrize(
    "words",
    [
        ("--mem", "4G", "JOB=2:3", "--num-threads", "2", "--time", "1:00:00"),
        ("JOB=2:3", "--num_threads", "2", "--max-jobs-run", "1", "-l", "x=y", "-V", "-pe", "smp", "2"),
        ("--name", "x", "--num-threads", "2", "--config", "f", "JOB=2:3"),
    ],
)
def test_options_and_range_are_interleaved(run: RunPl, words: tuple[str, ...]) -> None:
    assert run(*words, "x.JOB.log", "echo", "JOB-$OMP_NUM_THREADS") == (0, "")
    assert [run.output(f"x.{i}.log") for i in (2, 3)] == ["2-2\n", "3-2\n"]
    assert "threads=2\n" in run.read("x.2.log")


def test_any_identifier_and_a_single_number(run: RunPl) -> None:
    assert run("fold=3", "x.fold.log", "echo", "fold", "a/fold.b") == (0, "")
    assert run.output("x.3.log") == "3 a/3.b\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["JOB=1:2", "x.log", "true"], "2 tasks cannot share the log x.log: put JOB in its name"),
        (["JOB=1:2", "x.JOBS.log", "true"], "'JOB' is part of a longer word in 'x.JOBS.log'"),
        (["JOB=1:2", "x.JOB.log", "echo", "$SLURM_JOB_ID"], "'JOB' is part of a longer word in '$SLURM_JOB_ID'"),
        (["JOB=0:2", "x.JOB.log", "true"], "the range JOB=0:2 is empty or begins below 1"),
        (["JOB=3:2", "x.JOB.log", "true"], "the range JOB=3:2 is empty or begins below 1"),
        (["JOB=1-4", "x.JOB.log", "true"], "cannot read the range JOB=1-4: write JOB=1:n or JOB=n"),
        (["JOB=1:n", "x.JOB.log", "true"], "cannot read the range JOB=1:n"),
        (["--max-job-run", "3", "x.log", "true"], "unknown option --max-job-run (did you mean --max_jobs_run?)"),
        (["--mem=3G", "x.log", "true"], "options are two words: write --mem 3G, not --mem=3G"),
        (["--gpu", "--mem", "x.log", "true"], "option --gpu needs a value"),
        (["--num-threads", "two", "x.log", "true"], "--num_threads is a whole number from 1 on, not 'two'"),
        (["--max-jobs-run", "0", "x.log", "true"], "--max_jobs_run is a whole number from 1 on, not '0'"),
        (["--num-nodes", "2", "x.log", "true"], "--num_nodes: this runner has one machine"),
        (["--pick", "some", "x.log", "true"], "--pick is 'all' or 'failed', not 'some'"),
        (["x.log"], "usage: run.pl"),
        ([], "usage: run.pl"),
        (["/dev/null/x.log", "true"], "cannot make the folder of /dev/null/x.log"),
    ],
)
def test_wrong_calls_run_nothing(run: RunPl, words: list[str], message: str) -> None:
    status, err = run(*words)
    assert (status, err.startswith(f"run.pl: {message}"), err.count("\n")) == (1, True, 1), err
    assert list(run.root.iterdir()) == []


def test_words_reach_the_shell(run: RunPl) -> None:
    assert run("a.log", "echo", "a b  $HOME `x` it's", "|", "tr", "a-z", "A-Z", ">", "out", ";", "echo", "", "x") == (
        0,
        "",
    )
    assert run.read("out") == "A B  $HOME `X` IT'S\n"
    assert run.output("a.log") == " x\n"


def test_pipefail_and_no_standard_input(run: RunPl) -> None:
    assert run("a.log", "false", "|", "cat")[0] == 1
    assert run("b.log", "cat") == (0, "")


def test_stale_logs_do_not_survive(run: RunPl) -> None:
    (run.root / "x.2.log").write_text("# true\n# Ended (code 0) at some time\n")
    run("JOB=1:2", "x.JOB.log", "false")
    assert "(code 0)" not in run.read("x.2.log")


def test_pick_failed_runs_only_those(run: RunPl) -> None:
    words = ["JOB=1:4", "x.JOB.log", "echo", "JOB", ">>ran;", "test", "-e", "ok", "-o", "JOB", "-gt", "2"]
    status, err = run(*words)
    assert status == 1
    again = err.splitlines()[-1].partition("to rerun only what failed: ")[2]
    assert again.startswith("run.pl --pick failed JOB=1:4 x.JOB.log echo JOB '>>ran;' test")
    (run.root / "ran").unlink()
    (run.root / "ok").touch()
    assert run("--pick", "failed", *words) == (0, "")
    assert sorted(run.read("ran").split()) == ["1", "2"]
    (run.root / "ran").unlink()
    assert run("--pick", "failed", *words) == (0, "")
    assert not (run.root / "ran").exists()
    # A log of another command says nothing about this one.
    assert run("--pick", "failed", "JOB=1:4", "x.JOB.log", "echo", "JOB", ">>ran") == (0, "")
    assert len(run.read("ran").split()) == 4


def most_at_once(run: RunPl, *options: str, **env: str) -> int:
    """Greatest number of tasks that ran together, each noting its begin and its end."""
    (run.root / "steps").unlink(missing_ok=True)
    note = ["echo", "+1", ">>steps;", "sleep", "0.15;", "echo", "-1", ">>steps"]
    assert run(*options, "JOB=1:6", "l/x.JOB.log", *note, **env) == (0, "")
    running = [0]
    for step in run.read("steps").split():
        running.append(running[-1] + int(step))
    return max(running)


def test_how_many_at_once(run: RunPl) -> None:
    cores = len(os.sched_getaffinity(0))
    assert most_at_once(run) == min(6, cores)
    assert most_at_once(run, "--max-jobs-run", "3") == 3
    assert most_at_once(run, "--max-jobs-run", "4", "-tc", "1") == 1
    assert most_at_once(run, "--num-threads", str(cores)) == 1
    assert most_at_once(run, "--gpu", "1", CUDA_VISIBLE_DEVICES="4,5,6") == 3
    assert most_at_once(run, "--gpu", "1", "--jobs_per_gpu", "2", CUDA_VISIBLE_DEVICES="7") == 2


def test_each_slot_has_its_own_gpus(run: RunPl) -> None:
    devices = "GPU-a,1,3,5"

    def seen(*options: str, tasks: int = 4) -> set[str]:
        words = ["l/x.JOB.log", "echo", "$CUDA_VISIBLE_DEVICES;", "sleep", "0.3"]
        assert run(*options, f"JOB=1:{tasks}", *words, CUDA_VISIBLE_DEVICES=devices) == (0, "")
        return {run.output(f"l/x.{i}.log").strip() for i in range(1, tasks + 1)}

    assert seen("--gpu", "1") == {"GPU-a", "1", "3", "5"}
    assert seen("--gpu", "2", tasks=2) == {"GPU-a,1", "3,5"}
    assert seen("--gpu", "1", "--jobs-per-gpu", "2", tasks=4) == {"GPU-a", "1", "3", "5"}
    assert seen(tasks=1) == seen("--gpu", "0", tasks=1) == {""}


def test_gpus_are_found_by_nvidia_smi(run: RunPl) -> None:
    fake = run.root / "bin" / "nvidia-smi"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA X (UUID: GPU-1)'\necho 'GPU 1: NVIDIA X (UUID: GPU-2)'\n")
    fake.chmod(0o755)
    path = f"{fake.parent}:{os.environ['PATH']}"
    words = ["JOB=1:2", "x.JOB.log", "echo", "$CUDA_VISIBLE_DEVICES;", "sleep", "0.2"]
    assert run("--gpu", "1", *words, PATH=path) == (0, "")
    assert {run.output("x.1.log"), run.output("x.2.log")} == {"0\n", "1\n"}
    status, err = run("--gpu", "3", *words, PATH=path)
    assert (status, err) == (1, "run.pl: --gpu 3: there are 2 GPUs (0,1)\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupt_ends_all_that_was_started(run: RunPl, number: signal.Signals) -> None:
    # One child in the task's group, one in a new session, as torchrun starts its workers.
    script = "sleep 60 & echo $! >a.JOB; setsid sleep 60 & echo $! >b.JOB; touch up.JOB; wait"
    process = run.start("JOB=1:3", "--max-jobs-run", "2", "x.JOB.log", "bash", "-c", script)
    run.until("up.1", "up.2")
    pids = [int(run.read(f"{which}.{task}")) for which in "ab" for task in (1, 2)]
    begin = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 2
    assert err == f"run.pl: interrupted by {number.name}: 2 running tasks ended, 1 not begun\n"
    assert time.monotonic() - begin < 5
    assert all(map(gone, pids))
    assert "# Ended (code 143; signal 15) at" in run.read("x.1.log")
    assert not (run.root / "x.3.log").exists()


def test_a_signal_that_comes_twice_at_once_leaves_a_task_time_to_save(run: RunPl) -> None:
    script = "trap 'sleep 2; touch saved; exit 75' TERM; touch up; sleep 60 & wait"
    process = run.start("x.log", "bash", "-c", script)
    run.until("up")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert (run.root / "saved").exists() and "# Ended (code 75)" in run.read("x.log")


def test_nohup_is_respected(run: RunPl) -> None:
    run.command[len(IN_FRONT) : len(IN_FRONT)] = ["nohup"]
    process = run.start("x.log", "touch", "up;", "sleep", "0.5")
    run.until("up")
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_killed_tasks_are_reported(run: RunPl) -> None:
    status, err = run("x.log", "kill", "-9", "$$")
    assert (status, "killed by signal 9, probably for a lack of memory" in err) == (1, True)
    assert "# Ended (code 137; signal 9) at" in run.read("x.log")
    assert "killed by signal 9" in run("x.log", "sh", "-c", "kill -9 $$")[1]
    assert "killed by signal 11 (SIGSEGV)" in run("x.log", "kill", "-11", "$$")[1]
    assert "killed for memory (signal 9)" in run("x.log", "echo", "oom-kill:", ";", "kill", "-9", "$$")[1]
    for words in ("torch.OutOfMemoryError: CUDA", "DataLoader worker (pid 7) is killed by signal: Killed."):
        assert "it ran out of memory" in run("x.log", "echo", shlex.quote(words), ";", "false")[1]


def test_a_forgotten_range_is_reported(run: RunPl) -> None:
    assert "no range was given: JOB=1:n" in run("x.JOB.log", "false")[1]


def test_forty_tasks_cost_little(run: RunPl) -> None:
    begin = time.monotonic()
    assert run("JOB=1:40", "x.JOB.log", "true") == (0, "")
    assert time.monotonic() - begin < 5


STAGES = """set -eu
dry_run=false arguments=(--nj 2); . utils/log.sh; . utils/stages.sh
start_stage 3 training >&2; PATH=$PWD/utils:$PATH; cd "$1"; shift; "$@"
"""


def stage_3(recipe: Path, folder: Path, *words: str, start: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """A function of utils/stages.sh, as run.sh calls it in its third stage."""
    command = [*start, "bash", "-c", STAGES, "run.sh", str(folder), *words]
    return subprocess.Popen(command, cwd=recipe, stderr=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.parametrize(("ends", "status"), [((75, 0, 75), 75), ((75, 1, 75), 1), ((0, 1, 0), 1)])
def test_jobs_that_have_saved_and_can_be_continued_give_a_distinct_status(
    recipe: Path, tmp_path: Path, ends: tuple[int, ...], status: int
) -> None:
    one = f"ends=({' '.join(map(str, ends))}); exit ${{ends[JOB - 1]}}"
    process = stage_3(recipe, tmp_path, "submit", "run.pl JOB=1:3", "x.JOB.log", "bash", "-c", one)
    err = process.communicate(timeout=30)[1]
    assert process.returncode == status
    assert ("Stage 3 was stopped by SIGTERM and has saved; the same command continues." in err) == (status == 75)
    assert ("stopped by SIGTERM after saving (status 75); " in err) == (75 in ends)
    assert err.endswith(" To go on from there: ./run.sh --nj 2 --stage 3\n")


IN_BACKGROUND = ("env", "--ignore-signal=INT")


@pytest.mark.parametrize(
    ("number", "everybody", "start"),
    [
        (signal.SIGINT, True, IN_FRONT),
        (signal.SIGINT, False, IN_FRONT),
        (signal.SIGTERM, True, IN_FRONT),
        (signal.SIGTERM, False, IN_FRONT),
        (signal.SIGINT, True, IN_BACKGROUND),
        (signal.SIGTERM, True, IN_BACKGROUND),
    ],
)
def test_an_interrupted_run_sh_ends_with_the_signals_status(
    recipe: Path, tmp_path: Path, number: signal.Signals, everybody: bool, start: tuple[str, ...]
) -> None:
    """Ctrl-C reaches the runner too, which heeds it even where run.sh was started to ignore it."""
    process = stage_3(recipe, tmp_path, "submit", "run.pl", "x.log", "bash", "-c", "touch up; sleep 60", start=start)
    while not (tmp_path / "up").exists():
        time.sleep(0.02)
    os.killpg(process.pid, number) if everybody else process.send_signal(number)
    err = process.communicate(timeout=30)[1]
    assert process.returncode == 128 + number, err
    assert "1 running tasks ended, 0 not begun" in err and err.endswith(" --stage 3\n")


def test_jobs_end_when_run_sh_is_killed_without_a_chance_to_say_so(tmp_path: Path, recipe: Path) -> None:
    """kill -9 of the script that started run.pl: its jobs must not go on beside those of the next start."""
    caller = stage_3(recipe, tmp_path, "submit", "run.pl JOB=1:2", "JOB.log", "sleep", f"3217{os.getpid()}")
    find = ["pgrep", "-f", f"^sleep 3217{os.getpid()}$"]
    deadline = time.monotonic() + 60
    while len(subprocess.run(find, capture_output=True).stdout.split()) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(subprocess.run(find, capture_output=True).stdout.split()) == 2
    caller.kill()
    caller.wait()
    while subprocess.run(find, capture_output=True).stdout and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not subprocess.run(find, capture_output=True).stdout
