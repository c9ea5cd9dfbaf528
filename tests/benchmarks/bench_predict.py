"""Time prediction, and compare its results, with plain transformers and ONNX on the same model and files, in one call.

    python tests/benchmarks/bench_predict.py --model PACK folder/

Transformers and ONNX are tried where the pack holds them. Both pipelines are timed, since sermtl gives emotion and
transcript from one pass. Ways are timed in turn, several times, and the fastest time of each is shown, so that other
work on the machine matters less; on a crowded one read the processor seconds, with OMP_WAIT_POLICY=PASSIVE, so that
waiting does not count as work. Differences are from sermtl on each file alone: the greatest one of a posterior, and how
many transcripts are others.
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

from sermtl.errors import command

Results = list[tuple[np.ndarray, str | None]]
"""Of each recording the posteriors (C,) in the order of the labels, and the transcript of a way that gives one."""
Way = Callable[[list[np.ndarray]], Results]


@command
def main() -> None:
    """Print a Markdown table with a row a way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the pack")
    parser.add_argument("--files", type=int, help="how many of the recordings [all]")
    parser.add_argument("--repeats", type=int, default=3, help="rounds, of which the fastest counts")
    parser.add_argument("--num_threads", type=int, default=min(2, len(os.sched_getaffinity(0))), help="CPU threads")
    parser.add_argument("audio", nargs="+", help="audio files or folders")
    args = parser.parse_args()
    from sermtl.audio.stream import read_item
    from sermtl.inference.inputs import find_audio

    recordings = [read_item(item.path) for item in find_audio(args.audio)[: args.files]]
    seconds = sum(map(len, recordings)) / 16000
    ways = make_ways(args.model, args.num_threads)
    for way in ways.values():
        way(recordings[:2])  # the first call of each prepares it
    best = dict.fromkeys(ways, (float("inf"), float("inf")))
    results: dict[str, Results] = {}
    for _ in range(args.repeats):
        for name, way in ways.items():
            started = time.perf_counter(), time.process_time()
            results[name] = way(recordings)
            taken = time.perf_counter() - started[0], time.process_time() - started[1]
            best[name] = min(best[name][0], taken[0]), min(best[name][1], taken[1])
    print(f"{len(recordings)} files, {seconds:.0f} s of audio, {args.num_threads} CPU threads, {args.model}\n")
    print("| way | seconds | seconds of audio a second | processor seconds | difference | other transcripts |")
    print("|---|---|---|---|---|---|")
    alone = next(iter(results.values()))
    for name, (elapsed, worked) in best.items():
        pairs = list(zip(alone, results[name], strict=True))
        greatest = max(np.abs(one[0] - other[0]).max() for one, other in pairs)
        others = sum(other[1] not in (None, one[1]) for one, other in pairs)
        print(f"| {name} | {elapsed:.2f} | {seconds / elapsed:.0f} | {worked:.2f} | {greatest:.1e} | {others} |")


def make_ways(pack: Path, threads: int) -> dict[str, Way]:
    """Each way to predict from a list of int16 recordings, by name; the first is sermtl on each alone."""
    import torch

    from sermtl.inference.predict import Speech2Emotion
    from sermtl.pack.transformers_export import CLASSIFIER

    torch.set_num_threads(threads)
    model = Speech2Emotion.from_pretrained(pack, "cpu")
    ways: dict[str, Way] = {
        "sermtl, one by one": lambda recordings: [plain(model(samples_S, 16000)) for samples_S in recordings],
        "sermtl, in bulk": lambda recordings: list(map(plain, model(recordings, 16000))),
    }
    if (pack / CLASSIFIER).is_dir():
        ways |= transformers_ways(pack, model.labels)
    for file in sorted((pack / "onnx").glob("*.onnx")):
        session = onnx_session(file, threads)
        for size in (1, 16):
            ways[f"{file.name}, batches of {size}"] = partial(run_onnx, session, model.models[0].tokenizer, size)
    return ways


def plain(result: Any) -> tuple[np.ndarray, str]:
    """Posteriors and transcript of one of sermtl's results."""
    return np.array(list(result.scores.values())), result.text


def transformers_ways(pack: Path, labels: list[str]) -> dict[str, Way]:
    """The pipelines one by one and in batches, emotion alone and with the transcript."""
    from transformers import pipeline

    from sermtl.pack.transformers_export import CLASSIFIER, RECOGNISER

    classifier: Any = pipeline("audio-classification", model=str(pack / CLASSIFIER), device="cpu", top_k=None)
    recogniser: Any = pipeline("automatic-speech-recognition", model=str(pack / RECOGNISER), device="cpu")

    def run(size: int, words: bool, recordings: list[np.ndarray]) -> Results:
        floats = [samples_S.astype(np.float32) / 32768 for samples_S in recordings]
        found = [{entry["label"]: entry["score"] for entry in one} for one in classifier(floats, batch_size=size)]
        texts = [one["text"] for one in recogniser(floats, batch_size=size)] if words else [None] * len(floats)
        return [(np.array([one[label] for label in labels]), text) for one, text in zip(found, texts, strict=True)]

    kinds = {"emotion only": False, "emotion and words": True}
    return {
        f"transformers, {kind}, batches of {size}": partial(run, size, words)
        for kind, words in kinds.items()
        for size in (1, 16)
    }


def onnx_session(path: Path, threads: int) -> Any:
    """An ONNX file, ready to run."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_onnx(session: Any, tokenizer: Any, size: int, recordings: list[np.ndarray]) -> Results:
    """Predict from recordings in batches of ``size``, sorted by length."""
    from sermtl.model.multitask import collapse

    order = sorted(range(len(recordings)), key=lambda number: len(recordings[number]))
    results = {}
    for first in range(0, len(order), size):
        numbers = order[first : first + size]
        batch = [recordings[number] for number in numbers]
        waveform_BS = np.zeros((len(batch), len(batch[-1])), dtype=np.float32)
        for row, samples_S in enumerate(batch):
            waveform_BS[row, : len(samples_S)] = samples_S / 32768
        inputs = {"waveform": waveform_BS, "lengths": np.array(list(map(len, batch)))}
        posteriors_BC, tokens_BTV, frames_B, _ = session.run(None, inputs)
        for row, number in enumerate(numbers):
            text = tokenizer.decode(collapse(tokens_BTV[row, : frames_B[row]].argmax(-1)))
            results[number] = posteriors_BC[row], text
    return [results[number] for number in range(len(recordings))]


if __name__ == "__main__":
    sys.exit(main())
