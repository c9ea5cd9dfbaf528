"""The processes that train one fold together, each on a share of every update's utterances.

PyTorch's launcher (torchrun) starts them. Gradients are added, not averaged, because every loss is already divided by
a number of the whole update; that holds for shares of any size, the empty one too, which
``DistributedDataParallel`` does not support. A single process is alone, and every method leaves its values as they are.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sermtl.errors import UserError

T = TypeVar("T")
STOPPED = 75
"""Exit status after a saved stop (EX_TEMPFAIL): a queue may start the job again."""
PATIENCE = timedelta(minutes=30)
"""How long one process may keep the others waiting before they give up."""


class PeerLost(UserError):
    """Another process of this training has ended."""

    status = 3


class Ranks:
    """One process among those that train together."""

    rank = 0
    world = 1

    @classmethod
    def join(cls, device: torch.device) -> Ranks:
        """Join the processes that torchrun has started; without torchrun there is one."""
        ranks = cls()
        if not dist.is_torchelastic_launched():
            return ranks
        with contextlib.suppress(OSError, AttributeError):
            # The kernel sends SIGTERM when the launcher dies (PR_SET_PDEATHSIG, Linux): no process trains on alone.
            ctypes.CDLL(None).prctl(1, signal.SIGTERM)
        with _peers():
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=PATIENCE)
        ranks.rank, ranks.world = dist.get_rank(), dist.get_world_size()
        return ranks

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """A process's own part of a list; of one sorted by length, all parts are about as long."""
        return list(items[self.rank :: self.world])

    def add(self, values: Tensor) -> Tensor:
        """Sum over the processes, in place."""
        if self.world > 1:
            with _peers():
                dist.all_reduce(values)
        return values

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether any process has it set."""
        return [count > 0 for count in self.add(torch.tensor(flags, dtype=torch.int32)).tolist()]

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in the order of the ranks."""
        values: list[T] = [value] * self.world
        if self.world > 1:
            with _peers():
                dist.all_gather_object(values, value)
        return values

    def from_first(self, value: T) -> T:
        """The first process's value."""
        return self.gather(value)[0]

    @contextlib.contextmanager
    def first_alone(self) -> Iterator[None]:
        """A block that the first process has left before the others enter it."""
        if not self.first:
            self.gather(None)
        yield
        if self.first:
            self.gather(None)

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sum the gradients of all processes; a parameter that none of them used keeps no gradient."""
        if self.world == 1:
            return
        used = self.add(torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32))
        kept = [parameter for parameter, count in zip(parameters, used.tolist(), strict=True) if count]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in kept])
        sums = self.add(flat).split([parameter.numel() for parameter in kept])
        for parameter, gradient in zip(kept, sums, strict=True):
            parameter.grad = gradient.view_as(parameter)

    @torch.no_grad()
    def copy_from_first(self, module: nn.Module) -> None:
        """Give every process the first one's weights and buffers."""
        if self.world > 1:
            for value in module.state_dict().values():
                with _peers():
                    dist.broadcast(value, 0)


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Run a program and end the process with its status.

    Under torchrun it ends without Python's and C++'s clean-up, in which the exchange's threads abort the process, or
    wait for others that are gone.
    """
    if not dist.is_torchelastic_launched():
        sys.exit(main())
    status: int = 1
    try:
        status = main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


@contextlib.contextmanager
def _peers() -> Iterator[None]:
    """Raise `PeerLost` for a broken exchange: the error that matters is another process's."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLost(
            f"process {os.environ['RANK']} lost another process of this training ({str(error).splitlines()[0]}); "
            "the other's own error stands in this log too"
        ) from error
