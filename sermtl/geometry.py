"""Frame arithmetic of a stack of convolutions without padding."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ConvGeometry:
    """Kernels and strides of the convolutional encoder, first layer first."""

    kernels: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def receptive_field(self) -> int:
        """Inputs (samples, or feature frames) that one output frame sees."""
        field, hop = 1, 1
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            field += (kernel - 1) * hop
            hop *= stride
        return field

    def layer_lengths(self, length: int) -> list[int]:
        """Frames after each layer of an input of ``length``; a shorter one than the receptive field counts as that.

        Batches continue such an input with zeros, so that every utterance has at least one frame.
        """
        length = max(length, self.receptive_field)
        lengths = []
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            length = (length - kernel) // stride + 1
            lengths.append(length)
        return lengths

    def frames(self, length: int) -> int:
        """Output frames of an input of ``length``."""
        return self.layer_lengths(length)[-1] if self.kernels else length


@dataclass(frozen=True)
class SpanMasking:
    """SpecAugment on the upstream's projected frames, as its own configuration asks."""

    time_prob: float = 0.0
    time_length: int = 10
    time_min: int = 0
    feature_prob: float = 0.0
    feature_length: int = 10
    feature_min: int = 0
    hidden_size: int = 0
