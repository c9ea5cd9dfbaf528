"""Stage 5 as its user sees it: the program run on decoded folds, its files read back."""

from __future__ import annotations

import json
import re
import sys

import jiwer
import pytest
from make_scores import LABELS, make_data, make_decoded, make_embeddings
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score

from sermtl.fileio.tables import read_table, write_table

SETTINGS = {"upstream": "tiny", "alpha": 0.1, "beta": 0.1, "grl": "reverse", "seed": 0}


@pytest.fixture
def score(tmp_path, monkeypatch, capsys):
    """Run ``score`` in a recipe of four decoded folds; gives (exit status, stdout, stderr)."""
    from sermtl.bin import score as program

    data, exp = make_data(tmp_path), tmp_path / "exp" / "T"
    for fold in ("01F", "01M", "02F", "02M"):
        make_decoded(data, exp, fold, SETTINGS)

    class Run:
        def __call__(self, *arguments):
            monkeypatch.setattr(sys, "argv", ["score", *map(str, arguments)])
            status = program.main()
            return status, *capsys.readouterr()

        def fold(self, *names, job=1, jobs=1):
            where = ["--data", data, "--exp", exp, "--folds_dir", data / "folds/speaker"]
            return self("folds", *where, "--job", job, "--jobs", jobs, "--folds", *(names or ["01F"]))

        def pool(self, *more):
            return self("pool", "--exp", exp, "--folds_file", data / "folds/speaker/folds", *more)

        def json(self, path="scores.json"):
            return json.loads((exp / path).read_text())

    run = Run()
    run.data, run.exp = data, exp
    return run


def trn(path):
    """An independent reader of trn files: id -> words."""
    lines = [re.fullmatch(r"(.*?) ?\(([^()]+)\)", line) for line in path.read_text().splitlines()]
    return {match[2]: match[1] for match in lines}


def test_a_fold_agrees_with_scikit_learn_and_jiwer(score):
    assert score.fold() == (0, "", "")
    out, scores = score.exp / "01F/score_test", score.json("01F/score_test/scores.json")
    emo, ref, hyp = (read_table(score.data / "utt2emo"), trn(out / "ref.trn"), trn(out / "hyp.trn"))
    decoded = read_table(score.exp / "01F/decode_test/utt2emo")
    pairs = [emo[utt] for utt in decoded], list(decoded.values())
    assert scores["ser"]["wa"] == accuracy_score(*pairs)
    assert scores["ser"]["ua"] == pytest.approx(balanced_accuracy_score(*pairs), abs=1e-15)
    assert scores["ser"]["macro_f1"] == pytest.approx(f1_score(*pairs, average="macro"), abs=1e-15)
    assert scores["ser"]["confusion"] == confusion_matrix(*pairs, labels=LABELS).tolist()
    assert list(ref) == list(hyp) == list(decoded)
    assert scores["asr"]["wer"] == jiwer.wer(list(ref.values()), list(hyp.values()))
    assert scores["asr"]["cer"] == jiwer.cer(list(ref.values()), list(hyp.values()))
    assert (scores["folds"], scores["protocol"], scores["speaker_dependent"]) == (["01F"], "speaker", False)
    assert scores["settings"]["beta"] == 0.1
    assert scores["audit"]["transcripts_shared_train_test"] == 3


def test_what_keeps_folds_from_being_scored_is_reported_together(score):
    (score.exp / "01F/decode_test/text").unlink()
    (score.exp / "02F/decode_test/utt2emo").unlink()
    status, _, message = score.fold("01F", "01M", "02F")
    assert status == 2 and "01F/decode_test/text" in message and "02F/decode_test/utt2emo" in message
    assert (score.exp / "01M/score_test/scores.json").exists()


def test_an_unseen_speaker_has_no_speaker_accuracy(score):
    score.fold()
    assert score.json("01F/score_test/scores.json")["spk"] == {
        "acc": None, "reason": "1 of 1 test speakers were not trained on: 01F",
    }  # fmt: skip
    assert "undefined, 1 of 1 test speakers" in (score.exp / "01F/score_test/result_spk.txt").read_text()


