"""What a large report takes: 50 experiments of 10 folds and 5,531 utterances with probes; prints seconds and memory.

python tests/benchmarks/bench_report.py
"""

from __future__ import annotations

import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from make_scores import grid, make_data

from sermtl.bin.report import main
from sermtl.score import speaker_probe

RANDOM = np.random.default_rng(0)
EXPERIMENTS, PROBED = 50, 3
"""The first experiments are those of the picture of embeddings; the others get copies of their probes."""


def recognised(embeddings: np.ndarray, speakers: Sequence[str], *_: Any, **__: Any) -> dict[str, str]:
    """Random hits in the place of fitted probes, which take stage 5 hours."""
    hits = {kind: RANDOM.integers(2, size=len(speakers)) for kind in speaker_probe.KINDS}
    return {k: "".join(str(h) if s else "-" for h, s in zip(v, speakers, strict=True)) for k, v in hits.items()}


with tempfile.TemporaryDirectory() as folder:
    root = Path(folder)
    data = make_data(root, 10, 5531, dev=61)  # of each training speaker: a tenth
    with mock.patch.object(speaker_probe, "recognised", recognised):
        made = grid(root, data, EXPERIMENTS, epochs=100, embeddings=PROBED)
    for number, exp in enumerate(made[PROBED:]):
        for probe in (source := made[number % PROBED]).glob("*/score_test/probe.json"):
            shutil.copy(probe, exp / probe.relative_to(source))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    words = ["report", "--exp", root / "exp", "--data", data, "--corpus", "toy", "--out", root / "out"]
    started, used = time.monotonic(), time.process_time()
    with mock.patch.object(sys, "argv", list(map(str, words))):
        assert main() == 0
    seconds = f"{time.monotonic() - started:.1f} s, of the processor {time.process_time() - used:.1f} s"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{seconds}; {peak:.0f} MB, of which {before:.0f} MB were used to write the experiments")
