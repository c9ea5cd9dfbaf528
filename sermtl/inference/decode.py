"""Decoding a list of utterances: posteriors, transcript, speaker and embedding of each.

Enrolment: other utterances of a test speaker, without labels, whose statistics `standardise` takes off.

Shape suffixes: B batch, U utterances, C classes, D values of an embedding, n states, P pooled values of a state.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sermtl.config import TrainConfig, read_yaml
from sermtl.data.dataset import Example, FoldDataset
from sermtl.data.fold_job import FoldPaths
from sermtl.data.sampler import decode_batches
from sermtl.fileio.ark import DUMP_DIGESTS, write_ark
from sermtl.fileio.stamp import NAME, Stamp, inputs
from sermtl.fileio.tables import write_table
from sermtl.model.batch import in_parts
from sermtl.model.multitask import texts_of
from sermtl.model.trained_model import TrainedModel
from sermtl.seeding import generator, halves

CODE_VERSION = 2
"""Raised when the same model would give other files."""
CONDITIONS = ("0", "1", "2", "5", "10", "20", "half", "all", "5_of_one_emotion")
"""Of enrolment, of which a table of predictions is written beside those that are scored."""


@dataclass(frozen=True)
class Decoded:
    """The outputs of the heads for one utterance."""

    utterance: str
    posteriors_C: np.ndarray
    text: str
    speaker: str
    """The training speaker with the highest logit."""
    embedding_D: np.ndarray
    pooled_nP: np.ndarray
    """The pooled states, where speakers are standardised; else none."""


@torch.no_grad()
def decode(trained: TrainedModel, dataset: FoldDataset, batch_size: int, device: torch.device) -> Iterator[Decoded]:
    """Decode a set in float32, longest utterances first; an utterance's outputs do not depend on its batch."""
    model = trained.model.eval()
    for host_batch in dataset.loader(decode_batches(dataset.lengths, batch_size)):
        for batch, output in in_parts(host_batch.to(device), model):
            posteriors_BC = output.emotion_BC.double().softmax(-1).cpu().numpy()
            speakers = (trained.speakers[number] for number in output.speaker_BS.argmax(-1).tolist())
            embeddings_BD = output.vector_BM.float().cpu().numpy()
            pooled_BnP = output.pooled_BnP[:, : None if model.vector.speaker_norm.standardises else 0].cpu().numpy()
            texts = texts_of(output.best_BT, output.frames_B, trained.tokenizer)
            yield from map(Decoded, batch.utterances, posteriors_BC, texts, speakers, embeddings_BD, pooled_BnP)


def enrolment(example: Example, others: Sequence[Example], condition: str) -> list[str]:
    """Those of the ``others`` of its speaker that enrol the speaker of ``example``, a function of its id.

    The condition is a number (all, where they are fewer), ``half``, ``all``, or ``N_of_one_emotion``, drawn among the
    speaker's. With ``half`` the speaker's utterances are dealt into two halves, and each enrols for the other.
    """
    count, _, rest = condition.partition("_")
    random = generator("enrol", example.utterance)
    if rest and others:
        emotion = random.choice(sorted({other.emotion for other in others}))
        others = [other for other in others if other.emotion == emotion]
    names = sorted(other.utterance for other in others)
    if count == "half":
        first, second = halves([*names, example.utterance])
        return second if example.utterance in first else first
    return names if count == "all" else [names[k] for k in random.permutation(len(names))[: int(count)]]


@torch.no_grad()
def enrolled(
    trained: TrainedModel, decoded: Sequence[Decoded], examples: Sequence[Example], conditions: Iterable[str]
) -> dict[str, list[Decoded]]:
    """Decoded utterances, each standardised by its enrolment, for each condition.

    Speakers that were trained on keep their statistics.
    """
    vector, device = trained.model.vector, trained.model.emotion_head.weight.device
    by_name, of_speaker = {example.utterance: example for example in examples}, defaultdict(list)
    for example in examples:
        if example.speaker < 0:
            of_speaker[example.speaker_name].append(example)
    row = {item.utterance: number for number, item in enumerate(decoded)}
    pooled_UnP = torch.from_numpy(np.stack([item.pooled_nP for item in decoded])).to(device)
    found = {}
    for condition in conditions:
        members_UU = torch.zeros(len(decoded), len(decoded), dtype=torch.bool)
        for name, number in row.items():
            own = of_speaker[by_name[name].speaker_name]
            others = [other for other in own if other.utterance != name]
            names = enrolment(by_name[name], others, condition) if own else []
            members_UU[number, [row[other] for other in names]] = True
        vectors_UM = vector(pooled_UnP, own=vector.statistics(pooled_UnP, members_UU.to(device)))
        posteriors_UC = trained.model.emotion_head(vectors_UM).double().softmax(-1).cpu().numpy()
        again = zip(decoded, posteriors_UC, vectors_UM.cpu().numpy(), strict=True)
        found[condition] = [
            replace(item, posteriors_C=posteriors_C, embedding_D=vector_M)
            if by_name[item.utterance].speaker < 0
            else item
            for item, posteriors_C, vector_M in again
        ]
    return found


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


def write_decoded(
    directory: Path, decoded: list[Decoded], labels: list[str], enrolled: Mapping[str, list[Decoded]]
) -> list[Path]:
    """Write the files of ``decode_<part>/``, and a table of labels in ``enrol/`` for each condition; returns them."""
    with write_ark(directory / "emb.ark") as writer:
        for item in decoded:
            writer.write_array(item.utterance, item.embedding_D)
    posteriors = {item.utterance: " ".join(f"{p:.6f}" for p in item.posteriors_C) for item in decoded}
    tables: dict[str, Mapping[str, str]] = {
        "utt2emo": _labels(decoded, labels),
        "emo_post": posteriors,
        "text": {item.utterance: item.text for item in decoded},
        "utt2spk": {item.utterance: item.speaker for item in decoded},
        "emb.scp": writer.scp,
    }
    curve = {f"enrol/{condition}": _labels(items, labels) for condition, items in enrolled.items()}
    for name, table in {**tables, **curve}.items():
        write_table(directory / name, table)
    return [directory / name for name in (*tables, "emb.ark", *curve)]


def _labels(decoded: list[Decoded], labels: list[str]) -> dict[str, str]:
    return {item.utterance: labels[item.posteriors_C.argmax()] for item in decoded}