def test_a_speaker_dependent_fold_has_speaker_accuracy_and_says_so(score):
    lists = score.data / "folds/speaker/01F"
    (lists / "audit.json").unlink()
    test = (lists / "test").read_text().split()
    with open(lists / "train", "r+") as file:
        known = sorted([*file.read().split(), test[0]])
        file.seek(0)
        file.write("\n".join(known) + "\n")
    assert score.fold()[0] == 0
    scores = score.json("01F/score_test/scores.json")
    spk = read_table(score.exp / "01F/decode_test/utt2spk")
    assert scores["speaker_dependent"] is True
    assert scores["spk"]["n"] == len(test)
    assert scores["spk"]["correct"] == sum(name == "01F" for name in spk.values())
    assert "speaker-dependent" in (score.exp / "01F/score_test/result_ser.txt").read_text()


def test_missing_and_extra_hypotheses_are_refused_by_name(score):
    path = score.exp / "01F/decode_test/text"
    table = read_table(path)
    gone = next(iter(table))
    del table[gone]
    write_table(path, table | {"09X-new": "WORDS"})
    status, _, error = score.fold()
    assert status == 2
    assert f"lacks 1 of 6 test utterances: {gone}" in error
    assert "has extra 1 of 6 test utterances: 09X-new" in error
    assert "./run.sh --corpus toy --protocol speaker --tag T --folds 01F --stage 4" in error
    assert not (score.exp / "01F/score_test/scores.json").exists()


def test_embeddings_are_probed_and_an_old_probe_does_not_stay(score):
    probe = score.exp / "01F/score_test/probe.json"
    make_embeddings(score.data, score.exp / "01F", spread=1.0)
    assert score.fold()[0] == 0
    assert set(json.loads(probe.read_text())) == {"held_out", "unseen", "verification"}
    (score.exp / "01F/decode_test/emb.scp").unlink()
    assert score.fold()[0] == 0
    assert not probe.exists()


def test_order_of_lines_is_no_matter_of_joining(score):
    """A hypothesis belongs to the reference with its id, not to that of the same line."""
    score.fold()
    before = score.json("01F/score_test/scores.json")
    folds = score.data / "folds/speaker/01F/test"
    for name in ("utt2emo", "text", "utt2spk"):
        table = read_table(score.data / name)
        write_table(score.data / name, table | {"00A-first": table[folds.read_text().split()[0]]})
    score.fold()
    assert score.json("01F/score_test/scores.json") == before


def test_an_empty_reference_is_counted_and_stands_in_no_trn(score):
    texts, first = (read_table(score.data / "text"), (score.data / "folds/speaker/01F/test").read_text().split()[0])
    write_table(score.data / "text", texts | {first: ""})
    assert score.fold()[0] == 0
    asr = score.json("01F/score_test/scores.json")["asr"]
    assert (asr["utterances"], asr["no_reference"]) == (5, 1)
    ref, hyp = (trn(score.exp / f"01F/score_test/{name}.trn") for name in ("ref", "hyp"))
    assert first not in ref and first not in hyp
    assert asr["wer"] == jiwer.wer(list(ref.values()), list(hyp.values()))


def test_a_corpus_without_text_has_no_wer(score):
    write_table(score.data / "text", dict.fromkeys(read_table(score.data / "text"), ""))
    assert score.fold()[0] == 0
    asr = score.json("01F/score_test/scores.json")["asr"]
    assert (asr["utterances"], asr["words"], asr["errors"], asr["wer"], asr["no_reference"]) == (0, 0, 0, None, 6)


def test_utterance_ids_get_their_speaker_in_trn(score):
    speakers = read_table(score.data / "utt2spk")
    utt, second, third, *_ = (score.data / "folds/speaker/01F/test").read_text().split()
    write_table(score.data / "utt2spk", speakers | {utt: "anna", second: "anna"})
    score.fold()
    lines = (score.exp / "01F/score_test/ref.trn").read_text().splitlines()
    assert lines[0].endswith(f"(anna-{utt})") and lines[1].endswith(f"(anna-{second})")
    assert lines[2].endswith(f"({third})")


