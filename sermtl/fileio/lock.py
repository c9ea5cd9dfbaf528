"""Keeping other processes out of a directory."""

from __future__ import annotations

import fcntl
import logging
import os
import platform
import time
from pathlib import Path
from typing import IO

from sermtl.errors import UserError

log = logging.getLogger(__name__)
_held: dict[Path, IO[str]] = {}


def hold(exp: Path) -> None:
    """Keep other processes from training or decoding this fold until this one ends.

    A job can outlive the run.sh that started it, and the next run.sh starts another. The lock ends with its process; on
    a file system without locks there is a warning, and no lock.

    Raises:
        UserError: Another process has it.
    """
    if exp in _held:
        return
    exp.mkdir(parents=True, exist_ok=True)
    file = open(exp / ".owner", "a+", encoding="utf-8")
    file.seek(0)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise UserError(f"another process works on {exp} ({file.read().strip()}): wait for it, or end it") from error
    except OSError as error:
        log.warning("%s: no locks on this file system (%s)", exp, error)
        return
    file.truncate(0)
    file.write(f"host {platform.node()}, process {os.getpid()}, since {time.strftime('%Y-%m-%dT%H:%M:%S')}\n")
    file.flush()
    _held[exp] = file
