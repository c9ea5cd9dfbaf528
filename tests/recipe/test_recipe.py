"""The default run.sh as a user types it, what stands on it, and further stages from there."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from recipe_runs import check_scores, experiments, folders, run

from sermtl import Speech2Emotion
from sermtl.fileio.tables import read_list, read_table

pytestmark = pytest.mark.slow
FOLD_FILES = (
    "config.yaml train.log history.jsonl checkpoint.pth model.safetensors tensorboard",
    "decode_test/utt2emo decode_test/emo_post decode_test/text decode_test/utt2spk decode_test/emb.scp",
    "decode_test/emb.ark score_test/result_ser.txt score_test/result_asr.txt score_test/result_spk.txt",
    "score_test/ref.trn score_test/hyp.trn score_test/scores.json",
)


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


def test_the_default_ends_with_scored_folds(finished: subprocess.CompletedProcess[str], work: Path) -> None:
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "Successfully finished. [elapsed=" in finished.stdout.splitlines()[-1]
    assert all(f"stage {number} " in finished.stdout for number in range(1, 6))
    (exp,) = experiments(work)
    for name in " ".join(FOLD_FILES).split():
        assert (exp / "01F" / name).exists(), name
    assert read_list(exp / "labels.txt") == ["ang", "hap", "neu", "sad"]
    assert (exp / "RESULTS.md").is_file()


def test_the_default_recognises_emotions_and_words(finished: object, work: Path) -> None:
    (exp,) = experiments(work)
    check_scores(exp, work / "data/mini/folds/speaker", ["01F"])
    scores = json.loads((exp / "scores.json").read_text())
    assert scores["ser"]["wa"] >= 0.85 and scores["asr"]["wer"] <= 0.45


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


def test_another_beta_reruns_training_to_scoring_only(
    finished: object, recipe: Path, options: list[str], work: Path
) -> None:
    stamps = {path: path.stat().st_mtime_ns for path in (work / "dump").rglob("*") if path.is_file()}
    again = run(recipe, *options, "--stage", "3", "--stop_stage", "5", "--beta", "0", "--train_args", "--set epochs=1")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Stage 2" not in again.stdout and "Stage 3" in again.stdout and "Stage 5" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in (work / "dump").rglob("*") if path.is_file()} == stamps
    assert sorted("beta0_" in exp.name for exp in experiments(work)) == [False, True]


def test_folds_over_pooled_vectors_share_the_processes_of_this_machine(
    finished: object, recipe: Path, work: Path
) -> None:
    folds = ["01F", "01M", "02F"]
    words = [*folders(work), "--upstream", "tiny", "--train_config", "conf/frozen.yaml", "--folds", " ".join(folds)]
    words += ["--tag", "frozen", "--stage", "2", "--stop_stage", "5", "--train_args", "--set epochs=2"]
    done = run(recipe, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    check_scores(work / "exp" / "frozen", work / "data/mini/folds/speaker", folds)
    logs = {path.name for path in (work / "exp" / "frozen" / "log").glob("train.*.log")}
    assert logs == {f"train.{job}.log" for job in range(1, 1 + min(3, len(os.sched_getaffinity(0))))}


def test_a_failing_job_shows_its_log_and_the_way_on(
    finished: object, recipe: Path, options: list[str], work: Path
) -> None:
    failed = run(recipe, *options, "--stage", "3", "--train_args", "--set epochs=2 learning_rate=1e30", "--tag", "bad")
    assert failed.returncode == 1
    assert "not finite" in failed.stderr and "train.1.log" in failed.stderr
    assert "./run.sh" in failed.stderr.splitlines()[-1] and failed.stderr.splitlines()[-1].endswith("--stage 3")


def test_an_unknown_fold_is_refused(finished: object, recipe: Path, options: list[str]) -> None:
    result = run(recipe, *options, "--stage", "2", "--folds", "01F 06M")
    assert result.returncode == 2
    assert "no fold '06M'" in result.stderr and "05M" in result.stderr
