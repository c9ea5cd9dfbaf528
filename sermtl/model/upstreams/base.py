"""The interface of all upstreams: waveforms in, hidden states of each utterance's own frames out.

    waveforms (B, S) -> front -> (B, T, C) -> embed -> state 0 (B, T, D) -> layer 1 -> state 1 -> ... -> state L

States are numbered as transformers does: 0 enters the first layer, k leaves layer k, and L includes the final norm. A
family is a subclass in a file of its own, which says what its front, its embedding and its layers are.

Shape suffixes: B batch, S samples, T frames, F bands, C channels of the front, D hidden, W windows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sermtl.errors import UserError
from sermtl.model.geometry import Geometry, SpanMasking
from sermtl.model.padded import is_padded, own_frames

Frozen = str | int
"""``none``, ``conv`` (the front), a number k (front, projection, positions and the first k layers), or ``all``."""


class Upstream(nn.Module):
    """A speech encoder of transformers, run on each utterance's own frames only.

    Args:
        model: transformers' model.
        config: Its configuration, with further attributes: ``normalize`` (whether each waveform is brought to zero
            mean and unit variance), ``input_bands`` (0: waveforms; else the number of mel bands that the first
            convolution reads) and ``kept_layers`` (those that the model has; the others are never read).
    """

    geometry: Geometry
    hidden_size: int
    front_size: int
    """Channels of the front's frames."""
    window: int | None = None
    """Frames that attention sees at most; longer utterances are cut into windows of so many."""

    def __init__(self, model: nn.Module, config: Any):
        super().__init__()
        self.model: Any = model
        self.config = config
        self.normalize: bool = config.normalize
        self.input_bands: int = config.input_bands
        self.total_layers: int = config.num_hidden_layers
        """Of the whole model, kept or not."""
        self.final_dropout: float = getattr(config, "final_dropout", 0.0)
        self.reads: tuple[int, ...] = (self.total_layers,)
        """Numbers of the states that `forward` returns, ascending."""
        self.entry: str | int = "audio"
        """What batches hold: ``audio`` (or features), ``front`` (its frames), a hidden state's number, or what the
        heads read of all: ``states`` or ``pooled``."""
        self.frozen: Frozen = "none"

    # What a family says

    @property
    def layers(self) -> nn.ModuleList:
        """The layers that the model has."""
        raise NotImplementedError

    def front(self, inputs: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (B, T, C) of a batch's inputs, and the number of own frames (B,)."""
        raise NotImplementedError

    def embed(self, front_BTC: Tensor, frames_B: Tensor, masks: tuple[Tensor | None, Tensor | None]) -> Tensor:
        """State 0 (B, T, D); of the masks, the first (B, T) replaces frames, the second (B, D) drops channels."""
        raise NotImplementedError

    def context(self, hidden_BTD: Tensor, frames_B: Tensor) -> Any:
        """What all layers get beside the frames: masks, positions."""
        raise NotImplementedError

    def layer(self, number: int, hidden: Tensor, context: Any) -> Tensor:
        """The output of layer ``number``, counted from 1."""
        raise NotImplementedError

    def final(self, hidden: Tensor) -> Tensor:
        """The last state of the last layer's output."""
        return hidden

    def before_layers(self) -> list[nn.Module]:
        """The modules between front and layers, with which they are frozen."""
        raise NotImplementedError

    def fronts(self) -> list[nn.Module]:
        """The modules of the front."""
        raise NotImplementedError

    # What all have in common

    @property
    def masking(self) -> SpanMasking:
        """SpecAugment on the front's frames, as the configuration asks for it; none where they are frozen."""
        c = self.config
        if not getattr(c, "apply_spec_augment", True) or self.frozen not in ("none", "conv"):
            return SpanMasking(hidden_size=self.hidden_size)
        return SpanMasking(
            c.mask_time_prob,
            c.mask_time_length,
            getattr(c, "mask_time_min_masks", 0),
            c.mask_feature_prob,
            c.mask_feature_length,
            getattr(c, "mask_feature_min_masks", 0),
            self.hidden_size,
        )

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
        cut = self.window is not None and frames_BTC.shape[1] > self.window
        rows_RTC, rows_R = self._windows(frames_BTC, frames_B) if cut else (frames_BTC, frames_B)
        states = self.states(rows_RTC, rows_R, (time_mask_BT, feature_mask_BD), None if cut else counts_B)
        if cut:
            states = [self._joined(state, frames_B) for state in states]
        return states, frames_B

    def states(
        self,
        rows_BTC: Tensor,
        frames_B: Tensor,
        masks: tuple[Tensor | None, Tensor | None],
        counts_B: Tensor | None = None,
    ) -> list[Tensor]:
        """The states of ``reads`` of frames that attention sees at once."""
        padded = is_padded(frames_B, rows_BTC.shape[1])
        own_BT1 = own_frames(frames_B, rows_BTC.shape[1])[:, :, None]
        hidden_BTD = rows_BTC if isinstance(self.entry, int) else self.embed(rows_BTC, frames_B, masks)
        found = self.run_layers(hidden_BTD, self.context(hidden_BTD, frames_B))
        return [state_BTD * own_BT1 if padded else state_BTD for state_BTD in found]

    def run_layers(self, hidden: Tensor, context: Any) -> list[Tensor]:
        """The states of ``reads``, from the first one that is not stored."""
        number, found = self.entry if isinstance(self.entry, int) else 0, []
        while True:
            if number in self.reads:
                found.append(hidden)
            if number == self.reads[-1]:
                return found
            number += 1
            hidden = self.layer(number, hidden, context)
            if number == self.total_layers:
                hidden = self.final(hidden)

    def _windows(self, frames_BTC: Tensor, frames_B: Tensor) -> tuple[Tensor, Tensor]:
        """Windows as rows (R, T, C), those of an utterance one after the other, and their numbers of frames (R,)."""
        assert self.window is not None
        count = -(-frames_BTC.shape[1] // self.window)
        frames_BTC = nn.functional.pad(frames_BTC, (0, 0, 0, count * self.window - frames_BTC.shape[1]))
        starts_W = torch.arange(count, device=frames_B.device) * self.window
        rows_BW = (frames_B[:, None] - starts_W).clamp(0, self.window)
        kept_BW = rows_BW > 0
        return frames_BTC.unflatten(1, (count, self.window))[kept_BW], rows_BW[kept_BW]

    def _joined(self, rows_RTD: Tensor, frames_B: Tensor) -> Tensor:
        """The rows of `_windows` as whole utterances again."""
        assert self.window is not None
        counts = (-(-frames_B // self.window)).tolist()
        wholes = [part.flatten(0, 1) for part in rows_RTD.split(counts)]
        return nn.utils.rnn.pad_sequence(wholes, batch_first=True)[:, : int(frames_B.max())]

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
            return [*self.fronts(), *self.before_layers(), *self.layers[: self.frozen]]
        return self.fronts() if self.frozen == "conv" else []

    def train(self, mode: bool = True) -> Upstream:
        """Training mode for what is not frozen."""
        super().train(mode)
        if self.frozen != "none":
            for module in self._frozen_modules():
                module.eval()
        return self

    def compile_layers(self, backend: str = "inductor") -> None:
        """Have ``torch.compile`` make fewer and larger operations of each layer, at its first uses."""
        for layer in self.layers:
            layer.compile(dynamic=True, backend=backend)

    @property
    def values_per_second(self) -> float:
        """Values that the widest layer of the front makes of a second of audio: what a batch's memory goes with."""
        raise NotImplementedError

    @property
    def packable(self) -> bool:
        """Whether utterances can be laid end to end instead of padded; see `sermtl.model.packed`."""
        return False

    def lay_out(self, layout: str, device: torch.device) -> None:
        """Lay utterances out as the setting ``layout`` asks.

        Raises:
            UserError: It asks for packed utterances, and the upstream needs them padded.
        """
        if layout == "packed" and not self.packable:
            raise UserError(f"layout: packed is not known for {self.config.model_type}; use auto or padded")
