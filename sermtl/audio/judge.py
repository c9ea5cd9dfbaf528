"""What is wrong with samples that can be decoded: another scale, channels that cancel, nothing in them, clipping."""

import logging
import math

import numpy as np

from sermtl.errors import UserError

log = logging.getLogger(__name__)

LOUDEST = 2.0
"""Peak, where full scale is 1, beyond which floats are on another scale (that of int16)."""
FULL_SCALE = 0.98
"""From here on a sample is at full scale: the end of the range in any format of 8 bits (also mu-law) or more."""
MOST_CLIPPED = 0.25
"""Share of samples at full scale from which on audio is refused."""
MOST_CANCELLED, MUCH_CANCELLED = 0.9, 0.6
"""Shares of the channels' energy that averaging removes: refused, and reported. Unrelated channels lose a half."""


class Judge:
    """Judges the samples of one recording, block by block; the messages of its `UserError` begin with ``name``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.samples = self.clipped = 0
        self.channels = 1
        self.peak, self.low, self.high = 0.0, math.inf, -math.inf
        self.energy = self.averaged_energy = 0.0
        """Sums of squares: the mean of the channels' own, and that of their average."""

    def add(self, samples: np.ndarray) -> np.ndarray:
        """Add a block, (S,) or (S, channels), int16, or floats whose full scale is 1; gives the channels' average (S,).

        NaN and infinite samples are refused.
        """
        full = 32768 if samples.dtype == np.int16 else 1
        low, high = float(samples.min()) / full, float(samples.max()) / full
        if not math.isfinite(high - low):
            raise UserError(f"{self.name}: NaN or infinite samples")
        self.peak = max(self.peak, -low, high)
        self.samples += samples.size
        if max(-low, high) >= FULL_SCALE:
            self.clipped += np.count_nonzero((samples >= FULL_SCALE * full) | (samples <= -FULL_SCALE * full))
        if samples.ndim == 2:
            self.channels = samples.shape[1]
            self.energy += float(np.vdot(samples, samples)) / self.channels
            samples = samples.mean(axis=1)
            self.averaged_energy += float(np.vdot(samples, samples))
            low, high = float(samples.min()), float(samples.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        return samples

    def refuse_scale(self) -> None:
        """Refuse floats that are on another scale."""
        if self.peak > LOUDEST:
            raise UserError(
                f"{self.name}: floats up to {self.peak:g}, where full scale is 1: divide by 32768, or give int16"
            )

    def finish(self) -> None:
        """Refuse samples on another scale, that cancel each other (a warning where in part), hold nothing, or clip."""
        self.refuse_scale()
        removed = 1 - self.averaged_energy / self.energy if self.energy else 0.0
        if removed > MUCH_CANCELLED:
            message = (
                f"{self.name}: averaging its {self.channels} channels removes {100 * removed:.1f} % of their energy, "
                "because they are out of phase: choose one, as by --channel 1"
            )
            if removed > MOST_CANCELLED:
                raise UserError(message)
            log.warning("warning: %s", message)
        if self.low == self.high:
            raise UserError(f"{self.name}: holds nothing: every sample is {f'{self.low:.6g}' if self.low else 'zero'}")
        if self.clipped > MOST_CLIPPED * self.samples:
            share = self.clipped / self.samples
            raise UserError(f"{self.name}: {100 * share:.0f} % of its samples are clipped, that is, at full scale")
