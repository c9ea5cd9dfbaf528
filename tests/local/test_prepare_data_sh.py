"""local/data.sh, which prepares every corpus."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import prepare
import pytest


def run(recipe: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    words = ["local/data.sh", *map(str, options)]
    environment = {**os.environ, "SERMTL_PYTHON": str(Path(sys.executable).with_name("python3"))}
    return subprocess.run(words, cwd=recipe, env=environment, capture_output=True, text=True, check=False)


def test_mini_is_the_default_and_is_made_beside(recipe: Path, tmp_path: Path) -> None:
    result = run(recipe, "--out", tmp_path / "data/mini")
    assert result.returncode == 0 and "published" not in result.stdout + result.stderr
    assert len(prepare.table(tmp_path / "data/mini/wav.scp")) == 242
    assert (tmp_path / "data/local/mini/IEMOCAP_full_release/Session5").is_dir()


def test_options_arrive_as_they_are(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s $(touch x); "here"'
    prepare.write_wav(folder / "a.wav")
    rows = (f"{n}\ta.wav\tA\t{emotion}\tfür\n" for n, emotion in enumerate(("joy", "joy", "sad")))
    (folder / "my.tsv").write_text("utt\tpath\tspeaker\temotion\ttext\n" + "".join(rows))
    result = run(
        recipe, "--corpus", "manifest", "--manifest", folder / "my.tsv", "--out", folder / "out",
        "--classes", "joy", "--lang", "de",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert prepare.table(folder / "out/text") == {"A-0": "FÜR", "A-1": "FÜR"}
    assert not (recipe / "x").exists() and not (folder / "x").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--corpus", "iemocap2"], "known are: mini iemocap emodb ravdess crema_d msp_podcast manifest kaldi"),
        (["--corpus", ""], "known are: mini"),
        (["--corpus", "iemocap"], "needs --corpus_dir"),
        (["--corpus", "emodb"], "needs --corpus_dir"),
        (["--corpus", "kaldi"], "needs --corpus_dir"),
        (["--corpus", "manifest"], "needs --manifest"),
        (["--corpus", "mini", "--corpus_dir", "x"], "made on the spot"),
        (["--corpus", "iemocap", "--corpus_dir", "nowhere"], "no corpus folder nowhere"),
        (["--corpus", "kaldi", "--corpus_dir", "nowhere"], "no data directory nowhere"),
        (["--corpus", "emodb", "--corpus_dir", "nowhere"], "no corpus folder nowhere"),
        (["--corpsu", "emodb"], "corpus"),
    ],
)
def test_wrong_options(recipe: Path, tmp_path: Path, options: list[str], words: str) -> None:
    result = run(recipe, "--out", tmp_path / "out", *options)
    assert result.returncode in (1, 2) and words in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()
