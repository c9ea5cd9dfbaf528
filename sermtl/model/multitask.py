"""The three-head model: emotion, characters, and speaker behind a gradient reversal.

    waveform or log-mel -> upstream -> hidden (B, T, D)
       emotion head   mean over the utterance's own frames -> linear -> C logits
       ASR head       linear on every frame -> V tokens, CTC
       speaker head   the same mean -> gradient scaled by -beta or +beta -> linear -> S logits
    L = L_ser + alpha L_asr + L_sid, where beta scales only the gradient that L_sid sends into the encoder (reversed
    -beta, forward +beta); the speaker head itself learns at full strength

Shape suffixes: B batch, T frames, D hidden, C classes, V tokens, S speakers, N target tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sermtl.model.batch import Batch
from sermtl.model.gradient_reversal import scale_gradient
from sermtl.model.packed import Dropout
from sermtl.model.padded import own_frames
from sermtl.model.upstreams.wav2vec2 import Upstream

TASKS = ("ser", "asr", "sid")


@dataclass
class Output:
    """The heads' outputs for a batch."""

    emotion_BC: Tensor
    """Emotion logits."""
    tokens_BTV: Tensor
    """Token logits, meaningful on own frames."""
    speaker_BS: Tensor
    """Logits over the training speakers."""
    pooled_BD: Tensor
    """Mean of the hidden vectors over own frames."""
    frames_B: Tensor
    """Number of own frames."""


class MultiTaskModel(nn.Module):
    """An upstream and three linear heads."""

    def __init__(self, upstream: Upstream, emotions: int, tokens: int, speakers: int):
        super().__init__()
        self.upstream = upstream
        self.dropout = Dropout(upstream.final_dropout)
        self.emotion_head = nn.Linear(upstream.hidden_size, emotions)
        self.token_head = nn.Linear(upstream.hidden_size, tokens)
        self.speaker_head = nn.Linear(upstream.hidden_size, speakers)
        self.gradient_norms: dict[str, Tensor] = {}
        self.bf16 = False
        """Whether the upstream runs under autocast; the heads and losses never do."""

    def forward(self, batch: Batch, speaker_gradient: float = 0.0) -> Output:
        """Run encoder and heads.

        Args:
            batch: Inputs and lengths; targets are not read here.
            speaker_gradient: Factor of the speaker head's gradient at the encoder: -beta, +beta or 0.

        Returns:
            Logits, pooled vectors and frame counts. During training the norm of each task's gradient at the
            encoder's output is left in ``gradient_norms`` by the backward pass.
        """
        with torch.autocast(batch.inputs.device.type, torch.bfloat16, enabled=self.bf16):
            hidden_BTD, frames_B = self.upstream(
                batch.inputs, batch.lengths_B, batch.time_mask_BT, batch.feature_mask_BD
            )
        hidden_BTD = self.dropout(hidden_BTD.float())
        pooled_BD = mean_over_frames(self._tap(hidden_BTD, "ser"), frames_B)
        speaker_BD = scale_gradient(mean_over_frames(self._tap(hidden_BTD, "sid"), frames_B), speaker_gradient)
        return Output(
            emotion_BC=self.emotion_head(pooled_BD),
            tokens_BTV=self.token_head(self._tap(hidden_BTD, "asr")),
            speaker_BS=self.speaker_head(speaker_BD),
            pooled_BD=pooled_BD,
            frames_B=frames_B,
        )

    def _tap(self, hidden_BTD: Tensor, task: str) -> Tensor:
        """A view whose gradient's norm is recorded under the task's name."""
        if not hidden_BTD.requires_grad:
            return hidden_BTD
        tapped_BTD = hidden_BTD.view_as(hidden_BTD)

        def record(gradient_BTD: Tensor) -> None:
            self.gradient_norms[task] = gradient_BTD.detach().norm()

        tapped_BTD.register_hook(record)
        return tapped_BTD


def mean_over_frames(hidden_BTD: Tensor, frames_B: Tensor) -> Tensor:
    """Mean of (B, T, D) over each utterance's own frames, which alone get a gradient."""
    own_BT = own_frames(frames_B, hidden_BTD.shape[1])
    return (hidden_BTD * own_BT[:, :, None]).sum(1) / frames_B[:, None]


def task_losses(output: Output, batch: Batch, utterances: int) -> dict[str, Tensor]:
    """The three losses, each summed over the batch and divided by ``utterances``.

    ``ser`` and ``sid`` are cross-entropies; ``asr`` is the whole CTC negative log-likelihood of an utterance in
    nats. An utterance that lacks a target adds nothing to that task. Dividing by the update's number of
    utterances makes an update's loss the same however it is cut into batches.
    """
    emotion = F.cross_entropy(output.emotion_BC, batch.emotions_B, ignore_index=-1, reduction="sum")
    speaker = F.cross_entropy(output.speaker_BS, batch.speakers_B, ignore_index=-1, reduction="sum")
    asr = ctc_losses(output.tokens_BTV, output.frames_B, batch).sum()
    return {"ser": emotion / utterances, "asr": asr / utterances, "sid": speaker / utterances}


def total_loss(losses: Mapping[str, Any], alpha: float) -> Any:
    """L of the module's docstring, of those tasks that have a loss."""
    weights = {"ser": 1.0, "asr": alpha, "sid": 1.0}
    return sum(weights[task] * losses[task] for task in TASKS if task in losses)


def ctc_losses(tokens_BTV: Tensor, frames_B: Tensor, batch: Batch) -> Tensor:
    """CTC negative log-likelihood (nats) of each utterance (B,), 0 where it has no CTC target."""
    log_probs_TBV = tokens_BTV.float().log_softmax(-1).transpose(0, 1)
    # A GPU's gradient of this loss adds up in any order.
    where = torch.device("cpu") if torch.are_deterministic_algorithms_enabled() else log_probs_TBV.device
    nll_B = F.ctc_loss(
        log_probs_TBV.to(where),
        batch.tokens_BN.to(where),
        frames_B.to(where),
        batch.token_lengths_B.to(where),
        blank=0,
        reduction="none",
        zero_infinity=True,
    ).to(log_probs_TBV.device)
    return torch.where(batch.token_lengths_B > 0, nll_B, nll_B.new_zeros(()))
