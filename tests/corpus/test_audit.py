import json
import sys

import numpy as np
import pytest
import soundfile
from datadirs import make_data, noise, rows_of, write_wav

from sermtl.bin import audit as program
from sermtl.bin import folds as folds_program
from sermtl.corpus.audit import Audio, audit_fold
from sermtl.corpus.corpus import comparable_text, load_corpus
from sermtl.corpus.duplicate_audio import same_audio
from sermtl.fileio.tables import read_table, write_table


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["audit", *map(str, words)])
    return program.main()


def write_fold(root, name="1", **lists):
    for part, ids in lists.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / part).write_text("".join(f"{utt}\n" for utt in ids))
    return root


def ids(*speakers, each=8):
    return [f"{speaker}-{n:02d}" for speaker in speakers for n in range(each)]


def audited(data, train, test, dev=(), disjoint_speakers=True, decode=False):
    corpus = load_corpus(data)
    lists = {"train": list(train), "dev": list(dev), "test": list(test)}
    return audit_fold(
        corpus, Audio.of(corpus, decode), lists, protocol="p", fold="f", disjoint_speakers=disjoint_speakers
    )


def test_a_clean_fold_keeps_its_promises(tmp_path, monkeypatch, capsys):
    data = make_data(tmp_path / "data", rows_of(each=12), audio=True)
    root = write_fold(
        tmp_path / "mine", train=ids("s0", "s1", each=12), dev=ids("s2", each=12), test=ids("s3", each=12)
    )
    assert run(monkeypatch, "--data", data, "--folds", root, "--out", tmp_path / "out") == 0
    audit = json.loads((tmp_path / "out" / "1" / "audit.json").read_text())
    assert audit["ok"] and not audit["broken"] and not audit["warnings"]
    assert (audit["utterances_train"], audit["utterances_dev"], audit["utterances_test"]) == (24, 12, 12)
    assert (audit["protocol"], audit["fold"], audit["speaker_dependent"]) == ("mine", "1", False)
    out = capsys.readouterr().out
    assert "12 of 48 labelled utterances are tested" in out
    assert (tmp_path / "out" / "audit.txt").read_text() in out


def test_finds_a_speaker_in_two_parts(tmp_path, monkeypatch, capsys):
    data = make_data(tmp_path / "data", rows_of())
    train, test = ids("s0", "s1") + ["s3-00"], ids("s2") + ids("s3")[1:]
    root = write_fold(tmp_path / "x", train=train, test=test)
    assert run(monkeypatch, "--data", data, "--folds", root) == 1
    captured = capsys.readouterr()
    assert "speakers of the test part are in train or dev: s3" in captured.err
    assert "speaker-dependent" in captured.out
    assert run(monkeypatch, "--data", data, "--folds", root, "--allow_shared_speakers", "true") == 0
    assert run(monkeypatch, "--data", data, "--folds", root, "--protocol", "paper") == 0
    audit = audited(data, train, test)
    assert audit["speaker_dependent"] and audit["speakers_shared_train_test"] == 1
    assert (audit["test_utterances_speaker_seen"], audit["test_utterances_speaker_seen_share"]) == (7, 0.466667)


def test_training_lists_have_one_digest_where_their_contents_are_equal(tmp_path):
    data = make_data(tmp_path / "data", rows_of())
    lists = ids("s0", "s1"), ids("s1", "s0"), ids("s0", "s2")
    first, other_order, other_utterances = (
        audited(data, train, ids("s3"))["utterances_train_digest"] for train in lists
    )
    assert first == other_order != other_utterances


def test_a_speaker_of_dev_and_test_is_a_leak_too(tmp_path):
    data = make_data(tmp_path, rows_of())
    audit = audited(data, ids("s0"), ids("s1")[:4], dev=ids("s1")[4:])
    assert audit["speaker_dependent"] and not audit["ok"]
    assert (audit["speakers_shared_train_test"], audit["speakers_shared_dev_test"]) == (0, 1)


def test_finds_one_audio_under_two_names(tmp_path, monkeypatch, capsys):
    data = make_data(tmp_path / "data", rows_of(), audio=True)
    copy = (data / "wav" / "s0-03.wav").read_bytes()
    (data / "wav" / "s3-05.wav").write_bytes(copy)
    root = write_fold(tmp_path / "x", train=ids("s0", "s1"), test=ids("s2", "s3"))
    assert run(monkeypatch, "--data", data, "--folds", root) == 1
    assert "the audio of 1 test utterance is also in train or dev: s3-05" in capsys.readouterr().err
    audit = audited(data, ids("s0", "s1"), ids("s2", "s3"))
    assert (audit["audio_shared_train_test"], audit["test_utterances_audio_seen"]) == (1, 1)
    assert (audit["corpus_duplicate_audio"], audit["shared_audio_utterances"]) == (2, ["s3-05"])
    within = audited(data, ids("s0", "s3"), ids("s1", "s2"))
    assert within["ok"] and "2 utterances of the corpus share their audio" in within["warnings"][0]


