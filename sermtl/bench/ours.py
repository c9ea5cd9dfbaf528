"""Our own updates: the trainer as it is shipped, and with one measure at a time switched off."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F

from sermtl.bench.material import BASE, EMOTIONS, SPEAKERS, Material
from sermtl.bench.measure import Row
from sermtl.config import TrainConfig, load_config
from sermtl.data.dataset import FoldDataset, Sets
from sermtl.model import packed
from sermtl.model.front_end import FrontEnd
from sermtl.model.heads import HeadSettings
from sermtl.model.multitask import MultiTaskModel
from sermtl.model.precision import has_bf16
from sermtl.model.trained_model import TrainedModel
from sermtl.model.upstreams.load import build_upstream, config_from
from sermtl.text.tokenizer import CharTokenizer, char_tokens
from sermtl.train.trainer import Trainer

SHIPPED = Path(__file__).parents[2] / "conf" / "train.yaml"
FAST = ("feats_type=stored", "freeze=conv")
"""What is set beside ``conf/train.yaml``: ``./run.sh --feats_type stored --train_args "--set freeze=conv"``."""


def build_model(device: torch.device) -> TrainedModel:
    """wav2vec2-base with random weights under our heads."""
    upstream = build_upstream(config_from("wav2vec2", dict(BASE), "wav2vec2-base"))
    tokenizer = CharTokenizer(char_tokens([], "en"))
    last = (upstream.total_layers,)
    model = MultiTaskModel(upstream, HeadSettings(last, last), EMOTIONS, len(tokenizer.tokens), SPEAKERS)
    front_end = FrontEnd("raw", upstream.normalize, "utterance", upstream.geometry)
    labels = [f"e{number}" for number in range(EMOTIONS)]
    return TrainedModel(model.to(device), front_end, labels, [f"s{n}" for n in range(SPEAKERS)], tokenizer)


def row_names(device: torch.device) -> list[str]:
    """Names of our rows on a device: as shipped, without one measure each, and compiled on a GPU."""
    on_cpu = device.type == "cpu"
    measures = ["bf16"] * has_bf16(device) + ["stored-outputs", "frozen-encoder", "packing"]
    measures += ["fourier-positions", "bit-dropout"] if on_cpu else ["varlen-attention"]
    return ["ours", *(f"ours-without-{measure}" for measure in measures), *([] if on_cpu else ["ours-compiled"])]


@dataclass
class Ours:
    """The three trainers that the rows need, over one model's weights."""

    trained: TrainedModel
    material: Material
    device: torch.device
    directory: Path

    def __post_init__(self) -> None:
        """Make the trainers."""
        self.bf16 = has_bf16(self.device)
        self.config = load_config(TrainConfig, SHIPPED, [*FAST, "num_workers=0"])
        # The order matters: a trainer of a frozen encoder leaves its parameters out.
        upstream = self.trained.model.upstream
        self.all = self._trainer(replace(self.config, feats_type="raw", freeze="none"))
        upstream.freeze("conv")
        self.stored = self._trainer(self.config)
        self.raw = self._trainer(replace(self.config, feats_type="raw"))
        self.raw.optimizer = self.stored.optimizer
        self.compiled: Any = None

    def _trainer(self, config: TrainConfig) -> Trainer:
        stored = config.feats_type == "stored"
        front_end = self.trained.front_end.stored() if stored else self.trained.front_end
        examples = self.material.conv if stored else self.material.raw
        data = FoldDataset(examples, front_end, config, self.trained.model.upstream.masking)
        return Trainer(self.trained, config, Sets(data, {}, {}), self.directory, self.device)

    def row(self, name: str) -> Row:
        """As shipped, without a measure, or compiled."""
        off = name.removeprefix("ours-without-").removeprefix("ours-") if name != "ours" else ""
        upstream, passes = self.trained.model.upstream, {"stored-outputs": 1, "frozen-encoder": 3}.get(off, 0)
        trainer = {"stored-outputs": self.raw, "frozen-encoder": self.all}.get(off, self.stored)
        return Row(
            name,
            lambda number: self._update(trainer, number, off),
            lambda number: update_flops(upstream, self.material, number, passes),
            lambda: _resident_mb(trainer),
            self.bf16 and off != "bf16",
            sum(parameter.numel() for parameter in trainer.parameters),
        )

    def _update(self, trainer: Trainer, number: int, off: str) -> None:
        """Read, collate and compute update ``number``."""
        model = self.trained.model
        model.upstream.frozen = "none" if off == "frozen-encoder" else "conv"
        model.upstream.entry = "audio" if trainer is not self.stored else "front"
        model.upstream.model.feature_extractor.requires_grad_(off == "frozen-encoder")
        model.train()
        model.bf16 = self.bf16 and off != "bf16"
        model.upstream.lay_out("padded" if off == "packing" else "auto", self.device)
        upstream: Any = model.upstream
        upstream.fourier_positions = off != "fourier-positions"
        if off == "compiled" and self.compiled is None:
            upstream.compile_layers()
            self.compiled = upstream.packed_layer
        upstream.packed_layer = self.compiled if off == "compiled" else packed.run_layer
        indices = self.material.updates[number]
        plainer = {"bit-dropout": ("_drop", F.dropout), "varlen-attention": ("attend_varlen", packed.attend_padded)}
        with mock.patch.object(packed, *plainer[off]) if off in plainer else nullcontext():
            parts = [[trainer.sets.train[index] for index in part] for part in trainer.parts_of(indices)]
            batches = [trainer.sets.train.collate(part) for part in parts]
            trainer.update(number, batches)


