"""Protocols beside those that leave speakers or sessions out: random, disjoint, corpus, lists."""

import json
from collections import Counter

import prepare
import pytest
from datadirs import CLASSES, make_data, rows_of
from fold_lists import fold_lists, run, speaker_of
from hypothesis import given, settings
from hypothesis import strategies as st
from small_corpus import run_program

from sermtl.bin import audit as audit_program
from sermtl.corpus.corpus import load_corpus
from sermtl.corpus.protocols import PROTOCOLS, find_protocol
from sermtl.errors import UserError
from sermtl.fileio.tables import read_list


def audits(data, protocol):
    return [json.loads(path.read_text()) for path in sorted((data / "folds" / protocol).glob("*/audit.json"))]


@pytest.fixture(scope="module")
def emodb(test_data, tmp_path_factory):
    """EMO-DB's data directory."""
    data = tmp_path_factory.mktemp("emodb")
    assert prepare.run("prepare_emodb", "--corpus_dir", test_data / "emodb", "--out", data).status == 0
    return data


def test_a_protocol_is_a_row_and_its_name_finds_it():
    for stem, row in PROTOCOLS.items():
        assert find_protocol(f"{stem}7" if row.numbered else stem) == (row, 7 if row.numbered else 0)


@given(k=st.integers(2, 6), counts=st.lists(st.integers(6, 25), min_size=2, max_size=4), seed=st.integers(0, 9))
@settings(max_examples=20)
def test_random_folds_have_every_emotion_in_proportion(tmp_path_factory, k, counts, seed):
    emotions = [CLASSES[number] for number, count in enumerate(counts) for _ in range(count)]
    rows = [
        {"utt": f"s{n % 3}-{n:03d}", "utt2spk": f"s{n % 3}", "utt2emo": emotion} for n, emotion in enumerate(emotions)
    ]
    folds = fold_lists(make_data(tmp_path_factory.mktemp("random"), rows), f"random{k}", seed=seed)
    of = {row["utt"]: row["utt2emo"] for row in rows}
    assert sorted(utt for lists in folds.values() for utt in lists["test"]) == sorted(of)
    for counted in [Counter(), *(Counter({name: 1}) for name in set(emotions))]:
        sizes = [sum(not counted or counted[of[utt]] for utt in lists["test"]) for lists in folds.values()]
        assert max(sizes) - min(sizes) <= 1
    assert all(sorted(lists["train"] + lists["test"]) == sorted(of) for lists in folds.values())


def test_random_folds_are_a_function_of_seed_and_ids_and_always_marked(tmp_path, monkeypatch, capsys):
    data = make_data(tmp_path, rows_of(each=12))
    assert fold_lists(data, "random3", seed=1) == fold_lists(data, "random3", seed=1) != fold_lists(data, "random3")
    assert run(monkeypatch, "--data", data, "--protocol", "random3") == 0
    assert "protocol random3 is speaker-dependent:" in capsys.readouterr().out
    one_each = [row | {"utt2spk": row["utt"]} for row in rows_of(each=12)]
    assert run(monkeypatch, "--data", make_data(tmp_path / "u", one_each), "--protocol", "random3") == 0
    assert "protocol random3 is speaker-dependent or unknown:" in capsys.readouterr().out
    for audit in audits(tmp_path / "u", "random3"):
        assert audit["speaker_dependent"] and audit["utterances_speaker_unknown"] == 48 and audit["ok"]


def test_unknown_speakers_train_in_every_fold_that_holds_known_ones_out(tmp_path):
    more = [{"utt": f"x{n}", "utt2spk": f"x{n}", "utt2emo": CLASSES[n % 4], "text": "Y"} for n in range(5)]
    rows = [{key: row[key] for key in more[0]} for row in rows_of()] + more
    data = make_data(tmp_path, rows)
    assert load_corpus(data).speaker.names == ["s0", "s1", "s2", "s3"]
    for protocol in ("speaker", "kfold2"):
        for lists in fold_lists(data, protocol).values():
            assert {f"x{n}" for n in range(5)} <= set(lists["train"])
    nobody = make_data(tmp_path / "nobody", [row | {"utt2spk": row["utt"]} for row in rows_of()])
    with pytest.raises(UserError, match="no speaker is known.*random5"):
        fold_lists(nobody, "speaker")


