"""Enrolment: other utterances of a test speaker, without labels, whose statistics `standardise` takes off.

Shape suffixes: U utterances, n states, P pooled values of a state.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from sermtl.data.dataset import Example
from sermtl.fileio.tables import write_table
from sermtl.inference.decode import Decoded
from sermtl.model.trained_model import TrainedModel
from sermtl.seeding import derive_seed, generator

CONDITIONS = ("0", "1", "2", "5", "10", "20", "half", "all", "5_of_one_emotion")
"""Conditions of which a table of predictions is written beside those that are scored."""


def enrolment(example: Example, others: Sequence[Example], condition: str) -> list[str]:
    """The utterances that enrol the speaker of ``example``, a function of its id.

    Args:
        example: What is to be recognised.
        others: The other utterances of its speaker.
        condition: A number (those that there are, where they are fewer), ``half``, ``all``, or ``N_of_one_emotion``,
            drawn among the speaker's. With ``half`` the speaker's utterances are dealt into two halves, and each
            half enrols for the other.
    """
    count, _, rest = condition.partition("_")
    random = generator("enrol", example.utterance)
    if rest and others:
        emotion = random.choice(sorted({other.emotion for other in others}))
        others = [other for other in others if other.emotion == emotion]
    names = sorted(other.utterance for other in others)
    if count == "half":
        ordered = sorted([*names, example.utterance], key=lambda name: derive_seed("half", name))
        halves = ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :]
        return halves[example.utterance in halves[0]]
    return names if count == "all" else [names[k] for k in random.permutation(len(names))[: int(count)]]


@torch.no_grad()
def enrolled(
    trained: TrainedModel, decoded: Sequence[Decoded], examples: Sequence[Example], condition: str
) -> list[Decoded]:
    """Decoded utterances, each standardised by its enrolment; speakers that were trained on keep their statistics."""
    vector, device = trained.model.vector, trained.model.emotion_head.weight.device
    by_name, of_speaker = {example.utterance: example for example in examples}, defaultdict(list)
    for example in examples:
        if example.speaker < 0:
            of_speaker[example.speaker_name].append(example)
    row = {item.utterance: number for number, item in enumerate(decoded)}
    members_UU = torch.zeros(len(decoded), len(decoded), dtype=torch.bool)
    for item in decoded:
        own = of_speaker[by_name[item.utterance].speaker_name]
        others = [other for other in own if other.utterance != item.utterance]
        names = enrolment(by_name[item.utterance], others, condition) if own else []
        members_UU[row[item.utterance], [row[name] for name in names]] = True
    pooled_UnP = torch.from_numpy(np.stack([item.pooled_nP for item in decoded if item.pooled_nP is not None])).to(
        device
    )
    erased_UnP = vector.speaker_norm.erase(vector.normalised(pooled_UnP)).double()
    mean_UnP, std_UnP = vector.speaker_norm.estimate(erased_UnP, members_UU.to(device))
    vectors_UM = vector(pooled_UnP, own=(mean_UnP.float(), std_UnP.float()))
    posteriors_UC = trained.model.emotion_head(vectors_UM).double().softmax(-1).cpu().numpy()
    again = zip(decoded, posteriors_UC, vectors_UM.cpu().numpy(), strict=True)
    return [
        replace(item, posteriors_C=posteriors_C, embedding_D=vector_M) if by_name[item.utterance].speaker < 0 else item
        for item, posteriors_C, vector_M in again
    ]


def write_curve(
    directory: Path, trained: TrainedModel, decoded: Sequence[Decoded], examples: Sequence[Example]
) -> list[Path]:
    """Write a table of predicted labels for each of the conditions."""
    paths = []
    for condition in CONDITIONS:
        items = enrolled(trained, decoded, examples, condition)
        labels = {item.utterance: trained.labels[item.posteriors_C.argmax()] for item in items}
        paths.append(directory / "enrol" / condition)
        write_table(paths[-1], labels)
    return paths
