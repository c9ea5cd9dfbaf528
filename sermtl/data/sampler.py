"""Which utterances make which update, as a function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from sermtl.config import TrainConfig
from sermtl.seeding import generator

if TYPE_CHECKING:
    from sermtl.data.dataset import Example  # with torch, which stage 1 does without

MOST_SIZE = 4.0
"""Times the size of typical utterances that a part of several may have."""


def balanced_pass(emotions: Sequence[int], seed: int, epoch: int) -> list[int]:
    """Indices of a pass with as many utterances of each class, and each unlabelled one (-1) once; N as before.

    A class's utterances are shuffled and repeated whole, so that none is drawn twice more than another. Where the
    labelled utterances cannot be divided by the classes, random classes get one more.
    """
    random = generator(seed, "balance", epoch)
    classes = random.permutation(sorted(set(emotions) - {-1})).tolist()
    drawn = [index for index, emotion in enumerate(emotions) if emotion < 0]
    labelled = len(emotions) - len(drawn)
    for place, wanted in enumerate(classes):
        members = [index for index, emotion in enumerate(emotions) if emotion == wanted]
        share = (labelled + place) // len(classes)  # over all places these add up
        rounds = -(-share // len(members))
        drawn += [members[i] for _ in range(rounds) for i in random.permutation(len(members))][:share]
    return drawn


def epoch_batches(
    lengths: Sequence[int], batch_size: int, bucket_batches: int, seed: int, epoch: int, drawn: Sequence[int] = ()
) -> list[list[int]]:
    """Indices of the utterances of each update of an epoch; each utterance is in one, or each of ``drawn``.

    Utterances are shuffled, pools of ``bucket_batches`` batches are sorted by length and cut, and the batches are
    shuffled: batches hold similar lengths (little padding), and which utterances meet differs every epoch.
    ``bucket_batches`` 1 is plain shuffling.
    """
    random = generator(seed, "batches", epoch)
    order = random.permutation(drawn if drawn else len(lengths)).tolist()
    pool = batch_size * bucket_batches
    batches = []
    for start in range(0, len(order), pool):
        members = order[start : start + pool]
        if bucket_batches > 1:
            members.sort(key=lambda index: lengths[index])
        batches += [members[i : i + batch_size] for i in range(0, len(members), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]


def decode_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches of similar length, the longest first; `parts_by_size` says of how many."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return parts_by_size(order, lengths, batch_size, median(lengths)) if lengths else []


def parts_by_size(
    order: Sequence[int], lengths: Sequence[float], most: int, typical: float, padded: bool = True
) -> list[list[int]]:
    """Cut indices, the longest first, into parts that are each computed at once.

    A part has at most ``most`` utterances; and where it has several, at most `MOST_SIZE` times the size of ``most``
    utterances of the length ``typical``: together, or ``padded`` to the longest. So neither time nor memory is spent on
    padding short utterances to a much longer one.
    """
    parts: list[list[int]] = []
    for index in order:
        part = parts[-1] if parts else []
        size = lengths[part[0]] * (len(part) + 1) if part and padded else sum(lengths[i] for i in [*part, index])
        if part and len(part) < most and size <= MOST_SIZE * most * typical:
            part.append(index)
        else:
            parts.append([index])
    return parts


def batches_of_epoch(examples: Sequence[Example], config: TrainConfig, epoch: int, updates: int) -> list[list[int]]:
    """An epoch's batches: as many ``updates``, of passes over the list that follow one another."""
    of_pass, first = -(-len(examples) // config.batch_size), epoch * updates
    numbers = range(first // of_pass, -(-(first + updates) // of_pass))
    lengths, emotions = [example.size for example in examples], [example.emotion for example in examples]

    def one_pass(number: int) -> list[list[int]]:
        drawn = balanced_pass(emotions, config.seed, number) if config.sampling == "balanced" else ()
        return epoch_batches(lengths, config.batch_size, config.bucket_batches, config.seed, number, drawn)

    skipped = first - numbers[0] * of_pass
    return [batch for number in numbers for batch in one_pass(number)][skipped : skipped + updates]