def test_disjoint_folds_hold_out_speaker_and_sentence(tmp_path, monkeypatch, capsys):
    rows = [row | {"text": f"SENTENCE {int(row['utt'][-2:]) % 8}"} for row in rows_of(3, 16)]
    rows = [row for row in rows if (row["utt2spk"], row["text"]) != ("s1", "SENTENCE 5")]
    rows += [row | {"utt": row["utt"] + "x", "text": ""} for row in rows[:3]]
    data = make_data(tmp_path, rows)
    said, folds = {row["utt"]: row["text"] for row in rows}, fold_lists(data, "disjoint")
    assert len(folds) == 3 * 8 - 1 and "s0_s01" in folds
    assert sorted(utt for lists in folds.values() for utt in lists["test"]) == sorted(
        utt for utt in said if utt[-1] != "x"
    )
    for lists in folds.values():
        own, words = {speaker_of(utt) for utt in lists["test"]}, {said[utt] for utt in lists["test"]}
        expected = [utt for utt in said if speaker_of(utt) not in own and said[utt] not in (*words, "")]
        assert len(own) == 1 and lists["train"] == sorted(expected)
    assert run(monkeypatch, "--data", data, "--protocol", "disjoint") == 0
    out = capsys.readouterr().out
    assert "1 of 24 cells of a speaker and a group of sentences are empty: skipped" in out
    assert "3 utterances without transcript or known speaker in no list" in out
    for audit in audits(data, "disjoint"):
        assert audit["promises_disjoint_transcripts"] and audit["ok"] and not audit["speaker_dependent"]
        assert audit["test_utterances_transcript_seen"] == audit["test_utterances_speaker_seen"] == 0


def test_disjoint_deals_many_sentences_into_ten_groups_of_like_size(tmp_path):
    folds = fold_lists(make_data(tmp_path, [r | {"text": f"W{n}"} for n, r in enumerate(rows_of(4, 35))]), "disjoint")
    assert len(folds) <= 40 and {name.rpartition("_s")[2] for name in folds} == {f"{k:02d}" for k in range(1, 11)}
    by_group = Counter(name.rpartition("_s")[2] for name, lists in folds.items() for _ in lists["test"])
    assert set(by_group.values()) == {14}


def test_disjoint_on_emodb_has_a_hundred_cells(emodb):
    folds, spoken = fold_lists(emodb, "disjoint"), prepare.table(emodb / "text")
    assert len(set(spoken.values())) == 10 and 90 < len(folds) <= 100
    assert sum(len(lists["test"]) for lists in folds.values()) == 339
    for lists in folds.values():
        assert not {spoken[utt] for utt in lists["test"]} & {spoken[utt] for utt in lists["train"]}


def test_each_corpus_of_a_combined_one_is_tested_by_the_others(tmp_path):
    rows = [row | {"utt2corpus": "ab"[row["utt2spk"] > "s1"]} for row in rows_of()]
    folds = fold_lists(make_data(tmp_path, rows), "corpus")
    assert {name: {speaker_of(utt) for utt in lists["test"]} for name, lists in folds.items()} == {
        "a": {"s0", "s1"}, "b": {"s2", "s3"}
    }  # fmt: skip


def test_emoboxs_lists_share_all_speakers_and_are_marked_not_refused(emodb, test_data, monkeypatch, capsys):
    lists = test_data / "emobox" / "emodb"
    assert run(monkeypatch, "--data", emodb, "--protocol", "lists", "--lists", lists) == 0
    out = capsys.readouterr().out
    assert "196 of 535 entries not in" in out and "protocol lists is speaker-dependent:" in out
    found = audits(emodb, "lists")
    assert [audit["fold"] for audit in found] == list("12345")
    shared = [(audit["speakers_shared_train_test"], audit["speakers_test"]) for audit in found]
    assert all(audit["speaker_dependent"] and audit["ok"] for audit in found)
    assert shared.count((10, 10)) >= 3 and all(both == test >= 9 for both, test in shared)
    tested = [read_list(emodb / "folds/lists" / name / "test") for name in "12345"]
    assert sorted(sum(tested, [])) == sorted(prepare.table(emodb / "utt2spk"))
    wanted = {json.loads(line)["key"][-7:] for line in (lists / "test_fold_2.jsonl").read_text().splitlines()}
    assert {utt[-7:] for utt in tested[1]} == {name for name in wanted if name[5] in "WFNT"}
    # The audit of other lists knows the same names, and refuses those without an utterance.
    assert run_program(audit_program.main, "--data", emodb, "--folds", lists, "--protocol", "lists") == 1
    captured = capsys.readouterr()
    assert "339 of 339 labelled utterances are tested" in captured.out
    assert [row.split()[6] for row in captured.out.splitlines()[1:6]] == [str(both) for both, _ in shared]


def write_lists(root, folds):
    for fold, lists in folds.items():
        for name, ids in lists.items():
            (root / fold).mkdir(parents=True, exist_ok=True)
            (root / fold / name).write_text("".join(f"{utt}\n" for utt in ids))
    return root


