"""Training state on disk: written whole, the previous one kept, a damaged one recognised."""

import hashlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from sermtl.errors import UserError
from sermtl.fileio.files import atomic_write

NAME = "checkpoint.pth"
PREVIOUS = "checkpoint.prev.pth"
_MARK = b"\nsha256:"
_TRAILER = len(_MARK) + 64


def save_checkpoint(directory: Path, state: dict[str, Any]) -> None:
    """Write ``checkpoint.pth``, which ``torch.load`` reads; the one before becomes ``checkpoint.prev.pth``.

    torch checks no sums when it loads, so a digest of the file follows it.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with atomic_write(directory / NAME, "wb") as file:
        file.write(buffer.getbuffer())
        file.write(_MARK + hashlib.sha256(buffer.getbuffer()).hexdigest().encode())
        file.flush()
        os.fsync(file.fileno())
        if (directory / NAME).exists():
            os.replace(directory / NAME, directory / PREVIOUS)


def load_checkpoint(directory: Path) -> dict[str, Any] | None:
    """The newest whole state, on the CPU; None where there is no checkpoint.

    A damaged newest one is passed over with a message. `UserError` where checkpoints are there and none is whole, or
    one holds more than tensors and plain values.
    """
    damaged: list[Path] = []
    for path in (directory / NAME, directory / PREVIOUS):
        if path.exists():
            content = path.read_bytes()
            body, trailer = content[:-_TRAILER], content[-_TRAILER:]
            if trailer == _MARK + hashlib.sha256(body).hexdigest().encode():
                for bad in damaged:
                    # Out of the way, or the next save would put it in the place of the whole one.
                    os.replace(bad, bad.with_suffix(".damaged"))
                    print(f"warning: {bad} is damaged; going on from {path}", flush=True)
                try:
                    return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
                except (pickle.UnpicklingError, RuntimeError) as error:
                    reason = str(error).split("\n")[0]
                    raise UserError(f"{path} is not a checkpoint of this program ({reason}); remove it") from error
            damaged.append(path)
    if damaged:
        raise UserError(
            f"{' and '.join(map(str, damaged))} damaged: training cannot go on from there; "
            f"remove {directory} to train this fold again"
        )
    return None
