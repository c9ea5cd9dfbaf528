"""utils/queue.pl and slurm.pl against stand-ins for the engines' commands.

What one real node cannot show: files that come late, a master that does not answer, hosts that lose tasks.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from runner import DATE
from stand_in_cluster import INDEX, LIST, SUBMIT, Cluster


@pytest.fixture(params=["queue.pl", "slurm.pl"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path, recipe: Path) -> Cluster:
    return Cluster(tmp_path, recipe, request.param)


@pytest.fixture
def sge(tmp_path: Path, recipe: Path) -> Cluster:
    return Cluster(tmp_path, recipe, "queue.pl")


@pytest.fixture
def slurm(tmp_path: Path, recipe: Path) -> Cluster:
    return Cluster(tmp_path, recipe, "slurm.pl")


def test_an_array_is_silent_and_logged(cluster: Cluster) -> None:
    words = ["JOB=1:3", "log/x.JOB.log", "echo", "a JOB $HOME", "|", "cat;", "echo", "[$CUDA_VISIBLE_DEVICES]"]
    assert cluster("--num-threads", "2", *words) == (0, "")
    lines = cluster.log("log/x.2.log")
    assert re.fullmatch(r"# Running on \S+", lines[0])
    assert re.fullmatch(f"# Started at {DATE}", lines[1])
    if cluster.program == "slurm.pl":
        assert lines.pop(2) == "# SLURM_ARRAY_TASK_ID=2"
    assert lines[2] == "# echo 'a 2 $HOME' | cat; echo [$CUDA_VISIBLE_DEVICES]"
    assert lines[3:5] == ["a 2 $HOME", "[]"]
    assert re.fullmatch(r"# Accounting: time=\d+ threads=2", lines[5])
    assert re.fullmatch(f"# Finished at {DATE} with status 0", lines[6])
    assert len(lines) == 7
    assert {path.name for path in (cluster.root / "log" / "q").iterdir()} == {"x.sh"}


def test_a_single_task(cluster: Cluster) -> None:
    assert cluster("x.log", "echo", "JOB") == (0, "")
    assert "JOB" in cluster.log("x.log")
    assert " -t " not in cluster.submitted() and "--array" not in cluster.submitted()


def test_tasks_that_were_asked_to_stop(cluster: Cluster) -> None:
    status, err = cluster("JOB=1:3", "log/x.JOB.log", "exit", "$((75", "*", "(JOB", "%", "2)))")
    assert status == 75 and "2 / 3 failed" in err
    assert f"{cluster.program}: task 1: stopped by SIGTERM after saving (status 75); " in err
    assert cluster("JOB=1:3", "log/x.JOB.log", "exit", "$((74", "+", "JOB", "%", "2))")[0] == 1


def test_a_failing_task(cluster: Cluster) -> None:
    status, err = cluster("JOB=1:3", "log/x.JOB.log", "seq", "50;", "exit", "$((JOB", "%", "2))")
    assert status == 1
    lines = err.splitlines()
    assert lines[0] == f"{cluster.program}: 2 / 3 failed, log is in log/x.*.log"
    assert lines[1] == f"{cluster.program}: task 1: status 1; the last lines of log/x.1.log:"
    assert len(lines) == 2 + 30 + 1
    assert lines[-1].startswith(
        f"{cluster.program}: to rerun only what failed: {cluster.program} --pick failed JOB=1:3"
    )
    assert "with status 0" in cluster.log("log/x.2.log")[-1]


def test_pick_failed_submits_only_those(cluster: Cluster) -> None:
    words = [
        "JOB=2:6",
        "log/x.JOB.log",
        "echo",
        "JOB",
        ">>ran;",
        "test",
        "-e",
        "ok",
        "-o",
        "$((JOB",
        "%",
        "2))",
        "=",
        "1",
    ]
    assert cluster(*words)[0] == 1
    (cluster.root / "ran").unlink()
    (cluster.root / "ok").touch()
    assert cluster("--pick", "failed", *words) == (0, "")
    assert sorted((cluster.root / "ran").read_text().split()) == ["2", "4", "6"]
    assert "1-3" in cluster.submitted(1)
    assert cluster("--pick", "failed", *words) == (0, "")
    assert cluster.submissions() == 2


def test_options_become_the_words_of_the_configuration(cluster: Cluster) -> None:
    options = "--mem 4G --num-threads 3 --time 1:00:00 --name n --gpu 2 --max-jobs-run 2 -p main".split()
    assert cluster(*options, "JOB=1:4", "x.JOB.log", "true") == (0, "")
    script = f"{cluster.root}/q/x.sh"
    assert (
        cluster.submitted()
        == {
            "queue.pl": f"-v PATH -cwd -S /bin/bash -j y -N n -o {cluster.root}/q/x.out -t 1-4 -l gpu=2 -l mem_free=4G "
            f"-pe smp 3 -l h_rt=1:00:00 -N n -tc 2 -p main {script}",
            "slurm.pl": f"--export=ALL --job-name n --output {cluster.root}/q/x.out --open-mode append --array 1-4%2 "
            f"--gres=gpu:2 --mem 4G --cpus-per-task 3 --time 1:00:00 --job-name n -p main {script}",
        }[cluster.program]
    )


def test_values_that_need_no_words(cluster: Cluster) -> None:
    assert cluster("--mem", "0", "--gpu", "0", "--max-jobs-run", "3", "01F.log", "true") == (0, "")
    name = "-N" if cluster.program == "queue.pl" else "--job-name"
    assert re.search(rf"{name} j01F .*/01F.out( --open-mode append)? \S+/01F.sh$", cluster.submitted())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("options mem=* -l mem=$0", "c.conf:2: cannot read 'options mem=* -l mem=$0'; a line is `command WORDS`"),
        ("option mem -l mem=$0", "c.conf:2: cannot read 'option mem -l mem=$0'"),
        ("default gpu", "c.conf:2: cannot read 'default gpu'"),
        ("option mem=* -l 'x", "c.conf:2: cannot read 'option mem=* -l 'x': No closing quotation"),
        ("option mem=2G -l x", "c.conf has no line for --mem 4G: add one, for example `option mem=4G"),
        ("option time=* -l x=$0", "c.conf has no line for --mem 4G: add one, for example `option mem=* -"),
    ],
)
def test_configuration_errors(sge: Cluster, line: str, message: str) -> None:
    (sge.root / "c.conf").write_text(f"command qsub -x  # comment\n{line}\n")
    status, err = sge("--config", "c.conf", "--mem", "4G", "x.log", "true")
    assert (status, err.startswith(f"{sge.program}: {message}")) == (1, True), err
    assert (sge.submissions(), (sge.root / "q").exists()) == (0, False)


def test_configuration_missing_or_without_command(sge: Cluster) -> None:
    assert "cannot read none.conf" in sge("--config", "none.conf", "x.log", "true")[1]
    (sge.root / "c.conf").write_text("# nothing\n")
    assert "c.conf: no line gives the submit command" in sge("--config", "c.conf", "x.log", "true")[1]


def test_a_named_value_beats_the_star(sge: Cluster) -> None:
    text = "command qsub\noption q=* --any $0\noption q=a --own 'two words'\ndefault q=b\n"
    (sge.root / "c.conf").write_text(text)
    for i, words in enumerate([["--q", "a"], ["--q", "c"], []]):
        assert sge("--config", "c.conf", *words, "x.log", "true") == (0, "")
        assert ["--own two words", "--any c", "--any b"][i] in sge.submitted(i)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["JOB=1:2", "x.log", "true"], "2 tasks cannot share the log x.log: put JOB in its name"),
        (["--mem", "x.log"], "usage"),
        (["--colour", "red", "x.log", "true"], "has no line for --colour red: add one"),
    ],
)
def test_wrong_calls_submit_nothing(cluster: Cluster, words: list[str], message: str) -> None:
    status, err = cluster(*words)
    assert (status, message in err, cluster.submissions()) == (1, True, 0), err


def test_no_scheduler_here(cluster: Cluster) -> None:
    (cluster.fake / "bin" / SUBMIT[cluster.program]).unlink()
    cluster.env["PATH"] = f"{cluster.fake}/bin"
    status, err = cluster("x.log", "true")
    assert (status, err.count("\n")) == (1, 1)
    assert f"cannot start {SUBMIT[cluster.program]}" in err and "--cmd_backend local" in err


def test_a_refused_job_shows_why_and_how(cluster: Cluster) -> None:
    cluster.says("refuse", "error: invalid partition specified: nope\n")
    status, err = cluster("x.log", "true")
    assert status == 1
    assert f"{SUBMIT[cluster.program]} took no job: error: invalid partition specified: nope\nthe command was:" in err
    assert cluster.submissions() == 1


def test_a_busy_master_is_asked_again(cluster: Cluster) -> None:
    cluster.says("refuse", "error: unable to contact qmaster using port 6444 on host\n")
    assert cluster("x.log", "true") == (0, "")
    assert cluster.submissions() == 2
    cluster.says("refuse", "error: Unable to contact slurm controller\n")
    cluster.says("always", "")
    assert cluster("x.log", "true")[0] == 1
    assert cluster.submissions() == 2 + 4


def test_an_interrupt_before_anything_was_submitted(cluster: Cluster) -> None:
    cluster.says("refuse", "error: unable to contact qmaster\n")
    cluster.says("always", "")
    cluster.env["SERMTL_ASK_EVERY"] = "10"
    process = cluster.start("x.log", "true")
    cluster.until("submitted.0")
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=5)[1]
    assert (process.returncode, err) == (2, f"{cluster.program}: interrupted by SIGINT: nothing was submitted\n")


def test_late_mark_and_late_log_are_waited_for(cluster: Cluster) -> None:
    cluster.says(
        "run",
        """
