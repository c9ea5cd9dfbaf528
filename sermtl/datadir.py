"""Kaldi tables: one entry a line, key first, one space, sorted and unique in byte order, UTF-8."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from sermtl.errors import UserError
from sermtl.files import atomic_write


def read_table(path: str | Path) -> dict[str, str]:
    """Read a table into a dictionary in the file's order; a key without a value gives ``""``.

    Raises:
        UserError: The file is missing, not UTF-8, unsorted, or has an empty or repeated key; the
            message names the file and the line.
    """
    path = Path(path)
    table: dict[str, str] = {}
    previous = b""
    try:
        file = open(path, "rb")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    with file:
        for number, raw in enumerate(file, 1):
            try:
                line = raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise UserError(f"{path}:{number}: not UTF-8 ({error.reason})") from error
            key, _, value = line.partition(" ")
            if not key:
                raise UserError(f"{path}:{number}: an empty line or a line without a key")
            encoded = key.encode()
            if encoded <= previous:
                what = "repeated" if key in table else "out of byte order"
                raise UserError(
                    f"{path}:{number}: key {key!r} is {what}; utils/fix_data_dir.sh sorts a directory"
                )
            previous = encoded
            table[key] = value
    return table


def write_table(path: str | Path, table: Mapping[str, object]) -> None:
    """Write a table in byte order of its keys, whole or not at all."""
    with atomic_write(path) as file:
        for key in sorted(table, key=str.encode):
            file.write(f"{key} {table[key]}".rstrip(" ") + "\n")


def read_list(path: str | Path) -> list[str]:
    """Read a list of utterance ids, one a line (an empty file is an empty list)."""
    return list(read_table(path))


def write_list(path: str | Path, ids: Iterable[str]) -> None:
    """Write a list of ids, one a line, in byte order."""
    write_table(path, dict.fromkeys(ids, ""))
