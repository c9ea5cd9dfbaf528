"""What safety costs: checkpoints as a share of an epoch, and digests as a share of a stage, of the made-up corpus.

    python tests/benchmarks/bench_reliability.py

Every stage runs twice: by run.sh, for its time as its user has it (programs started, libraries loaded), and in this
process, for what the functions that make and compare digests spend in it. All are CPU seconds, which do not depend on
who else uses the machine. The second table leaves out the start of programs and libraries.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from small_corpus import run_program  # noqa: E402


class Clock:
    """CPU seconds spent inside some functions; one inside another is counted once."""

    def __init__(self) -> None:
        self.spent, self.depth = 0.0, 0

    def timed(self, function: Callable[..., object]) -> Callable[..., object]:
        """The function, with its time counted."""

        @functools.wraps(function)
        def wrapped(*args: object, **options: object) -> object:
            self.depth += 1
            begun = time.process_time()
            try:
                return function(*args, **options)
            finally:
                self.depth -= 1
                if not self.depth:
                    self.spent += time.process_time() - begun

        return wrapped


@contextlib.contextmanager
def counting(*places: tuple[object, str]) -> Iterator[Clock]:
    """Count the time of functions, each named by every module that holds it."""
    clock, kept = Clock(), [(owner, name, getattr(owner, name)) for owner, name in places]
    for owner, name, function in kept:
        setattr(owner, name, clock.timed(function))
    try:
        yield clock
    finally:
        for owner, name, function in kept:
            setattr(owner, name, function)


def spent(program: Callable[[], int], words: list[object], *places: tuple[object, str]) -> tuple[float, float]:
    """Seconds of a program's work in this process, and those of them in some functions."""
    with counting(*places) as clock, open(os.devnull, "w") as nowhere:
        begun = time.process_time()
        with contextlib.redirect_stdout(nowhere):
            assert run_program(program, *words) == 0
        return time.process_time() - begun, clock.spent


def stage_seconds(root: Path, stage: int, epochs: int) -> float:
    """CPU seconds of a stage as its user runs it."""
    folders = [word for name in ("data", "dump", "exp") for word in (f"--{name}dir", str(root / name))]
    env = os.environ | {"SERMTL_PYTHON": os.environ.get("SERMTL_PYTHON") or sys.executable}
    words = ["--stage", str(stage), "--stop_stage", str(stage), "--num_threads", "1", "--ngpu", "0"]
    words += ["--tag", "T", "--train_args", f"--set epochs={epochs}"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([ROOT / "run.sh", *folders, *words], check=True, env=env, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def row(title: str, whole: float, part: float, of: str) -> None:
    """Print one share."""
    print(f"{title:28} {whole:8.2f} s  {1000 * part:8.1f} ms  {100 * part / whole:6.2f} %  of {of}", flush=True)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()
    from sermtl.bin import decode, dump, folds, report, score, tokens, train
    from sermtl.data import dataset, fold_data
    from sermtl.fileio import stamp
    from sermtl.score import score_folds
    from sermtl.train import trainer

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        whole = {stage: stage_seconds(root, stage, args.epochs) for stage in range(1, 7)}
        data, dumped, tokens_dir = root / "data/mini", root / "dump/mini", root / "dump/mini/tokens/speaker"
        folds_dir, exp = data / "folds/speaker", root / "exp/T"
        for made in (root / "dump", root / "exp", folds_dir):
            shutil.rmtree(made)
        stamps = [(stamp.Stamp, name) for name in ("changed", "begin", "finish")]
        checks = [*stamps, (fold_data, "_digest"), (score_folds, "_refuse_stale"), (score, "package_digest")]
        checks += [(dump, name) for name in ("digest_of", "checksum")] + [(dataset, "checksum")]
        checks += [(program, "refuse_cut_arks") for program in (train, decode)] + [(decode, "refuse_damaged")]
        fold = ["--data", data, "--folds_dir", folds_dir, "--folds", "01F"]
        paths = [*fold, "--dump", dumped, "--tokens", tokens_dir, "--exp", exp]
        audio = ["--data", data, "--out", dumped / "raw", "--feats_type", "raw"]
        training = ["--config", "conf/mini.yaml", *paths, "--set", f"epochs={args.epochs}", "num_workers=0"]
        programs: list[tuple[int, Callable[[], int], list[object]]] = [
            (1, folds.main, ["--data", data]),
            (2, dump.main, ["part", *audio]),
            (2, dump.main, ["merge", *audio]),
            (2, tokens.main, [*fold, "--out", tokens_dir]),
            (3, train.main, training),
            (4, decode.main, ["--config", "conf/decode.yaml", *paths]),
            (5, score.main, ["folds", "--exp", exp, *fold]),
            (5, score.main, ["pool", "--exp", exp, "--folds_file", folds_dir / "folds"]),
            (6, report.main, ["--exp", root / "exp", "--data", data, "--corpus", "mini", "--out", root / "exp/report"]),
        ]
        digests, work = {n: 0.0 for n in whole}, {n: 0.0 for n in whole}
        with (
            counting((trainer.Trainer, "write_checkpoint")) as checkpoints,
            counting((trainer.Trainer, "run")) as epochs,
        ):
            for stage, program, words in programs:
                seconds, part = spent(program, words, *checks)
                work[stage], digests[stage] = work[stage] + seconds, digests[stage] + part
    for stage, part in digests.items():
        row(f"digests, stage {stage}", whole[stage], part, "the stage")
    for stage, part in digests.items():
        row(f"digests, stage {stage}", work[stage], part, "its work after the start of its programs")
    row("checkpoints", epochs.spent, checkpoints.spent, f"{args.epochs} epochs")


if __name__ == "__main__":
    main()
