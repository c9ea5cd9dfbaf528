"""What test_launch.py has torchrun start: processes that exchange numbers until something happens to one of them."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch

from sermtl.errors import UserError, command
from sermtl.train.processes import Ranks, exit_with

STOPPED = 75


@command
def main() -> int:
    what, folder = sys.argv[1], Path(sys.argv[2])
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    ranks = Ranks.join(torch.device("cpu"))
    (folder / f"pid.{ranks.rank}").write_text(str(os.getpid()))
    if what == "add":
        total = ranks.add(torch.tensor(ranks.rank + 1.0))
        (folder / f"sum.{ranks.rank}").write_text(f"{total:g} of {ranks.world}")
        return 0
    for _ in range(600):
        if ranks.any(bool(stopping))[0]:
            return STOPPED
        if ranks.rank == 1 and what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if ranks.rank == 1 and what == "raise":
            raise UserError("this one's own error")
        time.sleep(0.1)
    return 0


if __name__ == "__main__":
    exit_with(main)
