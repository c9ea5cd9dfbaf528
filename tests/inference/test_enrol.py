"""Which utterances enrol a test speaker, and what is written of it."""

import json
import re

import pytest
from small_corpus import make_small_corpus, run_program

from sermtl import Speech2Emotion
from sermtl.bin import decode, predict, train
from sermtl.data.dataset import Example
from sermtl.fileio.tables import read_table, write_table
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


def test_the_recordings_of_each_speaker_of_a_table_enrol_for_each_other(tmp_path, capsys):
    corpus = make_small_corpus(tmp_path)
    config, words = corpus.config("raw", epochs=1, spk_norm="standardise"), corpus.arguments(tmp_path / "exp")
    assert run_program(train.main, "--config", config, *words) == 0
    speaker_of = {f"s{speaker}-{n:02d}": f"s{speaker}" for n in range(3) for speaker in (1, 0)} | {"s2-00": "s2"}
    write_table(tmp_path / "spk", speaker_of)
    wavs = {utt: str(tmp_path / "wav" / f"{utt}.wav") for utt in speaker_of}
    capsys.readouterr()
    ours = ["--model", tmp_path / "exp" / "s0", "--json"]
    assert run_program(predict.main, *ours, "--speaker-of", tmp_path / "spk", *wavs.values()) == 0
    found = {line["path"]: line["scores"] for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert found.keys() == set(wavs.values())
    model = Speech2Emotion.from_pretrained(tmp_path / "exp" / "s0", "cpu")
    for speaker in ("s0", "s1", "s2"):
        own = [path for utt, path in wavs.items() if speaker_of[utt] == speaker]
        model.enrol_files(own if len(own) > 1 else [])
        for path, result in model.files(own):
            assert found[path] == pytest.approx(result.scores, abs=1e-6)

    for table, message in ((tmp_path / "spk", "no speaker for 1 recordings, first .*s2-07.wav"), ("none", "none")):
        assert run_program(predict.main, *ours, "--speaker-of", table, tmp_path / "wav" / "s2-07.wav") == 2
        assert re.search(message, capsys.readouterr().err)
    assert run_program(predict.main, *ours, "--speaker-of", tmp_path / "spk", "--enrol", wavs["s2-00"], "a.wav") == 2
    assert "give one of them" in capsys.readouterr().err


def test_probes_behind_erasers_are_written_where_train_and_dev_are_decoded(tmp_path):
    corpus = make_small_corpus(tmp_path, dev_ratio=0.3)
    config, words = corpus.config("raw", epochs=1, spk_norm="none"), corpus.arguments(tmp_path / "exp")
    assert run_program(train.main, "--config", config, *words) == 0
    erasing = tmp_path / "exp" / "s0" / "decode_dev" / "erasing.json"
    for settings, written in (("conf/decode.yaml", False), ("conf/decode_train.yaml", True)):
        assert run_program(decode.main, "--config", settings, *words) == 0
        assert erasing.is_file() == written
    hits = json.loads(erasing.read_text())["hits"]
    assert list(hits) == ["0", "1", "2", "5", "10", "20", "all"]
    dev = read_table(erasing.parent / "utt2spk")
    assert all(len(digits) == len(dev) and set(digits) <= set("01-") for digits in hits.values())


def test_of_one_known_speaker_no_eraser_is_fitted(tmp_path):
    corpus = make_small_corpus(tmp_path, speakers=2, dev_ratio=0.3)
    config, words = corpus.config("raw", epochs=1, spk_norm="none"), corpus.arguments(tmp_path / "exp")
    assert run_program(train.main, "--config", config, *words) == 0
    assert run_program(decode.main, "--config", "conf/decode_train.yaml", *words) == 0
    assert not (tmp_path / "exp" / "s0" / "decode_dev" / "erasing.json").exists()
