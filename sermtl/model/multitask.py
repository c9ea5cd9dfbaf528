"""The three-head model: emotion, characters, and speaker behind a gradient reversal.

    waveform or log-mel -> upstream -> hidden states (B, T, D), of which `sermtl.model.heads` makes what the heads read
       emotion head   a vector of the utterance, e.g. the mean over its own frames -> linear -> C logits
       ASR head       linear on every frame -> V tokens, CTC
       speaker head   the same vector -> gradient scaled by -beta or +beta -> linear -> S logits
    L = L_ser + alpha L_asr + L_sid, where beta scales only the gradient that L_sid sends into the encoder (reversed
    -beta, forward +beta); the speaker head itself learns at full strength

Shape suffixes: B batch, T frames, D hidden, C classes, V tokens, S speakers, N target tokens.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sermtl.model.batch import Batch
from sermtl.model.gradient_reversal import SpeakerHead, scale_gradient
from sermtl.model.heads import HeadSettings, Mix, UtteranceVector
from sermtl.model.packed import Dropout
from sermtl.model.upstreams.base import Upstream
from sermtl.text.tokenizer import Tokenizer

TASKS = ("ser", "asr", "sid")


@dataclass
class Output:
    """The heads' outputs for a batch."""

    emotion_BC: Tensor
    """Emotion logits."""
    tokens_BTV: Tensor | None
    """Token logits, meaningful on own frames; None where no state is read for them."""
    speaker_BS: Tensor
    """Logits over the training speakers."""
    vector_BM: Tensor
    """What the emotion head reads."""
    frames_B: Tensor
    """Number of own frames."""
    pooled_BnP: Tensor
    """The pooled states that the vector is made of."""
    class_weights_C: Tensor | None = None
    """Weights of the emotion loss by class; None outside training, and where all are 1."""

    @property
    def best_BT(self) -> Tensor:
        """The best token of each frame, int32; no frames where there are no tokens."""
        if self.tokens_BTV is None:
            return torch.zeros((len(self.frames_B), 0), dtype=torch.int32)
        return self.tokens_BTV.argmax(-1).to(torch.int32)


class MultiTaskModel(nn.Module):
    """An upstream, without the layers above the highest state that is read, and three heads for so many outputs."""

    def __init__(self, upstream: Upstream, settings: HeadSettings, emotions: int, tokens: int, speakers: int):
        super().__init__()
        self.upstream, self.settings = upstream, settings
        upstream.read(settings.states)
        width = upstream.hidden_size
        self.dropout = Dropout(upstream.final_dropout)
        self.vector = UtteranceVector(settings, width, speakers)
        self.emotion_head = nn.Linear(self.vector.size, emotions)
        self.frame_mix = Mix(len(settings.ctc_layers))
        self.frame_projection = nn.Linear(width, settings.projection) if settings.projection else nn.Identity()
        self.token_head = nn.Linear(settings.projection or width, tokens)
        head = settings.speaker_head, settings.speaker_standardised
        self.speaker_head = SpeakerHead(self.vector.size, speakers, *head)
        self.gradient_norms: dict[str, Tensor] = {}
        self.class_weights_C: Tensor | None
        self.register_buffer("class_weights_C", None, persistent=False)
        self.bf16 = False
        """Whether the upstream runs under autocast; the heads and losses never do."""

    def forward(self, batch: Batch, speaker_gradient: float = 0.0) -> Output:
        """Run encoder and heads; ``speaker_gradient`` scales the speaker head's gradient: -beta, +beta or 0.

        During training the backward pass leaves the norm of each task's gradient at the encoder's states in
        ``gradient_norms``.
        """
        frames_B, read, frames = batch.lengths_B, [], []
        if self.upstream.entry == "pooled":
            pooled_BnP = batch.inputs[:, list(self.settings.layers)]
        else:
            named, frames_B = self.states(batch)
            read = [named[number] for number in self.settings.layers]
            frames = [named[number] for number in self.settings.ctc_layers]
            pooled_BnP = self.vector.pool(self._tap(read, "ser"), frames_B)
        emotion_BM = speaker_BM = self.vector(pooled_BnP, batch.speakers_B)
        if any(state.requires_grad for state in read):
            speaker_BM = self.vector(self.vector.pool(self._tap(read, "sid"), frames_B), batch.speakers_B)
        tokens_BTV = None
        if frames:
            mixed_BTD = self.frame_mix(self._tap(frames, "asr"))
            tokens_BTV = self.token_head(self.dropout(self.frame_projection(mixed_BTD)))
        return Output(
            emotion_BC=self.emotion_head(self.dropout(emotion_BM)),
            tokens_BTV=tokens_BTV,
            speaker_BS=self.speaker_head(self.dropout(scale_gradient(speaker_BM, speaker_gradient))),
            vector_BM=emotion_BM,
            pooled_BnP=pooled_BnP,
            frames_B=frames_B,
            class_weights_C=self.class_weights_C if self.training else None,
        )

    def states(self, batch: Batch) -> tuple[dict[int, Tensor], Tensor]:
        """The states that the heads read, by number, and the numbers of own frames (B,)."""
        if self.upstream.entry == "states":
            states, frames_B = list(batch.inputs.split(self.upstream.hidden_size, 2)), batch.lengths_B
        else:
            with torch.autocast(batch.inputs.device.type, torch.bfloat16, enabled=self.bf16):
                states, frames_B = self.upstream(
                    batch.inputs, batch.lengths_B, batch.time_mask_BT, batch.feature_mask_BD, batch.frames_B
                )
        numbers = self.settings.states
        return {number: state.float() for number, state in zip(numbers, states, strict=True)}, frames_B

    def mixed(self) -> dict[str, dict[str, float]]:
        """Learned weights of the hidden states, for those heads that read a mixture."""
        heads = (
            ("emotion and speaker", self.settings.layers, self.vector.mix),
            ("characters", self.settings.ctc_layers, self.frame_mix),
        )
        mixes = [(head, map(str, layers), mix.weights.tolist()) for head, layers, mix in heads if len(layers) > 1]
        return {head: dict(zip(layers, weights, strict=True)) for head, layers, weights in mixes}

    def _tap(self, states: list[Tensor], task: str) -> list[Tensor]:
        """Views whose gradients' common norm is recorded under the task's name."""
        self.gradient_norms[task] = states[0].new_zeros(())

        def record(gradient_BTD: Tensor) -> None:
            self.gradient_norms[task] = torch.hypot(self.gradient_norms[task], gradient_BTD.detach().norm())

        tapped = [state.view_as(state) if state.requires_grad else state for state in states]
        for state in tapped:
            if state.requires_grad:
                state.register_hook(record)
        return tapped


