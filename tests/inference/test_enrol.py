"""Which utterances enrol a test speaker, and what is written of it."""

import json

import pytest
from small_corpus import make_small_corpus, run_program

from sermtl.bin import decode, train
from sermtl.data.dataset import Example
from sermtl.fileio.tables import read_table
from sermtl.inference.decode import CONDITIONS, enrolment

OWN = [Example(f"u{n}", "", 0, "s", emotion=n % 3) for n in range(11)]


def enrolled(number, condition):
    return enrolment(OWN[number], OWN[:number] + OWN[number + 1 :], condition)


@pytest.mark.parametrize("number", range(11))
def test_an_utterance_never_enrols_for_itself_and_fewer_are_among_more(number):
    drawn = [enrolled(number, str(count)) for count in (0, 1, 2, 5, 10, 20)]
    assert [len(names) for names in drawn] == [0, 1, 2, 5, 10, 10]
    assert all(set(few) <= set(more) for few, more in zip(drawn, drawn[1:], strict=False))
    assert set(enrolled(number, "all")) == set(drawn[-1]) == {example.utterance for example in OWN} - {f"u{number}"}
    assert len({tuple(enrolled(n, "2")) for n in range(11)}) > 5


def test_each_half_enrols_for_the_other():
    halves = {frozenset(enrolled(number, "half")) for number in range(11)}
    first, second = sorted(halves, key=len)
    assert (len(first), len(second)) == (5, 6) and not first & second
    assert all(f"u{number}" not in enrolled(number, "half") for number in range(11))


def test_all_of_one_emotion_are_of_one_emotion():
    found = set()
    for number in range(11):
        names = enrolled(number, "2_of_one_emotion")
        emotions = {int(name[1:]) % 3 for name in names}
        assert len(names) == 2 and len(emotions) == 1
        found |= emotions
    assert found == {0, 1, 2}


@pytest.mark.parametrize("condition", ["5", "half", "all", "5_of_one_emotion"])
def test_a_speaker_of_one_utterance_is_enrolled_by_none(condition):
    assert enrolment(OWN[0], [], condition) == []


def test_decoding_writes_a_table_for_each_condition_and_takes_that_of_the_settings(tmp_path):
    corpus = make_small_corpus(tmp_path)
    settings = {"epochs": 1, "spk_norm": "standardise", "spk_shrink": 1.0, "enrol": "half"}
    config, words = corpus.config("raw", **settings), corpus.arguments(tmp_path / "exp")
    assert run_program(train.main, "--config", config, *words) == 0
    assert run_program(decode.main, "--config", "conf/decode.yaml", *words) == 0
    folder = tmp_path / "exp" / "s0" / "decode_test"
    tables = {path.name: read_table(path) for path in (folder / "enrol").iterdir()}
    assert tables.keys() == set(CONDITIONS)
    taken = read_table(folder / "utt2emo")
    assert tables["half"] == taken and all(table.keys() == taken.keys() for table in tables.values())
    names = {f"enrol/{condition}" for condition in CONDITIONS}
    assert names < json.loads((folder / "stamp.json").read_text())["outputs"].keys()
