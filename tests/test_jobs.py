"""What holds for all job runners: they need an old Python alone, and conf/cmd.sh chooses among them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

RUNNERS = ["run.pl", "queue.pl", "slurm.pl"]


def sources(recipe: Path) -> list[Path]:
    return [*sorted((recipe / "utils").glob("jobs*.py")), *(recipe / "utils" / name for name in RUNNERS)]


def test_they_are_python_3_8_and_its_standard_library(recipe: Path) -> None:
    own = {path.stem for path in sources(recipe)}
    for path in sources(recipe):
        tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.partition(".")[0] in own | sys.stdlib_module_names, f"{path}: {name}"


def test_annotations_are_never_evaluated(recipe: Path) -> None:
    # Python 3.8 knows neither list[str] nor str | None when it runs.
    for path in sources(recipe)[: -len(RUNNERS)]:
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
