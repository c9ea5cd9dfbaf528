"""Upstreams by name: a geometry for training from scratch, a folder, or a model id of the hub."""

import importlib
import json
import logging
from pathlib import Path
from typing import Any

# isort: off
from sermtl import before_transformers  # noqa: F401 (before transformers)

# isort: on
import transformers
from transformers import AutoConfig, PretrainedConfig
from transformers.utils import cached_file
from transformers.utils.logging import disable_progress_bar

from sermtl.config import nearest, read_yaml
from sermtl.errors import UserError
from sermtl.model.geometry import find_geometry
from sermtl.model.upstreams.base import Upstream

FAMILIES = {
    "wav2vec2": "wav2vec2.Wav2Vec2",
    "hubert": "wav2vec2.Wav2Vec2",
    "wavlm": "wav2vec2.Wav2Vec2",
    "data2vec-audio": "wav2vec2.Wav2Vec2",
    "unispeech-sat": "wav2vec2.Wav2Vec2",
    "whisper": "whisper.Whisper",
    "wav2vec2-bert": "w2v_bert.W2vBert",
}
"""transformers' model types, and the module and class here; one is imported when it is needed, which takes seconds."""
OUR_KEYS = {"input_bands": 0, "normalize": True, "kept_layers": None}
"""What a configuration has beside transformers' own keys, and the defaults."""
log = logging.getLogger(__name__)
# Its text generation would import scikit-learn, which takes a quarter of each start.
transformers.utils.is_sklearn_available = lambda: False


def load_upstream(name: str) -> Upstream:
    """The upstream that ``--upstream`` names: a geometry in ``conf/upstream/``, a folder, or a hub id.

    Raises:
        UserError: No such geometry, folder or model; a model of another kind; damaged weights; a hub that
            cannot be reached (with the way to use a local folder).
    """
    geometry = find_geometry(name)
    if geometry is not None:
        try:
            return build_upstream(read_geometry(geometry))
        except UserError:
            raise
        except Exception as error:  # values that do not fit together: errors of many types
            reason = " ".join(str(error).split())
            raise UserError(f"{geometry}: no model can be built of it ({reason})") from error
    disable_progress_bar()  # of weights being read, into log files
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if config.model_type not in FAMILIES:
            raise UserError(f"upstream {name} is a {config.model_type} model; known: {', '.join(FAMILIES)}")
        family = _family(config.model_type)
        model, loaded = family.load(name, config)
        # transformers fills what the weights lack with random numbers
        missing = sorted(set(loaded["missing_keys"]) - {"masked_spec_embed"})
        if missing:
            raise ValueError(f"its weights lack {len(missing)} of this model's, e.g. {missing[0]}")
    except UserError:
        raise
    except Exception as error:  # hub, file and format errors are of many types
        reason = str(error).strip().split("\n")[0]
        way_out = f"on a machine that reaches the hub run `hf download {name} --local-dir DIR`, copy DIR here, and "
        way_out += "give --upstream DIR"
        if Path(name).is_dir():
            way_out = "the folder must hold config.json and model.safetensors or pytorch_model.bin"
        raise UserError(f"upstream {name} cannot be loaded ({type(error).__name__}: {reason}); {way_out}") from error
    config.input_bands, config.kept_layers = 0, None
    config.normalize = _wants_normalised(name, config)
    return family(model, config)


def _family(model_type: str) -> Any:
    module, _, name = FAMILIES[model_type].partition(".")
    return getattr(importlib.import_module(f"sermtl.model.upstreams.{module}"), name)


def build_upstream(config: PretrainedConfig) -> Upstream:
    """An upstream with fresh weights, of as many layers as ``kept_layers`` says."""
    family = _family(config.model_type)
    upstream = family(family.build(config), config)
    del upstream.layers[upstream.total_layers if config.kept_layers is None else config.kept_layers :]
    return upstream


def _wants_normalised(name: str, config: PretrainedConfig) -> bool:
    """Whether the model was trained on waveforms of zero mean and unit variance, as its extractor's file says."""
    reads_waveforms = hasattr(config, "conv_dim")
    try:
        file = cached_file(name, "preprocessor_config.json")
        # The default is that of transformers' extractor of such models.
        return bool(json.loads(Path(str(file)).read_text(encoding="utf-8")).get("do_normalize", reads_waveforms))
    except (OSError, ValueError, AttributeError):
        # How fairseq trained them: models with layer norms in their front on normalised waveforms.
        guessed = reads_waveforms and getattr(config, "feat_extract_norm", "layer") == "layer"
        log.warning(
            "upstream %s has no readable preprocessor_config.json, which says whether waveforms are normalised; taken "
            "as %s; if that is wrong, put the model's own file there",
            name,
            "normalised" if guessed else "not normalised",
        )
        return guessed


def read_geometry(path: Path) -> PretrainedConfig:
    """A transformers configuration from a YAML geometry; ``model_type`` names the family.

    Raises:
        UserError: The file cannot be read, or has an unknown key.
    """
    values = read_yaml(path)
    model_type = values.pop("model_type", "wav2vec2")
    if model_type not in FAMILIES:
        raise UserError(f"{path}: model_type {model_type!r}; known: {', '.join(FAMILIES)}")
    return config_from(model_type, values, str(path))


def config_from(model_type: str, values: dict[str, Any], where: str) -> PretrainedConfig:
    """Build a configuration, refusing keys that the family does not have."""
    config = AutoConfig.for_model(model_type)
    known = [*config.to_dict(), *OUR_KEYS]
    for key in values:
        if key not in known:
            raise UserError(f"{where}: unknown key {key!r}{nearest(key, known)}")
    config = AutoConfig.for_model(model_type, **{key: v for key, v in values.items() if key not in OUR_KEYS})
    for key, default in OUR_KEYS.items():
        setattr(config, key, values.get(key, default))
    return config


def settings_of(config: PretrainedConfig) -> dict[str, Any]:
    """What `config_from` needs to build the configuration again, as plain values with ``model_type``.

    A pretrained model's own file may hold keys that its family no longer reads; they are left out.
    """
    unused = {"architectures", "dtype", "transformers_version"}
    known = AutoConfig.for_model(config.model_type).to_dict().keys() - unused
    values = {key: value for key, value in config.to_diff_dict().items() if key in known}
    return values | {key: getattr(config, key) for key in (*OUR_KEYS, "model_type")}