def test_an_utterance_without_a_label_is_decoded_and_counts_nowhere(score):
    score.fold()
    before = score.json("01F/score_test/scores.json")
    emotions, text = read_table(score.data / "utt2emo"), read_table(score.data / "text")
    utt = (score.data / "folds/speaker/01F/test").read_text().split()[0]
    write_table(score.data / "utt2emo", emotions | {utt: ""})
    assert score.fold()[0] == 0
    scores = score.json("01F/score_test/scores.json")
    assert (scores["ser"]["n"], scores["ser"]["no_reference"]) == (before["ser"]["n"] - 1, 1)
    assert before["asr"]["words"] - scores["asr"]["words"] == len(text[utt].split()) > 0
    assert utt not in (score.exp / "01F/score_test/per_utt.tsv").read_text()
    assert utt not in (score.exp / "01F/score_test/ref.trn").read_text()
    for fold in ("01M", "02F", "02M"):
        score.fold(fold)
    assert score.pool()[0] == 0 and score.json()["ser"]["no_reference"] == 1


def test_a_test_list_without_any_label_has_no_rates(score):
    emotions = read_table(score.data / "utt2emo")
    tested = (score.data / "folds/speaker/01F/test").read_text().split()
    write_table(score.data / "utt2emo", emotions | dict.fromkeys(tested, ""))
    assert score.fold()[0] == 0
    status, output, _ = score.pool()
    assert status == 0 and "WA - (0/0)" in output and score.json()["ser"]["wa"] is None


def test_a_class_that_a_fold_never_trained_is_marked_beside_what_it_lowers(score):
    tested = (score.data / "folds/speaker/01F/test").read_text().split()
    emotions = read_table(score.data / "utt2emo")
    label = emotions[tested[0]]
    other = next(name for name in LABELS if name != label)
    changed = {utt: other for utt, name in emotions.items() if name == label and utt not in tested}
    write_table(score.data / "utt2emo", emotions | changed)
    for fold in ("01F", "01M", "02F", "02M"):
        score.fold(fold)
    status, output, _ = score.pool()
    scores, text = score.json(), (score.exp / "RESULTS.md").read_text()
    assert status == 0 and scores["per_fold"]["01F"]["ser"]["untrained"] == scores["ser"]["untrained"] == [label]
    assert f"lowered by classes that a fold tests and never trained ({label} in 1 fold: 01F)" in text
    assert output.count("†") == 4  # WA, UA, macro F1, and what the mark means
    wa, ua = (scores["per_fold"]["01F"]["ser"][rate] for rate in ("wa", "ua"))
    own = [line for line in text.splitlines() if line.startswith("| 01F ")]
    assert f"{wa:.4f}† |" in own[0] and f"{ua:.4f}† |" in own[1] and "†" in own[2]
    assert all(line.count("†") == (2 if "01F" in line else 0) for line in text.split("## Per speaker")[1].splitlines())
    assert [line.count("†") for line in text.splitlines() if line.startswith("| **pooled**")] == [1, 1, 1, 0, 0]
    assert [line.count("†") for line in text.splitlines() if line.startswith(f"| {label} ")][0] == 2
    assert "†" in (score.exp / "01F/score_test/result_ser.txt").read_text()
    assert "†" not in (score.exp / "01M/score_test/result_ser.txt").read_text()


def test_unknown_speakers_are_one_group_and_said_to_be_unknown(score):
    speakers = read_table(score.data / "utt2spk")
    write_table(score.data / "utt2spk", {utt: utt for utt in speakers})
    (score.data / "folds/speaker/01F/audit.json").write_text(
        json.dumps({"speaker_dependent": True, "utterances_speaker_unknown": len(speakers)})
    )
    score.fold()
    status, output, _ = score.pool()
    assert status == 0 and "(speaker-dependent or unknown: test speakers are, or may be," in output
    assert "speaker head: undefined, in 1 of 1 folds: no utterance of a known speaker" in output
    assert list(score.json()["per_speaker"]) == ["unknown"]


