"""The benchmark's rows: the published update, and ours as it is shipped and with one measure at a time switched off."""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F

from sermtl.audio.resample import SAMPLE_RATE
from sermtl.bench import published
from sermtl.bench.material import BASE, EMOTIONS, SPEAKERS, make_material
from sermtl.bench.measure import Row, print_table, run_rounds, summarise, timed
from sermtl.config import TrainConfig, load_config
from sermtl.data.dataset import FoldDataset, Sets
from sermtl.errors import UserError
from sermtl.inference.decode import decode
from sermtl.model import cuda_graphs, packed
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
QUICK_ROWS = ("published-frozen", "ours", "ours-without-bf16", "ours-without-packing")
"""Of ``--quick``, beside *published*: few, so that five rounds of them fit its time on two cores."""


def choose_rows(only: list[str], quick: bool, device: torch.device) -> list[str]:
    """Names of the rows: *published* and those of ``only``; where it is empty, `QUICK_ROWS` or all of the device.

    Raises:
        UserError: ``only`` names no row.
    """
    on_cpu = device.type == "cpu"
    measures = ["bf16"] * has_bf16(device) + ["stored-outputs", "frozen-encoder", "packing"]
    measures += ["fourier-positions", "bit-dropout"] if on_cpu else ["varlen-attention"]
    known = ["published", "published-frozen", "ours", *(f"ours-without-{measure}" for measure in measures)]
    known += [] if on_cpu else ["ours-graphs"]
    if unknown := set(only) - set(known):
        raise UserError(f"--only: no row {' '.join(sorted(unknown))}; known: {' '.join(known)}")
    chosen = {"published", *(only or (QUICK_ROWS if quick else known))}
    return [name for name in known if name in chosen]


def build_model(device: torch.device) -> TrainedModel:
    """wav2vec2-base with random weights under our heads."""
    upstream = build_upstream(config_from("wav2vec2", dict(BASE), "wav2vec2-base"))
    tokenizer = CharTokenizer(char_tokens([], "en"))
    last = (upstream.total_layers,)
    model = MultiTaskModel(upstream, HeadSettings(last, last), EMOTIONS, len(tokenizer.tokens), SPEAKERS)
    front_end = FrontEnd("raw", upstream.normalize, "utterance", upstream.geometry)
    labels = [f"e{number}" for number in range(EMOTIONS)]
    return TrainedModel(model.to(device), front_end, labels, [f"s{n}" for n in range(SPEAKERS)], tokenizer)


