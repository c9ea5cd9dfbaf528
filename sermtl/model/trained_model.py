"""A trained model as files: ``model.json`` (what it is) and ``model.safetensors`` (its weights), and its tokens."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save

from sermtl.errors import UserError
from sermtl.fileio.files import atomic_write, load_json, write_json
from sermtl.model.front_end import FrontEnd
from sermtl.model.heads import HeadSettings
from sermtl.model.multitask import MultiTaskModel
from sermtl.model.upstreams.load import build_upstream, config_from, settings_of
from sermtl.text.tokenizer import Tokenizer, load_tokenizer

FORMAT = 2
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class TrainedModel:
    """A model with the meaning of its inputs and outputs."""

    model: MultiTaskModel
    front_end: FrontEnd
    labels: list[str]
    speakers: list[str]
    tokenizer: Tokenizer


def save_description(directory: Path, trained: TrainedModel, tokens: Path) -> None:
    """Write ``model.json`` and copy the token list, so that the directory is complete with its weights."""
    front_end = trained.front_end
    description = {
        "format": FORMAT,
        "labels": trained.labels,
        "speakers": trained.speakers,
        # The weights hold the upstream whose stored outputs were trained on: the model itself reads waveforms.
        "feats_type": "raw" if front_end.feats_type == "stored" else front_end.feats_type,
        "cmvn": front_end.cmvn,
        "norm_vars": front_end.norm_vars,
        "global_mean": None if front_end.global_mean_F is None else front_end.global_mean_F.tolist(),
        "global_std": None if front_end.global_std_F is None else front_end.global_std_F.tolist(),
        "heads": asdict(trained.model.settings),
        "upstream": settings_of(trained.model.upstream.config),
    }
    write_json(directory / "model.json", description, sort_keys=True)
    for name in ("tokens.txt", "bpe.model"):
        if (tokens / name).is_file():
            with atomic_write(directory / "tokens" / name, "wb") as file:
                file.write((tokens / name).read_bytes())


def save_weights(directory: Path, model: MultiTaskModel) -> None:
    """Write ``model.safetensors``, whole or not at all."""
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with atomic_write(directory / WEIGHTS, "wb") as file:
        file.write(save(weights))


def load_model(directory: str | Path, device: torch.device) -> TrainedModel:
    """Load a trained fold, ready to decode in float32.

    Raises:
        UserError: The directory holds no whole model, or one of another format.
    """
    directory = Path(directory)
    try:
        description = load_json(directory / "model.json")
    except (OSError, ValueError) as error:
        raise UserError(f"{directory}/model.json: {error}; stage 3 makes it") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise UserError(f"{directory}/model.json: not a model of format {FORMAT}; train it again")
    tokenizer = load_tokenizer(directory / "tokens")
    try:
        values = dict(description["upstream"])
        upstream = build_upstream(config_from(values.pop("model_type"), values, f"{directory}/model.json"))
        heads: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in description["heads"].items()}
        sizes = (len(description["labels"]), len(tokenizer.tokens), len(description["speakers"]))
        model = MultiTaskModel(upstream, HeadSettings(**heads), *sizes)
        model.load_state_dict(load_file(directory / WEIGHTS))
        arrays = ((name, description.get(name)) for name in ("global_mean", "global_std"))
        statistics: Any = {f"{name}_F": np.array(array, dtype=np.float32) for name, array in arrays if array}
        front_end = FrontEnd(
            description["feats_type"], upstream.normalize, description["cmvn"], upstream.geometry,
            norm_vars=description.get("norm_vars", True), **statistics,
        )  # fmt: skip
    except UserError:
        raise
    except Exception as error:  # damaged bytes and values that do not fit together: errors of many types
        reason = f"{directory}/{WEIGHTS} is missing, damaged or of another model ({' '.join(str(error).split())})"
        raise UserError(f"{reason}; rerun stage 3") from error
    return TrainedModel(model.to(device).eval(), front_end, description["labels"], description["speakers"], tokenizer)
