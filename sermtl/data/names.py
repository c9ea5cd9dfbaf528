"""Names of directories that follow from the settings: of an experiment, and of the dump that it reads.

Which form of a frozen upstream's outputs is stored follows too; no model is loaded.

| frozen | heads read | stored of an utterance |
|---|---|---|
| ``conv`` | | frames of the front |
| k layers | | frames of hidden state k |
| ``all`` | frames (CTC, attention) | frames of the states that are read, side by side |
| ``all`` | pooled vectors | a matrix (states, width) of means, or of means and deviations |
"""

import hashlib
import json
import os
import re
from contextlib import suppress
from functools import cache
from pathlib import Path

from sermtl.config import TrainConfig, read_yaml
from sermtl.errors import UserError
from sermtl.fileio.files import atomic_write, sha256
from sermtl.model.geometry import find_geometry

CODE_VERSION = 2
"""Raised when the same upstream would give other outputs."""
WEIGHTS = (".json", ".safetensors", ".bin")
"""Suffixes of the files in an upstream's folder that decide its outputs."""


def stored_form(config: TrainConfig) -> str:
    """The smallest form from which training is exact: ``front``, a state's number, ``states ...`` or ``pooled ...``."""
    if config.freeze == "conv":
        return "front"
    if config.freeze != "all":
        return config.freeze
    if config.alpha or config.pooling == "attention":
        read = {config.layers} | ({config.ctc_layers or config.layers} if config.alpha else set())
        return f"states {'mix' if 'mix' in read else ' '.join(sorted(read))}"
    return f"pooled {config.pooling}"


def stored_entry(config: TrainConfig) -> str | int:
    """What the upstream is given of a stored dump: ``front``, ``states``, ``pooled``, or a hidden state's number."""
    form = stored_form(config)
    return int(form) if form.isdecimal() else form.partition(" ")[0]


def dump_name(config: TrainConfig) -> str:
    """The dump directory's name under ``dump/<corpus>/``; `UserError` where the upstream cannot be found."""
    if config.feats_type != "stored":
        return config.feats_type
    digest = upstream_digest(config.upstream) or hub_snapshot(config.upstream).name
    scratch, form = config.seed if find_geometry(config.upstream) else None, stored_form(config)
    if form.startswith("states"):
        form = " ".join(sorted({_last_state(config.upstream) if word == "last" else word for word in form.split()}))
    what = f"{digest} {scratch} {form} {CODE_VERSION}"
    return f"stored/{hashlib.sha256(what.encode()).hexdigest()[:16]}"


@cache
def upstream_digest(upstream: str) -> str | None:
    """Of what a geometry's file says, or of the settings and weights in a folder; None for a model of the hub."""
    path = find_geometry(upstream)
    if path is not None:
        return hashlib.sha256(repr(sorted(read_yaml(path).items())).encode()).hexdigest()[:16]
    if not Path(upstream).is_dir():
        return None
    files = sorted(file for file in Path(upstream).iterdir() if file.suffix in WEIGHTS)
    return hashlib.sha256("".join(f"{file.name} {_digest_of(file)}\n" for file in files).encode()).hexdigest()[:16]


def _digest_of(file: Path) -> str:
    """SHA-256 of a file, remembered by its path, size and time: weights are gigabytes."""
    stat = file.stat()
    key = f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    remembered = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sermtl" / "digests.json"
    try:
        known = json.loads(remembered.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if key not in known:
        known[key] = sha256(file)
        # Where the home cannot be written, the digest is computed each time.
        with suppress(UserError), atomic_write(remembered) as out:
            json.dump(known, out)
    return known[key]


def _last_state(upstream: str) -> str:
    """The number of the last hidden state; ``last`` where the upstream's file leaves it to transformers."""
    folder = Path(upstream) if Path(upstream).is_dir() else None
    values = read_yaml(find_geometry(upstream) or (folder or hub_snapshot(upstream)) / "config.json")  # JSON is YAML
    return str(values.get("encoder_layers") or values.get("num_hidden_layers") or "last")


@cache
def hub_snapshot(name: str) -> Path:
    """The folder of a hub id's model in the hub's cache, named by its commit; `UserError` where it cannot be loaded."""
    from huggingface_hub import hf_hub_download  # a second of imports

    try:
        return Path(hf_hub_download(name, "config.json")).parent
    except Exception as error:  # of many types
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"upstream {name} cannot be loaded ({type(error).__name__}: {reason}); on a machine that reaches the hub "
            f"run `hf download {name} --local-dir DIR`, copy DIR here, and give --upstream DIR"
        ) from error


def experiment_tag(corpus: str, protocol: str, config_name: str, config: TrainConfig, extra: list[str]) -> str:
    """The name of an experiment's directory; each combination of settings has its own.

    ``config_name`` is the stem of the training configuration's file, ``extra`` the ``key=value`` of the command line.
    """
    in_name = {"upstream", "alpha", "beta", "grl", "seed"}
    upstream = re.sub(r"\.ya?ml$", "", Path(config.upstream).name) or config.upstream
    parts = [corpus, protocol, upstream, config_name]
    parts += [f"alpha{config.alpha:g}", f"beta{config.beta:g}", config.grl, f"seed{config.seed}"]
    parts += [word for word in sorted(extra) if word.partition("=")[0] not in in_name]
    return "_".join(re.sub(r"[^A-Za-z0-9.+-]+", "-", part).strip("-") for part in parts)
