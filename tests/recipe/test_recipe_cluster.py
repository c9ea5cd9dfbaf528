"""run.sh on a real Grid Engine and a real Slurm of one node: interrupted, rerun, and the same scores as by run.pl."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine import Engine, running

pytestmark = pytest.mark.slow
FOLDS = ("01F", "02M")
FOLD_TABLES = [f"decode_test/{name}" for name in ("utt2emo", "text", "utt2spk")]
FOLD_SCORES = [f"score_test/{name}" for name in ("ref.trn", "hyp.trn", "result_ser.txt", "result_asr.txt")]
WORDS = (
    *("--folds", " ".join(FOLDS), "--train_args", "--set epochs=1", "--tag", "T"),
    *("--num_threads", "1", "--ngpu", "0", "--stop_stage", "5"),
)


def start(recipe: Path, env: dict[str, str], *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [recipe / "run.sh", *WORDS, *words],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(recipe: Path, env: dict[str, str], *words: str) -> str:
    process = start(recipe, env, *words)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    return out


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cluster with a space")


@pytest.fixture(scope="module")
def here(recipe: Path, work: Path) -> Path:
    """The experiment as run.pl makes it; its data directory serves all."""
    run(recipe, dict(os.environ), "--cmd_backend", "local", "--nj", "1", *folders(work, "local"))
    return work / "local" / "exp" / "T"


@pytest.fixture(scope="module", params=["sge", "slurm"])
def engine(request: pytest.FixtureRequest, recipe: Path) -> Iterator[Engine]:
    env = {name: os.environ[name] for name in ("SERMTL_PYTHON",) if name in os.environ}
    with running(request.param, recipe, **env) as engine:
        yield engine


def folders(work: Path, backend: str) -> list[str]:
    own = [word for name in ("dump", "exp") for word in (f"--{name}dir", str(work / backend / name))]
    return ["--datadir", str(work / "data"), *own]


def scores(path: Path) -> Any:
    return json.loads(path.read_text())


def check_same(exp: Path, here: Path) -> None:
    for fold in FOLDS:
        for name in FOLD_TABLES + FOLD_SCORES:
            assert (exp / fold / name).read_bytes() == (here / fold / name).read_bytes(), f"{fold}/{name}"
        assert scores(exp / fold / "score_test" / "scores.json") == scores(here / fold / "score_test" / "scores.json")
    assert scores(exp / "scores.json") == scores(here / "scores.json")
    assert scores(exp / "scores.json")["folds"] == list(FOLDS)


def test_stages_2_to_5_with_an_interrupt_score_as_on_one_machine(
    engine: Engine, recipe: Path, work: Path, here: Path
) -> None:
    exp = work / engine.name / "exp" / "T"
    words = ["--cmd_backend", engine.name, "--nj", "2", *folders(work, engine.name)]
    process = start(recipe, engine.env, *words, "--stage", "2")
    logs = [exp / "log" / f"train.{task}.log" for task in (1, 2)]
    wait_until(lambda: any(log.exists() for log in logs), process)
    if engine.name == "sge":
        process.terminate()
    else:
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + (signal.SIGTERM if engine.name == "sge" else signal.SIGINT), out + err
    assert "Stage 1" not in out and "Stage 3" in out and "Stage 4" not in out
    assert "cancelled job" in err and err.rstrip().endswith("--stage 3")
    wait_until(lambda: not engine.queue())
    assert not list(exp.glob("*/model.safetensors"))

    # What the last line says goes on.
    run(recipe, engine.env, *words, "--stage", "3")
    check_same(exp, here)
    index = {"sge": "SGE_TASK_ID", "slurm": "SLURM_ARRAY_TASK_ID"}[engine.name]
    for name in ("train", "decode"):
        assert index in (exp / "log" / "q" / f"{name}.sh").read_text()
        for task in (1, 2):
            log = (exp / "log" / f"{name}.{task}.log").read_text()
            assert log.startswith("# Running on ") and log.endswith("with status 0\n")


def wait_until(true: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 90
    while not true():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.1)
