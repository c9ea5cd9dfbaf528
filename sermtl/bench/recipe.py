"""Seconds of every stage of the recipe on a corpus of noise, and what an epoch costs as a corpus grows."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sermtl.audio.resample import SAMPLE_RATE
from sermtl.bench.material import CHARACTERS, draw_seconds
from sermtl.bench.measure import rest, say, status_mb
from sermtl.config import TrainConfig
from sermtl.data.dataset import FoldDataset
from sermtl.data.fold_data import load_fold
from sermtl.errors import UserError
from sermtl.fileio.ark import checksum, write_ark
from sermtl.fileio.tables import write_list, write_table
from sermtl.model.front_end import FrontEnd
from sermtl.model.geometry import ConvGeometry
from sermtl.model.multitask import MultiTaskModel
from sermtl.model.trained_model import TrainedModel
from sermtl.model.upstreams.load import config_from
from sermtl.model.upstreams.wav2vec2 import Upstream
from sermtl.text.tokenizer import char_tokens
from sermtl.train.loader import Sets
from sermtl.train.trainer import Trainer

ROOT = Path(__file__).parents[2]
SPEAKERS = 10
EMOTIONS = ("ang", "hap", "neu", "sad")
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


def durations(hours: float) -> np.ndarray:
    """Seconds of the utterances of a corpus."""
    count = max(4 * SPEAKERS, round(hours * 3600 / 4.5))
    return draw_seconds(count, np.random.default_rng(0))


def rows_of(seconds: np.ndarray) -> Iterator[tuple[str, str, str, str, float]]:
    """Utterance, speaker, emotion, text and seconds."""
    random = np.random.default_rng(1)
    letters = np.array(list("ETAOINSHRDLU     "))
    for number, duration in enumerate(seconds):
        speaker = f"s{number % SPEAKERS}"
        text = "".join(random.choice(letters, max(1, round(duration * CHARACTERS))))
        emotion = EMOTIONS[number // SPEAKERS % len(EMOTIONS)]
        yield f"{speaker}-{number:06d}", speaker, emotion, " ".join(text.split()) or "A", duration


def stage_seconds(hours: float, directory: Path) -> dict[str, Any]:
    """Run run.sh for one epoch of one fold over ``hours`` of noise.

    Raises:
        UserError: It did not end well.
    """
    import soundfile

    random, seconds = np.random.default_rng(2), durations(hours)
    lines = ["utt\tpath\tspeaker\temotion\ttext"]
    for name, speaker, emotion, text, duration in rows_of(seconds):
        path = directory / "wav" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, (random.standard_normal(round(duration * SAMPLE_RATE)) * 3000).astype(np.int16), 16000)
        lines.append(f"{name}\t{path}\t{speaker}\t{emotion}\t{text}")
    manifest = directory / "manifest.tsv"
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    say(f"run.sh over {seconds.sum() / 3600:.2f} hours in {len(seconds)} utterances, one epoch of tiny")
    words = ["./run.sh", "--corpus", "manifest", "--manifest", str(manifest), "--lang", "en", "--folds", "s0"]
    words += [word for name in ("data", "dump", "exp") for word in (f"--{name}dir", str(directory / name))]
    words += ["--train_config", "conf/mini.yaml", "--upstream", "tiny", "--feats_type", "raw"]
    words += ["--train_args", "--set epochs=1"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"run.sh ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    stages: dict[int, int] = {
        int(number): int(spent) for number, spent in re.findall(r"stage (\d) (\d+) s$", done.stdout, re.M)
    }
    if not stages:
        raise UserError(f"run.sh printed no seconds of stages:\n{done.stdout[-2000:]}")
    return {"hours": seconds.sum() / 3600, "utterances": len(seconds), "upstream": "tiny", "stages": stages}


def epoch_costs(hours: list[float], directory: Path) -> list[dict[str, Any]]:
    """Start-up and one epoch over stored outputs of corpora of these lengths, with a model that costs little.

    The arks of the larger corpora hold an hour, whose entries stand for many utterances each.
    """
    hour, entries = durations(1.0), []
    with write_ark(directory / "hour.ark") as writer:
        random = np.random.default_rng(3)
        for number, duration in enumerate(hour):
            frames_TC = random.standard_normal((_frames(duration), 16), dtype=np.float32)
            writer.write_array(f"u{number}", frames_TC)
            entries.append((writer.scp[f"u{number}"], len(frames_TC), checksum(frames_TC)))
    return [_epoch_cost(count, hour, entries, directory / f"{count:g}") for count in hours]


def _frames(seconds: float) -> int:
    return int(seconds * 50)


def _epoch_cost(hours: float, hour: np.ndarray, entries: list[tuple[str, int, str]], directory: Path) -> dict[str, Any]:
    seconds = np.tile(hour, max(1, round(hours)))[: max(4 * SPEAKERS, round(len(hour) * hours))]
    config = TrainConfig(feats_type="conv", freeze_feature_encoder=True, epochs=1, num_workers=0)
    _write_fold(directory, seconds, entries)
    before = rest(torch.device("cpu"))
    started = time.perf_counter()
    fold = load_fold(
        directory / "data", directory / "fold", directory / "dump", directory / "tokens", config, "conv/bench"
    )
    torch.manual_seed(0)
    upstream = Upstream(config_from("wav2vec2", dict(NARROW), "narrow"))
    model = MultiTaskModel(upstream, len(fold.labels), len(fold.tokenizer.tokens), len(fold.speakers))
    front_end = FrontEnd("conv", upstream.normalize, "", ConvGeometry((), ()))
    trained = TrainedModel(model, front_end, fold.labels, fold.speakers, fold.tokenizer)
    train = FoldDataset(fold.examples["train"], front_end, config, upstream.masking)
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


def _write_fold(directory: Path, seconds: np.ndarray, entries: list[tuple[str, int, str]]) -> None:
    """A data directory, a fold, a token list and the index of a dump."""
    rows = sorted(rows_of(seconds))
    for part in ("data", "fold", "dump/conv/bench", "tokens"):
        (directory / part).mkdir(parents=True, exist_ok=True)
    for name, column in {"utt2spk": 1, "utt2emo": 2, "text": 3}.items():
        write_table(directory / "data" / name, {row[0]: str(row[column]) for row in rows})
    write_list(directory / "fold" / "train", [row[0] for row in rows])
    for part in ("dev", "test"):
        write_list(directory / "fold" / part, [])
    chosen = {row[0]: entries[int(row[0][-6:]) % len(entries)] for row in rows}
    dump = directory / "dump" / "conv" / "bench"
    write_table(dump / "feats.scp", {name: entry for name, (entry, _, _) in chosen.items()})
    write_table(dump / "utt2num_frames", {name: str(frames) for name, (_, frames, _) in chosen.items()})
    write_table(dump / "utt2num_samples", {name: str(320 * frames) for name, (_, frames, _) in chosen.items()})
    write_table(dump / "utt2digest", {name: known for name, (_, _, known) in chosen.items()})
    (directory / "tokens" / "tokens.txt").write_text("".join(f"{t}\n" for t in char_tokens([], "en")))
