"""Decoding a list of utterances: posteriors, transcript, speaker and embedding of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader

from sermtl.data.dataset import FoldDataset
from sermtl.data.sampler import decode_batches
from sermtl.model.ctc import greedy_texts
from sermtl.model.out_of_memory import in_parts
from sermtl.model.trained_model import TrainedModel


@dataclass(frozen=True)
class Decoded:
    """What the heads say of one utterance."""

    utterance: str
    posteriors_C: np.ndarray
    text: str
    speaker: str
    """The training speaker that the speaker head prefers."""
    embedding_D: np.ndarray


@torch.no_grad()
def decode(trained: TrainedModel, dataset: FoldDataset, batch_size: int, device: torch.device) -> Iterator[Decoded]:
    """Decode a set in float32, longest utterances first; an utterance's outputs do not depend on its batch."""
    model = trained.model.eval()
    loader = DataLoader(dataset, batch_sampler=decode_batches(dataset.lengths, batch_size), collate_fn=dataset.collate)
    for host_batch in loader:
        for batch, output in in_parts(host_batch.to(device), model):
            posteriors_BC = output.emotion_BC.double().softmax(-1).cpu().numpy()
            speakers_B = output.speaker_BS.argmax(-1).tolist()
            embeddings_BD = output.pooled_BD.float().cpu().numpy()
            texts = greedy_texts(output, trained.tokenizer)
            for row, utterance in enumerate(batch.utterances):
                yield Decoded(
                    utterance=utterance,
                    posteriors_C=posteriors_BC[row],
                    text=texts[row],
                    speaker=trained.speakers[speakers_B[row]],
                    embedding_D=embeddings_BD[row],
                )
