"""What a large report takes: 50 experiments of 10 folds and 5,531 utterances, 60 seconds of a core, 1 GB."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest
from make_scores import grid, make_data


@pytest.mark.slow
def test_fifty_experiments_within_a_minute_and_a_gigabyte(tmp_path, recipe, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    data = make_data(tmp_path, 10, 5531)
    grid(tmp_path, data, 50, epochs=100)
    paths = ["--exp", tmp_path / "exp", "--data", data, "--corpus", "toy", "--out", tmp_path / "out"]
    # not ru_maxrss, which a child inherits from a large parent
    program = "import re; from sermtl.bin.report import main; print(main());"
    program += "print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])"
    command = [sys.executable, "-c", program, *map(str, paths)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(command, cwd=recipe, capture_output=True, text=True)
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before  # others may use the machine too
    assert done.returncode == 0, done.stderr
    assert "50 experiments ->" in done.stdout
    assert seconds < 60
    assert int(done.stdout.split()[-1]) < 1 << 20  # KiB
