"""Upstreams by name: a geometry for training from scratch, a folder, or a model id of the hub."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

# isort: off
from sermtl import torchaudio_compat  # noqa: F401 (before transformers)

# isort: on
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, PretrainedConfig

from sermtl.config import nearest, read_yaml
from sermtl.errors import UserError
from sermtl.model.geometry import find_geometry
from sermtl.model.upstreams.wav2vec2 import Upstream

MODEL_TYPES = ("wav2vec2", "hubert", "wavlm", "data2vec-audio")
OUR_KEYS = ("input_bands", "normalize")


def load_upstream(name: str) -> Upstream:
    """The upstream that ``--upstream`` names: a geometry in ``conf/upstream/``, a folder, or a hub id.

    Raises:
        UserError: No such geometry, folder or model; a model of another kind; damaged weights; a hub that
            cannot be reached (with the way to use a local folder).
    """
    geometry = find_geometry(name)
    if geometry is not None:
        try:
            return Upstream(read_geometry(geometry))
        except UserError:
            raise
        except Exception as error:  # values that do not fit together: errors of many types
            raise UserError(f"{geometry}: no model can be built of it ({' '.join(str(error).split())})") from error
    from transformers.utils import logging

    local = Path(name).is_dir()
    logging.disable_progress_bar()  # of weights being read, into log files
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if config.model_type not in MODEL_TYPES:
            raise UserError(f"upstream {name} is a {config.model_type} model; known: {', '.join(MODEL_TYPES)}")
        if config.model_type == "wavlm":
            config._attn_implementation = "eager"
        model, loaded = AutoModel.from_pretrained(
            name, config=config, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
        # transformers fills what the weights lack with random numbers
        missing = sorted(set(loaded["missing_keys"]) - {"masked_spec_embed"})
        if missing:
            raise ValueError(f"its weights lack {len(missing)} of this model's, e.g. {missing[0]}")
    except UserError:
        raise
    except Exception as error:  # hub, file and format errors are of many types
        reason = str(error).strip().split("\n")[0]
        way_out = (
            "the folder must hold config.json and model.safetensors or pytorch_model.bin"
            if local
            else "on a machine that reaches the hub run `hf download "
            f"{name} --local-dir DIR`, copy DIR here, and give --upstream DIR"
        )
        raise UserError(f"upstream {name} cannot be loaded ({type(error).__name__}: {reason}); {way_out}") from error
    config.input_bands = 0
    config.normalize = _wants_normalised(name)
    return Upstream.around(model, config)


@cache
def hub_commit(name: str) -> str | None:
    """The commit of a hub id's model, as it would be loaded now; None where it cannot be had."""
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False)._commit_hash
    except Exception:  # of many types; `load_upstream` says why
        return None


def _wants_normalised(name: str) -> bool:
    try:
        return bool(AutoFeatureExtractor.from_pretrained(name, trust_remote_code=False).do_normalize)
    except (OSError, ValueError, AttributeError):
        return True


def read_geometry(path: Path) -> PretrainedConfig:
    """A transformers configuration from a YAML geometry; ``model_type`` names the family.

    Raises:
        UserError: The file cannot be read, or has an unknown key.
    """
    values = read_yaml(path)
    model_type = values.pop("model_type", "wav2vec2")
    if model_type not in MODEL_TYPES:
        raise UserError(f"{path}: model_type {model_type!r}; known: {', '.join(MODEL_TYPES)}")
    return config_from(model_type, values, str(path))


def config_from(model_type: str, values: dict[str, Any], where: str) -> PretrainedConfig:
    """Build a configuration, refusing keys that the family does not have."""
    config = AutoConfig.for_model(model_type)
    known = [*config.to_dict(), *OUR_KEYS]
    for key in values:
        if key not in known:
            raise UserError(f"{where}: unknown key {key!r}{nearest(key, known)}")
    config = AutoConfig.for_model(model_type, **{key: v for key, v in values.items() if key not in OUR_KEYS})
    if model_type == "wavlm":
        config._attn_implementation = "eager"
    config.input_bands = values.get("input_bands", 0)
    config.normalize = values.get("normalize", True)
    return config


def settings_of(config: PretrainedConfig) -> dict[str, Any]:
    """What `config_from` needs to build the configuration again, as plain values with ``model_type``.

    A pretrained model's own file may hold keys that its family no longer reads; they are left out.
    """
    unused = {"architectures", "dtype", "transformers_version"}
    known = AutoConfig.for_model(config.model_type).to_dict().keys() - unused
    values = {key: value for key, value in config.to_diff_dict().items() if key in known}
    return values | {key: getattr(config, key) for key in (*OUR_KEYS, "model_type")}
