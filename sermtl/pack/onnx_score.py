"""What a pack's ONNX files score on the fold's test list: what 8 bits lose is measured, not promised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sermtl.audio.segments import read_all, utterances
from sermtl.errors import UserError


def onnx_scores(
    files: Sequence[Path], labels: Sequence[str], refs: Mapping[str, str], data: Path
) -> dict[str, dict[str, float]]:
    """Hear a test list with each file.

    Args:
        files: ONNX files of one model.
        labels: Class names in the order of the posteriors.
        refs: The true class of each utterance; those without one are left out.
        data: Data directory that holds the audio.

    Returns:
        For each file's name ``n``, ``correct`` and ``wa``; nothing where no utterance has a class.

    Raises:
        UserError: An utterance cannot be read.
    """
    import onnxruntime

    sessions = {file.name: onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]) for file in files}
    correct = dict.fromkeys(sessions, 0)
    tested = [utterance for utterance in utterances(data) if refs.get(utterance.name)]
    for name, samples_S in read_all(tested, allow_pipes=False):
        if isinstance(samples_S, UserError):
            raise samples_S
        inputs = {"waveform": samples_S[None].astype(np.float32) / 32768, "lengths": np.array([len(samples_S)])}
        for file, session in sessions.items():
            (posteriors_1C,) = session.run(["posteriors"], inputs)
            correct[file] += labels[int(posteriors_1C[0].argmax())] == refs[name]
    n = len(tested)
    return {file: {"n": n, "correct": right, "wa": right / n} for file, right in correct.items()} if n else {}
