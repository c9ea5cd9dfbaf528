import contextlib
import json
import random
from collections import Counter
from pathlib import Path

import pytest
from datadirs import CLASSES, contents, make_data, rows_of
from fold_lists import fold_lists, run, speaker_of
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import LeaveOneGroupOut

from sermtl.corpus import write_folds as writing
from sermtl.corpus.corpus import load_corpus
from sermtl.errors import UserError
from sermtl.fileio.tables import read_list, write_table


@pytest.mark.parametrize("protocol, table", [("speaker", "utt2spk"), ("session", "utt2session")])
def test_leaves_one_group_out_as_scikit_learn_does(tmp_path, protocol, table):
    rows = rows_of()
    folds = fold_lists(make_data(tmp_path, rows), protocol)
    groups = [row[table] for row in rows]
    expected = list(LeaveOneGroupOut().split(rows, groups=groups))
    assert list(folds) == sorted(set(groups))
    for lists, (train, test) in zip(folds.values(), expected, strict=True):
        assert lists["train"] == [rows[i]["utt"] for i in train]
        assert lists["test"] == [rows[i]["utt"] for i in test]
        assert lists["dev"] == []


def test_speaker_folds_take_their_names_from_spk2fold(tmp_path):
    data = make_data(tmp_path, rows_of())
    write_table(data / "spk2fold", {"s0": "01F", "s1": "01M", "s2": "02F", "s3": "02M"})
    folds = fold_lists(data, "speaker")
    assert list(folds) == ["01F", "01M", "02F", "02M"]
    assert {speaker_of(utt) for utt in folds["02F"]["test"]} == {"s2"}
    write_table(data / "spk2fold", {"s0": "01F", "s1": "01M", "s2": "02F"})
    with pytest.raises(UserError, match="spk2fold.*s3"):
        fold_lists(data, "speaker")


def test_paper_folds_follow_the_published_table(tmp_path):
    rows = [row | {"utt2paper": "AB"[n % 2]} for n, row in enumerate(rows_of())]
    folds = fold_lists(make_data(tmp_path, rows), "paper")
    assert folds["A"]["test"] == [row["utt"] for row in rows[::2]]
    assert folds["A"]["train"] == [row["utt"] for row in rows[1::2]]


def test_kfold_deals_speakers_into_groups_of_like_size(tmp_path):
    rng = random.Random(3)
    rows = [row for s in range(30) for row in rows_of(s + 1, rng.randint(2, 30)) if row["utt2spk"] == f"s{s}"]
    folds = fold_lists(make_data(tmp_path, rows), "kfold7")
    tested = [{speaker_of(utt) for utt in lists["test"]} for lists in folds.values()]
    assert list(folds) == list("1234567")
    assert sorted(s for group in tested for s in group) == sorted({row["utt2spk"] for row in rows})
    sizes = [len(lists["test"]) for lists in folds.values()]
    assert max(sizes) - min(sizes) <= 5
    assert list(fold_lists(tmp_path, "kfold10")) == [f"{k:02d}" for k in range(1, 11)]


def test_utterances_without_emotion_train_or_are_decoded_but_are_never_dev(tmp_path):
    rows = rows_of()
    unlabelled = {row["utt"] for row in rows[::3]} | {r["utt"] for r in rows if r["utt2spk"] == "s3"}
    data = make_data(tmp_path, [r | {"utt2emo": "" if r["utt"] in unlabelled else r["utt2emo"]} for r in rows])
    folds = fold_lists(data, "speaker", dev_ratio=0.3)
    assert list(folds) == ["s0", "s1", "s2"]
    for speaker, lists in folds.items():
        assert not unlabelled & set(lists["dev"])
        assert {utt for utt in unlabelled if speaker_of(utt) == speaker} <= set(lists["test"])
        assert {utt for utt in unlabelled if speaker_of(utt) != speaker} <= set(lists["train"])
        assert not {utt for utt in unlabelled if speaker_of(utt) == speaker} & set(lists["train"])


