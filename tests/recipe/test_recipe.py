"""run.sh as a user types it: stages, files, scores, reruns, wrong input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score

from sermtl import Speech2Emotion
from sermtl.fileio.tables import read_list, read_table

FOLD_FILES = (
    "config.yaml train.log history.jsonl checkpoint.pth model.safetensors tensorboard",
    "decode_test/utt2emo decode_test/emo_post decode_test/text decode_test/utt2spk decode_test/emb.scp",
    "decode_test/emb.ark score_test/result_ser.txt score_test/result_asr.txt score_test/result_spk.txt",
    "score_test/ref.trn score_test/hyp.trn score_test/scores.json",
)


def run(recipe: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [recipe / "run.sh", *words], capture_output=True, text=True, timeout=1800, env={**os.environ, "LC_ALL": "C"}
    )


def folders(place: Path) -> list[str]:
    return [word for name in ("data", "dump", "exp") for word in (f"--{name}dir", str(place / name))]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipe with a space")


@pytest.fixture(scope="module")
def options(work: Path) -> list[str]:
    return folders(work)


@pytest.fixture(scope="module")
def finished(recipe: Path, options: list[str]) -> subprocess.CompletedProcess[str]:
    """The default as a user starts it."""
    return run(recipe, *options)


def experiments(work: Path) -> list[Path]:
    return sorted(path.parent for path in (work / "exp").glob("*/labels.txt"))


@pytest.mark.slow
def test_the_default_ends_with_scored_folds(finished: subprocess.CompletedProcess[str], work: Path) -> None:
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "Successfully finished. [elapsed=" in finished.stdout.splitlines()[-1]
    assert all(f"stage {number} " in finished.stdout for number in range(1, 6))
    (exp,) = experiments(work)
    for name in " ".join(FOLD_FILES).split():
        assert (exp / "01F" / name).exists(), name
    assert read_list(exp / "labels.txt") == ["ang", "hap", "neu", "sad"]
    assert (exp / "RESULTS.md").is_file()


@pytest.mark.slow
def test_the_default_recognises_emotions_and_words(finished: object, work: Path) -> None:
    (exp,) = experiments(work)
    check_scores(exp, work / "data/mini/folds/speaker", ["01F"])
    scores = json.loads((exp / "scores.json").read_text())
    assert scores["ser"]["wa"] >= 0.85 and scores["asr"]["wer"] <= 0.45


def check_scores(exp: Path, folds_dir: Path, folds: list[str]) -> None:
    """Recompute the pooled scores from the tables, by scikit-learn and jiwer."""
    data = folds_dir.parents[1]
    scores = json.loads((exp / "scores.json").read_text())
    truth, texts = read_table(data / "utt2emo"), read_table(data / "text")
    emotion, words = {}, {}
    for fold in folds:
        emotion |= read_table(exp / fold / "decode_test" / "utt2emo")
        words |= read_table(exp / fold / "decode_test" / "text")
        tested = read_list(folds_dir / fold / "test")
        assert set(tested) <= emotion.keys()
    references, hypotheses = [truth[utt] for utt in emotion], list(emotion.values())
    labels = read_list(exp / "labels.txt")
    assert scores["ser"]["n"] == len(emotion)
    assert scores["ser"]["wa"] == accuracy_score(references, hypotheses)
    assert scores["ser"]["ua"] == pytest.approx(recall_score(references, hypotheses, average="macro"), abs=1e-15)
    assert scores["ser"]["confusion"] == confusion_matrix(references, hypotheses, labels=labels).tolist()
    spoken = [utt for utt in words if texts[utt]]
    output = jiwer.process_words([texts[utt] for utt in spoken], [words[utt] for utt in spoken])
    assert scores["asr"]["wer"] == output.wer
    assert scores["asr"]["errors"] == output.substitutions + output.deletions + output.insertions
    assert scores["spk"]["acc"] is None and scores["spk"]["reason"]


@pytest.mark.slow
def test_stage_7_packs_a_scored_fold(finished: object, recipe: Path, options: list[str], work: Path) -> None:
    (exp,) = experiments(work)
    words = ["--stage", "7", "--onnx", "true"]
    packed = run(recipe, *options, *words, "--model_license", "cc-by-nc-4.0", "--data_license", "made up, free")
    assert packed.returncode == 0, packed.stdout + packed.stderr
    assert "Stage 7" in packed.stdout and "Stage 6" not in packed.stdout
    pack = exp / "01F" / "pack"
    assert (pack / "onnx" / "model.onnx").is_file()
    card = (pack / "README.md").read_text()
    assert "license: cc-by-nc-4.0\n" in card and "- training data (mini): made up, free\n" in card
    wav = next(iter(read_table(work / "data" / "mini" / "wav.scp").values()))
    ((_, packed_says),), ((_, fold_says),) = (
        Speech2Emotion.from_pretrained(model, "cpu").files([wav]) for model in (pack, exp / "01F")
    )
    assert packed_says == fold_says and packed_says.seconds > 0.5
    again = run(recipe, *options, *words)
    assert again.returncode == 0 and "nothing changed: " in again.stdout


@pytest.mark.slow
def test_another_beta_reruns_training_to_scoring_only(
    finished: object, recipe: Path, options: list[str], work: Path
) -> None:
    stamps = {path: path.stat().st_mtime_ns for path in (work / "dump").rglob("*") if path.is_file()}
    again = run(recipe, *options, "--stage", "3", "--beta", "0", "--train_args", "--set epochs=1")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Stage 2" not in again.stdout and "Stage 3" in again.stdout and "Stage 5" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in (work / "dump").rglob("*") if path.is_file()} == stamps
    assert sorted("beta0_" in exp.name for exp in experiments(work)) == [False, True]


@pytest.mark.slow
def test_waveforms_and_the_stored_outputs_of_a_frozen_encoder_give_the_same_scores(
    finished: object, recipe: Path, work: Path, tmp_path: Path
) -> None:
    geometry = (recipe / "conf/upstream/tiny.yaml").read_text().replace("dropout: 0.1", "dropout: 0.0")
    assert "0.1" not in geometry
    (tmp_path / "quiet.yaml").write_text(geometry)
    words = [*folders(work), "--expdir", str(tmp_path / "exp"), "--upstream", str(tmp_path / "quiet.yaml")]
    words += ["--train_args", "--set freeze_feature_encoder=true epochs=1", "--stage", "2", "--stop_stage", "5"]
    for feats_type in ("raw", "conv"):
        done = run(recipe, *words, "--feats_type", feats_type, "--tag", feats_type)
        assert done.returncode == 0, done.stdout + done.stderr
    raw, conv = (json.loads((tmp_path / "exp" / name / "scores.json").read_text()) for name in ("raw", "conv"))
    assert raw["ser"] == conv["ser"] and raw["asr"] == conv["asr"]
    raw, conv = (read_table(tmp_path / "exp" / name / "01F" / "decode_test/emo_post") for name in ("raw", "conv"))
    assert raw.keys() == conv.keys()
    for utterance, posteriors in raw.items():
        assert np.abs(np.array(posteriors.split(), float) - np.array(conv[utterance].split(), float)).max() < 1e-4


@pytest.mark.slow
def test_a_failing_job_shows_its_log_and_the_way_on(
    finished: object, recipe: Path, options: list[str], work: Path
) -> None:
    failed = run(recipe, *options, "--stage", "3", "--train_args", "--set epochs=2 learning_rate=1e30", "--tag", "bad")
    assert failed.returncode == 1
    assert "not finite" in failed.stderr and "train.1.log" in failed.stderr
    assert "./run.sh" in failed.stderr.splitlines()[-1] and failed.stderr.splitlines()[-1].endswith("--stage 3")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--unknown", "1"], "invalid option --unknown"),
        (["--corpus", "mimi"], "mimi"),
        (["--corpus", "emodb"], "--corpus_dir"),
        (["--corpus", "emodb", "--corpus_dir", "/nowhere"], "/nowhere"),
        (["--corpus", "iemocap", "--corpus_dir", "{empty}"], "{empty}"),
        (["--protocol", "speakers"], "speaker"),
        (["--upstream", "tny"], "did you mean tiny"),
        (["--train_args", "--set epoch=3"], "did you mean epochs"),
        (["--train_args", "--set epochs=3\nlearning_rate=high"], "learning_rate takes a number"),
        (["--tag", "my JOB"], "JOB stands for the number of a job"),
        (["--jobs_per_gpu", "2", "--ngpu", "1", "--cmd_backend", "sge"], "--jobs_per_gpu 2: only with --cmd_backend"),
        (["--train_args", "--set epochs=many"], "epochs takes a whole number"),
        (["--train_config", "conf/none.yaml"], "conf/none.yaml"),
        (["--beta", "-1"], "beta is -1.0"),
        (["--feats_type", "raw"], "--feats_type fbank"),
        (["--stage", "3"], "stage 1 makes it"),
        (["--stage", "4", "--stop_stage", "3"], "nothing to do"),
        (["--skip_stages", "2,4"], "--skip_stages takes numbers, as '2 4', not '2,4'"),
        (["--upstream", "a/b\nc"], "'upstream=a/b\\nc': expected key=value, in one line"),
        (["--stage", "three"], "--stage takes a whole number"),
        (["--cmd_backend", "pbs"], "pbs"),
        (["extra"], "no positional arguments"),
    ],
)
def test_wrong_input_gets_one_clear_message(recipe: Path, tmp_path: Path, words: list[str], says: str) -> None:
    (tmp_path / "empty").mkdir()
    fill = {"{empty}": str(tmp_path / "empty")}
    result = run(recipe, *folders(tmp_path), *(fill.get(word, word) for word in words))
    assert result.returncode in (1, 2), result.stdout + result.stderr
    assert fill.get(says, says) in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "exp").exists()


def test_folds_share_a_gpu_where_asked(recipe: Path) -> None:
    words = ["--stage", "3", "--dry_run", "true", "--folds", "01F", "--ngpu", "1"]
    alone, shared = run(recipe, *words).stdout, run(recipe, *words, "--jobs_per_gpu", "3").stdout
    assert alone.count("run.pl --gpu 1 ") == 2 and "--jobs_per_gpu" not in alone
    assert shared.count("run.pl --gpu 1 --jobs_per_gpu 3 ") == 2


def test_stages_are_skipped_however_they_are_written(recipe: Path) -> None:
    words = ["--stage", "2", "--stop_stage", "5", "--dry_run", "true", "--folds", "01F", "--skip_stages", "2\n4\t5"]
    said = run(recipe, *words).stdout
    assert [f"Stage {stage}: " in said for stage in (2, 3, 4, 5)] == [False, True, False, False]


@pytest.mark.slow
def test_two_runs_on_the_same_directories_and_an_interrupted_one(recipe: Path, tmp_path: Path) -> None:
    words = [*folders(tmp_path), "--stop_stage", "1"]
    first = subprocess.Popen([recipe / "run.sh", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lock = tmp_path / "data/mini/.lock"
    while not (lock.is_file() and lock.read_text()) and first.poll() is None:
        time.sleep(0.02)
    second = run(recipe, *words)
    first.terminate()
    told = first.communicate()[0]
    assert second.returncode == 2
    assert f"(host {os.uname().nodename}, process {first.pid}, since 20" in second.stderr
    assert first.returncode == 128 + signal.SIGTERM and "interrupted by SIGTERM" in told
    assert run(recipe, *words).returncode == 0


@pytest.mark.slow
def test_an_unknown_fold_is_refused(finished: object, recipe: Path, options: list[str]) -> None:
    result = run(recipe, *options, "--stage", "2", "--folds", "01F 06M")
    assert result.returncode == 2
    assert "no fold '06M'" in result.stderr and "05M" in result.stderr


@pytest.mark.slow
def test_real_speech_every_utterance_once(recipe: Path, test_data: Path, tmp_path: Path) -> None:
    given = ["--corpus", "emodb", "--corpus_dir", str(test_data / "emodb"), "--protocol", "kfold3", "--folds", "all"]
    result = run(recipe, *folders(tmp_path), *given, "--train_args", "--set epochs=1")
    assert result.returncode == 0, result.stdout + result.stderr
    (exp,) = experiments(tmp_path)
    data = tmp_path / "data" / "emodb"
    folds = read_list(data / "folds" / "kfold3" / "folds")
    assert folds == ["1", "2", "3"] and len(read_list(data / "folds" / "kfold3" / "1" / "test")) < 339 / 2
    tested = [utt for fold in folds for utt in read_table(exp / fold / "decode_test" / "utt2emo")]
    assert sorted(tested) == sorted(read_table(data / "utt2emo")) and len(tested) == 339
    check_scores(exp, data / "folds" / "kfold3", folds)


def made_up_speech(folder: Path, speakers: int, texts: list[str]) -> list[str]:
    """The options for a manifest of one-second tones: every speaker says every text in three emotions."""
    rows = [["utt", "path", "speaker", "emotion", "text"]]
    for speaker in range(speakers):
        for number, text in enumerate(texts):
            for emotion, pitch in (("froh", 400), ("ruhig", 150), ("wild", 900)):
                name = f"s{speaker}-{emotion}-{number}"
                time = np.arange(16000) / 16000
                tone = 0.3 * np.sin(2 * np.pi * (pitch + 20 * speaker + 5 * number) * time)
                soundfile.write(folder / f"{name}.wav", tone, 16000, subtype="PCM_16")
                rows.append([name, f"{name}.wav", f"s{speaker}", emotion, text])
    manifest = folder / "my.tsv"
    manifest.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    small = ["--train_config", "conf/mini.yaml", "--train_args", "--set epochs=1"]
    return [*folders(folder), "--corpus", "manifest", "--manifest", str(manifest), *small]


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [[], ["--token_type", "bpe", "--nbpe", "30", "--stop_stage", "5"]])
def test_a_manifest_in_other_scripts_runs_through_to_scores(recipe: Path, tmp_path: Path, tokens: list[str]) -> None:
    texts = ["Schöne Grüße, Köln!", "Добрый вечер", "Straße", ""]
    words = [*made_up_speech(tmp_path, 3, texts), "--corpus_name", "mine", "--classes", "froh ruhig", *tokens]
    result = run(recipe, *words, "--protocol", "kfold3", "--folds", "2")
    assert result.returncode == 0, result.stdout + result.stderr
    (exp,) = experiments(tmp_path)
    scores = json.loads((exp / "scores.json").read_text())
    assert scores["ser"]["n"] == 8 and scores["ser"]["labels"] == ["froh", "ruhig"]
    assert scores["asr"]["utterances"] == 6 and scores["asr"]["no_reference"] == 2
    tokens_txt = (exp / "2" / "tokens" / "tokens.txt").read_text(encoding="utf-8").split()
    assert ("Ö" in tokens_txt and "Й" in tokens_txt) if not tokens else len(tokens_txt) == 30


@pytest.mark.slow
def test_a_corpus_without_transcripts_needs_alpha_0(recipe: Path, tmp_path: Path) -> None:
    words = [*made_up_speech(tmp_path, 2, ["", ""]), "--folds", "s1"]
    result = run(recipe, *words)
    assert result.returncode == 1 and "has no transcript" in result.stderr and "give --alpha 0" in result.stderr
    result = run(recipe, *words, "--stage", "3", "--alpha", "0")
    assert result.returncode == 0, result.stdout + result.stderr
    (exp,) = experiments(tmp_path)
    scores = json.loads((exp / "scores.json").read_text())
    assert scores["asr"]["wer"] is None and scores["settings"]["alpha"] == 0
