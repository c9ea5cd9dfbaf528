"""What encoders cost: own length against padding to 30 s, frozen layers against none, the memory of stage 2.

    python tests/benchmarks/bench_encoders.py                                  # all three parts, random weights
    python tests/benchmarks/bench_encoders.py length --whisper DIR --utt2dur data/emodb/utt2dur

Both sides of a ratio compute the same utterances in one process, in turns; a ratio is the median over rounds, with
minimum and maximum, of wall-clock seconds and of processor seconds. Arithmetic is what PyTorch's FlopCounterMode counts
of the first round: matrix products and convolutions, no Fourier transforms, norms or activations.

- length: Whisper's encoder on each utterance alone at its own length, on the same continued with zeros to 30 s, and
  transformers' extractor and forward.
- freeze: updates of `conf/train.yaml` from waveforms, all weights trained, and with `freeze: K` from stored outputs.
  *shown* is the share of time that is saved over the share of arithmetic that is saved.
- memory: the peak of a process of stage 2 (VmHWM) over more and more utterances of the same lengths.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# isort: off
from sermtl import before_transformers  # noqa: F401 (before transformers)

# isort: on
import numpy as np
import soundfile
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode
from transformers import WhisperFeatureExtractor

from sermtl.bench.material import BASE, EMOTIONS, SPEAKERS, make_material
from sermtl.bench.measure import Row, print_table, run_rounds
from sermtl.bench.rows import SHIPPED
from sermtl.config import TrainConfig, load_config
from sermtl.data.dataset import FoldDataset, Sets
from sermtl.data.names import dump_name
from sermtl.fileio.tables import read_table, write_table
from sermtl.model.front_end import FrontEnd
from sermtl.model.heads import head_settings
from sermtl.model.multitask import MultiTaskModel
from sermtl.model.precision import has_bf16
from sermtl.model.trained_model import TrainedModel
from sermtl.model.upstreams.base import Upstream
from sermtl.model.upstreams.load import build_upstream, config_from, load_upstream
from sermtl.text.tokenizer import CharTokenizer, char_tokens
from sermtl.train.trainer import Trainer

CPU = torch.device("cpu")
RATE = 16000
WHISPER: dict[str, Any] = {
    "d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8, "encoder_ffn_dim": 2048, "num_mel_bins": 80,
    "max_source_positions": 1500, "normalize": False,
}  # fmt: skip
"""Whisper-base."""
GEOMETRIES = {"wav2vec2": BASE | {"normalize": False}, "whisper": WHISPER}
FROZEN = {"wav2vec2": (3, 6, 9), "whisper": (2, 4)}
"""Layers that are frozen, of 12 and of 6."""
DECILES = (1.43, 1.73, 1.93, 2.14, 2.36, 2.59, 2.83, 3.17, 3.55, 3.93, 8.98)
"""Seconds of EMO-DB's utterances of four classes, 0 to 100 %."""


def main() -> None:
    """Print a table for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parts: dict[str, Callable[[argparse.Namespace, Path], None]]
    parts = {"length": own_length, "freeze": frozen_layers, "memory": stage_2}
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(parts)} [all]")
    parser.add_argument("--whisper", help="folder of a Whisper model for length and memory [random weights]")
    parser.add_argument("--utt2dur", type=Path, help="durations of a data directory [EMO-DB's deciles]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=8, help="utterances an update")
    parser.add_argument("--only", choices=FROZEN, help="geometry of the part freeze [both]")
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1000], help="utterances of stage 2")
    parser.add_argument("--num_threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.num_threads)
    for name in args.parts or parts:
        with tempfile.TemporaryDirectory() as folder:
            parts[name](args, Path(folder))


def lengths(args: argparse.Namespace, count: int, seed: int) -> list[int]:
    """Samples of ``count`` utterances, one of each of ``count`` equal parts of the distribution."""
    values = sorted(map(float, read_table(args.utt2dur).values())) if args.utt2dur else DECILES
    shares = (np.arange(count) + np.random.default_rng(seed).uniform(size=count)) / count
    return [round(RATE * float(s)) for s in np.interp(shares, np.linspace(0, 1, len(values)), values)]


def noise(samples: int, seed: int) -> np.ndarray:
    """Samples (S,), int16."""
    return (np.random.default_rng(seed).standard_normal(samples) * 3000).astype(np.int16)


def compare(rows: list[Row], rounds: int, shown: bool = False) -> None:
    """Time the rows in turns, and print what each takes of the first one's time and arithmetic."""
    run_rounds(rows, rounds, CPU, float("inf"))
    flops = []
    for row in rows:
        with FlopCounterMode(display=False) as counter:
            row.run(1)
        flops.append(counter.get_total_flops())
    table = []
    for row, arithmetic in zip(rows, flops, strict=True):
        ratios = [first / own for first, own in zip(rows[0].seconds, row.seconds, strict=True)]
        values: dict[str, Any] = {
            "row": row.name,
            "s": statistics.median(row.seconds),
            "ratio": statistics.median(ratios),
            "min": min(ratios),
            "max": max(ratios),
            "ratio by processor s": statistics.median(a / b for a, b in zip(rows[0].cpu, row.cpu, strict=True)),
            "TFLOP": arithmetic / 1e12,
            "ratio by arithmetic": flops[0] / arithmetic,
        }
        if shown and row is not rows[0]:
            values["shown"] = (1 - 1 / values["ratio"]) / (1 - arithmetic / flops[0])
            values["shown by processor s"] = (1 - 1 / values["ratio by processor s"]) / (1 - arithmetic / flops[0])
        table.append(values)
    print_table(table)


# Whisper at an utterance's own length