@given(
    sizes=st.lists(st.integers(2, 15), min_size=2, max_size=6),
    ratio=st.floats(0, 0.5),
    seed=st.integers(0, 99),
    data=st.data(),
)
@settings(max_examples=40)
def test_dev_is_a_stratified_share_of_training(tmp_path_factory, sizes, ratio, seed, data):
    rows = [
        {"utt": f"s{s}-{n:02d}", "utt2spk": f"s{s}", "utt2emo": data.draw(st.sampled_from(("", *CLASSES)))}
        for s, size in enumerate(sizes) for n in range(size)
    ]  # fmt: skip
    rows[0]["utt2emo"], rows[-1]["utt2emo"] = "ang", "hap"
    path = make_data(tmp_path_factory.mktemp("dev"), rows)
    emotion = {row["utt"]: row["utt2emo"] for row in rows}
    whole = fold_lists(path, "speaker")
    for name, lists in fold_lists(path, "speaker", dev_ratio=ratio, seed=seed).items():
        train, dev = whole[name]["train"], lists["dev"]
        assert sorted(lists["train"] + dev) == train and lists["test"] == whole[name]["test"]
        labelled = [utt for utt in train if emotion[utt]]
        assert len(dev) <= ratio * len(labelled) + 1
        for key in (emotion.get, speaker_of, lambda utt: (emotion[utt], speaker_of(utt))):
            there, taken = Counter(map(key, labelled)), Counter(map(key, dev))
            if key is not speaker_of:
                assert all(taken[value] <= ratio * n + 1 for value, n in there.items())
        assert {speaker_of(utt) for utt in lists["train"]} == {speaker_of(utt) for utt in train}
        assert {emotion[utt] for utt in lists["train"]} >= {emotion[utt] for utt in train} - {""}


def test_dev_has_each_emotion_and_speaker_in_proportion(tmp_path):
    data = make_data(tmp_path, rows_of(speakers=5, each=40))
    for lists in fold_lists(data, "speaker", dev_ratio=0.1).values():
        emotions = [CLASSES[int(utt[-2:]) % 4] for utt in lists["dev"]]
        assert Counter(emotions) == dict.fromkeys(CLASSES, 4)
        assert Counter(map(speaker_of, lists["dev"])) == {speaker_of(u): 4 for u in lists["train"]}


def test_folds_share_as_few_dev_utterances_as_the_ratio_allows(tmp_path):
    data = make_data(tmp_path, rows_of(speakers=10, each=32))
    dev = [set(lists["dev"]) for lists in fold_lists(data, "speaker", dev_ratio=0.25).values()]
    assert {len(part) for part in dev} == {72}
    assert len(set.union(*dev)) == 320  # 720 entries; when each fold took the first quarter, 80 utterances
    assert max(Counter(utt for part in dev for utt in part).values()) == 3
    assert not any(one & other for one, other in zip(dev, dev[1:], strict=False))


def test_whole_speakers_become_dev_and_folds_take_turns(tmp_path):
    rows = [row | {"utt2emo": "" if n % 8 == 5 else row["utt2emo"]} for n, row in enumerate(rows_of(6, 8))]
    data = make_data(tmp_path, rows)
    everyone, dev_of = {row["utt2spk"] for row in rows}, Counter()
    for lists in fold_lists(data, "speaker", dev_speakers=2).values():
        train, dev, test = ({speaker_of(utt) for utt in lists[part]} for part in ("train", "dev", "test"))
        assert (len(train), len(dev), len(test)) == (3, 2, 1) and train | dev | test == everyone
        assert len(lists["dev"]) == 14 and len(lists["train"]) == 24  # an unlabelled one trains, and is never dev
        dev_of.update(dev)
    assert set(dev_of) == everyone and max(dev_of.values()) <= 3


@pytest.mark.parametrize(
    "words, message",
    [
        (("--dev_speakers", 4), "leaves fewer than two of the 5 speakers"),
        (("--dev_speakers", 1, "--dev_ratio", 0.1), "give one of them"),
        (("--dev_speakers", -1), "0 or more"),
    ],
)
def test_numbers_of_dev_speakers_that_cannot_be(tmp_path, monkeypatch, capsys, words, message):
    data = make_data(tmp_path, rows_of(6, 8))
    assert run(monkeypatch, "--data", data, "--protocol", "speaker", *words) == 2
    assert message in capsys.readouterr().err and not list(data.glob("folds/**/train"))


def test_seed_and_ids_alone_decide_dev(tmp_path):
    rows = rows_of(speakers=5, each=40)
    first = fold_lists(make_data(tmp_path / "a", rows), "speaker", dev_ratio=0.1, seed=1)
    random.Random(0).shuffle(rows)
    assert fold_lists(make_data(tmp_path / "b", rows), "speaker", dev_ratio=0.1, seed=1) == first
    assert fold_lists(tmp_path / "a", "speaker", dev_ratio=0.1, seed=2) != first


