"""The short form of tests/helpers/faults.py: some kills in each stage, and a damaged file of each kind."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import faults
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[faults.Recipe]:
    made = faults.Recipe(tmp_path_factory.mktemp("faults"))
    made.undisturbed()
    yield made
    made.kill_all(signal.SIGKILL)


def good(found: faults.Found) -> None:
    assert found.bad == [], "\n".join(found.bad)
    assert found.counts


def test_every_stage_meets_every_signal() -> None:
    least = 102 // 3  # kills of a long run, at most three of them in a sequence
    assert len({faults.dealt(number) for number in range(least)}) == len(faults.STAGES) * len(faults.SIGNALS)


@pytest.mark.parametrize("stage", faults.STAGES)
def test_a_killed_stage_ends_with_the_same_files(recipe: faults.Recipe, stage: int) -> None:
    found, rng = faults.Found(), random.Random(stage)
    number = faults.SIGNALS[stage % 3]
    faults.kill(recipe, found, stage, number, rng, times=1 if stage in (3, 4) else 2)
    good(found)


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        (1, "data/mini/text"),
        (1, "data/mini/folds/speaker/01F/test"),
        (2, "dump/mini/raw/parts/1.ark"),
        (4, "exp/T/01F/decode_test/emo_post"),
        (5, "exp/T/01F/score_test/scores.json"),
        (6, "exp/report/mini/results.json"),
    ],
)
def test_a_damaged_file_is_noticed_and_made_again(recipe: faults.Recipe, stage: int, name: str) -> None:
    found, rng = faults.Found(), random.Random(stage)
    faults.damaged_file(recipe, found, stage, name, faults.DAMAGES[(stage + 1) % 4], rng)
    good(found)


def test_a_full_disk_is_told(recipe: faults.Recipe) -> None:
    if not faults.mountable():
        pytest.skip("this user may not mount a small disk")
    found = faults.Found()
    faults.full_disk(recipe, found, 2, random.Random(0))
    good(found)


def test_an_unchanged_run_says_so_in_every_stage_and_changes_no_file(recipe: faults.Recipe) -> None:
    recipe.restore(6)
    kept = [p for p in recipe.here.rglob("*") if p.is_file() and not {"log", ".lock"} & set(p.parts)]
    before = {path: path.stat().st_mtime_ns for path in kept}
    ended = recipe.run(1, 6)
    assert ended.status == 0, ended.out
    # Data and folds, dump and tokens, training, decoding, scoring and pooling, report.
    parts = ended.out.split(" Stage ")
    assert [part.count("nothing changed: ") for part in parts[1:]] == [2, 4, 1, 1, 2, 1]
    assert {path: path.stat().st_mtime_ns for path in kept} == before


def test_what_changed_is_redone_and_what_depends_on_it_refused_with_the_command(recipe: faults.Recipe) -> None:
    recipe.restore(6)
    text: Path = recipe.here / "data/mini/text"
    lines = text.read_text().splitlines()
    text.write_text("\n".join([lines[0] + " AGAIN", *lines[1:]]) + "\n")
    refused = recipe.run(3, 3)
    assert refused.status == 2 and "data/mini/text is not as it was made; if you changed it on purpose" in refused.out
    assert f"run stage 1 again: ./run.sh --stop_stage 3 --datadir {recipe.here}/data" in refused.out
    (recipe.here / "data/mini/stamp.json").unlink()  # as the message says
    refused = recipe.run(5, 5)
    assert refused.status == 2 and "was made from another" in refused.out and "--stage 1\n" in refused.out