sed -e "s#^job_mark=.*#job_mark=$FAKE/done#" -e "s#^job_log=.*#job_log=$FAKE/x.log#" "$SCRIPT" >"$FAKE/script"
bash "$FAKE/script"
mark=$(sed -n 's/^job_mark=//p' "$SCRIPT")
sleep 0.5; : >"$mark.1"; sleep 0.5; cp "$FAKE/done.1" "$mark.1"; sleep 0.5; cp "$FAKE/x.log" x.log
""",
    )
    assert cluster("x.log", "echo", "hello") == (0, "")
    assert "hello" in cluster.log("x.log")


def test_a_log_that_never_comes_is_a_failure(cluster: Cluster) -> None:
    cluster.says("run", 'sed "s#^job_log=.*#job_log=$FAKE/x.log#" "$SCRIPT" | bash\n')
    status, err = cluster("x.log", "true")
    assert (status, "it succeeded, but its log did not reach this host within 1 s" in err) == (1, True)


def test_a_task_that_vanished_is_a_failure(cluster: Cluster) -> None:
    cluster.says("run", f"{INDEX[cluster.program]}=1 bash $SCRIPT\n")
    begin = time.monotonic()
    status, err = cluster("JOB=1:2", "x.JOB.log", "true")
    assert status == 1
    assert 1 < time.monotonic() - begin < 6
    assert f"{cluster.program}: 1 / 2 failed" in err
    assert "task 2: it left the queue of job 7 without a mark" in err


def test_a_master_that_is_lost_does_not_lose_the_tasks(cluster: Cluster) -> None:
    cluster.says(LIST[cluster.program], "1\nerror: unable to contact the master\n")
    cluster.says("run", f"sleep 1.5; {INDEX[cluster.program]}=1 bash $SCRIPT\n")
    status, err = cluster("x.log", "true")
    assert status == 0
    assert err == f"{cluster.program}: the scheduler does not answer; still waiting for job 7\n"


PENDING = {
    "queue.pl": "0\n      7 0.5 x {user} qw 11/22/2026 17:52:35                  1 1\n",
    "slurm.pl": "0\n{reason}\n",
}


def user() -> str:
    return subprocess.run(["id", "-un"], capture_output=True, text=True).stdout.strip()


def test_waiting_for_ever_is_reported_and_an_interrupt_cancels(cluster: Cluster) -> None:
    cluster.says("run", "true")
    cluster.says("qstat", PENDING["queue.pl"].format(user=user()))
    cluster.says("qalter", '1\nJob 7 (-l gpu=1) cannot run in queue "all.q" because it offers only gpu=0\n')
    cluster.says(
        "bin/squeue", '#!/bin/bash\ncase $* in *%K*) echo "N/A|PENDING|x" ;; *) echo PartitionTimeLimit ;; esac\n'
    )
    process = cluster.start("x.log", "true")
    cluster.until("qalter.called") if cluster.program == "queue.pl" else time.sleep(1.2)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=10)[1]
    assert process.returncode == 2
    first, second = err.splitlines()
    reason, cancel = {
        "queue.pl": ("because it offers only gpu=0", "qdel"),
        "slurm.pl": ("Slurm's reason: PartitionTimeLimit", "scancel"),
    }[cluster.program]
    assert first.startswith(f"{cluster.program}: job 7 still waits; ") and reason in first
    assert second == f"{cluster.program}: interrupted by SIGINT: cancelled job 7 (0 of 1 tasks had ended)"
    assert (cluster.fake / f"{cancel}.called").read_text() == "7\n"
    assert list((cluster.root / "q").iterdir()) == [cluster.root / "q" / "x.sh"]


def test_waiting_for_others_is_not_reported(slurm: Cluster) -> None:
    slurm.says("bin/squeue", '#!/bin/bash\ncase $* in *%K*) echo "N/A|PENDING|x" ;; *) echo Priority ;; esac\n')
    slurm.says("run", "sleep 1.2; bash $SCRIPT")
    assert slurm("x.log", "true") == (0, "")


def test_a_failed_cancellation_says_what_to_do(cluster: Cluster) -> None:
    cluster.says("run", "true")
    for name in ("qdel", "scancel"):
        cluster.says(name, "1\ndenied\n")
    process = cluster.start("x.log", "true")
    cluster.until("submitted.0")
    process.send_signal(signal.SIGTERM)
    err = process.communicate(timeout=10)[1]
    assert process.returncode == 2
    assert "job 7 could NOT be cancelled: denied; run: " in err


def test_grid_engine_error_state(sge: Cluster) -> None:
    sge.says("run", "SGE_TASK_ID=1 bash $SCRIPT")
    sge.says(
        "bin/qstat",
        f"""#!/bin/bash
