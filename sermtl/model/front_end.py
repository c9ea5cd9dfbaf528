"""How a dumped utterance becomes the upstream's input; the same in training and decoding."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sermtl.errors import UserError
from sermtl.model.geometry import ConvGeometry, Geometry


@dataclass(frozen=True)
class FrontEnd:
    """What of the settings decides the upstream's input."""

    feats_type: str
    normalize_wav: bool
    cmvn: str
    geometry: Geometry
    global_mean_F: np.ndarray | None = None
    global_std_F: np.ndarray | None = None
    norm_vars: bool = True

    def prepare(self, dumped: np.ndarray, speaker_stats: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
        """The upstream's input of what the dump holds."""
        if self.feats_type == "raw":
            return self.waveform(dumped)
        return dumped if self.feats_type == "stored" else self.features(dumped, speaker_stats)

    def stored(self) -> FrontEnd:
        """The same over stored outputs of the upstream, whose frames are its own."""
        return replace(self, feats_type="stored", geometry=ConvGeometry((), ()))

    def waveform(self, samples_S: np.ndarray) -> np.ndarray:
        """Samples as float32 in [-1, 1], of zero mean and unit variance where the upstream wants it."""
        wav_S = samples_S.astype(np.float32) / (32768.0 if samples_S.dtype == np.int16 else 1.0)
        if self.normalize_wav:
            wav_S = (wav_S - wav_S.mean()) / np.sqrt(wav_S.var() + 1e-7)
        return wav_S

    def features(self, features_TF: np.ndarray, speaker_stats: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
        """Features (T, F) with mean and variance normalised as ``cmvn`` says.

        Raises:
            UserError: The statistics of the speaker are needed and not given.
        """
        if self.cmvn == "speaker" and speaker_stats is None:
            raise UserError("cmvn speaker: no statistics of an utterance's speaker; use cmvn utterance or global")
        statistics: Any = {"global": (self.global_mean_F, self.global_std_F), "speaker": speaker_stats}
        mean_F, std_F = statistics.get(self.cmvn) or (features_TF.mean(0), features_TF.std(0))
        return (features_TF - mean_F) / (std_F + 1e-5) if self.norm_vars else features_TF - mean_F
