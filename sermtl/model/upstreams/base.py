"""The interface of all upstreams: waveforms in, hidden states of each utterance's own frames out.

    waveforms (B, S) -> front -> (B, T, C) -> embed -> state 0 (B, T, D) -> layer 1 -> state 1 -> ... -> state L

States are numbered as transformers does: 0 enters the first layer, k leaves layer k, and L includes the final norm. A
family is a subclass in a file of its own, which says what its front, its embedding and its layers are.

Shape suffixes: B batch, S samples, T frames, F bands, C channels of the front, D hidden, W windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

# isort: off
from sermtl import before_transformers  # noqa: F401 (before transformers)

# isort: on
import torch
from torch import Tensor, nn
from transformers import AutoModel

from sermtl.errors import UserError
from sermtl.model.geometry import Geometry, SpanMasking
from sermtl.model.padded import cut, is_padded, join, own_frames

Frozen = str | int
"""``none``, ``conv`` (the front), a number k (front, projection, positions and the first k layers), or ``all``."""
Masks = tuple[Tensor | None, Tensor | None]
"""SpecAugment's: frames (B, T) that get the mask vector, and channels (B, 1, D) that are set to 0."""
PACKED_FROM = 256
"""Hidden size from which arithmetic on padding costs more than many small operations."""


