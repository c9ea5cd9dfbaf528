"""Utterances of a fold, read from the dump, augmented and collated.

What an epoch draws for an utterance is a function of (seed, epoch, utterance) alone.
"""

import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, pairwise
from statistics import median

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from sermtl.config import TrainConfig
from sermtl.data.names import stored_form
from sermtl.errors import UserError
from sermtl.fileio.ark import checksum, read_entry
from sermtl.model.batch import Batch
from sermtl.model.front_end import FrontEnd
from sermtl.model.geometry import SpanMasking
from sermtl.seeding import generator

WORKER_GRACE = 120
"""Seconds after which a loader process that got SIGTERM ends."""


@dataclass(frozen=True)
class Example:
    """One utterance: where its input is, and its targets."""

    utterance: str
    entry: str
    """Ark entry of the input."""
    length: int
    """Samples or feature frames."""
    speaker_name: str
    emotion: int = -1
    speaker: int = -1
    tokens: tuple[int, ...] = ()
    samples: int = 0
    """Of its audio, where ``length`` counts something else that is to make the same batches."""
    checksum: str = ""
    """Of what the dump holds; empty: not known, and not compared."""

    @property
    def size(self) -> int:
        """What batches are sorted by."""
        return self.samples or self.length

    @cached_property
    def ctc_frames(self) -> int:
        """Frames that CTC needs for the tokens: one each, and a blank between equal neighbours."""
        return len(self.tokens) + sum(a == b for a, b in pairwise(self.tokens))


