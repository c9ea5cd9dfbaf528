"""Nothing of a test speaker enters a fit: with other test audio the same model comes out, to the bit."""

import shutil

import pytest
import torch
from datadirs import write_wav
from small_corpus import SmallCorpus, make_small_corpus, speech
from small_training import train, weights

from sermtl.fileio.tables import read_table, write_table


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The small corpus, and one that differs in the audio of speaker s0 alone: there it is a marker."""
    one = make_small_corpus(tmp_path_factory.mktemp("one"), dev_ratio=0.2)
    other = SmallCorpus(tmp_path_factory.mktemp("other") / "copy")
    shutil.copytree(one.root, other.root)
    wavs = read_table(other.data / "wav.scp")
    for number, name in enumerate(name for name in wavs if name.startswith("s0")):
        wavs[name] = str(write_wav(other.root / "marker" / f"{name}.wav", 3 * speech(number, 3000)))
    write_table(other.data / "wav.scp", wavs)
    shutil.rmtree(other.dump / "raw")
    other.dump_audio("raw")
    first, second = (corpus.dump / "raw" / "utt2digest" for corpus in (one, other))
    changed = {name for name, digest in read_table(first).items() if read_table(second)[name] != digest}
    assert changed == {name for name in wavs if name.startswith("s0")}
    return one, other


@pytest.mark.parametrize("freeze", ["none", "all"])
@pytest.mark.parametrize("method", ["none", "grl", "erase", "standardise", "erase+standardise"])
def test_nothing_of_a_test_speaker_enters_a_model(both, tmp_path, method, freeze):
    settings = {"spk_norm": method, "freeze": freeze, "epochs": 1, "calibrate": True}
    settings |= {"pooled_norm": "train", "alpha": 0} if freeze == "all" else {}
    settings |= {"beta": 1.0, "projection": 4} if method == "grl" else {}
    for number, corpus in enumerate(both):
        assert train(corpus, tmp_path / str(number), **settings) == 0
    first, second = weights(tmp_path / "0"), weights(tmp_path / "1")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    # With another training list the weights are others: the comparison can fail.
    assert train(both[1], tmp_path / "2", fold="s1", **settings) == 0
    assert not torch.equal(first["emotion_head.weight"], weights(tmp_path / "2", "s1")["emotion_head.weight"])
