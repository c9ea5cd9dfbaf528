"""The report's speed bar: 50 experiments of 10 folds and 5,531 utterances, 60 seconds, 1 GB."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time

import pytest
from make_scores import grid, make_data


@pytest.mark.slow
def test_fifty_experiments_within_a_minute_and_a_gigabyte(tmp_path, recipe, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    data = make_data(tmp_path, 10, 5531)
    grid(tmp_path, data, 50, epochs=100)
    paths = ["--exp", tmp_path / "exp", "--data", data, "--corpus", "toy", "--out", tmp_path / "out"]
    command = [sys.executable, "-m", "sermtl.bin.report", *map(str, paths)]
    started = time.monotonic()
    done = subprocess.run(command, cwd=recipe, capture_output=True, text=True)
    seconds = time.monotonic() - started
    assert done.returncode == 0, done.stderr
    assert "50 experiments ->" in done.stdout
    assert seconds < 60
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 1 << 20  # KiB
