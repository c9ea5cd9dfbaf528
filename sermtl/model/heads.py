"""What the heads read of the hidden states.

    states (n of B, T, D) -> pooled over own frames (B, n, P) -> standardised -> without what is the speaker's
    (`sermtl.model.speaker_norm`) -> mixed (B, P) -> projected -> dropout

Pooling comes first, so that means and deviations of frames can be stored once for all settings; a mean, a mix and a
projection may be taken in any order. Attention looks at frames, so it pools what is mixed already: n is 1 then.

Shape suffixes: B batch, T frames, D hidden, n states, P pooled values of a state, M values after the projection.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sermtl.config import TrainConfig
from sermtl.errors import UserError
from sermtl.model.padded import own_frames
from sermtl.model.speaker_norm import SpeakerNorm

EPSILON = 1e-5
"""Under the root of a variance."""


@dataclass(frozen=True)
class HeadSettings:
    """Numbers of the hidden states that are read, and what happens to them before the heads."""

    layers: tuple[int, ...]
    """Of the emotion and the speaker head; several are mixed."""
    ctc_layers: tuple[int, ...]
    """Of the characters' head; empty where it is not trained and its frames are not there."""
    projection: int = 0
    pooling: str = "mean"
    standardise: bool = False
    spk_norm: str = "none"
    spk_statistics: str = "mean"
    spk_shrink: float = 0.0
    speaker_head: str = "linear"
    speaker_standardised: bool = False
    """Models of earlier versions are not."""

    @property
    def states(self) -> tuple[int, ...]:
        """All states that are read, ascending."""
        return tuple(sorted({*self.layers, *self.ctc_layers}))


def head_settings(config: TrainConfig, total_layers: int) -> HeadSettings:
    """The settings for an upstream with so many layers.

    Raises:
        UserError: A layer that it lacks, or that is below those which are trained.
    """
    lowest = int(config.freeze) if config.freeze.isdecimal() else 0

    def states(name: str, value: str) -> tuple[int, ...]:
        if value == "mix":
            return tuple(range(lowest, total_layers + 1))
        number = total_layers if value == "last" else int(value)
        if not lowest <= number <= total_layers:
            there = f"{config.upstream} with freeze {config.freeze} has hidden states {lowest} to {total_layers}"
            raise UserError(f"{name} is {value}, but {there} to read")
        return (number,)

    if lowest >= total_layers:
        raise UserError(f"freeze is {lowest}, but {config.upstream} has {total_layers} layers; give all, or fewer")
    asked = ("ctc_layers", config.ctc_layers) if config.ctc_layers else ("layers", config.layers)
    ctc = () if config.freeze == "all" and not config.alpha else states(*asked)
    settings = HeadSettings(
        states("layers", config.layers), ctc, config.projection, config.pooling, config.pooled_norm == "train",
        config.spk_norm, config.spk_statistics, config.spk_shrink, config.speaker_head, True,
    )  # fmt: skip
    if config.beta and not config.projection and lowest and settings.layers == (lowest,):
        raise UserError(
            f"beta is {config.beta:g}, but with freeze {lowest}, layers {lowest} and projection 0 nothing is trained "
            "before the heads whose gradient could be reversed; give --beta 0, a projection, or a higher state"
        )
    if settings.pooling == "attention" and settings.standardise:
        raise UserError("pooled_norm train needs pooling mean or mean_std; attention pools what is mixed already")
    return settings


def pool(hidden_BTD: Tensor, frames_B: Tensor, pooling: str) -> Tensor:
    """Means (B, D) over each utterance's own frames, which alone get a gradient; or means and deviations (B, 2 D)."""
    own_BT1 = own_frames(frames_B, hidden_BTD.shape[1])[:, :, None]
    mean_BD = (hidden_BTD * own_BT1).sum(1) / frames_B[:, None]
    if pooling == "mean":
        return mean_BD
    variance_BD = ((hidden_BTD - mean_BD[:, None]).square() * own_BT1).sum(1) / frames_B[:, None]
    return torch.cat([mean_BD, (variance_BD + EPSILON).sqrt()], 1)