@pytest.mark.parametrize(
    "protocol, rows, ratio, message",
    [
        ("spaker", rows_of(), 0, "did you mean speaker"),
        ("kfold", rows_of(), 0, "kfoldK"),
        ("../speaker", rows_of(), 0, "unknown protocol"),
        ("kfold1", rows_of(), 0, "at least 2"),
        ("random", rows_of(), 0, "randomK"),
        ("random33", rows_of(), 0, "32 labelled utterances"),
        ("lists", rows_of(), 0, "no .*utt2split: give --lists DIR"),
        ("corpus", rows_of(), 0, "no .*utt2corpus: the corpus is not one of several"),
        ("disjoint", [{k: v for k, v in row.items() if k != "text"} for row in rows_of()], 0, "no transcripts"),
        ("disjoint", [row | {"text": "ONE"} for row in rows_of()], 0, "one speaker or one sentence"),
        ("kfold02", rows_of(), 0, "unknown protocol"),
        ("kfold5", rows_of(), 0, "needs 5 speakers.*has 4"),
        ("speaker", rows_of(), 0.51, "outside 0 to 0.5"),
        ("speaker", rows_of(), -0.1, "outside 0 to 0.5"),
        ("speaker", rows_of(), float("nan"), "outside 0 to 0.5"),
        ("speaker", rows_of(speakers=1), 0, "one speaker, s0"),
        ("session", rows_of(sessions=1), 0, "no training data"),
        ("paper", rows_of(), 0, "no published folds"),
        ("speaker", [row | {"utt2emo": ""} for row in rows_of()], 0, "nothing to test"),
        ("speaker", [row | {"utt2emo": "neu"} for row in rows_of()], 0, "all labelled utterances are neu"),
        ("session", [row | {"utt2session": ".."} if row["utt2spk"] == "s1" else row for row in rows_of()], 0,
         "cannot be a directory"),
    ],
)  # fmt: skip
def test_wrong_requests_are_one_clear_message(tmp_path, monkeypatch, capsys, protocol, rows, ratio, message):
    data = make_data(tmp_path, rows)
    assert run(monkeypatch, "--data", data, "--protocol", protocol, "--dev_ratio", ratio) == 2
    with pytest.raises(UserError, match=message):
        fold_lists(data, protocol, dev_ratio=ratio)
    assert not list(tmp_path.glob("folds/**/train"))
    assert capsys.readouterr().err.startswith("error: ")


def test_program_writes_lists_names_and_audits_and_repeats_itself(tmp_path, monkeypatch, capsys):
    data = make_data(tmp_path, rows_of(), audio=True)
    (data / "folds" / "speaker" / "gone").mkdir(parents=True)
    (data / "folds" / "speaker" / "gone" / "train").write_text("s0-00\n")
    assert run(monkeypatch, "--data", data, "--protocol", "speaker", "--dev_ratio", "0.25") == 0
    root = data / "folds" / "speaker"
    names = (root / "folds").read_text().split()
    assert names == ["s0", "s1", "s2", "s3"] and not (root / "gone").exists()
    for name in names:
        lists = {part: read_list(root / name / part) for part in ("train", "dev", "test")}
        audit = json.loads((root / name / "audit.json").read_text())
        assert {p: len(ids) for p, ids in lists.items()} == {"train": 18, "dev": 6, "test": 8}
        assert (audit["utterances_train"], audit["speaker_dependent"], audit["ok"]) == (18, False, True)
    before = contents(root)
    assert run(monkeypatch, "--data", data, "--protocol", "speaker", "--dev_ratio", "0.25") == 0
    assert contents(root) == before
    assert [p.name for p in (data / "folds").iterdir()] == ["speaker"]
    assert capsys.readouterr().out.splitlines()[0].split()[:4] == ["fold", "train", "dev", "test"]


def test_copies_of_test_audio_stop_are_dropped_or_kept(tmp_path, monkeypatch, capsys):
    data = make_data(tmp_path, rows_of(), audio=True)
    (data / "wav" / "s3-05.wav").write_bytes((data / "wav" / "s0-03.wav").read_bytes())
    root = data / "folds" / "speaker"
    assert run(monkeypatch, "--data", data) == 1
    assert "fold s3: the audio of 1 test utterance is also in train or dev: s3-05" in (err := capsys.readouterr().err)
    assert "--copies drop" in err and not root.exists()
    assert run(monkeypatch, "--data", data, "--copies", "drop") == 0
    assert "folds s0 s3: 1 training utterance with the audio of a test utterance left out" in capsys.readouterr().err
    lists = {name: read_list(root / "s3" / name) for name in ("train", "test")}
    assert "s0-03" not in lists["train"] and len(lists["train"]) == 23 and "s3-05" in lists["test"]
    assert len(read_list(root / "s1" / "train")) == 24
    assert json.loads((root / "s3" / "audit.json").read_text())["test_utterances_audio_seen"] == 0
    assert run(monkeypatch, "--data", data, "--copies", "keep") == 0
    assert "warning: fold s3: the audio of 1 test utterance" in capsys.readouterr().err
    audit = json.loads((root / "s3" / "audit.json").read_text())
    assert audit["ok"] and audit["allows_copies"] and audit["test_utterances_audio_seen"] == 1