def test_decoding_finds_copies_in_another_container(tmp_path):
    data = make_data(tmp_path, rows_of(), audio=True)
    soundfile.write(data / "wav" / "copy.flac", noise(3), 16000)
    write_table(data / "wav.scp", read_table(data / "wav.scp") | {"s3-05": str(data / "wav" / "copy.flac")})
    assert audited(data, ids("s0"), ids("s3"))["audio_shared_train_test"] == 0
    assert audited(data, ids("s0"), ids("s3"), decode=True)["shared_audio_utterances"] == ["s3-05"]


def test_same_audio_reads_archives_segments_and_nothing_from_pipes(tmp_path):
    first, second = (write_wav(tmp_path / f"{n}.wav", noise(n)).read_bytes() for n in (1, 2))
    (tmp_path / "a.ark").write_bytes(b"x " + first + b"y " + second)
    ark = f"{tmp_path / 'a.ark'}:"
    write_table(
        tmp_path / "wav.scp",
        {"a": f"{ark}2", "b": f"{ark}{4 + len(first)}", "c": str(tmp_path / "1.wav"), "d": "cat 1.wav |",
         "e": str(tmp_path / "gone.wav"), "f": f"{ark}0", "g": f"{ark}99999999"},
    )  # fmt: skip
    codes = same_audio(tmp_path, list("abcdefg"))
    assert codes[0] == codes[2] != codes[1] and codes[1] >= 0
    assert list(codes[3:]) == [-1, -1, -1, -1]
    write_table(tmp_path / "segments", {"u": "a 0.00 0.05", "v": "c 0.00 0.05", "w": "a 0.05 0.10"})
    codes = same_audio(tmp_path, ["u", "v", "w"])
    assert codes[0] == codes[1] != codes[2]


