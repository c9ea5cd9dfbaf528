import shutil
from dataclasses import replace

import pytest
from small_corpus import make_small_corpus

from sermtl.config import TrainConfig
from sermtl.data.dataset import Example
from sermtl.data.fold_data import load_fold, read_dump
from sermtl.errors import UserError
from sermtl.fileio.tables import read_list, read_table, write_list, write_table


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_small_corpus(tmp_path_factory.mktemp("corpus"), dev_ratio=0.2)


@pytest.fixture
def corpus(made, tmp_path):
    """A copy that a test may damage; arks are read from the original."""
    shutil.copytree(made.root / "data", tmp_path / "data")
    shutil.copytree(made.root / "dump", tmp_path / "dump", ignore=shutil.ignore_patterns("*.ark"))
    return replace(made, root=tmp_path)


def load(corpus, fold="s0", **settings):
    paths = (corpus.data, corpus.folds_dir / fold, corpus.dump, corpus.tokens / fold)
    return load_fold(*paths, TrainConfig(**settings))


def test_a_fold_is_joined_by_utterance_id(made):
    fold = load(made, "s1")
    emotions, texts, lengths = (
        read_table(path) for path in (made.data / "utt2emo", made.data / "text", made.dump / "raw" / "utt2num_samples")
    )
    assert fold.labels == ["ang", "hap", "neu", "sad"] and fold.speakers == ["s0", "s2"]
    for part in ("train", "dev", "test"):
        assert [e.utterance for e in fold.examples[part]] == read_list(made.folds_dir / "s1" / part)
        for e in fold.examples[part]:
            assert e.length == int(lengths[e.utterance])
            assert e.emotion == (fold.labels.index(emotions[e.utterance]) if emotions[e.utterance] else -1)
            assert e.speaker_name == e.utterance[:2]
            assert e.speaker == (-1 if part == "test" else fold.speakers.index(e.utterance[:2]))
            assert fold.tokenizer.decode(e.tokens) == texts[e.utterance]
    train = {e.utterance: e for e in fold.examples["train"] + fold.examples["dev"]}
    assert train["s2-00"].tokens == () and train["s2-02"].emotion == -1


def test_a_random_share_of_train_and_dev_is_dev_when_asked_for(made):
    own = load(made)
    listed = sorted(e.utterance for part in ("train", "dev") for e in own.examples[part])
    drawn = {}
    for seed in (0, 1):
        fold = load(made, random_dev=0.25, seed=seed)
        train, drawn[seed] = ([e.utterance for e in fold.examples[part]] for part in ("train", "dev"))
        assert sorted(train + drawn[seed]) == listed and len(drawn[seed]) == round(len(listed) / 4)
        assert fold.examples["test"] == own.examples["test"] and fold.digest != own.digest
        assert load(made, random_dev=0.25, seed=seed).digest == fold.digest
    assert drawn[0] != drawn[1]


def test_features_have_their_own_lengths(made):
    fold = load(made, feats_type="fbank")
    frames = read_table(made.dump / "fbank" / "utt2num_frames")
    assert [e.length for e in fold.examples["test"]] == [int(frames[e.utterance]) for e in fold.examples["test"]]


def test_the_digest_is_of_what_training_depends_on(corpus):
    digest = load(corpus).digest
    assert load(corpus).digest == digest and load(corpus, beta=1.0, seed=3).digest == digest
    assert load(corpus, "s1").digest != digest
    texts = read_table(corpus.data / "text")
    write_table(corpus.data / "text", texts | {"s1-03": "NEVER"})
    assert load(corpus).digest != digest
    write_table(corpus.data / "text", texts)
    train = read_list(corpus.folds_dir / "s0" / "train")
    write_list(corpus.folds_dir / "s0" / "train", train[1:])
    assert load(corpus).digest != digest


