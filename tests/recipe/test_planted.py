"""Commands planted in every option, path and name: they stay text, or are refused; none is ever run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from stand_in_cluster import Cluster

ROOT = Path(__file__).resolve().parents[2]
PLANTED = "PLANTED_FILE"
WORDS = [
    f"$(touch {PLANTED})",
    f"`touch {PLANTED}`",
    f"';touch {PLANTED};'",
    f'";touch {PLANTED};"',
    f"&touch {PLANTED}&",
]
WORDS += [f"x\ntouch {PLANTED}\n", f"|touch {PLANTED}|", f"a[$(touch {PLANTED})]", "%s\\n!#", f"JOB;touch {PLANTED}"]
NAME = f"$(touch${{IFS}}{PLANTED})`touch${{IFS}}{PLANTED}`;'\"&|<x>*?"
"""One word without a slash, as an id, a file or a folder may be called."""
PAPER = "local/reproduce_paper.sh"


def options_of(script: str) -> list[str]:
    head = (ROOT / script).read_text().partition(". utils/parse_options.sh")[0]
    return re.findall(r"^([a-z_]+)=.*#", head, re.MULTILINE)


OPTIONS = options_of("run.sh")


@pytest.fixture(autouse=True)
def nothing_was_planted(tmp_path: Path) -> Iterator[None]:
    yield
    found = [path for folder in (ROOT, tmp_path) for path in folder.rglob(PLANTED)]
    for path in found:
        path.unlink()
    assert found == []


def run(*words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "LC_ALL": "C"}
    return subprocess.run([ROOT / "run.sh", *words], capture_output=True, text=True, timeout=500, env=env)


def folders(root: Path) -> list[str]:
    return [word for name in ("data", "dump", "exp") for word in (f"--{name}dir", str(root / name))]


def test_the_options_are_read_from_run_sh() -> None:
    assert {"stage", "tag", "train_args", "onnx", "python", "cmd_backend", "corpus_dir", "manifest"} <= set(OPTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("option", options_of(PAPER))
def test_every_option_of_the_papers_experiments(tmp_path: Path, option: str) -> None:
    chosen = {"settings": "beta0", "seeds": "0", "protocols": "speaker", "dry_run": "true", "expdir": str(tmp_path)}
    words = [word for name, value in (chosen | {option: NAME}).items() for word in (f"--{name}", value)]
    result = subprocess.run([ROOT / PAPER, *words], capture_output=True, text=True, timeout=500)
    assert "Traceback" not in result.stderr, result.stderr
    told = [NAME, repr(NAME)[1:-1], option]
    refused = result.returncode in (1, 2) and any(words in result.stderr for words in told)
    assert refused or (result.returncode == 0 and result.stdout.count("# to do:") == 1), result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS)
def test_every_option(tmp_path: Path, option: str) -> None:
    value = "".join(word for word in WORDS if "JOB" not in word)
    result = run(*folders(tmp_path), "--dry_run", "true", f"--{option}", value)
    assert result.returncode in (0, 1, 2) and "Traceback" not in result.stderr, result.stderr
    if result.returncode == 0 and option not in ("corpus_name", "datadir", "dumpdir", "expdir"):
        return
    if result.returncode == 0:
        # What a dry run prints can be pasted into a shell, and means the same there.
        shown = result.stdout[result.stdout.index("\n  local/data.sh") :].partition("\n  python3")[0]
        assert option in ("dumpdir", "expdir") or any(value in word for word in shlex.split(bash_words(shown)))


def bash_words(text: str) -> str:
    """The words of a line of shell, quoted anew by bash itself, without running any."""
    code = 'eval "set -- $1"; printf "%s\\0" "$@"'
    done = subprocess.run(["bash", "-c", code, "bash", text.strip()], capture_output=True, text=True, check=True)
    return shlex.join(done.stdout.split("\0"))


@pytest.mark.parametrize("runner", ["run.pl", "queue.pl", "slurm.pl"])
def test_words_of_jobs(tmp_path: Path, runner: str) -> None:
    """As run.sh hands them over, through the job's script and its shell."""
    code = '. utils/log.sh; for word in "$@"; do job_word "${word}"; printf "\\0"; done'
    quoted = subprocess.run(["bash", "-c", code, "bash", *WORDS], cwd=ROOT, capture_output=True, text=True, check=True)
    command = [sys.executable, "-c", "import sys;print(ascii(sys.argv[1:]))"]
    code = subprocess.run(["bash", "-c", '. utils/log.sh; job_word "$1"', "bash", command[2]], cwd=ROOT,
                          capture_output=True, text=True, check=True).stdout  # fmt: skip
    words = [command[0], "-c", code, *quoted.stdout.split("\0")[:-1]]
    if runner == "run.pl":
        (tmp_path / "root").mkdir()
        done = subprocess.run([sys.executable, ROOT / "utils" / runner, "a.log", *words], cwd=tmp_path / "root",
                              capture_output=True, text=True)  # fmt: skip
        status, said = done.returncode, done.stderr
    else:
        status, said = Cluster(tmp_path, ROOT, runner)("a.log", *words)
    assert status == 0, said
    assert ascii(WORDS) in (tmp_path / "root" / "a.log").read_text()


def manifest(folder: Path) -> Path:
    """A manifest whose file names, ids, speakers, emotions and texts are commands."""
    rows = ["utt\tpath\tspeaker\temotion\ttext"]
    for speaker in ("s0", "s1"):
        for number in range(3):
            for emotion in (f"froh{re.sub('[;&|]', '', NAME)}", "ruhig"):  # which would join two emotions
                utt = f"{speaker}{NAME}-{emotion[:4]}{number}"
                tone = 0.3 * np.sin(np.arange(8000) / (9 + len(rows)))
                soundfile.write(folder / f"{utt}.wav", tone, 16000, subtype="PCM_16")
                rows.append(f"{utt}\t{utt}.wav\t{speaker}{NAME}\t{emotion}\tnein $(touch {PLANTED}) `touch {PLANTED}`")
    path = folder / f"{NAME}.tsv"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.mark.slow
def test_names_and_paths_through_to_scores(tmp_path: Path) -> None:
    root = tmp_path / NAME
    root.mkdir()
    words = ["--corpus", "manifest", "--manifest", str(manifest(root)), "--lang", "de", "--corpus_name", NAME]
    words += ["--tag", NAME, "--train_config", "conf/mini.yaml", "--train_args", "--set epochs=1"]
    words += ["--ngpu", "0", "--num_threads", "1", "--nj", "2", "--stop_stage", "6"]
    result = run(*folders(root), *words, "--folds", f"s0{NAME}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert (root / "exp" / NAME / "scores.json").is_file()
