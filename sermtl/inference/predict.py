"""Prediction for any audio: emotion, transcript and embedding of waveforms or files, by one model or several.

Shape suffixes: S samples, M models, C classes, T frames, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch

from sermtl.audio.features import fbank
from sermtl.audio.resample import SAMPLE_RATE, quantise
from sermtl.audio.stream import as_samples, audio_blocks, read_item
from sermtl.data.dataset import Example, FoldDataset
from sermtl.errors import UserError
from sermtl.inference.inputs import BATCH, BATCH_SECONDS, batches, seconds_of
from sermtl.inference.pretrained import load, resolve
from sermtl.inference.windows import Part, Prediction, Result, Segment, join, merge, window_and_hop, windows
from sermtl.model.multitask import Output, collapse
from sermtl.model.trained_model import TrainedModel

WHOLE = 60.0
"""Seconds up to which a recording is encoded in one piece, unless a window is asked for."""
CPU_VALUES = 4_000_000
"""Most values of a batch after the first convolution on a CPU: wav2vec2-base is slower where they outgrow its cache."""
POOL = 64
"""Files that are read and sorted by length together."""
Waveform = np.ndarray | torch.Tensor


class Speech2Emotion:
    """One or several trained models of the same classes, ready to predict.

    >>> model = Speech2Emotion.from_pretrained(fold)  # exp/<tag>/<fold>, or its pack
    >>> result = model(np.zeros(8000, dtype=np.float32), sampling_rate=8000)
    >>> result.seconds, list(result.scores)
    (1.0, ['ang', 'hap', 'neu', 'sad'])
    >>> result.emotion == max(result.scores, key=result.scores.get)
    True

    Raises:
        UserError: The models know different classes.
    """

    def __init__(self, models: Sequence[TrainedModel], device: torch.device | None = None) -> None:
        self.models = list(models)
        self.device = device or torch.device("cpu")
        self.labels = self.models[0].labels
        for other in self.models:
            if other.labels != self.labels:
                both = f"{' '.join(self.labels)} and {' '.join(other.labels)}"
                raise UserError(f"models of different classes cannot be averaged: {both}")
        self.cut = 0
        """Recordings, or windows of long ones, that an upstream with a limit has encoded in several parts so far."""
        self._sets = [FoldDataset([], trained.front_end) for trained in self.models]
        self.standardises = any(trained.model.vector.speaker_norm.standardises for trained in self.models)
        """Whether `enrol` changes what is predicted."""
        self._own: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * len(self.models)

    @classmethod
    def from_pretrained(
        cls, path_or_id: str | Path | Sequence[str | Path], device: str | torch.device | None = None
    ) -> Speech2Emotion:
        """Load a fold (``exp/<tag>/<fold>``), a pack, an experiment with all its folds, or a model of the hub.

        Args:
            path_or_id: One of them, or a list, whose posteriors are averaged.
            device: Such as ``"cpu"`` or ``"cuda"``; by default a GPU where there is one.

        Raises:
            UserError: There is no complete model under that name, or the device does not exist.
        """
        names = [path_or_id] if isinstance(path_or_id, (str, Path)) else path_or_id
        if not names:
            raise UserError("no model is named")
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            chosen = torch.device(device)
            torch.zeros(1, device=chosen).cpu()
        except Exception as error:  # of many types: unknown names, builds without CUDA, no driver
            reason = str(error).strip().split("\n")[0]
            raise UserError(f"device {device} cannot be used here ({reason}); use cpu, or cuda on a GPU") from error
        return cls([load(path, chosen) for name in names for path in resolve(name)], chosen)

    @overload
    def __call__(
        self, waveform: Waveform, sampling_rate: int, window: float | None = ..., hop: float | None = ...
    ) -> Result: ...

    @overload
    def __call__(
        self, waveform: Sequence[Waveform], sampling_rate: int, window: float | None = ..., hop: float | None = ...
    ) -> list[Result]: ...

    def __call__(
        self, waveform: Any, sampling_rate: int, window: float | None = None, hop: float | None = None
    ) -> Result | list[Result]:
        """Predict one waveform, or a list of them.

        Args:
            waveform: (S,), NumPy or torch, int16 or floating in [-1, 1] (what goes beyond, up to 2, is clipped); a
                list of such gives a list.
            sampling_rate: Of the waveform(s), in Hz; other rates than 16000 are resampled.
            window: Seconds of a window; waveforms up to it (by default up to a minute) are encoded whole.
            hop: Seconds from one window to the next (default: half a window).

        Raises:
            UserError: A waveform is empty, holds NaN or infinity, or has another shape, type or range; the window or
                the hop is out of range.
        """
        window_and_hop(window, hop)
        if isinstance(waveform, (list, tuple)) and not (waveform and np.isscalar(waveform[0])):
            samples = [as_samples(one, sampling_rate, f"waveform {n}") for n, one in enumerate(waveform)]
            return self._run_all(samples, window, hop)
        return self._run_all([as_samples(waveform, sampling_rate, "the waveform")], window, hop)[0]

    @torch.inference_mode()
    def enrol(self, waveforms: Sequence[Waveform], sampling_rate: int) -> Speech2Emotion:
        """Predict from now on for the speaker of these recordings, by its statistics; without any, for any speaker.

        Raises:
            UserError: No model standardises speakers (``spk_norm: standardise``); see also ``__call__``.
        """
        recordings = [as_samples(one, sampling_rate, f"waveform {n}") for n, one in enumerate(waveforms)]
        if not self.standardises:
            raise UserError("these models were not trained with spk_norm standardise: they have no use for enrolment")
        lengths = [len(samples_S) for samples_S in recordings]
        for m, trained in enumerate(self.models):
            vector, self._own[m] = trained.model.vector, None
            parts = batches(lengths, self._batch_seconds(trained))
            found = [self._forward(m, [recordings[number] for number in part]).pooled_BnP for part in parts]
            if found and vector.speaker_norm.standardises:
                everyone_1U = torch.ones(1, len(recordings), dtype=torch.bool, device=self.device)
                self._own[m] = vector.statistics(torch.cat(found), everyone_1U)
        return self

    def enrol_files(self, paths: Iterable[str | Path], channel: int = 0) -> Speech2Emotion:
        """`enrol` with the recordings of one speaker in files."""
        return self.enrol([read_item(str(path), channel) for path in paths], SAMPLE_RATE)

    def _forward(self, m: int, recordings: Sequence[np.ndarray]) -> Output:
        trained = self.models[m]
        without_targets = Example("", "", 0, "")
        items = [(without_targets, features(trained, samples_S), None, None) for samples_S in recordings]
        output = trained.model(self._sets[m].collate(items).to(self.device))
        if self._own[m] is not None:
            output.vector_BM = trained.model.vector(output.pooled_BnP, own=self._own[m])
            output.emotion_BC = trained.model.emotion_head(output.vector_BM)
        return output

    def files(
        self, paths: Iterable[str | Path], window: float | None = None, hop: float | None = None, channel: int = 0
    ) -> Iterator[tuple[str, Result | UserError]]:
        """Predict files, in their order: each path with its result, or with the error.

        Files of similar length share a batch; long ones (see ``__call__``) are streamed. ``channel`` is the one to
        read, from 1, of files with several; 0 averages them.

        Raises:
            UserError: The window or the hop is out of range.
        """
        window_and_hop(window, hop)
        names = [str(path) for path in paths]
        longest = WHOLE if window is None else window
        for first in range(0, len(names), POOL):
            pool = names[first : first + POOL]
            found: dict[int, Result | UserError] = {}
            short: dict[int, np.ndarray] = {}
            for number, path in enumerate(pool):
                try:
                    if seconds_of(path) > longest:
                        found[number] = self._stream(audio_blocks(path, channel), window, hop)
                    else:
                        short[number] = read_item(path, channel)
                except UserError as error:
                    found[number] = error
            found |= zip(short, self._run_all(list(short.values()), window, hop), strict=True)
            for number, path in enumerate(pool):
                yield path, found[number]

    def _run_all(self, recordings: Sequence[np.ndarray], window: float | None, hop: float | None) -> list[Result]:
        longest = (WHOLE if window is None else window) * SAMPLE_RATE
        whole = [number for number, samples_S in enumerate(recordings) if len(samples_S) <= longest]
        predicted = dict(zip(whole, self.run([recordings[number] for number in whole]), strict=True))
        return [
            self._result(predicted[number], len(samples_S) / SAMPLE_RATE)
            if number in predicted
            else self._stream([samples_S], window, hop)
            for number, samples_S in enumerate(recordings)
        ]

    def _stream(self, blocks: Iterable[np.ndarray], window: float | None, hop: float | None) -> Result:
        """Predict a recording in windows, a few at a time."""
        window_samples, hop_samples = window_and_hop(window, hop)
        pieces: list[tuple[int, int, Prediction]] = []
        batch = max(1, min(BATCH, int(BATCH_SECONDS * SAMPLE_RATE / window_samples)))
        cut = windows(blocks, window_samples, hop_samples)
        while waiting := list(islice(cut, batch)):
            predicted = self.run([quantise(samples_S) for _, samples_S in waiting])
            pieces += [(start, len(wav_S), made) for (start, wav_S), made in zip(waiting, predicted, strict=True)]
        whole, parts = join(pieces)
        return self._result(whole, parts[-1].end, parts)

    def run(self, recordings: Sequence[np.ndarray]) -> list[Prediction]:
        """Run all models on recordings (S,) at 16 kHz; the result of one does not depend on the others."""
        lengths = [len(samples_S) for samples_S in recordings]
        tasks = [
            (m, batch)
            for m, trained in enumerate(self.models)
            for batch in batches(lengths, self._batch_seconds(trained))
        ]
        self.cut += max(trained.model.upstream.count_cut(lengths) for trained in self.models)
        posteriors = np.zeros((len(recordings), len(self.models), len(self.labels)))
        first: dict[int, tuple[np.ndarray, np.ndarray]] = {}

        @torch.inference_mode()
        def run(task: tuple[int, list[int]]) -> None:
            m, batch = task
            output = self._forward(m, [recordings[number] for number in batch])
            posteriors[batch, m] = output.emotion_BC.double().softmax(-1).cpu().numpy()
            if m == 0:
                best_BT, frames = output.best_BT.cpu().numpy(), output.frames_B.tolist()
                tokens = (best_T[:count] for best_T, count in zip(best_BT, frames, strict=True))
                vectors = output.vector_BM.float().cpu().numpy()
                first.update(zip(batch, zip(tokens, vectors, strict=True), strict=True))

        threads = torch.get_num_threads()
        workers = min(threads, len(tasks)) if self.device.type == "cpu" else 1
        if workers < 2:
            for task in tasks:
                run(task)
        else:
            # Threads that share an operation wait for each other after it; threads with a batch each do not.
            try:
                with ThreadPoolExecutor(workers, "predict", torch.set_num_threads, (threads // workers,)) as pool:
                    list(pool.map(run, tasks))
            finally:
                torch.set_num_threads(threads)  # a worker's number is also that of threads made later
        return [Prediction(posteriors[number], *first[number]) for number in range(len(recordings))]

    def _batch_seconds(self, trained: TrainedModel) -> float:
        on_cpu = self.device.type == "cpu"
        return min(BATCH_SECONDS, CPU_VALUES / trained.model.upstream.values_per_second if on_cpu else BATCH_SECONDS)

    def _result(self, whole: Prediction, seconds: float, parts: Sequence[Part] = ()) -> Result:
        spread_C = whole.posteriors_MC.std(0, ddof=1) if len(self.models) > 1 else None
        return Result(
            *self._named(whole.posteriors_MC),
            self.models[0].tokenizer.decode(collapse(whole.tokens_T)),
            whole.embedding_D,
            seconds,
            segments=tuple(self._segment(part) for part in merge(parts)),
            timeline=tuple(self._segment(part) for part in parts),
            spread=None if spread_C is None else dict(zip(self.labels, spread_C.tolist(), strict=True)),
        )

    def _segment(self, part: Part) -> Segment:
        return Segment(part.start, part.end, *self._named(part.posteriors_MC))

    def _named(self, posteriors_MC: np.ndarray) -> tuple[str, dict[str, float]]:
        mean_C = posteriors_MC.mean(0)
        return self.labels[mean_C.argmax()], dict(zip(self.labels, mean_C.tolist(), strict=True))


def features(trained: TrainedModel, samples_S: np.ndarray) -> np.ndarray:
    """The upstream's input for samples: a waveform (S,) or features (T, F), as in training.

    A model trained with statistics of each speaker gets those of the recording alone.
    """
    values = samples_S if trained.front_end.feats_type == "raw" else fbank(samples_S)
    return trained.front_end.prepare(values, (values.mean(0), values.std(0)))