@dataclass(eq=False, repr=False)
class FoldDataset(Dataset):
    """The examples of a list; ``set_epoch`` before each training epoch, never for evaluation."""

    examples: Sequence[Example]
    front_end: FrontEnd
    config: TrainConfig | None = None
    """Augmentation settings, or None for evaluation."""
    masking: SpanMasking | None = None
    """The upstream's SpecAugment."""
    perturbed: Mapping[float, Mapping[str, Example]] = field(default_factory=dict)
    """Speed -> utterance -> its perturbed copy."""
    speaker_stats: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    """Speaker -> mean (F,) and standard deviation (F,) for ``cmvn: speaker``."""

    def __post_init__(self) -> None:
        """Read what is kept in memory."""
        self.epoch, config = 0, self.config
        self._kept: dict[str, np.ndarray] = {}
        # Pooled vectors are small, and an epoch over them takes less time than reading them again.
        pooled = config is not None and config.feats_type == "stored" and stored_form(config).startswith("pooled")
        if config is not None and (config.in_memory or pooled):
            copies = [self.perturbed[speed].values() for speed in config.speed_perturb if speed != 1.0]
            everything = chain(self.examples, *copies)
            self._kept = {example.entry: read_dumped(example, self.front_end.feats_type) for example in everything}

    def __len__(self) -> int:
        return len(self.examples)

    @cached_property
    def lengths(self) -> list[int]:
        """Sizes of the examples, by which batches are made."""
        return [example.size for example in self.examples]

    @cached_property
    def typical_length(self) -> float:
        """The median of the lengths."""
        return median(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose random draws the examples get."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> tuple[Example, np.ndarray, np.ndarray | None, np.ndarray | None]:
        """The example, its input, and SpecAugment's time (T,) and feature (D,) masks."""
        example = self.examples[index]
        stats = self.speaker_stats.get(example.speaker_name)
        c, m = self.config, self.masking
        masks_bands = c is not None and c.feats_type == "fbank" and (c.freq_masks or c.time_masks)
        masks_frames = m is not None and (m.time_prob or m.feature_prob)
        if c is None or not (c.speed_perturb or masks_bands or masks_frames):
            return example, self._read(example, stats), None, None
        random = generator(c.seed, "augment", self.epoch, example.utterance)
        speed = float(random.choice(np.array(c.speed_perturb))) if c.speed_perturb else 1.0
        read = example if speed == 1.0 else self.perturbed[speed][example.utterance]
        features = self._read(read, stats)
        if masks_bands:
            features = mask_features(features, c, random)
        if m is None or not masks_frames:
            return example, features, None, None
        frames = self.front_end.geometry.frames(len(features))
        time_mask_T = span_mask(frames, m.time_prob, m.time_length, m.time_min, random)
        feature_mask_D = span_mask(m.hidden_size, m.feature_prob, m.feature_length, m.feature_min, random)
        return example, features, time_mask_T, feature_mask_D

    def _read(self, example: Example, stats: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
        dumped = self._kept[example.entry] if self._kept else read_dumped(example, self.front_end.feats_type)
        return self.front_end.prepare(dumped, stats)

    def loader(self, batches: list[list[int]], num_workers: int = 0, pin_memory: bool = False) -> DataLoader:
        """Batches of given indices; its processes go on after SIGTERM until the training is saved."""
        return DataLoader(
            self, batch_sampler=batches, collate_fn=self.collate, num_workers=num_workers, pin_memory=pin_memory,
            worker_init_fn=_outlive_a_stop,
        )  # fmt: skip

    def collate(self, items: Iterable[tuple[Example, np.ndarray, np.ndarray | None, np.ndarray | None]]) -> Batch:
        """Stack examples, continued with zeros to the longest and to the receptive field.

        A transcript that has more tokens (with the blank that CTC needs between equal neighbours) than the input
        has frames is left out: its length becomes 0.
        """
        examples, inputs, time_masks, feature_masks = zip(*items, strict=True)
        geometry = self.front_end.geometry
        lengths = [len(features) for features in inputs]
        frames = [geometry.frames(length) for length in lengths]
        tokens = [
            example.tokens if example.ctc_frames <= count else ()
            for example, count in zip(examples, frames, strict=True)
        ]
        return Batch(
            utterances=[example.utterance for example in examples],
            inputs=stack(inputs, max(*lengths, geometry.receptive_field)),
            lengths_B=torch.tensor(lengths),
            emotions_B=torch.tensor([example.emotion for example in examples]),
            speakers_B=torch.tensor([example.speaker for example in examples]),
            tokens_BN=stack([np.array(ids, dtype=np.int64) for ids in tokens], max(1, *map(len, tokens))),
            token_lengths_B=torch.tensor([len(ids) for ids in tokens]),
            time_mask_BT=None if time_masks[0] is None else stack(time_masks, max(frames)),
            feature_mask_BD=None if feature_masks[0] is None else torch.from_numpy(np.stack(feature_masks)),
            frames_B=torch.tensor(frames),
        )


@dataclass(frozen=True)
class Sets:
    """What a training reads, and the sets that are scored after each epoch, by their name in the history."""

    train: FoldDataset
    evaluated: Mapping[str, FoldDataset]
    texts: Mapping[str, str]
    """Utterance -> normalised transcript."""


def _outlive_a_stop(_worker: int) -> None:
    """Go on after SIGTERM, which queues send to all processes of a job, until the update is saved."""
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(WORKER_GRACE))


def span_mask(size: int, prob: float, length: int, minimum: int, random: np.random.Generator) -> np.ndarray:
    """Which of ``size`` positions are masked, in spans: (size,) bool.

    The number of spans is ``prob * size / length``, rounded up or down at random, at least ``minimum``, and no
    more than fit; starts are drawn without replacement, so spans may overlap (wav2vec 2.0, Baevski et al. 2020,
    section 3.1). Where not even one span fits, nothing is masked.
    """
    mask_T = np.zeros(size, dtype=bool)
    if prob <= 0 or size < length:
        return mask_T
    spans = min(max(int(prob * size / length + random.random()), minimum), size // length)
    for start in random.choice(size - length + 1, size=spans, replace=False):
        mask_T[start : start + length] = True
    return mask_T


def mask_features(features_TF: np.ndarray, config: TrainConfig, random: np.random.Generator) -> np.ndarray:
    """Normalised features with bands and frames set to 0, their mean (Park et al. 2019); a copy.

    Widths are uniform from 0 to the largest; a time mask covers no more than a fifth of the utterance.
    """
    masked_TF = features_TF.copy()
    frames, bands = features_TF.shape
    widest = [(masked_TF.T, min(config.freq_mask_width, bands))] * config.freq_masks
    widest += [(masked_TF, min(config.time_mask_width, frames // 5))] * config.time_masks
    for view, most in widest:
        width = int(random.integers(0, most + 1))
        start = int(random.integers(0, len(view) - width + 1))
        view[start : start + width] = 0.0
    return masked_TF


def read_dumped(example: Example, feats_type: str) -> np.ndarray:
    """Int16 samples (S,), features (T, F) or stored frames (T, C); `UserError` where they are not as when dumped."""
    values = read_entry(example.entry, example.utterance, feats_type)
    if len(values) != example.length or (example.checksum and checksum(values) != example.checksum):
        raise UserError(
            f"{example.entry}: {example.utterance} is not there as it was: the ark is damaged, or stage 2 was run "
            "meanwhile; rerun ./run.sh --stage 2, then the same command"
        )
    return values


def stack(arrays: Sequence[np.ndarray], length: int) -> torch.Tensor:
    """(B, length, ...) of B arrays (n, ...), each continued with zeros."""
    stacked = np.zeros((len(arrays), length, *arrays[0].shape[1:]), dtype=arrays[0].dtype)
    for row, array in zip(stacked, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(stacked)


def feature_stats(examples: Iterable[Example]) -> tuple[np.ndarray, np.ndarray]:
    """Mean (F,) and standard deviation (F,) over all frames of examples with features, streamed."""
    count, total_F, squares_F = 0, np.zeros(1), np.zeros(1)
    for example in examples:
        features_TF = read_dumped(example, "fbank").astype(np.float64)
        count += len(features_TF)
        total_F = total_F + features_TF.sum(0)
        squares_F = squares_F + np.square(features_TF).sum(0)
    mean_F = total_F / max(count, 1)
    variance_F = np.maximum(squares_F / max(count, 1) - mean_F**2, 0.0)
    return mean_F.astype(np.float32), np.sqrt(variance_F).astype(np.float32)
