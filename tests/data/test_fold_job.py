"""A fold has one owner at a time, whoever started it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sermtl.errors import UserError
from sermtl.fileio.files import hold

HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("host elsewhere, process 7, since then", file=file, flush=True)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_fold_that_another_process_works_on_is_refused_until_that_ends(tmp_path: Path) -> None:
    words = [sys.executable, "-c", HOLDER, tmp_path / ".owner"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=r"another process works on .* \(host elsewhere, process 7, since then\)"):
            hold(tmp_path)
        other.kill()
    hold(tmp_path)
    assert "process" in (tmp_path / ".owner").read_text()
