"""Files that are either whole or absent: written to a temporary name, synced, renamed; and a lock on a directory."""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import platform
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from sermtl.errors import UserError

log = logging.getLogger(__name__)
_held: dict[Path, IO[str]] = {}


def load_json(path: Path) -> Any:
    """The value of a JSON file from an untrusted source; `OSError` or `ValueError` where it has none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("values nested too deep") from error


def write_text(path: str | Path, text: str) -> None:
    """Write a whole text file; see `atomic_write`."""
    with atomic_write(path) as file:
        file.write(text)


def write_json(path: str | Path, value: Any, sort_keys: bool = False) -> None:
    """Write JSON for programs and people: indented, non-ASCII characters as they are."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, sort_keys=sort_keys) + "\n")


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "w", sync: bool = True) -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` and rename it onto ``path`` when the block ends well; makes its directory.

    Modes are ``"w"`` (UTF-8 text, newlines as written) and ``"wb"``. Without ``sync``, a crash of the machine may leave
    an empty file. `UserError` where it cannot be written (full disk, no permission); ``path`` is left as it was.
    """
    path = Path(path)
    temporary = temporary_path(path)
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, mode, **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def replaced_directory(path: Path) -> Iterator[Path]:
    """Give a new directory that takes the place of ``path`` when the block ends well, whole or not at all."""
    staging = temporary_path(path)
    previous = temporary_path(path.with_name(f"{path.name}.old"))
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        yield staging
        if path.exists():
            path.rename(previous)
        staging.rename(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        # Interrupted between the two renames: the earlier folds come back.
        if previous.exists() and not path.exists():
            previous.rename(path)
        shutil.rmtree(previous, ignore_errors=True)


def check_writable(path: Path) -> None:
    """Make the directory of ``path``; `UserError` where `atomic_write` could not make the file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    if path.is_dir():
        raise UserError(f"cannot write {path}: a folder of that name is there")


def temporary_path(path: Path) -> Path:
    """A hidden name beside ``path`` that says which process works under it; two hosts may have one of that number."""
    return path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")


def remove_leftovers(directory: Path, days: float = 1.0) -> None:
    """Remove temporary files and folders (`temporary_path`) of processes that are gone.

    Those of another host, whose processes cannot be looked up here, go when they are older than ``days``.
    """
    for path in sorted(directory.rglob(".*.tmp")):
        name, _, pid = path.name.removesuffix(".tmp").rpartition(".")
        here = name.endswith(f".{platform.node()}") and pid.isdecimal()
        with contextlib.suppress(OSError):
            if _runs(int(pid)) if here else path.stat().st_mtime > time.time() - days * 86400:
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            print(f"removed {path}, left by a process that is gone", flush=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    with contextlib.suppress(OSError):  # no /proc: what can be signalled counts as running
        # A dead process stays signalable until its parent has asked for its status.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    return True


def crc32(path: str | Path) -> str:
    """Checksum of a file's bytes, which shows damage; three times as fast as a SHA-256."""
    value, buffer = 0, memoryview(bytearray(1 << 18))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            value = zlib.crc32(buffer[:count], value)
    return f"{value:08x}"


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def hold(exp: Path) -> None:
    """Keep other processes from training or decoding this fold until this one ends; `UserError` if another has it.

    A job can outlive the run.sh that started it, and the next run.sh starts another. The lock ends with its process; on
    a file system without locks there is a warning, and no lock.
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