def test_jobs_share_the_folds_and_pooling_wants_all_that_were_scored(score):
    names = ("01F", "01M", "02F")
    assert score.fold(*names, job=2, jobs=2) == (0, "", "")
    assert [path.parent.name for path in score.exp.glob("*/score_test")] == ["01M"]
    status, _, error = score.pool("--scored", *names)
    assert status == 2 and error.startswith("error: ") and "has no scores of 01F 02F yet" in error
    score.fold(*names, job=1, jobs=2)
    assert score.pool("--scored", *names)[0] == 0


def test_pooling_sums_counts(score):
    for fold in ("01F", "01M", "02F", "02M"):
        score.fold(fold)
    status, output, _ = score.pool()
    scores = score.json()
    assert status == 0 and "T: 4 folds, protocol speaker" in output
    refs = read_table(score.data / "utt2emo")
    hyps = {}
    for fold in scores["folds"]:
        hyps |= read_table(score.exp / fold / "decode_test/utt2emo")
    pairs = [refs[utt] for utt in sorted(refs)], [hyps[utt] for utt in sorted(refs)]
    assert scores["ser"]["n"] == len(refs) == 24
    assert scores["ser"]["wa"] == accuracy_score(*pairs)
    assert scores["ser"]["ua"] == pytest.approx(balanced_accuracy_score(*pairs), abs=1e-15)
    ref, hyp = [], []
    for fold in scores["folds"]:
        ref += trn(score.exp / fold / "score_test/ref.trn").values()
        hyp += trn(score.exp / fold / "score_test/hyp.trn").values()
    assert scores["asr"]["wer"] == jiwer.wer(ref, hyp)
    assert scores["missing_folds"] == []
    assert scores["per_speaker"]["01F"]["wa"] == scores["per_fold"]["01F"]["ser"]["wa"]
    was = [scores["per_fold"][fold]["ser"]["wa"] for fold in scores["folds"]]
    assert scores["mean_over_folds"]["wa"]["mean"] == pytest.approx(sum(was) / 4)
    page = (score.exp / "RESULTS.md").read_text()
    assert f"| **pooled**{' ' * 14}" in page and "MISSING" not in page
    assert "torch version" in page and "Git hash" in page


def test_enrolled_utterances_are_counted_and_pooled_where_every_fold_has_the_condition(score):
    emotions, parts = read_table(score.data / "utt2emo"), []
    write_table(score.data / "utt2dur", dict.fromkeys(emotions, "2.0"))
    for fold in ("01F", "01M"):
        decoded = score.exp / fold / "decode_test"
        hyp = read_table(decoded / "utt2emo")
        write_table(decoded / "enrol/0", hyp)
        if fold == "01F":
            write_table(decoded / "enrol/all", {utt: emotions[utt] for utt in hyp})
        score.fold(fold)
        parts.append(score.json(f"{fold}/score_test/scores.json"))
    correct = [part["ser"]["correct"] for part in parts]
    assert parts[0]["enrol"] == {"0": [correct[0], 6, 0.0], "all": [6, 6, 6 * 5 * 2.0]} and 0 < correct[0] < 6
    assert score.pool()[0] == 0 and score.json()["enrol"] == {"0": [sum(correct), 12, 0.0]}
    assert "## Other utterances of the test speaker" in (score.exp / "RESULTS.md").read_text()


def test_the_rate_of_characters_comes_first_where_words_are_not_separated(score):
    texts = read_table(score.data / "text")
    write_table(score.data / "text", {utt: "今日は いい" for utt in texts})
    for fold in ("01F", "01M", "02F", "02M"):
        decoded = score.exp / fold / "decode_test" / "text"
        write_table(decoded, {utt: "今日 いい" for utt in read_table(decoded)})
        score.fold(fold)
    _, output, _ = score.pool()
    asr = score.json()["asr"]
    assert (asr["wer"], asr["cer"]) == (pytest.approx(1 / 5), pytest.approx(1 / 6))
    assert f"CER {1 / 6:.4f} ({asr['utterances']}/{6 * asr['utterances']})" in output and "WER" not in output
    page = (score.exp / "RESULTS.md").read_text()
    assert page.index("## CER") < page.index("## WA") < page.index("## WER, a character is a word")


