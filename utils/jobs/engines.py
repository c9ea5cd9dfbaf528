"""Grid Engine and Slurm: the commands that query each, and what their answers mean. Tasks go by array index."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from typing import Any

ALONE = 1  # index of the only task of a job that is no array


class GridEngine:
    """qsub, qstat, qacct, qalter, qdel. Every question may go unanswered: None then, or nothing."""

    config = "conf/queue.conf"
    submits, cancels = "qsub", "qdel"
    index = "SGE_TASK_ID"
    environment = ""
    example = "-l NAME=$0"
    job_words, array_word, at_once = ["-N", "{name}", "-o", "{output}"], "-t", ""

    def queued(self, job: str) -> dict[int, str] | None:
        """Tasks that are "waiting", "running", or why one will never run, by `qstat -g d`: a line for each task."""
        status, out, _ = ask(["qstat", "-u", pwd.getpwuid(os.geteuid()).pw_name, "-g", "d"])
        if status != 0:
            return None
        # job prior name user state date time [queue] slots [task]
        tasks = {}
        for words in map(str.split, out.splitlines()):
            if words and words[0] == job:
                last = [word for word in words[7:] if word.isdigit()]
                tasks[int(last[1]) if len(last) > 1 else ALONE] = words[4]
        _, why, _ = ask(["qstat", "-j", job]) if "E" in "".join(tasks.values()) else ("", "", "")
        for task, state in tasks.items():
            tasks[task] = "running" if re.search("[rt]", state) else "waiting"
            if "E" in state:
                reason = re.search(rf"^error reason\s+{task}:\s+(.*)", why, re.M)
                tasks[task] = f"Grid Engine could not start it: {reason[1] if reason else 'no reason given'}"
        return tasks

    def ended(self, job: str) -> dict[int, str]:
        """Why tasks left the queue badly, by `qacct`, which some sites switch off, and which lags by some seconds."""
        _, out, _ = ask(["qacct", "-j", job])
        ended = {}
        for record in re.split(r"^=+$", out, flags=re.M):
            fields = dict(re.findall(r"^(\w+) +(.*?) *$", record, re.M))
            failed, task = fields.get("failed", "0"), fields.get("taskid", "undefined")
            status, text = fields.get("exit_status", ""), failed.partition(":")[2].strip()
            if failed.startswith("0"):
                continue
            reason = f"Grid Engine reports: {text}, exit status {status}"
            if failed.startswith("100") and status.startswith("137"):
                reason = "killed by signal 9 from outside: deleted (qdel), or for memory (--mem)"
            if failed.startswith("37"):
                reason = f"over its time or memory limit ({text})"
            ended[int(task) if task.isdigit() else ALONE] = reason
        return ended

    def why_waiting(self, job: str) -> str:
        """By `qalter -w v`, which verifies against an empty cluster: what cannot run there never will."""
        status, out, err = ask(["qalter", "-w", "v", job])
        lines = [line.strip() for line in (out + err).splitlines() if "cannot run" in line]
        return "no host or queue could ever run it: " + "; ".join(lines[:3]) if status == 1 and lines else ""


class Slurm:
    """sbatch, squeue, scontrol, sacct, scancel."""

    config = "conf/slurm.conf"
    submits, cancels = "sbatch", "scancel"
    index = "SLURM_ARRAY_TASK_ID"
    environment = "SLURM_"
    example = "--NAME $0"
    job_words = ["--job-name", "{name}", "--output", "{output}", "--open-mode", "append"]
    array_word, at_once = "--array", "%"

    # Reasons that only mean that it is not this job's turn.
    turn = "None Priority Resources JobArrayTaskLimit BeginTime Cleaning Prolog ReqNodeNotAvail Licenses".split()
    states = {
        "CANCELLED": "cancelled (scancel)",
        "TIMEOUT": "over its time limit (--time)",
        "DEADLINE": "over its deadline",
        "OUT_OF_MEMORY": "killed for memory: ask for more with --mem",
        "NODE_FAIL": "lost with its host",
        "BOOT_FAIL": "lost, for its host did not start",
        "PREEMPTED": "evicted (preempted)",
        "REVOKED": "revoked",
    }

    def queued(self, job: str) -> dict[int, str] | None:
        """By `squeue -r`, which has a line for each task."""
        status, out, err = ask(["squeue", "-h", "-r", "-j", job, "-o", "%K|%T|%r"])
        if status != 0:
            return {} if "Invalid job id" in err else None
        tasks = {}
        for line in out.splitlines():
            task, state, reason = line.split("|", 2)
            state = "waiting" if state == "PENDING" else "running"
            if "launch failed" in reason:
                state = f"Slurm could not start it: {reason}"
            tasks[int(task) if task.isdigit() else ALONE] = state
        return tasks

    def ended(self, job: str) -> dict[int, str]:
        """By `scontrol` while it remembers the job, then by `sacct` where there is accounting."""
        status, out, _ = ask(["scontrol", "-o", "show", "job", job])
        if status == 0:
            jobs = [dict(re.findall(r"(\w+)=(\S+)", line)) for line in out.splitlines()]
            found = [(j.get("ArrayTaskId", ""), j.get("JobState", ""), j.get("ExitCode", "")) for j in jobs]
        else:
            _, out, _ = ask(["sacct", "-n", "-X", "-P", "-j", job, "-o", "JobID,State,ExitCode"])
            rows = [line.split("|") for line in out.splitlines() if line.count("|") == 2]
            found = [(row[0].partition("_")[2], row[1].split()[0], row[2]) for row in rows]
        ended = {}
        for task, state, code in found:
            reason = self.states.get(state, "")
            number = code.partition(":")[2]
            if state == "FAILED" and number not in ("", "0"):
                reason = f"killed by signal {number} from outside" + (", or for memory" if number == "9" else "")
            # Tasks that were cancelled before they began are in one line: 3-7,9%2.
            for index in expand(task) if reason else []:
                ended[index] = reason
        return ended

    def why_waiting(self, job: str) -> str:
        """By the reason that `squeue` shows, unless it only says that others are before this job."""
        status, out, _ = ask(["squeue", "-h", "-j", job, "-o", "%r"])
        reasons = sorted({line for line in out.splitlines() if line and line.split(",")[0] not in self.turn})
        return "Slurm's reason: " + ", ".join(reasons) if status == 0 and reasons else ""


def job_id(answer: str) -> str:
    """A new job's number: of `Your job 12 (...)`, `Submitted batch job 12`, or alone (-terse, --parsable); or ""."""
    match = re.search(r"(?:[Yy]our job(?:-array)?|Submitted batch job) (\d+)|^(\d+)(?:[.;]\S*)?$", answer, re.M)
    return (match[1] or match[2]) if match else ""


def expand(tasks: str) -> list[int]:
    """Numbers of an array expression such as 3-7:2,9%4; of "" or N/A the only task."""
    numbers: list[int] = []
    for match in re.finditer(r"(\d+)(?:-(\d+)(?::(\d+))?)?", tasks.partition("%")[0]):
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1, int(match[3] or 1))
    return numbers or [ALONE]


def ask(words: list[str]) -> tuple[int, str, str]:
    """Exit status, output and messages of a scheduler's command; status 127 where it does not answer in 20 s."""
    env = {**os.environ, "LC_ALL": "C"}
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "start_new_session": True}
    try:
        done = subprocess.run(words, timeout=20, env=env, encoding="utf-8", errors="replace", **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 127, "", str(error)
    return done.returncode, done.stdout, done.stderr
