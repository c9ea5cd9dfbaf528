"""Gradient reversal (Ganin et al. 2016) with a scale of either sign, and the speaker head that it stands before.

Shape suffixes: B batch, M values of what the head reads, S speakers, H hidden.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN = 256
"""Of ``speaker_head: mlp``."""
SLOWEST = 0.01
"""Share of an update in the running moments, once there were enough updates."""
EPSILON = 1e-3
"""Under the root of a variance."""


def scale_gradient(values: Tensor, scale: float) -> Tensor:
    """``values`` unchanged; their gradient times ``scale`` (negative: reversed; 0: none comes through)."""
    scaled = values.view_as(values)
    if scaled.requires_grad:
        scaled.register_hook(lambda gradient: gradient * scale)
    return scaled


def reversal_scale(beta: float, grl: str, schedule: str, progress: float) -> float:
    """The factor of the speaker head's gradient at the encoder: ``beta``, negative where ``grl`` is ``reverse``.

    The ``schedule`` is ``constant`` or ``dann``: times 2 / (1 + exp(-10 p)) - 1 (Ganin et al. 2016, section 5.2.2),
    where the progress p is 0 at the first update and 1 at the last.
    """
    ramp = 2.0 / (1.0 + math.exp(-10.0 * progress)) - 1.0 if schedule == "dann" else 1.0
    return beta * ramp * (-1.0 if grl == "reverse" else 1.0)


class SpeakerHead(nn.Linear):
    """A linear layer, or with a hidden layer before it, whose input is standardised by running moments.

    Pooled vectors lie far from 0 in comparison with how they differ, and a head that reads them as they are learns
    little. The moments are those of the updates before, so that an utterance's loss does not depend on its batch.
    Models of earlier versions do not standardise.
    """

    def __init__(self, size: int, speakers: int, kind: str = "linear", standardises: bool = True):
        super().__init__(HIDDEN if kind == "mlp" else size, speakers)
        self.hidden = nn.Linear(size, HIDDEN) if kind == "mlp" else None
        self.standardises = standardises
        if standardises:
            self.updates = nn.Buffer(torch.zeros(()))
            self.mean_M = nn.Buffer(torch.zeros(size))
            self.variance_M = nn.Buffer(torch.ones(size))
            self.seen = nn.Buffer(torch.zeros(2 * size + 1, dtype=torch.float64), persistent=False)

    def forward(self, vector_BM: Tensor) -> Tensor:
        """Logits (B, S)."""
        if self.standardises:
            if self.training:
                values_BM = vector_BM.detach().double()
                rows = values_BM.new_full((1,), len(values_BM)), values_BM.sum(0), values_BM.square().sum(0)
                self.seen.add_(torch.cat(rows))
            vector_BM = (vector_BM - self.mean_M) / (self.variance_M + EPSILON).sqrt()
        if self.hidden is not None:
            vector_BM = F.relu(self.hidden(vector_BM))
        return super().forward(vector_BM)

    def begin_update(self) -> None:
        """Forget what was seen since the last update, of parts that did not fit the memory."""
        if self.standardises:
            self.seen.zero_()

    @torch.no_grad()
    def follow(self, add: Callable[[Tensor], Tensor], finite: Tensor) -> None:
        """Take what the parts of an update held into the running moments, where it was ``finite``.

        ``add`` adds a tensor up over all processes.
        """
        if not self.standardises:
            return
        seen = add(self.seen)
        count, (total_M, squares_M) = seen[0].clamp(min=1), seen[1:].view(2, -1)
        mean_M = total_M / count
        variance_M = (squares_M / count - mean_M.square()).clamp(min=0)
        share = torch.where(finite, (1 / (self.updates + 1)).clamp(min=SLOWEST), 0.0)
        between_M = (mean_M - self.mean_M).square() * share * (1 - share)
        for moment_M, new_M in ((self.mean_M, mean_M), (self.variance_M, variance_M)):
            moment_M.copy_(torch.where(finite, torch.lerp(moment_M.double(), new_M, share.double()), moment_M.double()))
        self.variance_M.add_(torch.where(finite, between_M, 0.0).float())
        self.updates.add_(finite.float())