def task_losses(output: Output, batch: Batch) -> dict[str, Tensor]:
    """The three losses, each summed over the batch's utterances that have its target.

    ``ser`` and ``sid`` are cross-entropies, ``ser`` weighted by class where the output has weights; ``asr`` is the
    whole CTC negative log-likelihood of an utterance in nats. An update's losses are these sums over all of its
    batches, divided by the update's numbers of `count_targets`: the same however it is cut into batches.
    """
    weights_C = output.class_weights_C
    emotion = F.cross_entropy(output.emotion_BC, batch.emotions_B, weights_C, ignore_index=-1, reduction="sum")
    speaker = F.cross_entropy(output.speaker_BS, batch.speakers_B, ignore_index=-1, reduction="sum")
    no_loss = emotion.new_zeros(())
    frames_B = output.frames_B if batch.frames_B is None else batch.frames_B
    asr = no_loss if output.tokens_BTV is None else ctc_losses(output.tokens_BTV, frames_B, batch).sum()
    return {"ser": emotion, "asr": asr, "sid": speaker}


def count_targets(batches: Iterable[Batch]) -> Tensor:
    """(tasks,) int64: how many utterances of batches on the CPU have a target of each task, in the order of `TASKS`."""
    counts = torch.zeros(len(TASKS), dtype=torch.int64)
    for batch in batches:
        has_target = (batch.emotions_B >= 0, batch.token_lengths_B > 0, batch.speakers_B >= 0)
        counts += torch.stack([mask_B.sum() for mask_B in has_target])
    return counts


def balanced_weights(emotions: Sequence[int], classes: int) -> Tensor:
    """(C,) weights n / (C' n_c) of n utterances with a label (others: -1) of C' different classes; their mean is 1."""
    counts_C = torch.bincount(torch.tensor([emotion for emotion in emotions if emotion >= 0]), minlength=classes)
    return counts_C.sum() / ((counts_C > 0).sum() * counts_C.clamp(min=1))


def total_loss(losses: Mapping[str, Any], alpha: float) -> Any:
    """L of the module's docstring, of those tasks that have a loss."""
    weights = {"ser": 1.0, "asr": alpha, "sid": 1.0}
    return sum(weights[task] * losses[task] for task in TASKS if task in losses)


def ctc_losses(tokens_BTV: Tensor, frames_B: Tensor, batch: Batch) -> Tensor:
    """CTC negative log-likelihood (nats) of each utterance (B,), 0 where it has no CTC target.

    A GPU is not waited for where ``frames_B`` and ``token_lengths_B`` are on the CPU.
    """
    log_probs_TBV = tokens_BTV.float().log_softmax(-1).transpose(0, 1)
    # A GPU's gradient of this loss adds up in any order.
    where = torch.device("cpu") if torch.are_deterministic_algorithms_enabled() else log_probs_TBV.device
    targets = batch.tokens_BN.to(where), frames_B, batch.token_lengths_B
    nll_B = F.ctc_loss(log_probs_TBV.to(where), *targets, blank=0, reduction="none", zero_infinity=True)
    nll_B = nll_B.to(log_probs_TBV.device)
    has_target_B = (batch.token_lengths_B > 0).to(nll_B.device, non_blocking=True)
    return torch.where(has_target_B, nll_B, nll_B.new_zeros(()))


def texts_of(best_BT: Tensor, frames_B: Tensor, tokenizer: Tokenizer) -> list[str]:
    """The words of the best tokens of own frames."""
    rows = zip(best_BT.cpu().numpy(), frames_B.tolist(), strict=True)
    return [tokenizer.decode(collapse(row_T[:frames])) for row_T, frames in rows]


def collapse(best_T: np.ndarray) -> list[int]:
    """Token ids without repeats and blanks (id 0), as CTC reads a path."""
    return [int(token) for token, _ in groupby(best_T) if token != 0]
