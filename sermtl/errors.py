"""Errors that users can correct."""

import functools
import sys
from collections.abc import Callable


class UserError(Exception):
    """Something that the user can correct: says what is wrong, in which file and line, and what to do."""

    status = 2
    """Exit status of the program that it ends."""

    def __str__(self) -> str:
        """The message alone: PyTorch hands on a loader process's error with its traceback as text before it."""
        return super().__str__().rpartition(f"{__name__}.UserError: ")[2].rstrip()


def command(main: Callable[[], int | None]) -> Callable[[], int]:
    """Turn a program's ``main`` into one that prints a `UserError`, or an error of the system, as one message.

    It gives the exit status of ``main`` (None counts as 0), or that of a `UserError`, or 2.
    """

    @functools.wraps(main)
    def wrapped() -> int:
        try:
            return main() or 0
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.status
        except OSError as error:
            # A full disk, a folder without permission: faults of the machine, not of this program.
            where = f"{error.filename}: " if error.filename else ""
            print(f"error: {where}{error.strerror or error}", file=sys.stderr)
            return 2

    return wrapped
