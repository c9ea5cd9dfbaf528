"""Time prediction against the plain transformers pipelines and ONNX on the same model and files, in one call.

    python tests/benchmarks/bench_predict.py --model PACK folder/

The pack must hold the folders for transformers (a model over waveforms); ONNX files are timed where it holds some.
Both pipelines are timed, since sermtl gives emotion and transcript from one pass. Ways are timed in turn, several
times, and the fastest time of each is shown, so that other work on the machine matters less; on a crowded one read the
processor seconds, with OMP_WAIT_POLICY=PASSIVE, so that waiting does not count as work.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sermtl.errors import UserError, command


@command
def main() -> None:
    """Print a Markdown table of seconds of audio a second, by each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the pack")
    parser.add_argument("--files", type=int, default=60, help="how many of the recordings")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest of so many")
    parser.add_argument("--num_threads", type=int, default=min(2, len(os.sched_getaffinity(0))), help="CPU threads")
    parser.add_argument("audio", nargs="+", help="audio files or folders")
    args = parser.parse_args()
    from sermtl.audio.stream import read_item
    from sermtl.inference.inputs import find_audio
    from sermtl.pack.transformers_export import CLASSIFIER

    if not (args.model / CLASSIFIER).is_dir():
        raise UserError(f"{args.model} holds no {CLASSIFIER}/: pack a model over waveforms")
    paths = [item.path for item in find_audio(args.audio)][: args.files]
    recordings = [read_item(path) for path in paths]
    seconds = sum(map(len, recordings)) / 16000
    ways = make_ways(args.model, args.num_threads)
    for way in ways.values():
        way(recordings[:2])  # the first call of each prepares it
    best = dict.fromkeys(ways, (float("inf"), float("inf")))
    for _ in range(args.repeats):
        for name, way in ways.items():
            started = time.perf_counter(), time.process_time()
            way(recordings)
            taken = time.perf_counter() - started[0], time.process_time() - started[1]
            best[name] = min(best[name][0], taken[0]), min(best[name][1], taken[1])
    print(f"{len(paths)} files, {seconds:.0f} s of audio, {args.num_threads} CPU threads, {args.model}")
    print("\n| way | seconds | seconds of audio a second | processor seconds |\n|---|---|---|---|")
    for name, (elapsed, worked) in best.items():
        print(f"| {name} | {elapsed:.2f} | {seconds / elapsed:.0f} | {worked:.2f} |")


def make_ways(pack: Path, threads: int) -> dict[str, Callable[[list[np.ndarray]], Any]]:
    """Each way to hear a list of int16 recordings, by name."""
    import torch

    from sermtl.inference.predict import Speech2Emotion
    from sermtl.pack.transformers_export import CLASSIFIER, RECOGNISER

    torch.set_num_threads(threads)
    model = Speech2Emotion.from_pretrained(pack, "cpu")
    from transformers import pipeline

    classifier: Any = pipeline("audio-classification", model=str(pack / CLASSIFIER), device="cpu")
    recogniser: Any = pipeline("automatic-speech-recognition", model=str(pack / RECOGNISER), device="cpu")

    def floats(recordings: list[np.ndarray]) -> list[np.ndarray]:
        return [samples_S.astype(np.float32) / 32768 for samples_S in recordings]

    ways: dict[str, Callable[[list[np.ndarray]], Any]] = {
        "sermtl, one by one": lambda recordings: [model(samples_S, 16000) for samples_S in recordings],
        "sermtl, in bulk": lambda recordings: model(recordings, 16000),
        "transformers, emotion only, one by one": lambda recordings: [classifier(w) for w in floats(recordings)],
        "transformers, emotion only, batches of 16": lambda recordings: classifier(floats(recordings), batch_size=16),
        "transformers, emotion and words, one by one": lambda recordings: [
            (classifier(w), recogniser(w)) for w in floats(recordings)
        ],
        "transformers, emotion and words, batches of 16": lambda recordings: (
            classifier(floats(recordings), batch_size=16),
            recogniser(floats(recordings), batch_size=16),
        ),
    }
    if (file := pack / "onnx" / "model.onnx").is_file():
        session = onnx_session(file, threads)
        ways["model.onnx, one by one"] = partial(run_onnx, session, 1)
        ways["model.onnx, batches of 16"] = partial(run_onnx, session, 16)
    return ways


def onnx_session(path: Path, threads: int) -> Any:
    """An ONNX file, ready to run."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_onnx(session: Any, size: int, recordings: list[np.ndarray]) -> None:
    """Hear recordings, so many of similar length together."""
    recordings = sorted(recordings, key=len)
    for first in range(0, len(recordings), size):
        batch = recordings[first : first + size]
        waveform_BS = np.zeros((len(batch), len(batch[-1])), dtype=np.float32)
        for row, samples_S in enumerate(batch):
            waveform_BS[row, : len(samples_S)] = samples_S / 32768
        session.run(None, {"waveform": waveform_BS, "lengths": np.array(list(map(len, batch)))})


if __name__ == "__main__":
    sys.exit(main())
