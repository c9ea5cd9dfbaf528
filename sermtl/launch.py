"""Starting the processes of one fold with PyTorch's launcher (torchrun), and their ends as one exit status."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from typing import NoReturn

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from sermtl.errors import UserError
from sermtl.ranks import PeerLost

RENDEZVOUS = "SERMTL_RENDEZVOUS"
"""Where the nodes of a job meet (host:port); set in the launcher that each of them runs."""


def launch(module: str, words: list[str], processes: int, nodes: int, stopped: int) -> int:
    """Run ``python -m module words`` in so many processes on each of so many nodes, to the end.

    Args:
        module: What every process runs.
        words: Its command line.
        processes: Processes on a node.
        nodes: Nodes of the job; more than one needs Slurm.
        stopped: The exit status with which a process ends that was stopped by SIGTERM.

    Returns:
        0, or ``stopped`` after SIGTERM, or the status of the process that failed (128 + n: killed by signal n).

    Raises:
        UserError: There are no such nodes.
    """
    meet = ["--standalone"]
    if nodes > 1:
        if RENDEZVOUS not in os.environ:
            _launch_on_nodes(module, words, nodes)
        meet = ["--nnodes", str(nodes), "--rdzv_backend", "c10d", "--rdzv_endpoint", os.environ[RENDEZVOUS]]
        meet += ["--rdzv_id", os.environ["SLURM_JOB_ID"]]
    # Its default is a line on stderr that tells everybody to set this.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        with tempfile.TemporaryDirectory() as logs:
            meet += ["--nproc_per_node", str(processes), "--log_dir", logs]
            torchrun.run(torchrun.parse_args([*meet, "-m", module, *words]))
    except ChildFailedError as error:
        return _tell(error.failures, stopped)
    except SignalException as error:
        return stopped if error.sigval == signal.SIGTERM else 128 + error.sigval
    return 0


def _launch_on_nodes(module: str, words: list[str], nodes: int) -> NoReturn:
    """Become `srun`, which runs this launcher on every node of the Slurm job; they meet on this one, the first."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job or not shutil.which("srun"):
        raise UserError(
            f"--num_nodes {nodes}: only jobs of Slurm have several nodes (--cmd_backend slurm); elsewhere start "
            f"`torchrun --nnodes {nodes} --rdzv_endpoint HOST:PORT ... -m {module}` on each by hand"
        )
    with socket.create_server(("", 0)) as free:
        meet = f"{socket.gethostname()}:{free.getsockname()[1]}"
    threads = re.sub(r"\D.*", "", os.environ.get("SLURM_CPUS_PER_TASK", ""))
    step = ["srun", "--nodes", str(nodes), "--ntasks", str(nodes), "--ntasks-per-node", "1", "--kill-on-bad-exit=1"]
    step += ["--cpus-per-task", threads] if threads else []
    os.execvpe("srun", [*step, sys.executable, "-m", module, *words], {**os.environ, RENDEZVOUS: meet})


def _tell(failures: dict[int, ProcessFailure], stopped: int) -> int:
    """Say which process failed of itself, before those that it took with it."""
    if all(failure.exitcode == stopped for failure in failures.values()):
        return stopped
    # The launcher ends what is left by SIGTERM.
    followed = (PeerLost.status, -signal.SIGTERM, stopped)
    rank, failure = min(failures.items(), key=lambda item: (item[1].exitcode in followed, item[1].exitcode))
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        print(f"error: process {rank} was killed by signal {-failure.exitcode} ({name})", file=sys.stderr)
        return 128 - failure.exitcode
    print(f"error: process {rank} ended with status {failure.exitcode}; its error stands above", file=sys.stderr)
    return failure.exitcode
