"""What a directory was made from, in a stamp (JSON) that is written after all else: the base of "nothing changed".

A stamp holds the stage's code version and settings, a digest of each input, and size and checksum of each output. While
a stage works, its stamp is empty, so that what a kill leaves behind passes for neither whole nor current.

Files count by their content, so that copying or moving them changes nothing. What is too large to be read again counts
by size and time: a folder by those of its files, and a ``wav.scp*`` by its content and those of the files that it
names. They are compared for equality, never for which is newer, so no two clocks have to agree (a server's, a host's).
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sermtl.errors import UserError
from sermtl.fileio.files import atomic_write, crc32, load_json, sha256
from sermtl.fileio.tables import read_table
from sermtl.fileio.wav_scp import stat_of

NAME = "stamp.json"


@dataclass(frozen=True)
class Stamp:
    """A directory's origin, as it would be if it were made now."""

    path: Path
    code: int | str
    """Raised when the same inputs and settings would give other outputs; `package_digest` for what is soon redone."""
    settings: Mapping[str, Any]
    inputs: Mapping[str, Path]
    """By names that survive a move: ``data:text``."""

    def changed(self, contents: bool = True) -> str:
        """Why the directory has to be made again; empty where nothing changed.

        The outputs' ``contents`` are compared, or only their sizes.
        """
        old = read_stamp(self.path)
        if not old:
            return "not made yet" if old is None else "its making was cut off"
        if old["code"] != self.code:
            return "made by another version of the program"
        for what, now in (("settings", plain(self.settings)), ("inputs", self.digests)):
            if differing := [name for name in {**old[what], **now} if old[what].get(name) != now.get(name)]:
                return f"other {what}: {' '.join(differing)}"
        damaged = damaged_outputs(self.path, old, contents)
        return f"missing or damaged: {' '.join(damaged)}" if damaged else ""

    @functools.cached_property
    def digests(self) -> dict[str, str | None]:
        """Of the inputs when they were first asked for: what changes while a stage works makes its outputs outdated."""
        return {name: digest(path) for name, path in self.inputs.items()}

    def begin(self) -> None:
        """Empty the stamp: its outputs are about to change."""
        with atomic_write(self.path, sync=False) as file:
            json.dump({"begun": self.digests}, file)

    def take_begun(self) -> None:
        """Take the digests of when `begin` was called, perhaps by another process, but of inputs beside the stamp."""
        try:
            begun = load_json(self.path).get("begun", {}) if self.path.exists() else {}
            folder = self.path.parent
            self.digests.update({name: old for name, old in begun.items() if self.inputs[name].parent != folder})
        except (ValueError, AttributeError, LookupError) as error:
            raise UserError(
                f"{self.path}: damaged while its stage worked ({type(error).__name__}: {error}); run it again"
            ) from error

    def finish(self, outputs: Iterable[Path], at: Path | None = None) -> None:
        """Write the stamp of the files that were made, as they are now.

        It is written to ``at``, and its outputs are there, where the directory has yet to take its place.
        """
        folder = (at or self.path).parent
        content = {
            "code": self.code,
            "settings": plain(self.settings),
            "inputs": self.digests,
            "outputs": {os.path.relpath(path, folder): [path.stat().st_size, crc32(path)] for path in outputs},
        }
        # An empty stamp is one of work that was cut off: losing it costs that work, and no more.
        with atomic_write(at or self.path, sync=False) as file:
            json.dump(content, file, indent=1)
            file.write("\n")


def read_stamp(path: Path) -> dict[str, Any] | None:
    """A stamp's content: None where there is none, empty where the work was cut off or the stamp is damaged."""
    try:
        content = load_json(path)
        parts = [content[name] for name in ("settings", "inputs", "outputs")]
        sizes = [size for size, _ in content["outputs"].values()]
        whole = (
            "code" in content
            and all(isinstance(part, dict) for part in parts)
            and all(map(str.isdigit, map(str, sizes)))
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, LookupError, TypeError):
        whole = False
    return content if whole else {}


def damaged_outputs(path: Path, stamp: Mapping[str, Any], contents: bool = True) -> list[str]:
    """Names of a stamp's outputs that are not as they were made."""
    files = {name: (path.parent / name, *made) for name, made in stamp["outputs"].items()}
    return [
        name for name, (file, size, checksum) in files.items()
        if not file.is_file() or file.stat().st_size != size or (contents and crc32(file) != checksum)
    ]  # fmt: skip


def refuse_damaged(path: Path, remedy: str, contents: bool = True) -> None:
    """Stop where the outputs of a stamp are not as they were made; a directory without a stamp is not checked.

    The `UserError` ends with the ``remedy``; ``contents`` are compared, or only sizes.
    """
    stamp = read_stamp(path)
    if stamp is None:
        return
    damaged = damaged_outputs(path, stamp, contents) if stamp else []
    if not stamp or damaged:
        what = f"missing or damaged: {', '.join(damaged)}" if damaged else "its making was cut off"
        raise UserError(f"{path.parent}: {what}; {remedy}")


def outdated(path: Path, roots: Mapping[str, Path]) -> list[str]:
    """Inputs of a stamp that have changed, in sentences; none where it is missing, or for inputs that are gone.

    ``roots`` are the places of the inputs ``root:name`` now; other names are paths.
    """
    stamp = read_stamp(path)
    if stamp is None:
        return []
    if not stamp:
        return [f"{path.parent}: its making was cut off"]
    found = []
    for name, before in stamp["inputs"].items():
        root, colon, rest = name.partition(":")
        source = roots[root] / rest if colon and root in roots else Path(name)
        now = digest(source)
        if now != before and (now is not None or before is None):
            found.append(f"{path.parent} was made from another {source}".removesuffix("*"))
    return found


def fold_roots(exp: Path, data: Path, fold_dir: Path) -> dict[str, Path]:
    """Places of a fold's inputs: ``exp`` is ``exp/<tag>/<fold>``, ``fold_dir`` has its lists."""
    return {"top": exp.parent, "exp": exp, "decode": exp / "decode_test", "data": data, "fold": fold_dir}


def inputs(roots: Mapping[str, Path], *names: str) -> dict[str, Path]:
    """Paths of ``root:name`` by these names."""
    return {name: roots[name.partition(":")[0]] / name.partition(":")[2] for name in names}


def digest(path: Path) -> str | None:
    """Digest of a file, a folder, or (``wav.scp*``) a table and what it names; None where something is missing."""
    if path.name.endswith("*"):
        try:
            table = read_table(path.with_name(path.name[:-1]))
            return _digest_of(f"{key} {entry} {stat_of(entry)}\n" for key, entry in table.items())
        except (OSError, UserError):
            return None
    if path.is_dir():
        return _digest_of(_lines_of_folder(path))
    return sha256(path) if path.is_file() else None


def _digest_of(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _lines_of_folder(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(parent, name)
            stat = os.stat(path) if os.path.exists(path) else os.lstat(path)
            yield f"{os.path.relpath(path, folder)} {stat.st_size} {stat.st_mtime_ns}\n"


@functools.cache
def package_digest() -> str:
    """Digest of all files of sermtl: the code version of stages that are quickly done again."""
    package = Path(__file__).parents[1]
    files = sorted(path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return _digest_of(f"{path.relative_to(package)} {sha256(path)}\n" for path in files)[:16]


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON gives them back."""
    return json.loads(json.dumps(dict(settings), default=str))