case $* in
    -j*) echo 'error reason          2:      11/22/2026 17:53:29 [0:2]: error: cannot open output file' ;;
    *) echo '      7 0.25000 x {user()} Eqw   11/22/2026 17:53:29           1 2' ;;
esac
""",
    )
    status, err = sge("JOB=1:2", "x.JOB.log", "true")
    assert status == 1
    assert "task 2: Grid Engine could not start it: 11/22/2026 17:53:29 [0:2]: error: cannot open output file" in err
    assert (sge.fake / "qdel.called").read_text() == "7\n"


@pytest.mark.parametrize(
    ("failed", "status", "reason"),
    [
        (
            "37  : qmaster enforced h_rt, h_cpu, or h_vmem limit",
            "137",
            "over its time or memory limit (qmaster enforced",
        ),
        ("100 : assumedly after job", "137", "killed by signal 9 from outside: deleted (qdel), or for memory"),
        ("21  : in recognizing job", "0", "Grid Engine reports: in recognizing job, exit status 0"),
    ],
)
def test_grid_engine_reports_how_a_task_ended(sge: Cluster, failed: str, status: str, reason: str) -> None:
    sge.says("run", "true")
    rule = "=" * 62
    sge.says(
        "qacct",
        f"0\n{rule}\nqname        all.q   \ntaskid       undefined\nfailed       {failed}\n"
        f"exit_status  {status}    (Killed)\n",
    )
    assert f"queue.pl: {reason}" in sge("x.log", "true")[1]


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("CANCELLED", "cancelled (scancel)"),
        ("TIMEOUT", "over its time limit (--time)"),
        ("OUT_OF_MEMORY", "killed for memory: ask for more with --mem"),
        ("NODE_FAIL", "lost with its host"),
        ("PREEMPTED", "evicted (preempted)"),
        ("FAILED", "killed by signal 9 from outside, or for memory"),
    ],
)
@pytest.mark.parametrize("source", ["scontrol", "sacct"])
def test_slurm_reports_how_tasks_ended(slurm: Cluster, state: str, reason: str, source: str) -> None:
    slurm.says("run", "SLURM_ARRAY_TASK_ID=1 bash $SCRIPT")
    slurm.says("squeue", "1\n")
    slurm.says("bin/squeue", "#!/bin/bash\necho 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1\n")
    if source == "scontrol":
        line = f"JobId=7 ArrayJobId=7 ArrayTaskId=2-3%1 JobName=x JobState={state} Reason=x ExitCode=0:9"
        slurm.says("scontrol", f"0\n{line}\n")
    else:
        slurm.says("scontrol", "1\n")
        slurm.says("sacct", f"0\n7_1|COMPLETED|0:0\n7_[2-3]|{state} by 0|0:9\n")
    status, err = slurm("JOB=1:3", "x.JOB.log", "true")
    assert (status, "2 / 3 failed" in err) == (1, True)
    assert f"slurm.pl: task 2: {reason}; x.2.log is empty or missing" in err


def test_a_task_put_back_into_the_queue_is_not_lost(slurm: Cluster) -> None:
    slurm.says("bin/squeue", '#!/bin/bash\necho "N/A|$(cat "$FAKE/state")|Resources"\n')
    slurm.says("state", "PENDING\n")
    slurm.says("run", 'bash "$SCRIPT"; touch "$FAKE/first"; sleep 1.5; touch again; bash "$SCRIPT"\n')
    assert slurm("x.log", "test", "-e", "again", "||", "kill", "-15", "$$") == (0, "")
    assert (slurm.fake / "first").exists()


def test_a_terminated_task_is_reported(slurm: Cluster) -> None:
    slurm.says("squeue", "0\n")
    slurm.says("scontrol", "0\nJobId=7 JobState=CANCELLED ExitCode=0:15\n")
    status, err = slurm("x.log", "kill", "-15", "$$")
    assert (status, "slurm.pl: cancelled (scancel); the last lines of x.log:" in err) == (1, True)


def test_path_sh_is_sourced_and_versions_are_logged(cluster: Cluster) -> None:
    environment = cluster.root / ".venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python3").symlink_to("/bin/true")
    (environment / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.11.7\n")
    (environment / "lib" / "python3.11" / "site-packages" / "torch-2.13.0.dist-info").mkdir(parents=True)
    (cluster.root / "path.sh").write_text("export PATH=$PWD/.venv/bin:$PATH MINE=yes\njob_status=9 job_log=none\n")
    assert cluster("x.log", "echo", "$MINE") == (0, "")
    lines = [line for line in cluster.log("x.log") if "SLURM" not in line]
    assert lines[3:6] == ["# GPU: none", "# Python 3.11.7, torch 2.13.0", "yes"]


def test_own_settings_reach_the_task(cluster: Cluster) -> None:
    cluster.env["SERMTL_PYTHON"] = "/opt/my env/bin/python3"
    cluster.says("run", f'env -i PATH="$PATH" {INDEX[cluster.program]}=1 bash $SCRIPT')
    assert cluster("x.log", "echo", "$SERMTL_PYTHON;", "echo", "$HOME") == (0, "")
    assert "/opt/my env/bin/python3" in cluster.log("x.log")
    assert os.path.expanduser("~") in cluster.log("x.log")


def test_gpus_are_logged(cluster: Cluster) -> None:
    cluster.says("bin/nvidia-smi", "#!/bin/sh\necho 'GPU 0: NVIDIA H200 (UUID: GPU-1)'\n")
    (cluster.fake / "bin" / "nvidia-smi").chmod(0o755)
    (cluster.root / "path.sh").write_text("")
    cluster.env["CUDA_VISIBLE_DEVICES"] = "5"
    assert cluster("--gpu", "1", "x.log", "echo", "[$CUDA_VISIBLE_DEVICES]") == (0, "")
    assert "# GPU 0: NVIDIA H200 (UUID: GPU-1)" in cluster.log("x.log")
    assert "[5]" in cluster.log("x.log")
    conf = cluster.root / "conf" / ("queue.conf" if cluster.program == "queue.pl" else "slurm.conf")
    conf.write_text(conf.read_text().replace("default gpu=0", "default gpu=1"))
    assert cluster("x.log", "echo", "[$CUDA_VISIBLE_DEVICES]") == (0, "")
    assert "[5]" in cluster.log("x.log")


def test_an_environment_that_fails_is_a_failure(cluster: Cluster) -> None:
    (cluster.root / "path.sh").write_text("echo no such module >&2\nreturn 1\n")
    status, err = cluster("x.log", "echo", "reached")
    assert (status, "no such module" in err, "path.sh failed on" in err) == (1, True, True)
    assert "reached" not in cluster.log("x.log")


def test_check_probes_the_environment_first(cluster: Cluster) -> None:
    assert cluster("--check", "true", "JOB=1:2", "log/x.JOB.log", "true") == (0, "")
    assert cluster.submissions() == 2
    (cluster.root / "path.sh").write_text("return 1\n")
    status, err = cluster("--check", "true", "JOB=1:2", "log/x.JOB.log", "true")
    assert status == 1
    assert "path.sh does not set the environment up on the cluster; nothing else was submitted" in err
    assert cluster.submissions() == 3


def test_tasks_with_different_folders(cluster: Cluster) -> None:
    assert cluster("JOB=1:2", "exp/JOB/train.log", "echo", "JOB") == (0, "")
    assert "2" in cluster.log("exp/2/train.log")
    assert (cluster.root / "exp" / "q" / "train.sh").exists()


def test_the_head_node_is_spared(cluster: Cluster) -> None:
    cluster.says("run", "true")
    cluster.env.update(SERMTL_ASK_EVERY="10", SERMTL_LATE_FILES="30")
    process = cluster.start("JOB=1:250", "log/x.JOB.log", "true")
    cluster.until("submitted.0")
    time.sleep(0.5)

    def seconds() -> float:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before = seconds()
    time.sleep(1)
    used = seconds() - before
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert used < 0.05
    assert peak and int(peak[1]) < 50_000
