"""Stages 1 and 2 over a manifest of many one-second utterances, and reading from the dump.

    python tests/benchmarks/bench_data.py 1000 10000 100000

Prints utterances and bytes a second of each step, its peak memory, and the cost of reading an entry.
"""

from __future__ import annotations

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


def timed(name: str, count: int, *words: str) -> float:
    """Run a program of the recipe; print its pace and peak memory (that of its largest process), give its seconds."""
    started = time.monotonic()
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{name} failed: {' '.join(words)}")
    seconds = time.monotonic() - started
    pace = f"{count / seconds:8.0f} utterances/s  {count * BYTES / seconds / 1e6:7.1f} MB/s"
    print(f"{count:7} {name:8} {seconds:7.1f} s  {pace}  {usage.ru_maxrss / 1024:5.0f} MB", flush=True)
    return seconds


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


def measure(count: int) -> None:
    """Stage 1 in its three steps, stage 2 as one job, and random reads."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = make_manifest(folder, count)
        data, dump = str(folder / "data" / "bench"), str(folder / "dump")
        options = ["--corpus", "manifest", "--manifest", str(manifest), "--out", data, "--nj", "2"]
        timed("prepare", count, "local/data.sh", *options)
        timed("validate", count, "utils/validate_data_dir.sh", "--nj", "2", data)
        timed("folds", count, sys.executable, "-m", "sermtl.bin.folds", "--data", data, "--protocol", "kfold10")
        words = ["--data", data, "--out", dump, "--feats_type", "raw"]
        dump_seconds = timed("dump", count, sys.executable, "-m", "sermtl.bin.dump", "part", *words)
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
    for word in sys.argv[1:] or ["1000"]:
        measure(int(word))
    print(f"this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
