"""What a large report takes: 50 experiments of 10 folds and 5,531 utterances with probes; prints seconds and memory.

python tests/benchmarks/bench_report.py
"""

from __future__ import annotations

import resource
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


def recognised(embeddings: np.ndarray, speakers: Sequence[str], *_: Any, **__: Any) -> dict[str, str]:
    """Random hits in the place of 500 folds' fitted probes, which take hours in stage 5."""
    hits = {kind: RANDOM.integers(2, size=len(speakers)) for kind in speaker_probe.KINDS}
    return {k: "".join(str(h) if s else "-" for h, s in zip(v, speakers, strict=True)) for k, v in hits.items()}


with tempfile.TemporaryDirectory() as folder:
    root = Path(folder)
    data = make_data(root, 10, 5531, dev=61)  # of each training speaker: a tenth
    with mock.patch.object(speaker_probe, "recognised", recognised):
        grid(root, data, 50, epochs=100, embeddings=50)
    written = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    words = ["report", "--exp", root / "exp", "--data", data, "--corpus", "toy", "--out", root / "out"]
    started, used = time.monotonic(), time.process_time()
    with mock.patch.object(sys, "argv", list(map(str, words))):
        assert main() == 0
    seconds = f"{time.monotonic() - started:.1f} s, {time.process_time() - used:.1f} s of the processor"
    print(
        f"{seconds}, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB ({written / 1024:.0f} before)"
    )
