"""Signals that a loop can poll."""

from __future__ import annotations

import os
import select
import signal
import time

SAME = 1.0  # seconds within which further signals count as the first one


class Signals:
    """Notes SIGINT, SIGTERM and SIGHUP in `number`, a later one in `again`; `wait` returns early at any signal."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.again = False
        self._first = 0.0
        # run.sh sets SERMTL_CALLER; where it is killed by SIGKILL, its jobs must end as well.
        parent = os.getppid()
        self._caller = parent if os.environ.get("SERMTL_CALLER") == str(parent) else None
        self._read, write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(write, False)
        # The pipe remembers a signal that comes between a check and the wait.
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # nohup ignores SIGHUP on purpose; a shell's `&` ignores SIGINT by default.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._note)

    def _note(self, number: int, _frame: object) -> None:
        # A signal to a whole process group comes twice: directly, and from run.sh. A user's second Ctrl-C comes later.
        now = time.monotonic()
        self.again = self.again or (self.number is not None and now - self._first > SAME)
        if self.number is None:
            self.number, self._first = number, now

    def name(self) -> str:
        """Name of the signal noted."""
        return signal.Signals(self.number or 0).name

    def status(self) -> int:
        """Exit status after it: 2; for run.sh, which cannot trap a SIGINT that it was started to ignore, 128 + n."""
        return 128 + (self.number or 0) if self._caller else 2

    def wait(self, seconds: float) -> None:
        """Sleep until a signal comes, a child's end included, at most ``seconds``."""
        select.select([self._read], [], [], max(0.0, seconds))
        try:
            while os.read(self._read, 4096):
                pass
        except BlockingIOError:
            pass
        if self._caller not in (None, os.getppid()) and self.number is None:
            self.number = signal.SIGHUP
