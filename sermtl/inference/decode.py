"""Decoding a list of utterances: posteriors, transcript, speaker and embedding of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sermtl.config import TrainConfig, read_yaml
from sermtl.data.dataset import FoldDataset
from sermtl.data.fold_job import FoldPaths
from sermtl.data.sampler import decode_batches
from sermtl.fileio.ark import DUMP_DIGESTS, write_ark
from sermtl.fileio.stamp import NAME, Stamp, inputs
from sermtl.fileio.tables import write_table
from sermtl.model.ctc import greedy_texts
from sermtl.model.out_of_memory import in_parts
from sermtl.model.trained_model import TrainedModel

CODE_VERSION = 2
"""Raised when the same model would give other files."""
FILES = ("utt2emo", "emo_post", "text", "utt2spk", "emb.scp", "emb.ark")
"""Of `write_decoded`."""


@dataclass(frozen=True)
class Decoded:
    """The outputs of the heads for one utterance."""

    utterance: str
    posteriors_C: np.ndarray
    text: str
    speaker: str
    """The training speaker with the highest logit."""
    embedding_D: np.ndarray
    pooled_nP: np.ndarray | None = None
    """The pooled states, where speakers are standardised."""


@torch.no_grad()
def decode(trained: TrainedModel, dataset: FoldDataset, batch_size: int, device: torch.device) -> Iterator[Decoded]:
    """Decode a set in float32, longest utterances first; an utterance's outputs do not depend on its batch."""
    model = trained.model.eval()
    for host_batch in dataset.loader(decode_batches(dataset.lengths, batch_size)):
        for batch, output in in_parts(host_batch.to(device), model):
            posteriors_BC = output.emotion_BC.double().softmax(-1).cpu().numpy()
            speakers_B = output.speaker_BS.argmax(-1).tolist()
            embeddings_BD = output.vector_BM.float().cpu().numpy()
            pooled = [None] * len(batch.utterances) if output.pooled_BnP is None else output.pooled_BnP.cpu().numpy()
            texts = greedy_texts(output, trained.tokenizer)
            for row, utterance in enumerate(batch.utterances):
                yield Decoded(
                    utterance=utterance,
                    posteriors_C=posteriors_BC[row],
                    text=texts[row],
                    speaker=trained.speakers[speakers_B[row]],
                    embedding_D=embeddings_BD[row],
                    pooled_nP=pooled[row] if model.vector.speaker_norm.standardises else None,
                )


def training_config(exp: Path) -> TrainConfig:
    """The settings that a fold was trained with, from its ``config.yaml``."""
    known = {field.name for field in fields(TrainConfig)}
    saved = read_yaml(exp / "config.yaml")
    values: Any = {key: tuple(v) if isinstance(v, list) else v for key, v in saved.items() if key in known}
    return TrainConfig(**values)


def decode_stamp(paths: FoldPaths, part: str, dumped: str, listed: Sequence[str]) -> Stamp:
    """The stamp of ``decode_<part>/``, whose utterances are those of lists of the fold."""
    roots = {"exp": paths.exp, "data": paths.data, "fold": paths.fold_dir, "dump": paths.dump}
    names = ("exp:model.safetensors", "exp:model.json", "data:text", "data:utt2spk", "data:utt2emo")
    lists, contents = {f"fold:{name}" for name in listed}, f"dump:{dumped}/{DUMP_DIGESTS}"
    directory = paths.exp / f"decode_{part}"
    return Stamp(directory / NAME, CODE_VERSION, {}, inputs(roots, *names, *lists, contents))


def write_decoded(directory: Path, decoded: list[Decoded], labels: list[str]) -> None:
    """Write the files of ``decode_<part>/``."""
    with write_ark(directory / "emb.ark") as writer:
        for item in decoded:
            writer.write_array(item.utterance, item.embedding_D)
    write_table(directory / "emb.scp", writer.scp)
    posteriors = {item.utterance: " ".join(f"{p:.6f}" for p in item.posteriors_C) for item in decoded}
    write_table(directory / "emo_post", posteriors)
    write_table(directory / "text", {item.utterance: item.text for item in decoded})
    write_table(directory / "utt2spk", {item.utterance: item.speaker for item in decoded})
    write_table(directory / "utt2emo", {item.utterance: labels[item.posteriors_C.argmax()] for item in decoded})