def own_length(args: argparse.Namespace, _folder: Path) -> None:
    """Ten utterances a round."""
    if args.whisper:
        upstream = load_upstream(args.whisper)
    else:
        upstream = build_upstream(config_from("whisper", WHISPER, "whisper-base"))
    upstream.read(tuple(range(upstream.total_layers + 1)))
    upstream.eval()
    extractor = WhisperFeatureExtractor(feature_size=upstream.config.num_mel_bins)

    def run(encode: Callable[[np.ndarray], object], number: int) -> None:
        with torch.inference_mode():
            for seed, samples in enumerate(lengths(args, 10, number)):
                encode(noise(samples, seed) / np.float32(32768))

    def own(wav_S: np.ndarray) -> object:
        return upstream(torch.from_numpy(wav_S)[None], torch.tensor([len(wav_S)]))

    def padded(wav_S: np.ndarray) -> object:
        return own(np.pad(wav_S, (0, 30 * RATE - len(wav_S))))

    def plain(wav_S: np.ndarray) -> object:
        features = extractor(wav_S, sampling_rate=RATE, return_tensors="pt").input_features
        return upstream.model(features, output_hidden_states=True)

    ways = {"padded to 30 s": padded, "transformers": plain, "own length": own}
    compare([Row(name, partial(run, way)) for name, way in ways.items()], args.rounds)


# Frozen layers


def frozen_layers(args: argparse.Namespace, folder: Path) -> None:
    """A table for each geometry."""
    for name, numbers in FROZEN.items():
        if args.only not in (None, name):
            continue
        (folder / name).mkdir()
        upstream = build_upstream(config_from(name, GEOMETRIES[name], name))
        material = make_material(
            folder / name, args.rounds + 1, args.batch_size, upstream.geometry, upstream.hidden_size
        )
        rows = []
        for freeze in ("none", *map(str, numbers)):
            stored = freeze != "none"
            trainer = make_trainer(freeze, name, material.conv if stored else material.raw, folder)
            rows.append(Row(f"{name}, freeze: {freeze}", partial(update, trainer, material.updates)))
        compare(rows, args.rounds, shown=True)


def make_trainer(freeze: str, name: str, examples: list[Any], folder: Path) -> Trainer:
    """One as stage 3 makes it."""
    words = [f"freeze={freeze}", f"feats_type={'raw' if freeze == 'none' else 'stored'}", "num_workers=0"]
    config = load_config(TrainConfig, SHIPPED, words)
    upstream: Upstream = build_upstream(config_from(name, GEOMETRIES[name], name))
    tokenizer = CharTokenizer(char_tokens([], "en"))
    settings = head_settings(config, upstream.total_layers)
    model = MultiTaskModel(upstream, settings, EMOTIONS, len(tokenizer.tokens), SPEAKERS)
    model.bf16 = has_bf16(CPU)
    front_end = FrontEnd("raw", upstream.normalize, config.cmvn, upstream.geometry)
    if freeze != "none":
        upstream.freeze(int(freeze))
        front_end, upstream.entry = front_end.stored(), int(freeze)
    upstream.lay_out(config.layout, CPU)
    labels, speakers = [str(n) for n in range(EMOTIONS)], [str(n) for n in range(SPEAKERS)]
    trained = TrainedModel(model, front_end, labels, speakers, tokenizer)
    return Trainer(
        trained, config, Sets(FoldDataset(examples, front_end, config, upstream.masking), {}, {}), folder, CPU
    )


def update(trainer: Trainer, updates: list[list[int]], number: int) -> None:
    """Read, collate and compute update ``number``."""
    trainer.model.train()
    indices, data = updates[number], trainer.sets.train
    batches = [data.collate([data[index] for index in part]) for part in trainer.parts_of(indices)]
    trainer.update(number, batches)


# Stage 2


def stage_2(args: argparse.Namespace, folder: Path) -> None:
    """A row for each stored form and size of the corpus."""
    upstream = args.whisper or str(folder / "whisper-base.yaml")
    (folder / "whisper-base.yaml").write_text(yaml.safe_dump(WHISPER | {"model_type": "whisper"}))
    forms = {"means of all states": ["freeze=all", "alpha=0", "beta=0"], "frames of state 2": ["freeze=2"]}
    table = []
    for form, words in forms.items():
        words = ["feats_type=stored", f"upstream={upstream}", *words]
        first = 0.0
        for count in args.counts:
            data = make_data(folder / str(count), lengths(args, count, 0))
            out = folder / form / str(count) / dump_name(load_config(TrainConfig, SHIPPED, words))
            command = [sys.executable, "-m", "sermtl.bin.dump", "part", "--data", data, "--out", out]
            command += ["--feats_type", "stored", "--config", SHIPPED, "--set", *words]
            process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(f"stage 2 failed: {command}")
            peak = usage.ru_maxrss / 1024
            first = first or peak
            size = sum(path.stat().st_size for path in out.rglob("*.ark")) / 2**20
            table.append({"stored": form, "utterances": count, "dump MB": size, "peak MB": peak, "ratio": peak / first})
    print_table(table)


def make_data(folder: Path, sizes: list[int]) -> Path:
    """What stage 2 reads of a data directory, over files of noise."""
    folder.mkdir(exist_ok=True)
    wavs, seconds = {}, {}
    for number, samples in enumerate(sizes):
        name = f"u{number:06}"
        soundfile.write(folder / f"{name}.wav", noise(samples, number), RATE)
        wavs[name], seconds[name] = str(folder / f"{name}.wav"), f"{samples / RATE:.6f}"
    write_table(folder / "wav.scp", wavs)
    write_table(folder / "utt2dur", seconds)
    return folder


if __name__ == "__main__":
    main()