class Upstream(nn.Module):
    """A speech encoder of transformers, run on each utterance's own frames only.

    Args:
        model: transformers' model.
        config: Its configuration, with further attributes: ``normalize`` (whether each waveform is brought to zero
            mean and unit variance), ``input_bands`` (0: waveforms; else the number of mel bands that the first
            convolution reads) and ``kept_layers`` (those that the model has; the others are never read).
    """

    geometry: Geometry
    front_size: int
    """Channels of the front's frames."""
    window: int | None = None
    """Frames that attention sees at most; longer utterances are cut into windows of so many."""
    fronts: list[nn.Module]
    """The modules of the front."""
    before_layers: list[nn.Module]
    """The modules between front and layers, with which they are frozen."""
    values_per_second: float
    """Values that the widest layer of the front makes of a second of audio: what a batch's memory goes with."""
    packable = False
    """Whether utterances can be laid end to end instead of padded; see `sermtl.model.packed`."""
    packed = False
    """Whether they are."""
    masked = True
    """Whether training replaces frames, as the configuration asks (SpecAugment)."""

    def __init__(self, model: nn.Module, config: Any):
        super().__init__()
        self.model: Any = model
        self.config = config
        self.normalize: bool = config.normalize
        self.input_bands: int = config.input_bands
        self.hidden_size: int = config.hidden_size
        self.total_layers: int = config.num_hidden_layers
        """Of the whole model, kept or not."""
        self.layerdrop: float = getattr(config, "layerdrop", 0.0)
        """Share of the layers that training leaves out at random, as the model was trained."""
        self.final_dropout: float = getattr(config, "final_dropout", 0.0)
        """Share of what the heads read that training drops."""
        self.reads: tuple[int, ...] = (self.total_layers,)
        """Numbers of the states that `forward` returns, ascending."""
        self.entry: str | int = "audio"
        """What batches hold: ``audio`` (or features), ``front`` (its frames), a hidden state's number, or what the
        heads read of all: ``states`` or ``pooled``."""
        self.frozen: Frozen = "none"

    # What a family says

    @staticmethod
    def load(name: str, config: Any) -> tuple[nn.Module, dict[str, Any]]:
        """A pretrained model, and transformers' notes on its weights."""
        return AutoModel.from_pretrained(
            name, config=config, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )

    @staticmethod
    def build(config: Any) -> nn.Module:
        """A model with fresh weights."""
        return AutoModel.from_config(config)

    def front(self, inputs: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (B, T, C) of a batch's inputs, and the number of own frames (B,)."""
        raise NotImplementedError

    def embed(self, front_BTC: Tensor, own_BT1: Tensor, masks: Masks) -> Tensor:
        """State 0 (B, T, D) of the front's frames; ``own_BT1`` is True on own frames."""
        raise NotImplementedError

    def context(self, hidden_BTD: Tensor, own_BT: Tensor | None) -> dict[str, Any]:
        """The words that each layer takes: masks and positions; ``own_BT`` is None where there is no padding."""
        return {"attention_mask": None if own_BT is None else own_BT[:, None, None]}

    def final(self, hidden: Tensor) -> Tensor:
        """The last state of the last layer's output."""
        return hidden

    # What all have in common

    @property
    def layers(self) -> nn.ModuleList:
        """The layers that the model has."""
        return getattr(self.model, "encoder", self.model).layers

    @property
    def masking(self) -> SpanMasking:
        """SpecAugment on the front's frames, as the configuration asks for it; none where they are frozen."""
        c = self.config
        if not (self.masked and getattr(c, "apply_spec_augment", True) and self.frozen in ("none", "conv")):
            return SpanMasking(hidden_size=self.hidden_size)
        names = (f"mask_{kind}_{name}" for kind in ("time", "feature") for name in ("prob", "length", "min_masks"))
        values = [*(getattr(c, name, 0) for name in names), self.hidden_size]
        return SpanMasking(*values)

    def forward(
        self,
        inputs: Tensor,
        lengths_B: Tensor,
        time_mask_BT: Tensor | None = None,
        feature_mask_BD: Tensor | None = None,
        counts_B: Tensor | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """Encode a batch.

        Args:
            inputs: What ``entry`` says: waveforms (B, S) or features (B, T, F), continued with zeros to the longest,
                and to the receptive field; or frames (B, T, C or D).
            lengths_B: Own samples or frames.
            time_mask_BT: Frames that SpecAugment replaces.
            feature_mask_BD: Channels that it sets to 0.
            counts_B: Numbers of own frames on the CPU, where they are known: a GPU need not be waited for then.

        Returns:
            The states of ``reads``, each hidden_BTD with 0 beyond an utterance's own frames, and the number of own
            frames (B,).
        """
        frames_BTC, frames_B = self.front(inputs, lengths_B) if self.entry == "audio" else (inputs, lengths_B)
        masks = time_mask_BT, None if feature_mask_BD is None else feature_mask_BD[:, None]
        if self.window is None or frames_BTC.shape[1] <= self.window:
            return self.states(frames_BTC, frames_B, masks, counts_B), frames_B
        states = self.states(*cut(frames_BTC, frames_B, self.window), masks, None)
        return [join(state, frames_B, self.window) for state in states], frames_B

    def states(self, rows_BTC: Tensor, frames_B: Tensor, masks: Masks, counts_B: Tensor | None) -> list[Tensor]:
        """The states of ``reads`` of frames that attention sees at once."""
        own_BT = own_frames(frames_B, rows_BTC.shape[1])
        own_BT1 = own_BT[:, :, None]
        hidden_BTD = rows_BTC if isinstance(self.entry, int) else self.embed(rows_BTC, own_BT1, masks)
        if not is_padded(frames_B, rows_BTC.shape[1]):
            words = self.context(hidden_BTD, None)
            return self.run_layers(hidden_BTD, lambda layer, hidden: layer(hidden, **words))
        words = self.context(hidden_BTD, own_BT)
        found = self.run_layers(hidden_BTD, lambda layer, hidden: layer(hidden, **words))
        return [state_BTD * own_BT1 for state_BTD in found]

    def run_layers(self, hidden: Tensor, run: Callable[[Any, Tensor], Any]) -> list[Tensor]:
        """The states of ``reads``, from the first one that is not stored; ``run`` applies a layer."""
        number, found = self.entry if isinstance(self.entry, int) else 0, []
        while True:
            if number in self.reads:
                found.append(hidden)
            if number == self.reads[-1]:
                return found
            layer = self.layers[number]
            number += 1
            if not (layer.training and float(torch.rand([])) < self.layerdrop):
                output = run(layer, hidden)
                hidden = output[0] if isinstance(output, tuple) else output
            if number == self.total_layers:
                hidden = self.final(hidden)

    def project(self, front: Tensor, masks: Masks) -> Tensor:
        """The front's frames in the layers' width, with the mask vector in masked frames and 0 in masked channels."""
        projected = self.model.feature_projection(front)
        hidden = projected[0] if isinstance(projected, tuple) else projected
        time_mask, feature_mask = masks
        if time_mask is not None:
            hidden = torch.where(time_mask[..., None], self.model.masked_spec_embed.to(hidden.dtype), hidden)
        return hidden if feature_mask is None else hidden.masked_fill(feature_mask, 0.0)

    def count_cut(self, samples: Iterable[int]) -> int:
        """How many utterances, of so many samples, are encoded in several windows."""
        return sum(self.geometry.frames(length) > self.window for length in samples) if self.window else 0

    def read(self, states: tuple[int, ...]) -> None:
        """Have `forward` return these states, and leave out the layers above them.

        Raises:
            UserError: The model lacks one of them.
        """
        last = states[-1]
        if last > self.total_layers:
            raise UserError(f"layers: there is no hidden state {last}; this upstream has 0 to {self.total_layers}")
        self.reads = states
        del self.layers[last:]
        self.config.kept_layers = last

    def freeze(self, frozen: Frozen) -> None:
        """Keep the weights of what ``freeze`` says; what is frozen runs in evaluation mode.

        Raises:
            UserError: It is a number of layers that the model does not have.
        """
        if isinstance(frozen, int) and not 1 <= frozen < self.total_layers:
            raise UserError(f"freeze: {frozen}; this upstream takes none, conv, 1 to {self.total_layers - 1}, or all")
        self.frozen = frozen
        for module in self._frozen_modules():
            module.requires_grad_(False)

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen == "all":
            return [self.model]
        if isinstance(self.frozen, int):
            return [*self.fronts, *self.before_layers, *self.layers[: self.frozen]]
        return self.fronts if self.frozen == "conv" else []

    def train(self, mode: bool = True) -> Upstream:
        """Training mode for what is not frozen."""
        super().train(mode)
        if self.frozen != "none":
            for module in self._frozen_modules():
                module.eval()
        return self

    def lay_out(self, layout: str, device: torch.device) -> None:
        """Lay utterances out as the setting ``layout`` asks.

        Raises:
            UserError: It asks for packed utterances, and the upstream needs them padded.
        """
        if layout == "packed" and not self.packable:
            raise UserError(f"layout: packed is not known for {self.config.model_type}; use auto or padded")
        gains = self.packable and self.hidden_size >= PACKED_FROM
        self.packed = layout == "packed" or (layout == "auto" and gains)
