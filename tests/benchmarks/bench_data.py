"""Stages 1 and 2 over a manifest of many one-second utterances, and reading from the dump.

    python tests/benchmarks/bench_data.py 1000 10000 100000

Prints utterances and bytes a second of each step, its peak memory, and the cost of reading an entry. ``--other DIR``
measures another checkout's stage 1 on the same files, in turns, and prints its seconds over those of this one.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from sermtl.audio.judge import Judge
from sermtl.fileio.ark import read_audio_entry
from sermtl.fileio.tables import read_table

ROOT = Path(__file__).resolve().parents[2]
SPEAKERS = 100
BYTES = 32044
"""Of a one-second file: 16 kHz, mono, 16 bit."""


def make_manifest(folder: Path, count: int) -> Path:
    """A manifest of ``count`` distinct one-second files; audio is one noise, shifted."""
    noise = (np.random.default_rng(0).normal(0, 3000, 16000)).astype(np.int16)
    (folder / "wav").mkdir()
    with open(folder / "my.tsv", "w") as manifest:
        manifest.write("utt\tpath\tspeaker\temotion\ttext\n")
        for number in range(count):
            path = f"wav/{number:06}.wav"
            soundfile.write(folder / path, np.roll(noise, number % 16000) ^ (number // 16000), 16000)
            speaker, emotion = f"s{number % SPEAKERS:03}", ("calm", "loud")[number // SPEAKERS % 2]
            manifest.write(f"u{number:06}\t{path}\t{speaker}\t{emotion}\tword {number % 7}\n")
    return folder / "my.tsv"


def timed(name: str, count: int, *words: str, root: Path = ROOT) -> tuple[float, float]:
    """Run a program of a checkout; print its pace and peak memory (that of its largest process).

    Returns its seconds, by the clock and by the processor.
    """
    started = time.monotonic()
    process = subprocess.Popen(
        words, cwd=root, stdout=subprocess.DEVNULL, env=dict(os.environ) | {"PYTHONPATH": str(root)}
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{name} failed: {' '.join(words)}")
    seconds = time.monotonic() - started
    pace = f"{count / seconds:8.0f} utterances/s  {count * BYTES / seconds / 1e6:7.1f} MB/s"
    print(f"{count:7} {name:8} {seconds:7.1f} s  {pace}  {usage.ru_maxrss / 1024:5.0f} MB", flush=True)
    return seconds, usage.ru_utime + usage.ru_stime


def checks(wavs: list[Path], dump_seconds: float) -> None:
    """Print the share of the dump's seconds that judging the samples takes."""
    samples = [soundfile.read(path, dtype="int16")[0] for path in wavs]
    started = time.process_time()
    for values in samples:
        judge = Judge("x")
        judge.add(values)
        judge.finish()
    share = (time.process_time() - started) / dump_seconds
    print(f"{len(wavs):7} judge    {100 * share:5.1f} % of the dump")


def stage_1(count: int, manifest: Path, out: Path, root: Path) -> list[tuple[float, float]]:
    """Preparing, validating and folding; the seconds of each, by the clock and by the processor."""
    options = ["--corpus", "manifest", "--manifest", str(manifest), "--out", str(out), "--nj", "2"]
    fold = [sys.executable, "-m", "sermtl.bin.folds", "--data", str(out), "--protocol", "kfold10"]
    return [
        timed("prepare", count, "local/data.sh", *options, root=root),
        timed("validate", count, "utils/validate_data_dir.sh", "--nj", "2", str(out), root=root),
        timed("folds", count, *fold, root=root),
    ]


def measure(count: int, other: Path | None) -> None:
    """Stage 1 in its three steps, stage 2 as one job, and random reads; or stage 1 of two checkouts in turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = make_manifest(folder, count)
        data, dump = str(folder / "data" / "bench"), str(folder / "dump")
        if other:
            rounds = []
            for number in range(4):  # this one, the other, the other, this one
                root = other if number in (1, 2) else ROOT
                rounds.append(stage_1(count, manifest, folder / str(number) / "bench", root))
            for step, first, second, third, fourth in zip(("prepare", "validate", "folds"), *rounds, strict=True):
                clock, processor = ((second[n] + third[n]) / (first[n] + fourth[n]) for n in (0, 1))
                print(f"{count:7} {step:8} {other} takes {clock:.2f} times as long, {processor:.2f} by processor time")
            return
        stage_1(count, manifest, Path(data), ROOT)
        words = ["--data", data, "--out", dump, "--feats_type", "raw"]
        dump_seconds, _ = timed("dump", count, sys.executable, "-m", "sermtl.bin.dump", "part", *words)
        timed("merge", count, sys.executable, "-m", "sermtl.bin.dump", "merge", *words)
        checks(sorted((folder / "wav").iterdir()), dump_seconds)
        entries = list(read_table(folder / "dump" / "wav.scp").items())
        chosen = np.random.default_rng(0).integers(0, len(entries), 1000)
        started = time.monotonic()
        for index in chosen:
            utterance, entry = entries[index]
            read_audio_entry(entry, utterance)
        print(f"{count:7} read     {(time.monotonic() - started):7.3f} ms an utterance, of 1000 at random")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "counts", nargs="*", type=int, default=[1000], metavar="COUNT", help="utterances (default: 1000)"
    )
    parser.add_argument("--other", type=lambda word: Path(word).resolve(), help="another checkout")
    arguments = parser.parse_args()
    for utterances in arguments.counts:
        measure(utterances, arguments.other)
    print(f"this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
