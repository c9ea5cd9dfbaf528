from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

# isort: off
from sermtl import torchaudio_compat  # noqa: F401 (before transformers)
from transformers import Wav2Vec2FeatureExtractor

# isort: on
from sermtl.config import TrainConfig
from sermtl.data.dataset import Example, FoldDataset, feature_stats
from sermtl.errors import UserError
from sermtl.fileio.ark import checksum, read_audio_entry, read_entry, read_matrix, write_ark
from sermtl.model.front_end import FrontEnd
from sermtl.model.geometry import ConvGeometry, SpanMasking

GEOMETRY = ConvGeometry((10, 8, 4), (5, 8, 4))
FBANK_GEOMETRY = ConvGeometry((3,), (2,))
LENGTHS = (30, 400, 1000, 3000)
MASKING = SpanMasking(time_prob=0.5, time_length=2, feature_prob=0.3, feature_length=2, hidden_size=16)


def feature_frames(length):
    return max(1, length // 40)


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    """Ark entries of waveforms and features, the same at two further speeds but for their values."""
    folder = tmp_path_factory.mktemp("dump")
    random = np.random.default_rng(0)
    found = {}
    for kind in ("raw", "raw0.9", "raw1.1", "fbank"):
        with write_ark(folder / f"{kind}.ark") as writer:
            for n, length in enumerate(LENGTHS):
                if kind == "fbank":
                    writer.write_array(f"u{n}", random.normal(5, 3, (feature_frames(length), 80)))
                else:
                    writer.write_audio(f"u{n}", random.integers(-9000, 9000, length, dtype=np.int16))
        found[kind] = writer.scp
    return found


def make_set(entries, feats_type="raw", masking=MASKING, train=True, **settings):
    cmvn = settings.get("cmvn", "utterance")
    config = TrainConfig(feats_type=feats_type, **settings)
    examples = [
        Example(f"u{n}", entries[feats_type][f"u{n}"], size, f"s{n % 2}", n % 4, n % 2, (5, 6, 6))
        for n, length in enumerate(LENGTHS)
        for size in [length if feats_type == "raw" else feature_frames(length)]
    ]
    front_end = FrontEnd(feats_type, True, cmvn, GEOMETRY if feats_type == "raw" else FBANK_GEOMETRY)
    perturbed = {
        speed: {e.utterance: replace(e, entry=entries[f"raw{speed}"][e.utterance]) for e in examples}
        for speed in (0.9, 1.1)
    }
    return FoldDataset(examples, front_end, config if train else None, masking, perturbed)


def drawn(dataset, epoch, order=(0, 1, 2, 3)):
    dataset.set_epoch(epoch)
    return {dataset[index][0].utterance: dataset[index][1:] for index in order}


def equal(first, second):
    return all(
        (a is None and b is None) or np.array_equal(a, b)
        for key in first
        for a, b in zip(first[key], second[key], strict=True)
    )


AUGMENTED = {"speed_perturb": (0.9, 1.0, 1.1)}
MASKED = {"feats_type": "fbank", "freq_masks": 2, "time_masks": 2}


@pytest.mark.parametrize("settings", [AUGMENTED, MASKED])
def test_draws_are_a_function_of_seed_epoch_and_utterance_in_any_order(entries, settings):
    dataset = make_set(entries, **settings)
    first = drawn(dataset, 3)
    drawn(dataset, 7)
    np.random.seed(5)
    torch.manual_seed(5)
    assert equal(first, drawn(dataset, 3, order=(3, 1, 0, 2, 2)))
    assert equal(first, drawn(make_set(entries, **settings), 3))
    fewer = make_set(entries, **settings)
    fewer.examples = fewer.examples[2:]
    assert equal({"u3": first["u3"]}, drawn(fewer, 3, order=(1, 0)))
    assert not equal(first, drawn(dataset, 4))
    assert not equal(first, drawn(make_set(entries, seed=1, **settings), 3))


@pytest.mark.parametrize("settings", [AUGMENTED, MASKED])
def test_loader_processes_draw_what_the_main_process_draws(entries, settings):
    dataset = make_set(entries, **settings)
    batches = [[0, 3], [2], [1]]

    def load(workers):
        dataset.set_epoch(2)
        loader = DataLoader(dataset, batch_sampler=batches, collate_fn=dataset.collate, num_workers=workers)
        return list(loader)

    for alone, worked in zip(load(0), load(2), strict=True):
        assert alone.utterances == worked.utterances
        assert torch.equal(alone.inputs, worked.inputs) and torch.equal(alone.time_mask_BT, worked.time_mask_BT)


@pytest.mark.parametrize("settings", [AUGMENTED, MASKED])
def test_a_set_in_memory_is_the_same_and_reads_no_file_again(entries, settings, monkeypatch):
    kept, read = make_set(entries, in_memory=True, **settings), make_set(entries, **settings)
    expected = [drawn(read, epoch) for epoch in (0, 1)]
    monkeypatch.delattr("sermtl.data.dataset.read_entry")
    with pytest.raises(NameError):
        drawn(read, 0)
    assert all(equal(drawn(kept, epoch), expected[epoch]) for epoch in (0, 1))
    assert equal(drawn(kept, 0), expected[0])  # what is kept stays as it was read


def test_every_speed_is_drawn_and_each_comes_from_its_own_ark(entries):
    dataset = make_set(entries, masking=None, **AUGMENTED)
    seen = {drawn(dataset, epoch)["u3"][0].tobytes() for epoch in range(30)}
    sources = set()
    for kind in ("raw", "raw0.9", "raw1.1"):
        source = make_set(entries, masking=None, train=False)
        source.examples = [replace(source.examples[3], entry=entries[kind]["u3"])]
        sources.add(source[0][1].tobytes())
    assert seen == sources


def test_evaluation_is_not_augmented(entries):
    dataset = make_set(entries, train=False, **AUGMENTED)
    first = drawn(dataset, 0)
    assert equal(first, drawn(dataset, 9))
    assert all(masks == (None, None) for masks in (value[1:] for value in first.values()))


def test_masks_cover_own_frames_only_and_spare_inputs_that_are_too_short(entries):
    dataset = make_set(entries, masking=replace(MASKING, time_min=2))
    for epoch in range(10):
        for index, (utterance, (_, time_T, feature_D)) in enumerate(drawn(dataset, epoch).items()):
            frames = GEOMETRY.frames(LENGTHS[index])
            assert time_T.shape == (frames,) and feature_D.shape == (16,), utterance
            assert time_T.any() == (frames >= 2)


# Front end


@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=300))
def test_waveforms_are_normalised_as_transformers_does(samples):
    ours = FrontEnd("raw", True, "utterance", GEOMETRY).waveform(np.array(samples, dtype=np.int16))
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True)
    theirs = extractor(np.array(samples, dtype=np.float32) / 32768, sampling_rate=16000)["input_values"][0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    assert ours.dtype == np.float32


def test_waveforms_stay_as_they_are_where_the_upstream_wants_that():
    plain = FrontEnd("raw", False, "utterance", GEOMETRY).waveform(np.array([16384, -32768], dtype=np.int16))
    assert plain.tolist() == [0.5, -1.0]


def test_features_are_normalised_by_utterance_speaker_or_training_set(entries):
    features = [read_matrix(entries["fbank"][f"u{n}"]) for n in range(4)]
    speaker = np.concatenate([features[1], features[3]])
    everything = np.concatenate(features[:3])
    examples = make_set(entries, "fbank").examples
    stats = feature_stats(examples[n] for n in (1, 3))
    mean, std = feature_stats(examples[n] for n in (0, 1, 2))
    for cmvn, reference in (("utterance", features[3]), ("speaker", speaker), ("global", everything)):
        front_end = FrontEnd("fbank", False, cmvn, FBANK_GEOMETRY, mean, std)
        normalised = front_end.prepare(read_entry(entries["fbank"]["u3"], "u3", "fbank"), stats)
        expected = (features[3] - reference.mean(0, dtype=np.float64)) / (reference.std(0, dtype=np.float64) + 1e-5)
        np.testing.assert_allclose(normalised, expected, rtol=1e-3, atol=1e-4)
        assert normalised.dtype == np.float32


def test_statistics_of_a_speaker_that_are_missing_are_no_others(entries):
    front_end = FrontEnd("fbank", False, "speaker", FBANK_GEOMETRY)
    with pytest.raises(UserError, match="cmvn speaker"):
        front_end.prepare(read_entry(entries["fbank"]["u3"], "u3", "fbank"), None)


def test_statistics_hold_for_far_away_means(tmp_path):
    with write_ark(tmp_path / "x.ark") as writer:
        for n in range(3):
            writer.write_array(f"u{n}", np.random.default_rng(n).normal(1000, 0.5, (500, 2)))
    mean, std = feature_stats(Example(utterance, entry, 500, "") for utterance, entry in writer.scp.items())
    np.testing.assert_allclose(mean, 1000, atol=0.1)
    np.testing.assert_allclose(std, 0.5, rtol=0.05)


def test_what_is_not_there_as_it_was_is_reported_wherever_it_is_read(entries):
    def wrong(example):
        return replace(example, checksum="00000000")

    dataset = make_set(entries, train=False)
    right = dataset.examples[1] = replace(
        dataset.examples[1], checksum=checksum(read_audio_entry(entries["raw"]["u1"]))
    )
    assert dataset[1][0] == right
    dataset.examples[1] = wrong(right)
    with pytest.raises(UserError, match="u1 is not there as it was"):
        dataset[1]
    copies = make_set(entries, speed_perturb=(0.9,))
    copies.perturbed = {0.9: {name: wrong(copy) for name, copy in copies.perturbed[0.9].items()}}
    with pytest.raises(UserError, match="raw0.9.ark.* u1 is not there as it was"):
        copies[1]
    config = TrainConfig(feats_type="raw", in_memory=True, speed_perturb=(0.9,))
    with pytest.raises(UserError, match="is not there as it was"):
        FoldDataset(copies.examples, copies.front_end, config, None, copies.perturbed)
    # Audio that is not asked to be kept is read when it is needed, whatever is frozen.
    FoldDataset([wrong(right)], copies.front_end, TrainConfig(freeze="all", alpha=0, beta=0))
    with pytest.raises(UserError, match="u2 is not there as it was"):
        feature_stats([wrong(make_set(entries, "fbank").examples[2])])


def test_one_frame_is_finite(entries):
    assert np.isfinite(
        FrontEnd("fbank", False, "utterance", FBANK_GEOMETRY).prepare(
            read_entry(entries["fbank"]["u0"], "u0", "fbank"), None
        )
    ).all()


# Collation


def test_a_batch_is_its_examples_continued_with_zeros(entries):
    dataset = make_set(entries, masking=None, train=False)
    batch = dataset.collate([dataset[index] for index in (2, 0)])
    assert batch.utterances == ["u2", "u0"] and batch.lengths_B.tolist() == [1000, 30]
    assert batch.inputs.shape == (2, 1000) and not batch.inputs[1, 30:].any()
    np.testing.assert_array_equal(batch.inputs[1, :30], dataset[0][1])
    assert batch.emotions_B.tolist() == [2, 0] and batch.speakers_B.tolist() == [0, 0]


def test_a_batch_reaches_the_receptive_field(entries):
    dataset = make_set(entries, train=False, masking=None)
    batch = dataset.collate([dataset[0]])
    assert batch.inputs.shape == (1, GEOMETRY.receptive_field) and batch.lengths_B.tolist() == [30]


def test_transcripts_that_do_not_fit_are_left_out_and_the_rest_is_kept(entries):
    dataset = make_set(entries, masking=None, train=False)
    frames = [GEOMETRY.frames(length) for length in LENGTHS]
    fitting = tuple(range(1, frames[3] + 1))
    dataset.examples = [
        replace(dataset.examples[3], tokens=fitting),
        replace(dataset.examples[3], tokens=(*fitting, 1)),
        # As many tokens as frames, but two equal neighbours need a blank.
        replace(dataset.examples[3], tokens=(1, *fitting[:-1])),
        replace(dataset.examples[3], tokens=()),
    ]
    batch = dataset.collate([dataset[index] for index in range(4)])
    assert batch.token_lengths_B.tolist() == [len(fitting), 0, 0, 0]
    assert batch.tokens_BN[0].tolist() == list(fitting) and not batch.tokens_BN[1:].any()
    assert batch.emotions_B.tolist() == [3] * 4
    empty = dataset.collate([dataset[3]])
    assert empty.tokens_BN.shape == (1, 1) and empty.tokens_BN.dtype == torch.int64


@given(st.lists(st.integers(1, 3), max_size=5), st.integers(1, 9))
def test_what_fits_is_what_ctc_can_align(tokens, frames):
    loss = torch.nn.functional.ctc_loss(
        torch.zeros(frames, 1, 4).log_softmax(-1), torch.tensor([tokens or [0]]), torch.tensor([frames]),
        torch.tensor([len(tokens)]), reduction="sum",
    )  # fmt: skip
    assert (Example("u", "", 1, "s", tokens=tuple(tokens)).ctc_frames <= frames) == bool(torch.isfinite(loss))
