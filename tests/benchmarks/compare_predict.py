"""Compare what is heard of each file alone with what is heard in bulk, by plain transformers and by ONNX.

    python tests/benchmarks/compare_predict.py --model PACK folder/

Prints, over all files, the greatest difference of a posterior and how many transcripts differ.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from sermtl.errors import command

Told = tuple[np.ndarray, str]
"""Posteriors in the order of the labels, and a transcript."""


@command
def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the pack")
    parser.add_argument("audio", nargs="+", help="audio files or folders")
    args = parser.parse_args()
    import torch

    from sermtl.audio.stream import read_item
    from sermtl.inference.inputs import find_audio
    from sermtl.inference.predict import Speech2Emotion
    from sermtl.pack.transformers_export import CLASSIFIER

    torch.set_num_threads(min(2, len(os.sched_getaffinity(0))))
    model = Speech2Emotion.from_pretrained(args.model, "cpu")
    recordings = [read_item(item.path) for item in find_audio(args.audio)]

    def told(results: Iterable[Any]) -> list[Told]:
        return [(np.array(list(result.scores.values())), result.text) for result in results]

    alone = told(model(samples_S, 16000) for samples_S in recordings)
    ways = {"in bulk": told(model(recordings, 16000))}
    if (args.model / CLASSIFIER).is_dir():
        ways["transformers"] = by_transformers(args.model, model.labels, recordings)
    for file in sorted((args.model / "onnx").glob("*.onnx")):
        for size in (1, 8):
            ways[f"{file.name}, batches of {size}"] = by_onnx(file, model, recordings, size)
    print(f"{len(recordings)} files, {args.model}\n\n| way | greatest difference | other transcripts |\n|---|---|---|")
    for name, heard in ways.items():
        pairs = list(zip(alone, heard, strict=True))
        greatest = max(np.abs(one[0] - other[0]).max() for one, other in pairs)
        print(f"| {name} | {greatest:.1e} | {sum(one[1] != other[1] for one, other in pairs)} |")


def by_transformers(pack: Path, labels: list[str], recordings: list[np.ndarray]) -> list[Told]:
    """What the two pipelines say of each recording alone."""
    from transformers import pipeline

    from sermtl.pack.transformers_export import CLASSIFIER, RECOGNISER

    classifier: Any = pipeline("audio-classification", model=str(pack / CLASSIFIER), device="cpu", top_k=None)
    recogniser: Any = pipeline("automatic-speech-recognition", model=str(pack / RECOGNISER), device="cpu")
    heard = []
    for samples_S in recordings:
        floats_S = samples_S.astype(np.float32) / 32768
        scores = {entry["label"]: entry["score"] for entry in classifier(floats_S)}
        heard.append((np.array([scores[label] for label in labels]), recogniser(floats_S)["text"]))
    return heard


def by_onnx(file: Path, model: Any, recordings: list[np.ndarray], size: int) -> list[Told]:
    """What onnxruntime says, of so many recordings together as they come."""
    import onnxruntime

    from sermtl.model.ctc import collapse

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    heard = []
    for first in range(0, len(recordings), size):
        batch = recordings[first : first + size]
        waveform_BS = np.zeros((len(batch), max(map(len, batch))), dtype=np.float32)
        for row, samples_S in enumerate(batch):
            waveform_BS[row, : len(samples_S)] = samples_S / 32768
        inputs = {"waveform": waveform_BS, "lengths": np.array(list(map(len, batch)))}
        posteriors_BC, tokens_BTV, frames_B, _ = session.run(None, inputs)
        for row, frames in enumerate(frames_B):
            text = model.models[0].tokenizer.decode(collapse(tokens_BTV[row, :frames].argmax(-1)))
            heard.append((posteriors_BC[row], text))
    return heard


if __name__ == "__main__":
    sys.exit(main())