def test_an_empty_dev_is_a_file_and_paper_says_speaker_dependent(tmp_path, monkeypatch, capsys):
    data = make_data(tmp_path, [row | {"utt2paper": "AB"[n % 2]} for n, row in enumerate(rows_of())])
    assert run(monkeypatch, "--data", data, "--protocol", "paper") == 0
    assert (data / "folds" / "paper" / "A" / "dev").read_bytes() == b""
    assert "speaker-dependent" in capsys.readouterr().out
    assert json.loads((data / "folds" / "paper" / "A" / "audit.json").read_text())["speaker_dependent"] is True


def test_a_speaker_in_two_sessions_stops_and_leaves_what_was_there(tmp_path, monkeypatch, capsys):
    data = make_data(tmp_path, rows_of())
    assert run(monkeypatch, "--data", data, "--protocol", "session") == 0
    before = contents(data / "folds")
    rows = rows_of()
    rows[3]["utt2session"] = "1"
    make_data(tmp_path, rows)
    capsys.readouterr()
    assert run(monkeypatch, "--data", data, "--protocol", "session") == 1
    err = capsys.readouterr().err
    assert (
        "speakers of the test part are in train or dev: s0" in err and "breaks the promise of protocol session" in err
    )
    assert contents(data / "folds") == before


def test_an_interrupted_run_leaves_the_earlier_folds_whole(tmp_path, monkeypatch):
    data = make_data(tmp_path, rows_of())
    assert run(monkeypatch, "--data", data) == 0
    before = contents(data / "folds")
    written = writing.write_list

    def interrupted(path, ids):
        if path.parent.name == "s2":
            raise KeyboardInterrupt
        written(path, ids)

    monkeypatch.setattr(writing, "write_list", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, "--data", data, "--dev_ratio", "0.25")
    assert contents(data / "folds") == before


@pytest.mark.parametrize("failure", [OSError("disk"), KeyboardInterrupt()])
def test_a_failure_while_changing_places_brings_the_earlier_folds_back(tmp_path, monkeypatch, failure):
    data = make_data(tmp_path, rows_of())
    assert run(monkeypatch, "--data", data) == 0
    before = contents(data / "folds")
    rename = Path.rename

    def failing(path, target):
        if path.name.endswith(".tmp") and ".old." not in path.name:
            raise failure
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with contextlib.suppress(KeyboardInterrupt):
        assert run(monkeypatch, "--data", data, "--dev_ratio", "0.25") == 2
    assert contents(data / "folds") == before


def test_warns_once_for_all_folds(tmp_path, monkeypatch, capsys):
    rows = [row | {"utt2emo": "neu" if row["utt2spk"] != "s0" else "ang"} for row in rows_of(each=5)]
    rows += [{"utt": f"t-{n}", "utt2spk": "t", "utt2emo": "neu", "utt2session": "1", "text": "X"} for n in "01"]
    rows.append({"utt": "u", "utt2spk": "u", "utt2emo": "neu", "utt2session": "1", "text": "X"})
    assert run(monkeypatch, "--data", make_data(tmp_path, rows), "--dev_ratio", "0.001") == 0
    warnings = capsys.readouterr().err
    assert "fold s0: no utterance of ang in train" in warnings
    assert "folds s1 s2 s3 t: no utterance of ang in test" in warnings
    assert "all folds: 1 utterance of unknown speakers, who may be in train and in test" in warnings
    assert "all folds: fewer than 10 test utterances" in warnings
    assert "all folds: --dev_ratio 0.001 of so few utterances gives an empty dev" in warnings


def test_keys_that_differ_between_tables_are_named(tmp_path):
    data = make_data(tmp_path, rows_of())
    write_table(data / "utt2emo", {row["utt"]: "neu" for row in rows_of() if row["utt"] != "s1-03"})
    with pytest.raises(UserError, match="utt2emo: no line for s1-03"):
        load_corpus(data)
    write_table(data / "utt2emo", {row["utt"]: "neu" for row in rows_of()} | {"s9-00": "neu"})
    with pytest.raises(UserError, match="s9-00 is not in utt2spk"):
        load_corpus(data)
    with pytest.raises(UserError, match="stage 1"):
        load_corpus(data / "nowhere")