class Mix(nn.Module):
    """A sum of states by learned softmax weights (SUPERB, Yang et al. 2021, section 3); one state stays as it is."""

    def __init__(self, count: int):
        super().__init__()
        self.scores_n = nn.Parameter(torch.zeros(count)) if count > 1 else None

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """The mixture of n tensors of one shape."""
        if self.scores_n is None:
            return states[0]
        return sum(weight * state for weight, state in zip(self.weights, states, strict=True))  # type: ignore[return-value]

    def pooled(self, states_BnP: Tensor) -> Tensor:
        """The mixture (B, P) of pooled states."""
        return states_BnP[:, 0] if self.scores_n is None else (self.weights[:, None] * states_BnP).sum(1)

    @property
    def weights(self) -> Tensor:
        """Shares (n,) of the states."""
        return torch.ones(1) if self.scores_n is None else self.scores_n.softmax(0)


class UtteranceVector(nn.Module):
    """The vector that emotion and speaker heads read, of an utterance's states."""

    def __init__(self, settings: HeadSettings, width: int, speakers: int = 1):
        super().__init__()
        self.pooling, count = settings.pooling, len(settings.layers)
        pooled = width * (2 if self.pooling == "mean_std" else 1)
        self.mix = Mix(count)
        self.attention: Any = nn.Linear(width, 1) if self.pooling == "attention" else None
        self.projection: Any = nn.Linear(pooled, settings.projection) if settings.projection else None
        self.size = settings.projection or pooled
        self.standardise = settings.standardise
        if self.standardise:
            self.mean_nP = nn.Buffer(torch.zeros(count, pooled))
            self.std_nP = nn.Buffer(torch.ones(count, pooled))
        of_speaker = settings.spk_norm, 1 if self.attention else count, pooled, speakers
        self.speaker_norm = SpeakerNorm(*of_speaker, settings.spk_statistics, settings.spk_shrink)

    def pool(self, states: Sequence[Tensor], frames_B: Tensor) -> Tensor:
        """The states' frames pooled (B, n, P)."""
        if self.attention is None:
            return torch.stack([pool(state, frames_B, self.pooling) for state in states], 1)
        hidden_BTD = self.mix(states)
        own_BT = own_frames(frames_B, hidden_BTD.shape[1])
        scores_BT = self.attention(hidden_BTD)[:, :, 0].masked_fill(~own_BT, float("-inf"))
        return (scores_BT.softmax(1)[:, :, None] * hidden_BTD).sum(1)[:, None]

    def normalised(self, pooled_BnP: Tensor) -> Tensor:
        """Pooled states (B, n, P) standardised by the training list."""
        return (pooled_BnP - self.mean_nP) / self.std_nP if self.standardise else pooled_BnP

    def forward(
        self, pooled_BnP: Tensor, speakers_B: Tensor | None = None, own: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Vectors (B, M) of pooled states; for ``speakers_B`` and ``own`` see `SpeakerNorm.standardise`."""
        erased_BnP = self.speaker_norm.erase(self.normalised(pooled_BnP))
        states_BnP = self.speaker_norm.standardise(erased_BnP, speakers_B, own)
        mixed_BP = states_BnP[:, 0] if self.attention else self.mix.pooled(states_BnP)
        return mixed_BP if self.projection is None else self.projection(mixed_BP)

    def statistics(self, pooled_UnP: Tensor, members_KU: Tensor) -> tuple[Tensor, Tensor]:
        """Means and deviations, each (K, n, P), of K groups of utterances, which `forward` takes as ``own``."""
        erased_UnP = self.speaker_norm.erase(self.normalised(pooled_UnP)).double()
        mean_KnP, std_KnP = self.speaker_norm.estimate(erased_UnP, members_KU)
        return mean_KnP.float(), std_KnP.float()

    def fit(self, mean_nP: Tensor, std_nP: Tensor) -> None:
        """Take the training list's means and deviations; dimensions that do not vary stay as they are."""
        self.mean_nP.copy_(mean_nP)
        self.std_nP.copy_(torch.where(std_nP > EPSILON, std_nP, torch.ones_like(std_nP)))
