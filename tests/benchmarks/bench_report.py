"""What a large report takes: 50 experiments of 10 folds and 5,531 utterances; prints seconds and memory.

python tests/benchmarks/bench_report.py
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from make_scores import grid, make_data

from sermtl.bin.report import main

with tempfile.TemporaryDirectory() as folder:
    root = Path(folder)
    data = make_data(root, 10, 5531)
    grid(root, data, 50, epochs=100)
    words = ["report", "--exp", root / "exp", "--data", data, "--corpus", "toy", "--out", root / "out"]
    started = time.monotonic()
    with mock.patch.object(sys, "argv", list(map(str, words))):
        assert main() == 0
    print(f"{time.monotonic() - started:.1f} s, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