def _resident_mb(trainer: Trainer) -> float:
    states = [value for state in trainer.optimizer.state.values() for value in state.values()]
    moments = sum(value.nbytes for value in states if isinstance(value, torch.Tensor))
    return (moments + sum(parameter.nbytes for parameter in trainer.model.parameters())) / 2**20


def update_flops(upstream: Any, material: Material, number: int, passes: int) -> float:
    """Of own frames only: 3 forward passes where weights are trained, ``passes`` of the convolutional encoder."""
    return sum(
        3 * transformer_flops(upstream, material.conv[index].length)
        + passes * convolution_flops(upstream, material.raw[index].length)
        for index in material.updates[number]
    )


def transformer_flops(upstream: Any, frames: int) -> float:
    """Of a forward pass over ``frames``: projection, positions, layers and attention."""
    config = upstream.config
    weights = sum(
        parameter.numel()
        for part in (upstream.model.feature_projection, upstream.model.encoder)
        for parameter in part.parameters()
        if parameter.ndim > 1
    )
    return 2.0 * frames * (weights + 2 * config.num_hidden_layers * config.hidden_size * frames)


def convolution_flops(upstream: Any, samples: int) -> float:
    """Of a forward pass of the convolutional encoder."""
    lengths = upstream.geometry.layer_lengths(samples)
    layers = upstream.model.feature_extractor.conv_layers
    return sum(2.0 * length * layer.conv.weight.numel() for length, layer in zip(lengths, layers, strict=True))


def decoders(ours: Ours) -> dict[str, Callable[[list[int]], None]]:
    """Decoding of utterances from audio and from stored outputs."""
    from sermtl.inference.decode import decode

    def run(trainer: Trainer, indices: list[int]) -> None:
        ours.trained.model.bf16 = False
        ours.trained.model.upstream.entry = "front" if trainer is ours.stored else "audio"
        ours.trained.model.upstream.lay_out("auto", ours.device)
        upstream: Any = ours.trained.model.upstream
        upstream.fourier_positions = True
        data = trainer.sets.train
        chosen = FoldDataset([data.examples[index] for index in indices], data.front_end)
        for _ in decode(ours.trained, chosen, 16, ours.device):
            pass

    return {"ours": lambda indices: run(ours.raw, indices), "ours-stored": lambda indices: run(ours.stored, indices)}
