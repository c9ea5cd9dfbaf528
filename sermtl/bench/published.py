"""The step of the published code, which the benchmark compares with: transformers' model and plain heads.

float32; micro-batches of two utterances in shuffled order, each padded to its longest and fed without a mask, as a
group-norm model is; AdamW as PyTorch chooses it; the norm of the gradient clipped at 1.
"""

# isort: off
from sermtl import before_transformers  # noqa: F401 (before transformers)

# isort: on
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Wav2Vec2Config, Wav2Vec2Model

from sermtl.bench.material import BASE, EMOTIONS, SPEAKERS, TOKENS
from sermtl.data.dataset import Example, read_dumped
from sermtl.model.front_end import FrontEnd
from sermtl.model.gradient_reversal import scale_gradient

MICRO_BATCH = 2


class Published(nn.Module):
    """wav2vec2-base with an emotion, a CTC and a speaker head."""

    def __init__(self) -> None:
        super().__init__()
        self.wav2vec2 = Wav2Vec2Model(Wav2Vec2Config(**BASE))
        hidden = self.wav2vec2.config.hidden_size
        self.emotion, self.tokens = nn.Linear(hidden, EMOTIONS), nn.Linear(hidden, TOKENS)
        self.speaker = nn.Linear(hidden, SPEAKERS)

    def forward(self, wav_BS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Emotion, token and speaker logits."""
        hidden_BTD = self.wav2vec2(wav_BS).last_hidden_state
        pooled_BD = hidden_BTD.mean(1)
        return self.emotion(pooled_BD), self.tokens(hidden_BTD), self.speaker(scale_gradient(pooled_BD, -0.1))

    def freeze(self, frozen: bool) -> None:
        """Freeze the convolutional encoder and keep all activations, or train it and recompute them."""
        self.wav2vec2.feature_extractor.requires_grad_(not frozen)
        self.wav2vec2.feature_extractor._requires_grad = not frozen
        (self.wav2vec2.gradient_checkpointing_disable if frozen else self.wav2vec2.gradient_checkpointing_enable)()


def micro_batches(
    examples: list[Example], front_end: FrontEnd, device: torch.device
) -> Iterator[tuple[list[Example], Tensor]]:
    """Two utterances at a time, padded to the longer."""
    for first in range(0, len(examples), MICRO_BATCH):
        part = examples[first : first + MICRO_BATCH]
        dumped = (read_dumped(example, front_end.feats_type) for example in part)
        wavs = [torch.from_numpy(front_end.prepare(samples_S, None)) for samples_S in dumped]
        yield part, nn.utils.rnn.pad_sequence(wavs, batch_first=True).to(device)


def step(model: Published, optimizer: torch.optim.Optimizer, examples: list[Example], front_end: FrontEnd) -> None:
    """One update."""
    device = model.emotion.weight.device
    optimizer.zero_grad()
    parts = list(micro_batches(examples, front_end, device))
    for part, wav_BS in parts:
        emotion_BC, tokens_BTV, speaker_BS = model(wav_BS)
        log_probs_TBV = tokens_BTV.log_softmax(-1).transpose(0, 1)
        frames_B = torch.full((len(part),), tokens_BTV.shape[1])
        targets = torch.tensor([token for example in part for token in example.tokens], device=device)
        lengths_B = torch.tensor([len(example.tokens) for example in part])
        asr = F.ctc_loss(log_probs_TBV, targets, frames_B, lengths_B, reduction="sum", zero_infinity=True)
        emotion = F.cross_entropy(emotion_BC, torch.tensor([example.emotion for example in part], device=device))
        speaker = F.cross_entropy(speaker_BS, torch.tensor([example.speaker for example in part], device=device))
        ((emotion + 0.1 * asr / len(part) + speaker) / len(parts)).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


@torch.no_grad()
def decode(model: Published, examples: list[Example], front_end: FrontEnd) -> None:
    """The same batches without gradients."""
    model.eval()
    for _, wav_BS in micro_batches(examples, front_end, model.emotion.weight.device):
        emotion_BC, tokens_BTV, _ = model(wav_BS)
        emotion_BC.argmax(-1).tolist(), tokens_BTV.argmax(-1).tolist()
    model.train()
