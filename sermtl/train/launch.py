"""Starting the processes of one fold with PyTorch's launcher (torchrun), and their ends as one exit status."""

import json
import os
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
from sermtl.train.processes import STOPPED, PeerLost


def launch(module: str, words: list[str], processes: int, nodes: int) -> int:
    """Run ``python -m module words`` in ``processes`` processes on each of the job's nodes, to the end.

    Returns:
        0, or `STOPPED` after SIGTERM, or the status of the process that failed (128 + n: killed by signal n).
    """
    if nodes > 1:
        _become_srun(module, words, processes, nodes)
    return _run(["--standalone"], module, words, processes)


def _become_srun(module: str, words: list[str], processes: int, nodes: int) -> NoReturn:
    """Become `srun`, which starts a launcher on every node of the job; they meet on this one, the job's first."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job or not shutil.which("srun"):
        raise UserError(
            f"--num_nodes {nodes}: only jobs of Slurm have several nodes (--cmd_backend slurm); elsewhere start "
            f"`torchrun --nnodes {nodes} --rdzv_endpoint HOST:PORT ... -m {module}` on each"
        )
    with socket.create_server(("", 0)) as free:
        place = f"{socket.gethostname()}:{free.getsockname()[1]}"
    step = ["srun", "--nodes", str(nodes), "--ntasks", str(nodes), "--ntasks-per-node", "1", "--kill-on-bad-exit=1"]
    # A step does not inherit the job's.
    step += ["--cpus-per-task", os.environ.get("SLURM_CPUS_PER_TASK", "1")]
    meet = ["--nnodes", str(nodes), "--rdzv_backend", "c10d", "--rdzv_endpoint", place, "--rdzv_id", job]
    on_each = [sys.executable, "-m", "sermtl.train.launch", json.dumps([meet, module, words, processes])]
    os.execvp("srun", [*step, *on_each])


def _run(meet: list[str], module: str, words: list[str], processes: int) -> int:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # without it, torchrun prints a warning
    try:
        with tempfile.TemporaryDirectory() as logs:
            meet = [*meet, "--nproc_per_node", str(processes), "--log_dir", logs]
            torchrun.run(torchrun.parse_args([*meet, "-m", module, *words]))
    except ChildFailedError as error:
        return _exit_status(error.failures)
    except SignalException as error:
        return STOPPED if error.sigval == signal.SIGTERM else 128 + error.sigval
    return 0


def _exit_status(failures: dict[int, ProcessFailure]) -> int:
    """Print which process failed first, not those that ended because of it; gives the exit status."""
    if all(failure.exitcode == STOPPED for failure in failures.values()):
        return STOPPED
    followed = (PeerLost.status, -signal.SIGTERM, STOPPED)  # the launcher ends what is left by SIGTERM
    rank, failure = min(failures.items(), key=lambda item: (item[1].exitcode in followed, item[1].exitcode))
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        print(f"error: process {rank} was killed by signal {-failure.exitcode} ({name})", file=sys.stderr)
        return 128 - failure.exitcode
    print(f"error: process {rank} ended with status {failure.exitcode}; its error stands above", file=sys.stderr)
    return failure.exitcode


if __name__ == "__main__":
    sys.exit(_run(*json.loads(sys.argv[1])))
