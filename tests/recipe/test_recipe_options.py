"""run.sh's options: what they change, and wrong input."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from pytest import MonkeyPatch
from recipe_runs import folders, run


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--unknown", "1"], "invalid option --unknown"),
        (["--corpus", "mimi", "--train_config", "conf/mini.yaml"], "mimi"),
        (["--corpus", "iemocap", "--corpus_dir", "{empty}", "--train_config", "conf/mini.yaml"], "{empty}"),
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


def test_stored_features_are_made_by_as_many_jobs_as_gpus_run_at_once(recipe: Path, monkeypatch: MonkeyPatch) -> None:
    words = ["--stage", "2", "--stop_stage", "2", "--dry_run", "true", "--folds", "01F", "--ngpu", "1", "--upstream"]
    words += ["tiny", "--train_config", "conf/frozen.yaml"]
    for devices, shared, jobs in (("4,5", 1, 2), ("4,5", 3, 6), ("-1", 1, 1)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
        said = run(recipe, *words, "--jobs_per_gpu", str(shared)).stdout
        at_once = f" --jobs_per_gpu {shared}" if shared > 1 else ""
        assert f"run.pl --gpu 1{at_once} JOB=1:{jobs} " in said and f"--nj {jobs} " in said
    assert "JOB=1:5 " in run(recipe, *words, "--nj", "5").stdout


def test_heads_on_pooled_vectors_are_trained_without_a_gpu(recipe: Path) -> None:
    words = ["--stage", "3", "--stop_stage", "4", "--dry_run", "true", "--folds", "01F", "--ngpu", "1", "--upstream"]
    for config, gpus in (("frozen", 0), ("top", 1)):
        said = run(recipe, *words, "tiny", "--train_config", f"conf/{config}.yaml").stdout.partition("Stage 3")[2]
        assert said.count(f"--ngpu {gpus}") == 2 and said.count("run.pl --gpu 1 ") == 2 * gpus


def test_short_folds_share_the_processes_of_this_machine_and_are_a_task_each_on_a_cluster(recipe: Path) -> None:
    folds = [f"{session:02}{gender}" for session in range(1, 6) for gender in "FM"]
    words = ["--stage", "3", "--stop_stage", "5", "--dry_run", "true", "--folds", " ".join(folds), "--upstream", "tiny"]
    words += ["--train_config", "conf/frozen.yaml", "--cmd_backend"]
    for backend, jobs in (("sge", 10), ("local", min(10, len(os.sched_getaffinity(0))))):
        assert run(recipe, *words, backend).stdout.count(f"JOB=1:{jobs} ") == 3


def test_models_of_another_corpus_decode_and_score_all_of_this_one(recipe: Path, tmp_path: Path) -> None:
    for fold in ("a", "b"):
        (tmp_path / "tag" / fold).mkdir(parents=True)
        (tmp_path / "tag" / fold / "model.safetensors").touch()
    words = ["--stage", "2", "--dry_run", "true", "--trained", str(tmp_path / "tag")]
    said = run(recipe, *words).stdout
    assert [f"Stage {stage}: " in said for stage in (2, 3, 4, 5)] == [True, False, True, False]
    decoding, scoring = said.partition("Stage 4: ")[2].split(".score corpus ")
    assert "JOB=1:2 " in decoding and f"--exp {tmp_path / 'tag'} --folds a b --other_corpus" in decoding
    assert f"--data data/mini --exp {tmp_path / 'tag'} --folds a b" in scoring


def test_stages_are_skipped_however_they_are_written(recipe: Path) -> None:
    words = ["--stage", "2", "--stop_stage", "5", "--dry_run", "true", "--folds", "01F", "--skip_stages", "2\n4\t5"]
    said = run(recipe, *words).stdout
    assert [f"Stage {stage}: " in said for stage in (2, 3, 4, 5)] == [False, True, False, False]


def test_a_command_killed_by_signal_9_is_reported_as_a_lack_of_memory(recipe: Path) -> None:
    begin = "set -euo pipefail; arguments=(--beta 1); dry_run=false; . utils/log.sh; . utils/stages.sh; start_stage 2 x"
    words = ["bash", "-c", f"{begin}; run sh -c 'kill -9 $$'"]
    done = subprocess.run(words, cwd=recipe, capture_output=True, text=True, timeout=60)
    assert done.returncode == 137
    assert "Stage 2 was killed (signal 9), probably for a lack of memory. To go on from there:" in done.stderr


def test_warnings_of_a_job_are_shown(recipe: Path, tmp_path: Path) -> None:
    begin = "set -euo pipefail; arguments=(); dry_run=false; . utils/log.sh; . utils/stages.sh"
    job = "bash -c 'for n in {1..12}; do echo warning: file $n is quiet; done'"
    script = f"{begin}; PATH=$PWD/utils:$PATH; submit 'run.pl JOB=1:1' {tmp_path}/a.JOB.log {job}"
    done = subprocess.run(["bash", "-c", script], cwd=recipe, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("warning")] == [
        f"warning: file {n} is quiet" for n in range(1, 11)
    ]
