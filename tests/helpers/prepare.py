"""Run the scripts of local/ in this process, and make the trees that they read."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import datadirs
import numpy as np

LOCAL = Path(__file__).resolve().parents[2] / "local"
if str(LOCAL) not in sys.path:
    sys.path.append(str(LOCAL))


@dataclass(frozen=True)
class Result:
    """Exit status and what was printed."""

    status: int
    out: str
    err: str


def run(script: str, *options: str | Path) -> Result:
    """Run a script of local/ by its name without `.py`."""
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = [f"{script}.py", *map(str, options)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = importlib.import_module(script).main()
            except SystemExit as end:
                status = int(end.code or 0)
    finally:
        sys.argv = argv
    return Result(status, out.getvalue(), err.getvalue())


def table(path: Path) -> dict[str, str]:
    """Read a table without the project's own reader."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {key: value for key, _, value in (line.partition(" ") for line in lines)}


def dropped(data: Path) -> list[list[str]]:
    """The rows of dropped.tsv."""
    return [line.split("\t") for line in (data / "dropped.tsv").read_text(encoding="utf-8").splitlines()]


def write_wav(path: Path, samples: int = 1600, rate: int = 16000, channels: int = 1) -> Path:
    """Write a wav file of a quiet tone."""
    tone = 1000 * np.sin(np.arange(samples * channels) / 5)
    return datadirs.write_wav(path, tone.reshape(samples, channels), rate)


def write_dialog(
    root: Path, dialog: str, turns: Iterable[tuple[str, str, str]], audio: Path | None = None, wavs: bool = True
) -> None:
    """Write a dialog of IEMOCAP's layout from (turn, code, text); `audio` is linked to, else written."""
    session = root / f"Session{int(dialog[3:5])}"
    labels, transcript = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""], []
    for number, (turn, code, text) in enumerate(turns):
        labels += [f"[{number}.0000 - {number + 1}.0000]\t{turn}\t{code}\t[2.5000, 2.5000, 2.5000]"]
        labels += ["C-E2:\tNeutral;\t()", "A-E3:\tval 3; act 2; dom  2;\t()", ""]
        transcript.append(f"{turn} [{number:08.4f}-{number + 1:08.4f}]: {text}")
        wav = session / "sentences/wav" / dialog / f"{turn}.wav"
        if audio and wavs:
            wav.parent.mkdir(parents=True, exist_ok=True)
            wav.symlink_to(audio)
        elif wavs:
            write_wav(wav)
    for folder, lines in (("EmoEvaluation", labels), ("transcriptions", transcript)):
        file = session / "dialog" / folder / f"{dialog}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(lines) + "\n")
