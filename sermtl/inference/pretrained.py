"""Finding and loading trained models: a fold, all folds of an experiment, a pack, a model of the hub.

Nothing in a pack is trusted: only JSON, safetensors and token lists are read, by names fixed here, and the files
must be those that ``pack.json`` lists.
"""

from pathlib import Path, PurePosixPath
from typing import Any

import torch

from sermtl.errors import UserError
from sermtl.fileio.files import load_json, sha256
from sermtl.model.trained_model import TrainedModel, load_model

PACK_FORMAT = 1
NEEDED = ("model.json", "model.safetensors", "tokens/tokens.txt", "tokens/bpe.model")
"""What sermtl itself loads of a pack (the last one only where the tokens are subwords)."""


def resolve(name: str | Path) -> list[Path]:
    """The directories of models that a path or a hub id means; an experiment's directory means all its folds.

    `UserError` where it is no such directory, or the hub's model cannot be downloaded.
    """
    path = Path(name)
    if (path / "pack.json").is_file() or (path / "model.json").is_file():
        return [path]
    folds = sorted(file.parent for file in path.glob("*/model.json") if (file.parent / "model.safetensors").is_file())
    if folds:
        return folds
    if path.exists():
        raise UserError(
            f"{path} is no model: it holds neither pack.json nor model.json; "
            "give exp/<tag>/<fold>, its pack, or exp/<tag> for all folds"
        )
    if str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        raise UserError(f"{path}: no such directory; give exp/<tag>/<fold>, a pack, or a model id like name/model")
    from huggingface_hub import snapshot_download

    try:
        return [Path(snapshot_download(str(name), allow_patterns=["pack.json", *NEEDED]))]
    except Exception as error:  # of many types: network, rights, names
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{name} is no directory here, and cannot be downloaded from the hub ({type(error).__name__}: {reason}); "
            f"check the path, or fetch it where the hub can be reached: hf download {name} --local-dir DIR"
        ) from error


def load(directory: Path, device: torch.device) -> TrainedModel:
    """Load a fold or a pack; `UserError`, naming the file, where it is none, newer, incomplete or damaged."""
    if (directory / "pack.json").is_file():
        manifest = read_manifest(directory)
        check_files(directory, manifest, [name for name in NEEDED if name in manifest["files"]])
    trained = load_model(directory, device)
    labels = trained.labels
    if not labels or not all(isinstance(label, str) and label.isprintable() for label in labels):
        raise UserError(f"{directory}/model.json: the labels are not printable names")
    return trained


def read_manifest(directory: Path) -> dict[str, Any]:
    """A pack's ``pack.json``; `UserError` where it is damaged, newer, or lists a path out of the directory."""
    path = directory / "pack.json"
    try:
        manifest = load_json(path)
        version, files = manifest["format"], manifest["files"]
        listed = {str(name): str(entry["sha256"]) for name, entry in files.items()}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: damaged, or no manifest of a pack ({type(error).__name__}: {error})") from error
    if not isinstance(version, int) or version > PACK_FORMAT:
        known = f"this sermtl reads up to {PACK_FORMAT}"
        raise UserError(f"{path}: a pack of format {version!r}; {known}: install a newer one")
    for name in listed:
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or "\\" in name or not parts:
            raise UserError(f"{path}: lists {name!r}, a path out of the pack; do not use this pack")
    if missing := set(NEEDED[:3]) - set(listed):
        raise UserError(f"{path}: lists no {', '.join(sorted(missing))}")
    return manifest


def check_files(directory: Path, manifest: dict[str, Any], names: list[str]) -> None:
    """Compare files of a pack with their sums; a `UserError` names all that are missing or differ."""
    problems = []
    for name in names:
        file = directory / name
        if not file.is_file():
            problems.append(f"{name} is missing")
        elif sha256(file) != manifest["files"][name]["sha256"]:
            problems.append(f"{name} is damaged (its SHA-256 is not the one in pack.json)")
    if problems:
        raise UserError(f"{directory}: {'; '.join(problems)}; copy the pack again")
