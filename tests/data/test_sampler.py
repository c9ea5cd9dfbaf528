from collections import Counter
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sermtl.config import TrainConfig
from sermtl.data.dataset import Example
from sermtl.data.sampler import balanced_pass, batches_of_epoch, decode_batches, epoch_batches, parts_by_size

lengths = st.lists(st.integers(1, 1000), min_size=1, max_size=60)


@given(lengths, st.integers(1, 9), st.integers(1, 4), st.integers(0, 99), st.integers(0, 99))
def test_every_utterance_is_in_one_update_of_an_epoch(lengths, size, pool, seed, epoch):
    batches = epoch_batches(lengths, size, pool, seed, epoch)
    assert Counter(index for batch in batches for index in batch) == Counter(range(len(lengths)))
    # One batch at most is not full: the trainer counts its updates so.
    assert sorted(map(len, batches))[1:] == [size] * (len(batches) - 1)
    assert len(batches) == -(-len(lengths) // size)
    assert batches == epoch_batches(lengths, size, pool, seed, epoch)


def test_epochs_and_seeds_shuffle_anew():
    orders = {str(epoch_batches([1] * 40, 4, 1, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_buckets_hold_similar_lengths_and_batches_still_change():
    lengths = [(37 * n) % 500 + 1 for n in range(400)]

    def padding(batches):
        return sum(max(lengths[i] for i in batch) * len(batch) for batch in batches) / sum(lengths)

    assert padding(epoch_batches(lengths, 8, 16, 0, 0)) < 1.15 < 1.4 < padding(epoch_batches(lengths, 8, 1, 0, 0))
    first, second = (epoch_batches(lengths, 8, 16, 0, epoch) for epoch in (0, 1))
    assert not {frozenset(batch) for batch in first} & {frozenset(batch) for batch in second}
    # The batches come in no order of length.
    means = [sum(lengths[i] for i in batch) for batch in first]
    assert means not in (sorted(means), sorted(means, reverse=True))


@given(lengths, st.integers(1, 9))
def test_decoding_takes_every_utterance_once_the_longest_first(lengths, size):
    batches = decode_batches(lengths, size)
    order = [lengths[index] for batch in batches for index in batch]
    assert order == sorted(lengths, reverse=True)
    assert Counter(index for batch in batches for index in batch) == Counter(range(len(lengths)))
    for batch in batches[:-1]:
        assert len(batch) == size or (len(batch) + 1) * lengths[batch[0]] > 4 * size * median(lengths)


def test_no_utterances_no_batches():
    assert epoch_batches([], 4, 1, 0, 0) == decode_batches([], 4) == []


@pytest.mark.parametrize("bucket_batches", [1, 4])
def test_who_meets_whom_is_not_decided_by_position(bucket_batches):
    together = Counter()
    for epoch in range(200):
        for batch in epoch_batches([5] * 12, 3, bucket_batches, 0, epoch):
            together.update((a, b) for a in batch for b in batch if a < b)
    # Each of the 66 pairs is expected in 200 * 4 * 3 / 66 = 36 batches.
    assert len(together) == 66
    assert 15 < min(together.values()) and max(together.values()) < 65


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=80), st.integers(0, 9), st.integers(0, 9))
def test_a_balanced_pass_has_each_class_equally_often(emotions, seed, epoch):
    drawn = balanced_pass(emotions, seed, epoch)
    assert len(drawn) == len(emotions) and drawn == balanced_pass(emotions, seed, epoch)
    times = Counter(drawn)
    assert all(times[index] == 1 for index, emotion in enumerate(emotions) if emotion < 0)
    by_class = Counter(emotions[index] for index in drawn if emotions[index] >= 0)
    if by_class:
        assert set(by_class) == set(emotions) - {-1} and max(by_class.values()) - min(by_class.values()) <= 1
    for wanted in by_class:
        own = [times[index] for index, emotion in enumerate(emotions) if emotion == wanted]
        assert max(own) - min(own) <= 1


def test_balanced_passes_give_every_utterance_of_a_large_class_its_turn_and_the_batches_the_trainer_takes():
    examples = [Example(f"{n}", "", 100 + n, "s", emotion=int(n >= 20)) for n in range(22)]
    config = TrainConfig(sampling="balanced", batch_size=4, bucket_batches=1)
    passes = [batches_of_epoch(examples, config, epoch, 6) for epoch in range(20)]
    drawn = Counter(index for batches in passes for batch in batches for index in batch)
    assert all(len(batches) == 6 and sum(map(len, batches)) == 22 for batches in passes)
    assert sum(drawn[index] for index in (20, 21)) == 20 * 11
    assert set(drawn) == set(range(22)) and max(drawn[index] for index in range(20)) < 20
    natural = TrainConfig(batch_size=4, bucket_batches=1)
    assert batches_of_epoch(examples, natural, 3, 6) == epoch_batches(list(range(22)), 4, 1, 0, 3)


@given(lengths, st.integers(1, 9), st.floats(1, 1000), st.booleans())
def test_parts_keep_the_order_and_no_part_of_several_is_much_larger_than_usual(lengths, most, typical, padded):
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    parts = parts_by_size(order, lengths, most, typical, padded)
    assert [index for part in parts for index in part] == order

    def size(part):
        return lengths[part[0]] * len(part) if padded else sum(lengths[index] for index in part)

    for part, following in zip(parts, [*parts[1:], []], strict=True):
        assert len(part) == 1 or (len(part) <= most and size(part) <= 4 * most * typical)
        # The next utterance would have made the part too large.
        assert not following or len(part) == most or size([*part, following[0]]) > 4 * most * typical


def test_a_clip_of_five_minutes_is_a_part_of_its_own():
    lengths = [300, *[3] * 7]
    assert parts_by_size(range(8), lengths, 8, 3) == [[0], [1, 2, 3, 4, 5, 6, 7]]
    assert parts_by_size(range(8), [6, 5, 4, 3, 3, 3, 2, 1], 8, 3) == [[*range(8)]]
    assert list(map(len, decode_batches([3] * 40 + [300], 16))) == [1, 16, 16, 8]