def test_missing_folds_are_reported(score):
    score.fold("01F")
    score.fold("02M")
    _, output, _ = score.pool()
    assert score.json()["missing_folds"] == ["01M", "02F"]
    assert "MISSING, not in these numbers: folds 01M 02F" in output
    assert "**MISSING: 2 of 4 folds are not scored" in (score.exp / "RESULTS.md").read_text()


def test_folds_of_other_settings_are_not_pooled(score):
    make_decoded(score.data, score.exp, "02M", SETTINGS | {"beta": 1.0, "seed": 7})
    for fold in ("01F", "01M", "02M"):
        score.fold(fold)
    status, _, error = score.pool()
    assert status == 2
    assert "beta: 0.1 in 01F, 01M; 1.0 in 02M" in error and "seed: 0 in 01F, 01M; 7 in 02M" in error
    assert not (score.exp / "scores.json").exists()


def test_a_path_of_the_fold_is_no_difference(score):
    for fold in ("01F", "01M"):
        make_decoded(score.data, score.exp, fold, SETTINGS | {"tokens": f"dump/toy/{fold}/tokens.txt"})
        score.fold(fold)
    assert score.pool()[0] == 0
    assert score.json()["settings"]["tokens"] == "dump/toy/<fold>/tokens.txt"


@pytest.mark.parametrize("damage", ["cut", "counts", "rows"])
def test_damaged_scores_are_named(score, damage):
    for fold in ("01F", "01M", "02F"):
        score.fold(fold)
    for fold in ("01F", "02F"):
        path = score.exp / fold / "score_test" / ("per_utt.tsv" if damage == "rows" else "scores.json")
        text = path.read_text()
        path.write_text(text.replace('"n": 6', '"n": 60') if damage == "counts" else text[: len(text) // 2])
    status, _, error = score.pool()
    assert status == 2
    assert str(score.exp / "01F/score_test") in error and str(score.exp / "02F/score_test") in error
    assert "./run.sh --tag T --stage 5" in error


def test_an_utterance_tested_twice_is_refused(score):
    for fold in ("01F", "01M"):
        score.fold(fold)
    twice = (score.exp / "01F/score_test/per_utt.tsv").read_text().splitlines()[1].split("\t")[0]
    path = score.exp / "01M/score_test/per_utt.tsv"
    path.write_text(re.sub(r"01M-toy_0000", twice, path.read_text()))
    status, _, error = score.pool()
    assert status == 2 and f"tested in more than one fold: {twice}" in error


def test_nothing_scored_says_what_to_run(score):
    status, _, error = score.pool()
    assert status == 2 and "./run.sh --tag T --stage 3" in error


def test_posteriors_of_hypothesis_and_reference_stand_beside_the_outcome(score):
    decoded = score.exp / "01F/decode_test"
    hyp, emo = read_table(decoded / "utt2emo"), read_table(score.data / "utt2emo")
    assert score.fold()[0] == 0 and "nan\tnan" in (score.exp / "01F/score_test/per_utt.tsv").read_text()
    posteriors = {utt: [0.1 + 0.6 * (label == hyp[utt]) for label in LABELS] for utt in hyp}
    write_table(decoded / "emo_post", {utt: " ".join(map(str, values)) for utt, values in posteriors.items()})
    assert score.fold()[0] == 0
    lines = (score.exp / "01F/score_test/per_utt.tsv").read_text().splitlines()
    for row in (dict(zip(lines[0].split("\t"), line.split("\t"), strict=True)) for line in lines[1:]):
        assert float(row["conf"]) == pytest.approx(0.7)
        assert float(row["ref_post"]) == posteriors[row["utt"]][LABELS.index(emo[row["utt"]])]
    write_table(decoded / "emo_post", {utt: "0.5 0.5" for utt in hyp})
    status, _, error = score.fold()
    assert status == 2 and f"{decoded / 'emo_post'}: expected 4 numbers for each utterance" in error