def test_own_lists_name_utterances_by_id_by_what_follows_the_speaker_or_by_file(tmp_path):
    data = make_data(tmp_path / "data", [row | {"utt": f"{row['utt2spk']}-{n:03d}"} for n, row in enumerate(rows_of())])
    root = write_lists(tmp_path / "own", {
        "one": {"train.txt": ["s0-000", "001 extra words", "wav/002.wav"], "val.lst": ["003"], "test": ["031", "gone"]},
        "two": {"train": ["031", "030"], "test": ["000", "001"]},
    })  # fmt: skip
    folds = fold_lists(data, "lists", lists=root, dev_ratio=0.5)
    assert folds["one"] == {"train": ["s0-000", "s0-001", "s0-002"], "dev": ["s0-003"], "test": ["s3-031"]}
    assert folds["two"]["test"] == ["s0-000", "s0-001"] and len(folds["two"]["train"] + folds["two"]["dev"]) == 2


def test_the_split_of_a_manifest_is_one_fold(tmp_path, monkeypatch, capsys):
    split = {"s0": "train", "s1": "Train", "s2": "validation", "s3": "test"}
    rows = [row | {"utt2split": split[row["utt2spk"]]} for row in rows_of()]
    rows[0]["utt2split"], rows[-1]["utt2emo"] = "", ""
    data = make_data(tmp_path, rows)
    lists = fold_lists(data, "lists")["split"]
    assert {part: Counter(map(speaker_of, ids)) for part, ids in lists.items()} == {
        "train": {"s0": 7, "s1": 8}, "dev": {"s2": 8}, "test": {"s3": 8}
    }  # fmt: skip
    assert run(monkeypatch, "--data", data, "--protocol", "lists") == 0
    out, err = capsys.readouterr()
    assert "1 utterance of the corpus in no list" in out and "1 test utterance without an emotion: decoded, not" in err
    (audit,) = audits(data, "lists")
    assert audit["ok"] and not audit["speaker_dependent"] and audit["unlabelled_test"] == 1


@pytest.mark.parametrize(
    "folds, message",
    [
        ({}, "no fold, that is"),
        ({"a": {"train": ["x1"], "test": ["x2"]}}, "none of its 2 entries .*x1 there and s0-00 here"),
        ({"a": {"train": ["s0-00"], "test": ["s1-00"]}, "b": {"train": ["s0-01"], "test": ["s1-00"]}},
         "1 utterance in the test lists of several folds, first s1-00"),
        ({"a": {"train": ["00"], "test": ["s1-00"]}}, "00 fits 4 utterances"),
        ({"a": {"train": ["s0-00"], "dev": ["s0-01"], "valid": ["s0-02"], "test": ["s1-00"]}}, "dev or valid"),
        ({"a b": {"train": ["s0-00"], "test": ["s1-00"]}}, "'a b'.*cannot be a directory"),
    ],
)  # fmt: skip
def test_wrong_lists_are_one_clear_message(tmp_path, folds, message):
    data = make_data(tmp_path / "data", rows_of())
    (tmp_path / "own").mkdir()
    with pytest.raises(UserError, match=message):
        fold_lists(data, "lists", lists=write_lists(tmp_path / "own", folds))


def test_a_line_that_is_no_json_and_lists_for_another_protocol(tmp_path):
    data = make_data(tmp_path / "data", rows_of())
    (tmp_path / "train_fold_1.jsonl").write_text('{"key": "s0-00", "dataset": "x"}\n{"wav": "a"}\n')
    with pytest.raises(UserError, match="train_fold_1.jsonl:2: not a line of JSON with a key"):
        fold_lists(data, "lists", lists=tmp_path)
    with pytest.raises(UserError, match="--lists is for --protocol lists, not speaker"):
        fold_lists(data, "speaker", lists=tmp_path)


def test_lists_that_share_an_utterance_stop_and_changed_lists_are_made_again(tmp_path, monkeypatch, capsys):
    data = make_data(tmp_path / "data", rows_of())
    lists = write_lists(tmp_path / "own", {"a": {"train": ["s0-00", "s0-01", "s1-01"], "test": ["s1-00", "s1-02"]}})
    words = ("--data", data, "--protocol", "lists", "--lists", lists)
    assert run(monkeypatch, *words) == 0 and run(monkeypatch, *words) == 0
    assert "nothing changed" in capsys.readouterr().out
    write_lists(lists, {"a": {"train": ["s0-00", "s1-00"]}})
    assert run(monkeypatch, *words) == 1
    assert "1 utterance in both train and test" in capsys.readouterr().err
