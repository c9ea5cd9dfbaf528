"""An epoch of clips of 3 s with one long clip among them: peak memory and seconds, in parts by size and without.

    python tests/benchmarks/bench_long_clip.py conf/upstream/tiny.yaml 3 60 120 300

Each line is a process of its own: 31 clips of 3 s and one of so many seconds, 8 utterances an update, on the CPU.
"""

from __future__ import annotations

import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from sermtl.config import TrainConfig
from sermtl.data import sampler
from sermtl.data.dataset import Example, FoldDataset, Sets
from sermtl.fileio.ark import write_ark
from sermtl.model.front_end import FrontEnd
from sermtl.model.heads import head_settings
from sermtl.model.multitask import MultiTaskModel
from sermtl.model.trained_model import TrainedModel
from sermtl.model.upstreams.load import load_upstream
from sermtl.text.tokenizer import ENGLISH_TOKENS, CharTokenizer
from sermtl.train.trainer import Trainer

LABELS, SPEAKERS = ["ang", "hap", "neu", "sad"], ["a", "b"]


def epoch(upstream: str, seconds: int, in_parts: bool) -> None:
    """Train one epoch, and print what it took."""
    if not in_parts:
        sampler.MOST_SIZE = math.inf
    config = TrainConfig(upstream=upstream, epochs=1, num_workers=0, freeze="conv", batch_size=8)
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        with write_ark(Path(name) / "a.ark") as writer:
            for n in range(32):
                length = 16000 * (seconds if n == 0 else 3)
                writer.write_audio(f"u{n}", random.integers(-9000, 9000, length).astype(np.int16))
        examples = [
            Example(utt, entry, 16000 * (seconds if utt == "u0" else 3), "a", n % 4, n % 2, tuple(range(5, 25)))
            for n, (utt, entry) in enumerate(writer.scp.items())
        ]
        torch.manual_seed(0)
        loaded = load_upstream(upstream)
        model = MultiTaskModel(loaded, head_settings(config, loaded.total_layers), 4, len(ENGLISH_TOKENS), 2)
        loaded.freeze("conv")
        loaded.lay_out("auto", torch.device("cpu"))
        front_end = FrontEnd("raw", loaded.normalize, "", loaded.geometry)
        trained = TrainedModel(model, front_end, LABELS, SPEAKERS, CharTokenizer(list(ENGLISH_TOKENS)))
        sets = Sets(FoldDataset(examples, front_end, config), {}, {})
        trainer = Trainer(trained, config, sets, Path(name), torch.device("cpu"))
        started = time.monotonic()
        trainer.train_epoch()
        took = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{seconds:5} s  {'in parts' if in_parts else 'at once ':8}  {peak:6.2f} GB  {took:7.1f} s", flush=True)


if __name__ == "__main__":
    upstream, *lengths = sys.argv[1:]
    if lengths[:1] == ["--one"]:
        epoch(upstream, int(lengths[1]), lengths[2] == "True")
    else:
        for word in lengths:
            for in_parts in (False, True):
                done = subprocess.run([sys.executable, __file__, upstream, "--one", word, str(in_parts)])
                if done.returncode:
                    print(f"{word:>5} s  {'in parts' if in_parts else 'at once'}  ended with status {done.returncode}")
