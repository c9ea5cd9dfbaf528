"""Prediction for any audio: emotion, transcript and embedding of waveforms or files, by one model or several.

Shape suffixes: S samples, M models, C classes, T frames, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import torch

from sermtl.audio.features import fbank
from sermtl.audio.read import check_rate
from sermtl.audio.resample import SAMPLE_RATE, resample, to_int16
from sermtl.audio.stream import audio_blocks, read_item
from sermtl.data.dataset import Example, FoldDataset
from sermtl.errors import UserError
from sermtl.inference.inputs import seconds_of
from sermtl.inference.pretrained import load, resolve
from sermtl.inference.windows import Heard, Part, Timeline, check_window, merge, windows
from sermtl.model.ctc import collapse
from sermtl.model.trained_model import TrainedModel

WHOLE = 60.0
"""Seconds up to which a recording is heard in one piece, unless a window is asked for."""
WINDOW, HOP = 10.0, 5.0
"""Seconds, of longer ones."""
BATCH, BATCH_SECONDS = 16, 80.0
"""Most recordings of a batch, and most seconds with their padding."""
CPU_VALUES = 4_000_000
"""Most values of a batch after the first convolution on a CPU: wav2vec2-base is slower where they outgrow its cache."""
POOL = 64
"""Files that are read and sorted by length together."""
Output = TypeVar("Output")
Task = tuple[int, list[int]]
"""A model and the recordings that it hears in one batch, by their numbers."""


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording with one emotion; times in seconds."""

    start: float
    end: float
    emotion: str
    scores: dict[str, float]


@dataclass(frozen=True)
class Result:
    """What is heard in a recording."""

    emotion: str
    """The most probable class."""
    scores: dict[str, float]
    """Posterior of each class by name; several models' are averaged."""
    text: str
    """The transcript, of the first model."""
    embedding: np.ndarray = field(repr=False, compare=False)
    """Mean (D,) of the first model's hidden vectors, float32."""
    seconds: float
    """Duration of the audio."""
    segments: tuple[Segment, ...] = ()
    """What holds when, neighbours of one emotion merged; empty where the recording was heard in one piece."""
    timeline: tuple[Segment, ...] = ()
    """The same before merging: one a window."""
    spread: dict[str, float] | None = None
    """Standard deviation of each class's posterior over the models; None with a single one."""


