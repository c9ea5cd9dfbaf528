"""An update on a device whose values cannot be read: PyTorch's meta device refuses every read."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from small_model import FAMILIES, upstream_of, with_heads

from sermtl.model.batch import Batch
from sermtl.model.multitask import count_targets
from sermtl.train.update import accumulate_gradients, clip_gradients

WHISPER = {"model_type": "whisper", "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2}
WHISPER |= {"encoder_ffn_dim": 24, "max_source_positions": 100}
META = torch.device("meta")


def ctc_loss(log_probs_TBV, targets_BN, frames_B, lengths_B, **_):
    """In the place of PyTorch's, which has no kernel for this device: lengths on a GPU would be read."""
    assert {frames_B.device.type, lengths_B.device.type} == {"cpu"} and targets_BN.device == META
    return log_probs_TBV.sum((0, 2))


@pytest.mark.parametrize(
    "geometry, packed",
    [*((geometry, False) for geometry in (*FAMILIES.values(), WHISPER)), (FAMILIES["wav2vec2"], True)],
    ids=[*FAMILIES, "whisper", "packed"],
)
def test_an_update_reads_no_value_of_its_device(geometry, packed, monkeypatch):
    model = with_heads(upstream_of(geometry), 4, 12, 3).train()
    model.upstream.lay_out("packed" if packed else "padded", META)
    monkeypatch.setattr(F, "ctc_loss", ctc_loss)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which does not know this device
    lengths_B, frames_B = torch.tensor([5000, 3000]), torch.tensor([15, 9])
    targets = torch.tensor([0, -1]), torch.tensor([2, 1]), torch.tensor([[5, 6], [7, 0]]), torch.tensor([2, 1])
    part = Batch(["a", "b"], torch.randn(2, 5000), lengths_B, *targets, frames_B=frames_B)
    sums, guesses = accumulate_gradients(model.to(META), [part.to(META)] * 2, count_targets([part, part]), -0.1, 0.1)
    finite = clip_gradients(list(model.parameters()), model.speaker_head, 1.0)
    assert sums.device == finite.device == META and [found.emotions_B.shape for found in guesses] == [(2,), (2,)]
    assert all(parameter.grad is not None for parameter in model.speaker_head.parameters())
