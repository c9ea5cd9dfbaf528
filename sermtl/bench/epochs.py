"""What an epoch costs as a corpus grows."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sermtl.bench.material import CHARACTERS, EMOTIONS, SPEAKERS, draw_seconds
from sermtl.bench.measure import rest, say, status_mb
from sermtl.config import TrainConfig
from sermtl.data.dataset import FoldDataset, Sets
from sermtl.data.fold_data import load_fold
from sermtl.fileio.ark import checksum, write_ark
from sermtl.fileio.files import write_text
from sermtl.fileio.tables import write_list, write_table
from sermtl.model.upstreams.load import build_upstream, config_from
from sermtl.text.tokenizer import char_tokens
from sermtl.train.fold import build
from sermtl.train.trainer import Trainer

NARROW = {
    "conv_dim": [16] * 7,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "num_conv_pos_embeddings": 15,
    "num_conv_pos_embedding_groups": 4,
}
"""So narrow that reading, collating and counting are what an epoch costs."""
COLUMNS = ["data/utt2spk", "data/utt2emo", "data/text", "fold/train"]
COLUMNS += [f"dump/stored/bench/{name}" for name in ("feats.scp", "utt2num_frames", "utt2num_samples", "utt2digest")]
"""The tables of a fold and its dump."""


def epoch_costs(hours: list[float], directory: Path) -> list[dict[str, Any]]:
    """Start-up and one epoch over stored outputs of corpora of these lengths, with a model that costs little.

    The arks of the larger corpora hold an hour, whose entries stand for many utterances each.
    """
    hour, entries = draw_seconds(800, np.random.default_rng(0)), []
    with write_ark(directory / "hour.ark") as writer:
        random = np.random.default_rng(3)
        for number, duration in enumerate(hour):
            frames_TC = random.standard_normal((int(duration * 50), 16), dtype=np.float32)
            writer.write_array(f"u{number}", frames_TC)
            entries.append((writer.scp[f"u{number}"], len(frames_TC), checksum(frames_TC)))
    return [_epoch_cost(count, hour, entries, directory / f"{count:g}") for count in hours]


def _epoch_cost(hours: float, hour: np.ndarray, entries: list[tuple[str, int, str]], directory: Path) -> dict[str, Any]:
    seconds = np.tile(hour, max(1, round(hours)))[: max(4 * SPEAKERS, round(len(hour) * hours))]
    config = TrainConfig(feats_type="stored", freeze="conv", epochs=1, num_workers=0)
    write_fold(directory, seconds, entries)
    before = rest(torch.device("cpu"))
    started = time.perf_counter()
    data, lists, dump, tokens = (directory / name for name in ("data", "fold", "dump", "tokens"))
    fold = load_fold(data, lists, dump, tokens, config, "stored/bench")
    torch.manual_seed(0)
    upstream = build_upstream(config_from("wav2vec2", dict(NARROW), "narrow"))
    trained = build(config, fold, upstream)
    train = FoldDataset(fold.examples["train"], trained.front_end, config, upstream.masking)
    trainer = Trainer(trained, config, Sets(train, {}, {}), directory, torch.device("cpu"))
    ready, used = time.perf_counter(), time.process_time()
    trainer.train_epoch()
    ended, used = time.perf_counter(), time.process_time() - used
    row = {
        "hours": seconds.sum() / 3600,
        "utterances": len(seconds),
        "start_s": ready - started,
        "epoch_s": ended - ready,
        "epoch_cpu_s": used,
        "grown_mb": status_mb("VmHWM") - before,
    }
    say(f"{row['hours']:.1f} hours: ready after {row['start_s']:.1f} s, epoch {row['epoch_s']:.1f} s")
    return row


def write_fold(directory: Path, seconds: np.ndarray, entries: list[tuple[str, int, str]]) -> None:
    """Write a data directory, a fold that trains on all of it, a token list and the tables of a dump.

    The N utterances of these durations take the ``entries`` (ark entry, frames and checksum) in turns.
    """
    random, letters = np.random.default_rng(1), np.array(list("ETAOINSHRDLU     "))
    tables: dict[str, dict[str, object]] = {name: {} for name in COLUMNS}
    for number, duration in enumerate(seconds):
        speaker, emotion = f"s{number % SPEAKERS}", f"e{number // SPEAKERS % EMOTIONS}"
        text = "".join(random.choice(letters, max(1, round(duration * CHARACTERS)))).split()
        entry, frames, known = entries[number % len(entries)]
        row = (speaker, emotion, " ".join(text) or "A", "", entry, frames, 320 * frames, known)
        for table, value in zip(tables.values(), row, strict=True):
            table[f"{speaker}-{number:06d}"] = value
    for name, table in tables.items():
        write_table(directory / name, table)
    for part in ("dev", "test"):
        write_list(directory / "fold" / part, [])
    write_text(directory / "tokens" / "tokens.txt", "".join(f"{token}\n" for token in char_tokens([], "en")))