class Speech2Emotion:
    """One or several trained models, ready to hear.

    Args:
        models: They must know the same classes.

    Raises:
        UserError: The models know different classes.
    """

    def __init__(self, models: Sequence[TrainedModel], device: torch.device | None = None) -> None:
        self.models = list(models)
        self.device = device or torch.device("cpu")
        self.labels = self.models[0].labels
        for other in self.models[1:]:
            if other.labels != self.labels:
                raise UserError(
                    f"models of different classes cannot be averaged: {' '.join(self.labels)} and "
                    f"{' '.join(other.labels)}"
                )
        self._sets = [FoldDataset([], trained.front_end) for trained in self.models]

    @classmethod
    def from_pretrained(
        cls, path_or_id: str | Path | Sequence[str | Path], device: str | torch.device | None = None
    ) -> Speech2Emotion:
        """Load a fold (``exp/<tag>/<fold>``), a pack, an experiment with all its folds, or a model of the hub.

        Args:
            path_or_id: One of them, or a list, whose posteriors are averaged.
            device: Such as ``"cpu"`` or ``"cuda"``; by default a GPU where there is one.

        Raises:
            UserError: There is no whole model under that name, or no such device here.
        """
        names = [path_or_id] if isinstance(path_or_id, (str, Path)) else list(path_or_id)
        if not names:
            raise UserError("no model is named")
        device = find_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return cls([load(path, device) for name in names for path in resolve(name)], device)

    @overload
    def __call__(
        self,
        waveform: np.ndarray | torch.Tensor,
        sampling_rate: int,
        window: float | None = ...,
        hop: float | None = ...,
    ) -> Result: ...

    @overload
    def __call__(
        self,
        waveform: Sequence[np.ndarray | torch.Tensor],
        sampling_rate: int,
        window: float | None = ...,
        hop: float | None = ...,
    ) -> list[Result]: ...

    def __call__(
        self, waveform: Any, sampling_rate: int, window: float | None = None, hop: float | None = None
    ) -> Result | list[Result]:
        """Hear one waveform, or a list of them.

        Args:
            waveform: (S,), NumPy or torch, int16 or floating in [-1, 1] (what goes beyond, up to 2, is clipped); a
                list of such gives a list.
            sampling_rate: Of the waveform(s), in Hz; other rates than 16000 are resampled.
            window: Seconds of a window; waveforms up to it (by default up to a minute) are heard whole.
            hop: Seconds from one window to the next (default: half a window).

        Raises:
            UserError: A waveform is empty, holds NaN or infinity, or has another shape, type or range; the window or
                the hop is out of range.
        """
        in_samples(window, hop)
        if isinstance(waveform, (list, tuple)) and not (waveform and np.isscalar(waveform[0])):
            samples = [as_int16(one, sampling_rate, f"waveform {n}") for n, one in enumerate(waveform)]
            return self._hear_all(samples, window, hop)
        return self._hear_all([as_int16(waveform, sampling_rate, "the waveform")], window, hop)[0]

    def files(
        self, paths: Iterable[str | Path], window: float | None = None, hop: float | None = None
    ) -> Iterator[tuple[str, Result | UserError]]:
        """Hear files, in their order: each path with its result, or with what is wrong with it.

        Files of similar length are heard together; long ones (see ``__call__``) are streamed.

        Raises:
            UserError: The window or the hop is out of range.
        """
        in_samples(window, hop)
        names = [str(path) for path in paths]
        longest = WHOLE if window is None else window
        for first in range(0, len(names), POOL):
            pool = names[first : first + POOL]
            found: dict[int, Result | UserError] = {}
            short: dict[int, np.ndarray] = {}
            for number, path in enumerate(pool):
                try:
                    if seconds_of(path) > longest:
                        found[number] = self._stream(audio_blocks(path), window, hop)
                    else:
                        short[number] = read_item(path)
                except UserError as error:
                    found[number] = error
            found |= zip(short, self._hear_all(list(short.values()), window, hop), strict=True)
            for number, path in enumerate(pool):
                yield path, found[number]

    def _hear_all(self, recordings: Sequence[np.ndarray], window: float | None, hop: float | None) -> list[Result]:
        longest = (WHOLE if window is None else window) * SAMPLE_RATE
        whole = [number for number, samples_S in enumerate(recordings) if len(samples_S) <= longest]
        heard = dict(zip(whole, self.hear([recordings[number] for number in whole]), strict=True))
        return [
            self._result(heard[number], len(samples_S) / SAMPLE_RATE)
            if number in heard
            else self._stream([samples_S], window, hop)
            for number, samples_S in enumerate(recordings)
        ]

    def _stream(self, blocks: Iterable[np.ndarray], window: float | None, hop: float | None) -> Result:
        """Hear a recording in windows, a few at a time."""
        window_samples, hop_samples = in_samples(window, hop)
        timeline, waiting = Timeline(), []
        batch = max(1, min(BATCH, int(BATCH_SECONDS * SAMPLE_RATE / window_samples)))
        for start, samples_S in windows(blocks, window_samples, hop_samples):
            waiting.append((start, samples_S))
            if len(waiting) == batch:
                self._add(timeline, waiting)
                waiting = []
        self._add(timeline, waiting)
        timeline.close()
        return self._result(timeline.whole(), timeline.seconds, timeline.parts)

    def _add(self, timeline: Timeline, pieces: list[tuple[int, np.ndarray]]) -> None:
        for (start, samples_S), heard in zip(pieces, self.hear([piece for _, piece in pieces]), strict=True):
            timeline.add(start, len(samples_S), heard)

    def hear(self, recordings: Sequence[np.ndarray]) -> list[Heard]:
        """Run all models on int16 recordings (S,) at 16 kHz; what is heard does not depend on the others."""
        lengths = [len(samples_S) for samples_S in recordings]
        tasks = [
            (m, batch)
            for m, trained in enumerate(self.models)
            for batch in batches(lengths, self._batch_seconds(trained))
        ]
        posteriors = np.zeros((len(recordings), len(self.models), len(self.labels)))
        first: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        outputs = self._side_by_side(lambda task: self._run(task, recordings), tasks)
        for (m, batch), (posteriors_BC, tokens, pooled_BD) in zip(tasks, outputs, strict=True):
            posteriors[batch, m] = posteriors_BC
            if m == 0:
                first |= zip(batch, zip(tokens, pooled_BD, strict=True), strict=True)
        return [Heard(posteriors[number], *first[number]) for number in range(len(recordings))]

    @torch.inference_mode()
    def _run(self, task: Task, recordings: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        """Posteriors (B, C), the best tokens (T,) of each recording, and embeddings (B, D) of one batch."""
        m, batch = task
        trained = self.models[m]
        items = [(EXAMPLE, features(trained, recordings[number]), None, None) for number in batch]
        output = trained.model(self._sets[m].collate(items).to(self.device))
        best_BT = output.tokens_BTV.argmax(-1).to(torch.int32).cpu().numpy()
        tokens = [best_BT[row, :frames] for row, frames in enumerate(output.frames_B.tolist())]
        posteriors_BC = output.emotion_BC.double().softmax(-1).cpu().numpy()
        return posteriors_BC, tokens, output.pooled_BD.float().cpu().numpy()

    def _side_by_side(self, run: Callable[[Task], Output], tasks: Sequence[Task]) -> list[Output]:
        """Run tasks; on a CPU at the same time.

        Threads that share every operation wait for each other after each; batches of their own do not.
        """
        threads = torch.get_num_threads()
        workers = min(threads, len(tasks))
        if self.device.type != "cpu" or workers < 2:
            return [run(task) for task in tasks]
        try:
            with ThreadPoolExecutor(workers, "hear", torch.set_num_threads, (threads // workers,)) as pool:
                return list(pool.map(run, tasks))
        finally:
            torch.set_num_threads(threads)  # a worker's number is also that of threads made later

    def _batch_seconds(self, trained: TrainedModel) -> float:
        if self.device.type != "cpu":
            return BATCH_SECONDS
        upstream = trained.model.upstream
        values_per_input = upstream.config.conv_dim[0] / upstream.geometry.strides[0]
        inputs_per_second = 100 if upstream.input_bands else SAMPLE_RATE
        return min(BATCH_SECONDS, CPU_VALUES / (values_per_input * inputs_per_second))

    def _result(self, heard: Heard, seconds: float, parts: Sequence[Part] = ()) -> Result:
        spread_C = heard.posteriors_MC.std(0, ddof=1) if len(self.models) > 1 else None
        return Result(
            *self._named(heard.posteriors_MC),
            text=self.models[0].tokenizer.decode(collapse(heard.tokens_T)),
            embedding=heard.embedding_D,
            seconds=seconds,
            segments=tuple(self._segment(part) for part in merge(parts)),
            timeline=tuple(self._segment(part) for part in parts),
            spread=None if spread_C is None else dict(zip(self.labels, spread_C.tolist(), strict=True)),
        )

    def _segment(self, part: Part) -> Segment:
        return Segment(part.start, part.end, *self._named(part.posteriors_MC))

    def _named(self, posteriors_MC: np.ndarray) -> tuple[str, dict[str, float]]:
        mean_C = posteriors_MC.mean(0)
        return self.labels[mean_C.argmax()], dict(zip(self.labels, mean_C.tolist(), strict=True))


def find_device(name: str | torch.device) -> torch.device:
    """The device of that name.

    Raises:
        UserError: PyTorch knows none of that name, or cannot compute on it here.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except Exception as error:  # of many types: unknown names, builds without CUDA, no driver
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"device {name} cannot be used here ({reason}); use cpu, or cuda on a GPU") from error
    return device


EXAMPLE = Example("", "", 0, "")
"""Stands for an utterance that has no targets."""


def features(trained: TrainedModel, samples_S: np.ndarray) -> np.ndarray:
    """The upstream's input for int16 samples: a waveform (S,) or features (T, F), as in training.

    A model trained with statistics of each speaker gets those of the recording alone.
    """
    if trained.front_end.feats_type == "raw":
        return trained.front_end.waveform(samples_S)
    features_TF = fbank(samples_S)
    return trained.front_end.features(features_TF, (features_TF.mean(0), features_TF.std(0)))


def in_samples(window: float | None, hop: float | None) -> tuple[int, int]:
    """Window and hop in samples, of seconds or their defaults.

    Raises:
        UserError: As `check_window`.
    """
    if window is None:
        window, hop = WINDOW, HOP if hop is None else hop
    return check_window(window, window / 2 if hop is None else hop)


def batches(lengths: Sequence[int], seconds: float) -> list[list[int]]:
    """Indices in batches of similar length, at most `BATCH` and so many seconds; the longest first."""
    made: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        # The first of a batch is its longest: the others are padded to it.
        if made and len(made[-1]) < min(BATCH, seconds * SAMPLE_RATE // max(1, lengths[made[-1][0]])):
            made[-1].append(number)
        else:
            made.append([number])
    return made


def as_int16(waveform: Any, sampling_rate: int, name: str) -> np.ndarray:
    """A waveform of any accepted kind as int16 samples (S,) at 16 kHz.

    Raises:
        UserError: It is empty, not finite, or of another shape, type or range; the message begins with ``name``.
    """
    if isinstance(waveform, torch.Tensor):
        waveform = waveform.detach().cpu()
        waveform = waveform.float() if waveform.is_floating_point() else waveform  # NumPy has no bfloat16
    values = np.asarray(waveform)
    check_rate(sampling_rate, name)
    if values.size == 0:
        raise UserError(f"{name} is empty")
    if values.ndim == 2 and 1 in values.shape:
        values = values.reshape(-1)
    if values.ndim != 1:
        raise UserError(f"{name} has the shape {values.shape}: average its channels, or give many as a list")
    if values.dtype == np.int16:
        if sampling_rate == SAMPLE_RATE:
            return values
        values = values.astype(np.float32) / 32768.0
    if not np.issubdtype(values.dtype, np.floating):
        raise UserError(f"{name} is of type {values.dtype}: give int16, or floats in [-1, 1]")
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise UserError(f"{name} holds NaN or infinite samples")
    if (peak := float(np.abs(values).max())) > 2:
        raise UserError(f"{name} has floats up to {peak:g}: divide by 32768, or give int16")
    return to_int16(resample(values, int(sampling_rate), SAMPLE_RATE))