class Rows:
    """The rows over the same ``updates`` of ``size`` utterances, those of ours over one model's weights.

    The first update, which warms up, has two utterances.
    """

    def __init__(self, directory: Path, device: torch.device, updates: int, size: int):
        torch.manual_seed(0)
        self.trained, self.directory, self.device = build_model(device), directory, device
        self.upstream: Any = self.trained.model.upstream
        geometry, channels = self.upstream.geometry, self.upstream.config.conv_dim[-1]
        self.material = make_material(directory, updates, size, geometry, channels)
        del self.material.updates[0][2:]
        self.published = published.Published().to(device).train()
        self.optimizer = torch.optim.AdamW(self.published.parameters(), lr=5e-5)
        config = load_config(TrainConfig, SHIPPED, [*FAST, "num_workers=0"])
        # The order matters: a trainer of a frozen encoder leaves its parameters out.
        self.all = self._trainer(replace(config, feats_type="raw", freeze="none"))
        self.upstream.freeze("conv")
        self.stored = self._trainer(config)
        self.raw = self._trainer(replace(config, feats_type="raw"))
        self.raw.optimizer = self.stored.optimizer
        self.graphs: cuda_graphs.GraphedLayers | None = None

    def _trainer(self, config: TrainConfig) -> Trainer:
        stored = config.feats_type == "stored"
        front_end = self.trained.front_end.stored() if stored else self.trained.front_end
        examples = self.material.conv if stored else self.material.raw
        data = FoldDataset(examples, front_end, config, self.upstream.masking)
        return Trainer(self.trained, config, Sets(data, {}, {}), self.directory, self.device)

    def row(self, name: str) -> Row:
        """The row of that name."""
        off = name.removeprefix("ours-without-").removeprefix("ours-").removeprefix("ours")
        passes = {"published": 3, "published-frozen": 1, "stored-outputs": 1, "frozen-encoder": 3}.get(off, 0)
        flops = [self._flops(update, passes) for update in self.material.updates]
        weights, front = (
            sum(parameter.numel() for parameter in module.parameters())
            for module in (self.published, self.published.wav2vec2.feature_extractor)
        )
        if name.startswith("published"):
            frozen = name == "published-frozen"
            run = partial(self._published_update, frozen)
            return Row(name, run, flops, 12 * weights / 2**20, trained=weights - front * frozen)
        trainer = {"stored-outputs": self.raw, "frozen-encoder": self.all}.get(off, self.stored)
        trained = sum(parameter.numel() for parameter in trainer.parameters)
        weights = sum(parameter.numel() for parameter in self.trained.model.parameters())
        bf16 = has_bf16(self.device) and off != "bf16"
        return Row(
            name, partial(self._update, trainer, off, bf16), flops, (4 * weights + 8 * trained) / 2**20, bf16, trained
        )

    def _published_update(self, frozen: bool, number: int) -> None:
        self.published.freeze(frozen)
        examples = [self.material.raw[index] for index in self.material.updates[number]]
        published.step(self.published, self.optimizer, examples, self.trained.front_end)

    def _prepare(self, trainer: Trainer, off: str, bf16: bool) -> None:
        """Have the model read what the trainer does, without the measure ``off``."""
        self.upstream.entry = "front" if trainer is self.stored else "audio"
        self.trained.model.bf16 = bf16
        self.upstream.lay_out("padded" if off == "packing" else "auto", self.device)
        self.upstream.fourier_positions = off != "fourier-positions"

    def _update(self, trainer: Trainer, off: str, bf16: bool, number: int) -> None:
        """Read, collate and compute update ``number``."""
        self.upstream.frozen = "none" if off == "frozen-encoder" else "conv"
        self.upstream.model.feature_extractor.requires_grad_(off == "frozen-encoder")
        self.trained.model.train()
        self._prepare(trainer, off, bf16)
        if off == "graphs" and self.graphs is None:
            cuda_graphs.use_graphs(self.trained.model, self.device)
            self.graphs = self.upstream.packed_layer
        way = (self.graphs, cuda_graphs.ROWS) if off == "graphs" else (packed.run_layer, packed.ROWS)
        self.upstream.packed_layer, self.upstream.rows = way
        plainer = {"bit-dropout": ("_drop", F.dropout), "varlen-attention": ("attend_varlen", packed.attend_padded)}
        with mock.patch.object(packed, *plainer[off]) if off in plainer else nullcontext():
            parts = trainer.parts_of(self.material.updates[number])
            data = trainer.sets.train
            trainer.update(number, [data.collate([data[index] for index in part]) for part in parts])

    def decode(self, name: str, indices: list[int]) -> None:
        """Decode utterances with the published model, or with ours from audio or from stored outputs."""
        if name == "published":
            examples = [self.material.raw[index] for index in indices]
            return published.decode(self.published, examples, self.trained.front_end)
        trainer = self.stored if name == "ours-stored" else self.raw
        self._prepare(trainer, "", False)
        data = trainer.sets.train
        chosen = FoldDataset([data.examples[index] for index in indices], data.front_end)
        for _ in decode(self.trained, chosen, 16, self.device):
            pass

    def _flops(self, update: list[int], passes: int) -> float:
        """Of own frames only: 3 forward passes where weights are trained, ``passes`` of the convolutional encoder."""
        config, model, total = self.upstream.config, self.upstream.model, 0.0
        weights = sum(
            parameter.numel()
            for part in (model.feature_projection, model.encoder)
            for parameter in part.parameters()
            if parameter.ndim > 1
        )
        for index in update:
            frames = self.material.conv[index].length
            total += 3 * 2.0 * frames * (weights + 2 * config.num_hidden_layers * config.hidden_size * frames)
            lengths = self.upstream.geometry.layer_lengths(self.material.raw[index].length)[1:]
            layers = zip(lengths, model.feature_extractor.conv_layers, strict=True)
            total += passes * sum(2.0 * length * layer.conv.weight.numel() for length, layer in layers)
        return total


def updates_and_decoding(
    rows: Rows, names: list[str], rates: dict[str, float], rounds: int, limit: float = float("inf")
) -> dict[str, Any]:
    """Measure and print both tables, of ``rows`` with one update more than there are rounds.

    No further round begins after ``limit`` seconds.
    """
    timed_rows, size = [rows.row(name) for name in names], len(rows.material.updates[1])
    rounds = run_rounds(timed_rows, rounds, rows.device, limit)
    report: dict[str, Any] = {"rounds": rounds, "batch_size": size, "rows": summarise(timed_rows, size, rates)}
    print_table([{key: value for key, value in row.items() if key != "seconds"} for row in report["rows"]])

    indices = [index for update in rows.material.updates[: max(1, 16 // size)] for index in update]
    seconds = sum(rows.material.raw[index].length for index in indices) / SAMPLE_RATE
    best = dict.fromkeys(("published", "ours", "ours-stored"), float("inf"))
    for _ in range(3):
        for name in best:
            best[name] = min(best[name], timed(partial(rows.decode, name, indices), rows.device))
    report["decoding"] = [
        {"name": name, "audio_s": seconds, "seconds": spent, "real_time_factor": spent / seconds}
        for name, spent in best.items()
    ]
    print_table(report["decoding"])
    return report
