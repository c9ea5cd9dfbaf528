"""run.sh on real speech and on manifests, and two of them at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from recipe_runs import check_scores, experiments, folders, run

from sermtl.fileio.tables import read_list, read_table

pytestmark = pytest.mark.slow


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


def test_real_speech_every_utterance_once(recipe: Path, test_data: Path, tmp_path: Path) -> None:
    given = ["--corpus", "emodb", "--corpus_dir", str(test_data / "emodb"), "--protocol", "kfold2", "--folds", "all"]
    result = run(
        recipe, *folders(tmp_path), *given, "--train_args", "--set epochs=1 speed_perturb=[]", "--stop_stage", "5"
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (exp,) = experiments(tmp_path)
    data = tmp_path / "data" / "emodb"
    folds = read_list(data / "folds" / "kfold2" / "folds")
    assert folds == ["1", "2"] and 100 < len(read_list(data / "folds" / "kfold2" / "1" / "test")) < 239
    tested = [utt for fold in folds for utt in read_table(exp / fold / "decode_test" / "utt2emo")]
    assert sorted(tested) == sorted(read_table(data / "utt2emo")) and len(tested) == 339
    check_scores(exp, data / "folds" / "kfold2", folds)


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


def test_a_manifest_in_other_scripts_runs_through_to_scores(recipe: Path, tmp_path: Path) -> None:
    texts = ["Schöne Grüße, Köln!", "Добрый вечер", "Straße", ""]
    words = [*made_up_speech(tmp_path, 3, texts), "--corpus_name", "mine", "--classes", "froh ruhig"]
    words += ["--protocol", "kfold3", "--folds", "2", "--stop_stage", "5"]
    result = run(recipe, *words, "--token_type", "bpe", "--nbpe", "30", "--tag", "bpe")
    assert result.returncode == 0, result.stdout + result.stderr
    exp = tmp_path / "exp" / "bpe"
    scores = json.loads((exp / "scores.json").read_text())
    assert scores["ser"]["n"] == 8 and scores["ser"]["labels"] == ["froh", "ruhig"]
    assert scores["asr"]["utterances"] == 6 and scores["asr"]["no_reference"] == 2
    assert len((exp / "2" / "tokens" / "tokens.txt").read_text(encoding="utf-8").split()) == 30
    again = run(recipe, *words, "--stage", "2", "--stop_stage", "2")
    assert again.returncode == 0, again.stdout + again.stderr
    tokens = tmp_path / "dump" / "mine" / "tokens" / "kfold3" / "2" / "tokens.txt"
    tokens_txt = tokens.read_text(encoding="utf-8").split()
    assert "Ö" in tokens_txt and "Й" in tokens_txt


def test_a_corpus_without_transcripts_is_trained_with_alpha_0(recipe: Path, tmp_path: Path) -> None:
    words = [*made_up_speech(tmp_path, 2, ["", ""]), "--folds", "s1"]
    result = run(recipe, *words, "--stop_stage", "5", "--alpha", "0")
    assert result.returncode == 0, result.stdout + result.stderr
    (exp,) = experiments(tmp_path)
    scores = json.loads((exp / "scores.json").read_text())
    assert scores["asr"]["wer"] is None and scores["settings"]["alpha"] == 0
