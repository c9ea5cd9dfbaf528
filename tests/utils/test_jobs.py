"""What holds for all job runners: they need an old Python alone, and conf/cmd.sh chooses among them."""

from __future__ import annotations

import ast
import graphlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

RUNNERS = ["run.pl", "queue.pl", "slurm.pl"]


def sources(recipe: Path) -> list[Path]:
    return [*sorted((recipe / "utils" / "jobs").glob("*.py")), *(recipe / "utils" / name for name in RUNNERS)]


def test_they_are_python_3_8_and_its_standard_library(recipe: Path) -> None:
    for path in sources(recipe):
        tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.partition(".")[0] in {"jobs"} | sys.stdlib_module_names, f"{path}: {name}"


def test_no_circle_of_imports(recipe: Path) -> None:
    imports = {}
    for path in sources(recipe):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        imports[f"jobs.{path.stem}"] = {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    assert "jobs.request" in graphlib.TopologicalSorter(imports).static_order()


def test_annotations_are_never_evaluated(recipe: Path) -> None:
    # Python 3.8 knows neither list[str] nor str | None when it runs.
    for path in sources(recipe)[1 : -len(RUNNERS)]:  # the first, __init__.py, has none
        assert "from __future__ import annotations" in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize(
    ("backend", "program"), [("", "run.pl"), ("local", "run.pl"), ("sge", "queue.pl"), ("slurm", "slurm.pl")]
)
def test_cmd_sh_chooses(recipe: Path, backend: str, program: str) -> None:
    script = f'cmd_backend="{backend}"; . conf/cmd.sh; printf "%s\\n" "$train_cmd" "$cuda_cmd" "$decode_cmd"'
    done = subprocess.run(["bash", "-euc", script], cwd=recipe, capture_output=True, text=True, timeout=10)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [program] * 3
    for word in lines[0].split()[2::2]:
        assert (recipe / word).is_file()


def test_cmd_sh_refuses_an_unknown_backend(recipe: Path) -> None:
    done = subprocess.run(
        ["bash", "-euc", "cmd_backend=pbs; . conf/cmd.sh; echo reached"],
        cwd=recipe,
        capture_output=True,
        text=True,
        timeout=10,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "conf/cmd.sh: unknown cmd_backend 'pbs': local, sge or slurm\n"


@pytest.mark.parametrize("name", ["queue.conf", "slurm.conf"])
def test_configurations_cover_the_common_options(recipe: Path, name: str) -> None:
    text = (recipe / "conf" / name).read_text(encoding="utf-8")
    for option in "name time mem num_threads gpu max_jobs_run num_nodes".split():
        assert f"\noption {option}=" in text


@pytest.mark.parametrize(
    ("words", "dumping", "training", "decoding"),
    [
        ("--cmd_backend slurm", "JOB=1:8", "--gpu 1 --num_threads 1", "--gpu 1 --num_threads 1"),
        ("--cmd_backend sge --ngpu 0 --num_threads 3 --nj 5", "JOB=1:5", "--num_threads 3", "--num_threads 3"),
        (
            "--cmd_backend slurm --ngpu 2 --num_nodes 3",
            "JOB=1:8",
            "--gpu 2 --num_nodes 3 --num_threads 2",
            "--gpu 1 --num_threads 2",
        ),
        # nvidia-smi shows four GPUs here.
        ("--cmd_backend local --num_threads 2 --nj 1", "JOB=1:1", "--gpu 1 --num_threads 2", "--gpu 1 --num_threads 2"),
    ],
)
def test_run_sh_asks_for_what_a_job_needs(
    recipe: Path, tmp_path: Path, words: str, dumping: str, training: str, decoding: str
) -> None:
    """Of a cluster nothing is guessed from the machine that run.sh is started on."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text('#!/bin/sh\nfor i in 0 1 2 3; do echo "GPU $i: NVIDIA X (UUID: GPU-$i)"; done\n')
    smi.chmod(0o755)
    places = [word for name in ("data", "dump", "exp") for word in (f"--{name}dir", str(tmp_path / name))]
    done = subprocess.run(
        [recipe / "run.sh", "--dry_run", "true", "--stage", "2", "--stop_stage", "4", *places, *words.split()],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    jobs = [line.split() for line in done.stdout.splitlines() if line.strip().startswith(tuple(RUNNERS))]
    options = [" ".join(job[1 : next(i for i, word in enumerate(job) if word.endswith(".log"))]) for job in jobs]
    options = [re.sub(r"^--config conf/\w+.conf ", "", text) for text in options]
    assert options == [dumping, f"{training} JOB=1:1", f"{decoding} JOB=1:1"]
    for job, ngpu in zip(jobs[1:], (training, decoding), strict=True):
        wanted = ngpu.split()[1] if ngpu.startswith("--gpu") else "0"
        assert job[job.index("--ngpu") + 1] == wanted
        assert job[len(job) - 1 - job[::-1].index("--num_threads") + 1] == training.split()[-1]


def test_several_hosts_are_for_slurm(recipe: Path) -> None:
    for backend in ("local", "sge"):
        words = ["--dry_run", "true", "--num_nodes", "2", "--cmd_backend", backend]
        done = subprocess.run([recipe / "run.sh", *words], capture_output=True, text=True, timeout=100)
        assert (done.returncode, "--num_nodes 2: only with --cmd_backend slurm" in done.stderr) == (2, True)
