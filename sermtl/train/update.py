"""The parts of one update: AdamW, accumulated gradients, clipping, and the utterances whose loss is not finite."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sermtl.config import TrainConfig
from sermtl.model.batch import Batch
from sermtl.model.multitask import TASKS, MultiTaskModel, task_losses, total_loss
from sermtl.train.epoch_sums import Guesses, to_cpu


@dataclass
class Computed:
    """An update's results on their way from the device, which is not waited for before the next update is launched."""

    parts: list[Batch]
    sums: Tensor
    """As `accumulate_gradients` gives them, over all processes."""
    finite: Tensor
    guesses: list[Guesses]
    """Of each part."""

    def __post_init__(self) -> None:
        """Begin the copies."""
        on_gpu = self.sums.is_cuda
        self.sums, self.finite = to_cpu(self.sums), to_cpu(self.finite)
        self.guesses = [guesses.on_cpu() for guesses in self.guesses]
        self.copied = torch.cuda.Event() if on_gpu else None
        if self.copied:
            self.copied.record()

    def wait(self) -> None:
        """Wait for the copies: what is read of the device in an update, one update later."""
        if self.copied:
            self.copied.synchronize()


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; weight decay on matrices only, not on biases and norms."""
    heads_peak = config.head_learning_rate or config.learning_rate
    peaks = {"upstream": config.learning_rate, "speaker_head": config.speaker_learning_rate or heads_peak}
    kinds: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            peak = peaks.get(name.partition(".")[0], heads_peak)
            kinds.setdefault((peak, parameter.ndim > 1), []).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": config.weight_decay if matrices else 0.0, "peak": peak}
        for (peak, matrices), parameters in kinds.items()
    ]
    betas = (config.adam_betas[0], config.adam_betas[1])
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=config.adam_eps, fused=True)


def rate_share(update: int, total: int, config: TrainConfig) -> float:
    """Share of the peak at update ``update`` (from 0) of ``total``: linear warm-up to 1, then as the schedule says.

    Update ``total``, which would follow the last, has 0.
    """
    warmup = round(config.warmup_ratio * total)
    if update < warmup:
        return (update + 1) / warmup
    if config.lr_schedule == "constant":
        return 1.0
    remaining = (total - update) / max(1, total - warmup)
    if config.lr_schedule == "cosine":
        remaining = 0.5 * (1.0 + math.cos(math.pi * (1.0 - remaining)))
    return remaining


def accumulate_gradients(
    model: MultiTaskModel, parts: Iterable[Batch], targets: Tensor, speaker_gradient: float, alpha: float
) -> tuple[Tensor, list[Guesses]]:
    """Add the gradients of an update's parts, on the model's device, up in the parameters.

    The parts are the update's utterances, or one process's share; ``targets`` (tasks,), on the CPU, are `count_targets`
    of the whole update, over all parts and processes; ``speaker_gradient`` is the factor of the speaker head's gradient
    at the encoder.

    Returns:
        (2, tasks) float64: the losses summed over utterances, and the squared norms of each task's gradient at the
        encoder's output; and what the heads find most probable in each part.
    """
    guesses, divisors = [], dict(zip(TASKS, targets.clamp(min=1), strict=True))
    model.speaker_head.begin_update()
    sums = torch.zeros(2, len(TASKS), dtype=torch.float64, device=next(model.parameters()).device)
    for part in parts:
        output = model(part, speaker_gradient)
        losses = task_losses(output, part)
        total_loss({task: loss / divisors[task] for task, loss in losses.items()}, alpha).backward()
        # Squares of the norms, because those of the parts add up.
        norms = [model.gradient_norms.get(task, losses[task].new_zeros(())).square() for task in TASKS]
        sums += torch.stack([*(losses[task].detach() for task in TASKS), *norms]).view_as(sums)
        guesses.append(Guesses.of(output))
        del output, losses  # else the next part's memory is needed beside theirs
    return sums, guesses


def clip_gradients(trained: Sequence[nn.Parameter], speaker_head: nn.Module, max_norm: float) -> Tensor:
    """Clip the gradient's norm (0: do not clip); returns whether it is finite, on the parameters' device.

    The speaker head is clipped separately: in a common norm its gradient would scale the encoder's, which must not
    depend on the speaker labels where beta is 0.
    """
    head = list(speaker_head.parameters())
    inside = {id(parameter) for parameter in head}
    rest = [parameter for parameter in trained if id(parameter) not in inside]
    norms = [torch.nn.utils.clip_grad_norm_(parameters, max_norm or float("inf")) for parameters in (rest, head)]
    return torch.stack(norms).isfinite().all()


@torch.no_grad()
def nonfinite_utterances(model: MultiTaskModel, parts: Iterable[Batch]) -> list[str]:
    """The utterances whose losses alone are not finite; all of them where only their gradients are not."""
    parts = list(parts)
    found = []
    for one in (one for part in parts for one in _single_utterances(part)):
        losses = task_losses(model(one), one)
        if not all(math.isfinite(loss) for loss in losses.values()):
            found += one.utterances
    return found or [utterance for part in parts for utterance in part.utterances]


def _single_utterances(part: Batch) -> list[Batch]:
    halves = part.halves()
    return halves if len(halves) == 1 else [one for half in halves for one in _single_utterances(half)]
