"""Stand-ins for the commands of Grid Engine and Slurm."""

from __future__ import annotations

import sys
from pathlib import Path

from runner import Runner

INDEX = {"queue.pl": "SGE_TASK_ID", "slurm.pl": "SLURM_ARRAY_TASK_ID"}
SUBMIT = {"queue.pl": "qsub", "slurm.pl": "sbatch"}
LIST = {"queue.pl": "qstat", "slurm.pl": "squeue"}

# The submit commands note their words, are refused by a file `refuse`, and run what the test wrote into `run`.
SUBMITS = r"""#!/bin/bash
printf '%s\n' "$@" >"$FAKE/submitted.$(ls "$FAKE" | grep -c ^submitted)"
[[ ! -e $FAKE/refuse ]] || { cat "$FAKE/refuse"; [[ -e $FAKE/always ]] || rm "$FAKE/refuse"; exit 1; }
export SCRIPT="${@: -1}"
while (($#)); do case $1 in -t | --array) range=${2%\%*} ;; esac; shift; done
TASKS=$([[ -z ${range:-} ]] && echo 1 || seq ${range/-/ }) setsid bash "$FAKE/run" </dev/null >"$FAKE/out" 2>&1 &
case $0 in *qsub) echo 'Your job-array 7.1-3:1 ("x") has been submitted' ;; *) echo Submitted batch job 7 ;; esac
"""
# The others print a file of their name, with the status that its first line gives, or note that they were called.
OTHERS = r"""#!/bin/bash
me=$FAKE/$(basename "$0")
echo "$*" >>"$me.called"
[[ -e $me ]] || exit 0
tail -n +2 "$me"
exit $(head -n 1 "$me")
"""
RUN = 'for t in $TASKS; do {index}=$t bash "$SCRIPT"; done\n'


class Cluster(Runner):
    """A recipe root, and a folder of commands that play the scheduler."""

    def __init__(self, folder: Path, recipe: Path, program: str) -> None:
        self.program = program
        self.fake = folder / "fake"
        env = {
            "PATH": f"{self.fake}/bin:/usr/bin:/bin",
            "HOME": str(folder),
            "FAKE": str(self.fake),
            "SERMTL_ASK_EVERY": "0.2",
            "SERMTL_LATE_FILES": "1.0",
            "SERMTL_QUEUE_PATIENCE": "0.5",
        }
        super().__init__([sys.executable, str(recipe / "utils" / program)], folder / "root", env)
        self.watched = self.fake
        (self.root / "conf").mkdir(parents=True)
        self.fake.mkdir()
        for name in ("queue.conf", "slurm.conf"):
            (self.root / "conf" / name).write_text((recipe / "conf" / name).read_text())
        for name in "qsub sbatch qstat qacct qalter qdel squeue scontrol sacct scancel".split():
            file = self.fake / "bin" / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(SUBMITS if name in ("qsub", "sbatch") else OTHERS)
            file.chmod(0o755)
        self.says("run", RUN.format(index=INDEX[program]))

    def says(self, name: str, text: str) -> None:
        (self.fake / name).write_text(text)

    def submitted(self, number: int = 0) -> str:
        return " ".join((self.fake / f"submitted.{number}").read_text().splitlines())

    def submissions(self) -> int:
        return len(list(self.fake.glob("submitted.*")))

    def log(self, name: str) -> list[str]:
        return (self.root / name).read_text().splitlines()