def test_files_that_differ_in_their_last_sample_differ(tmp_path):
    last = np.append(noise(1, 90000), 1)
    paths = {str(n): str(write_wav(tmp_path / f"{n}.wav", np.append(last[:-1], n // 2))) for n in range(4)}
    write_table(tmp_path / "wav.scp", paths)
    assert list(same_audio(tmp_path, list("0123"))) == [0, 0, 1, 1]


def test_counts_test_utterances_whose_words_were_seen_in_training(tmp_path):
    rows = rows_of()
    for row in rows:
        row["utt2style"] = "scripted" if row["utt"] < "s3-04" else "improvised"
        if row["utt"] in ("s3-00", "s3-01", "s3-07"):
            row["text"] = "Word a, of: 0"
        if row["utt"] in ("s0-01", "s3-02"):
            row["text"] = ""
    audit = audited(make_data(tmp_path, rows), ids("s0", "s1"), ids("s3"))
    assert audit["test_utterances_transcript_seen"] == 3
    assert audit["test_utterances_transcript_seen_share"] == 0.375
    assert audit["transcripts_shared_train_test"] == 1
    assert audit["test_transcript_seen_by_style"] == {"improvised": [1, 4], "scripted": [2, 4]}


@pytest.mark.parametrize(
    "one, other",
    [("Heute abend, könnte", "HEUTE  ABEND KÖNNTE"), ("don’t", "DON'T"), ("Привет!", "привет"), ("a-b", "a b"),
     ("ẞ", "ss"), ("cafe\u0301", "CAFÉ")],
)  # fmt: skip
def test_two_readings_of_one_script_compare_equal(one, other):
    assert comparable_text(one) == comparable_text(other) != ""


def test_ids_repeated_unknown_shared_and_missing(tmp_path, monkeypatch, capsys):
    rows = [row | {"utt2emo": "" if row["utt"] == "s3-01" else row["utt2emo"]} for row in rows_of()]
    data = make_data(tmp_path / "data", rows)
    root = write_fold(
        tmp_path / "x", train=ids("s0") + ["s0-00", "nobody-1"], dev=["s1-00", "s0-01"], test=["s0-02", *ids("s3")]
    )
    assert run(monkeypatch, "--data", data, "--folds", root, "--out", tmp_path / "out") == 1
    audit = json.loads((tmp_path / "out" / "1" / "audit.json").read_text())
    assert (audit["ids_repeated"], audit["ids_unknown"], audit["unknown_ids"]) == (1, 1, ["nobody-1"])
    assert (audit["utterances_shared_train_test"], audit["utterances_shared_train_dev"]) == (1, 1)
    assert (audit["ids_unlisted"], audit["ids_unlisted_labelled"]) == (15, 15)
    assert audit["unlabelled_test"] == 1
    err = capsys.readouterr().err
    for message in ("1 utterance in both train and test", "1 utterance in both train and dev", "1 id listed more than",
                    "does not have: nobody-1", "1 test utterance without an emotion"):  # fmt: skip
        assert message in err


def test_classes_and_speakers_are_counted(tmp_path):
    audit = audited(make_data(tmp_path, rows_of()), ids("s0")[::4] + ids("s1")[:1], ids("s3"))
    assert audit["classes"] == ["ang", "hap", "neu", "sad"]
    assert audit["class_counts_train"] == {"ang": 3, "hap": 0, "neu": 0, "sad": 0}
    assert audit["classes_absent_train"] == ["hap", "neu", "sad"] and audit["classes_absent_test"] == []
    assert audit["majority_share_test"] == 0.25
    assert (audit["speaker_utterances_min"], audit["speaker_utterances_max"]) == (1, 2)
    assert audit["speakers_with_one_utterance"] == 1
    assert "no utterance of hap neu sad in train" in audit["warnings"]


def test_published_lists_in_several_formats(tmp_path, monkeypatch, capsys):
    data = make_data(tmp_path / "data", rows_of())
    fold = tmp_path / "split" / "fold_a"
    fold.mkdir(parents=True)
    (fold / "train.txt").write_bytes(b"\xef\xbb\xbfs1-00 ang\r\n\r\ns0-01\thap\r\n")
    (fold / "valid.lst").write_text("s2-00\n")
    (fold / "test.txt").write_text("s3-01\ns3-00")
    (tmp_path / "split" / "notes").mkdir()
    assert run(monkeypatch, "--data", data, "--folds", tmp_path / "split") == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:4] == ["fold_a", "2", "1", "2"]
    assert run(monkeypatch, "--data", data, "--folds", fold) == 0
    (fold / "test").write_text("s3-01\n")
    assert run(monkeypatch, "--data", data, "--folds", fold) == 2
    assert "test or test.txt" in capsys.readouterr().err


def test_a_single_fold_is_judged_by_its_protocols_promise(tmp_path, monkeypatch, capsys):
    data = make_data(tmp_path / "data", rows_of())
    for protocol, status in (("paper", 0), ("speaker", 1)):
        root = write_fold(tmp_path / protocol, train=["s1-00"], test=["s1-01"])
        assert run(monkeypatch, "--data", data, "--folds", root / "1") == status


def test_a_test_part_pooled_twice_is_reported(tmp_path, monkeypatch, capsys):
    data = make_data(tmp_path / "data", rows_of())
    for name, train in (("a", "s0"), ("b", "s1")):
        write_fold(tmp_path / "x", name, train=ids(train), test=ids("s3"))
    assert run(monkeypatch, "--data", data, "--folds", tmp_path / "x") == 0
    assert "8 of 32 labelled utterances are tested; 8 in more than one fold" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content, message", [(b"", "no utterance in test"), (b"s1-00\n\xff\xfe\n", "test:2: not UTF-8")]
)
def test_empty_and_broken_lists(tmp_path, monkeypatch, capsys, content, message):
    data = make_data(tmp_path / "data", rows_of())
    root = write_fold(tmp_path / "x", train=ids("s0"), test=[])
    (root / "1" / "test").write_bytes(content)
    assert run(monkeypatch, "--data", data, "--folds", root) in (1, 2)
    assert message in capsys.readouterr().err
    assert run(monkeypatch, "--data", data, "--folds", tmp_path / "nowhere") == 2
    assert run(monkeypatch, "--data", data, "--folds", data) == 2
    assert "no fold" in capsys.readouterr().err


def test_real_recordings_are_each_tested_once_and_none_is_a_copy(tmp_path, test_data, monkeypatch, capsys):
    wavs = sorted((test_data / "emodb" / "wav").glob("*.wav"))
    rows = [
        {"utt": f"{w.stem[:2]}-{w.stem}", "utt2spk": w.stem[:2], "utt2emo": w.stem[5], "text": w.stem[2:5]}
        for w in wavs
    ]
    data = make_data(tmp_path / "data", rows)
    write_table(data / "wav.scp", {row["utt"]: str(wav) for row, wav in zip(rows, wavs, strict=True)})
    monkeypatch.setattr(sys, "argv", ["folds", "--data", str(data), "--dev_ratio", "0.1", "--audio", "true"])
    assert folds_program.main() == 0
    assert run(monkeypatch, "--data", data, "--folds", data / "folds" / "speaker") == 0
    assert "339 of 339 labelled utterances are tested\n" in capsys.readouterr().out
    audits = [json.loads(path.read_text()) for path in data.glob("folds/speaker/*/audit.json")]
    assert sum(audit["utterances_test"] for audit in audits) == 339 and len(audits) == 10
    assert all(audit["corpus_duplicate_audio"] == 0 and audit["ok"] for audit in audits)
    assert all(audit["test_utterances_transcript_seen_share"] == 1 for audit in audits)