def test_perturbed_copies_are_those_of_the_training_list(corpus):
    wanted = {"s1-00", "s2-07"}
    scp = {f"sp0.9-{utt}": f"x.ark:{n}" for n, utt in enumerate(read_table(corpus.data / "utt2spk"))}
    tables = {"wav.scp": scp, "utt2num_samples": dict.fromkeys(scp, 5), "utt2digest": dict.fromkeys(scp, "0c")}
    for name, table in tables.items():
        write_table(corpus.dump / "raw_sp0.9" / name, table)
    fold = load(corpus, speed_perturb=(0.9, 1.0))
    assert fold.perturbed.keys() == {0.9}
    assert wanted <= fold.perturbed[0.9].keys() == set(read_list(corpus.folds_dir / "s0" / "train"))
    assert fold.perturbed[0.9]["s1-00"] == Example("sp0.9-s1-00", scp["sp0.9-s1-00"], 5, "", checksum="0c")
    with pytest.raises(UserError, match="raw_sp1.1.*stage 2"):
        load(corpus, speed_perturb=(1.1,))
    for name, table in tables.items():
        write_table(corpus.dump / "raw_sp0.9" / name, {k: v for k, v in table.items() if k != "sp0.9-s1-00"})
    with pytest.raises(UserError, match="sp0.9-s1-00"):
        load(corpus, speed_perturb=(0.9,))


@pytest.mark.parametrize(
    "missing, message",
    [
        ("dump/small/raw/wav.scp", "wav.scp is missing.*--stage 2"),
        ("dump/small/raw/utt2num_samples", "utt2num_samples"),
        ("data/small/folds/speaker/s0/train", "s0/train is missing.*--stage 1"),
        ("data/small/folds/speaker/s0/dev", "s0/dev"),
        ("data/small/folds/speaker/s0/test", "s0/test"),
        ("data/small/utt2emo", "utt2emo"),
        ("data/small/text", "small/text"),
        ("data/small/utt2spk", "utt2spk"),
        ("dump/small/tokens/speaker/s0/tokens.txt", "tokens.txt.*stage 2"),
    ],
)
def test_a_missing_file_is_named(corpus, missing, message):
    (corpus.root / missing).unlink()
    with pytest.raises(UserError, match=message):
        load(corpus)


def test_a_dump_that_was_not_made_for_this_kind_of_features(corpus):
    shutil.rmtree(corpus.dump / "fbank")
    with pytest.raises(UserError, match="fbank/feats.scp is missing; run ./run.sh --stage 2"):
        load(corpus, feats_type="fbank")


def test_ids_that_do_not_fit_together_are_reported(corpus):
    write_list(corpus.folds_dir / "s0" / "dev", ["s9-00", "s9-01"])
    with pytest.raises(UserError, match=r"s0/dev: 2 utterances are not in .*raw.*s9-00.*stage 1"):
        load(corpus)


@pytest.mark.parametrize("name", ["utt2num_samples", "utt2digest"])
def test_tables_of_other_utterances_are_reported(corpus, name):
    table = read_table(corpus.dump / "raw" / name)
    write_table(corpus.dump / "raw" / name, {k: v for k, v in table.items() if k != "s0-00"})
    with pytest.raises(UserError, match=f"wav.scp and {name} name different utterances; rerun stage 2"):
        read_dump(corpus.dump / "raw", "raw")


def test_a_length_that_is_no_number_is_reported(corpus):
    table = read_table(corpus.dump / "raw" / "utt2num_samples")
    write_table(corpus.dump / "raw" / "utt2num_samples", table | {"s0-00": "many"})
    with pytest.raises(UserError, match="utt2num_samples.*s0-00.*many"):
        read_dump(corpus.dump / "raw", "raw")


def test_a_training_list_that_teaches_nothing_is_refused(corpus, capsys):
    train = corpus.folds_dir / "s0" / "train"
    write_list(train, [])
    with pytest.raises(UserError, match="s0/train is empty"):
        load(corpus)
    write_list(train, ["s2-02"])
    with pytest.raises(UserError, match="s0/train: no utterance has an emotion"):
        load(corpus)
    write_list(train, ["s1-00", "s1-01", "s2-03"])
    load(corpus)
    message = capsys.readouterr().out
    assert "speaker s2 has a single utterance" in message and "s1" not in message.replace("s1-", "")
