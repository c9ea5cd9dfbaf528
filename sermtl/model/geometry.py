"""Frame arithmetic of a stack of convolutions without padding."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from sermtl.config import nearest
from sermtl.errors import UserError

GEOMETRIES = Path(__file__).parents[2] / "conf" / "upstream"


def check_feats_type(upstream: str, feats_type: str, input_bands: int) -> None:
    """Refuse an upstream whose input (``input_bands`` of log-mel features; 0: waveforms) is not the ``feats_type``."""
    reads = "fbank" if input_bands else "raw"
    if reads != feats_type.replace("stored", "raw"):
        raise UserError(
            f"upstream {upstream} reads {reads}, but feats_type is {feats_type}; use --feats_type {reads}, "
            "or a --train_config made for this upstream"
        )


class Geometry(Protocol):
    """Frame arithmetic of an upstream's front."""

    @property
    def receptive_field(self) -> int:
        """Inputs that a batch has at least; a shorter utterance is continued with zeros."""

    def frames(self, length: int) -> int:
        """Frames of an input of ``length``, at least 1."""


@dataclass(frozen=True)
class ConvGeometry:
    """Kernels and strides of the convolutional encoder, first layer first."""

    kernels: tuple[int, ...]
    strides: tuple[int, ...]

    @cached_property
    def receptive_field(self) -> int:
        """Inputs (samples, or feature frames) that one output frame depends on."""
        field, hop = 1, 1
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            field += (kernel - 1) * hop
            hop *= stride
        return field

    def layer_lengths(self, length: int) -> list[int]:
        """Lengths of an input, and after each layer; one shorter than the receptive field counts as that.

        Batches continue such an input with zeros, so that every utterance has at least one frame.
        """
        lengths = [max(length, self.receptive_field)]
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            lengths.append((lengths[-1] - kernel) // stride + 1)
        return lengths

    def frames(self, length: int) -> int:
        """Output frames of an input of ``length``."""
        return self.layer_lengths(length)[-1]


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


def find_geometry(upstream: str) -> Path | None:
    """The YAML file of an upstream's geometry; None where it is a folder or a model id.

    Raises:
        UserError: It is none of the three.
    """
    path = Path(upstream) if upstream.endswith((".yaml", ".yml")) else GEOMETRIES / f"{upstream}.yaml"
    if path.is_file():
        return path
    is_id = upstream.count("/") == 1 and not upstream.startswith((".", "/", "~"))
    if (upstream and Path(upstream).is_dir()) or (is_id and not upstream.endswith((".yaml", ".yml"))):
        return None
    known = sorted(file.stem for file in GEOMETRIES.glob("*.yaml"))
    raise UserError(
        f"upstream {upstream!r} is no geometry in conf/upstream ({', '.join(known)}){nearest(upstream, known)}, "
        "no folder, and no model id (like facebook/wav2vec2-base)"
    )
