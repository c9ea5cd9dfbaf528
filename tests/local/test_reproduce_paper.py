"""local/reproduce_paper.sh: its loop over a stand-in for run.sh, and two settings of `mini` with kills in between."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import faults
import jiwer
import pytest

from sermtl.fileio.tables import read_table
from tests import recompute

RUN_SH = """#!/usr/bin/env bash
set -eu
if [[ $* == *"--dry_run true"* ]]; then
    all="$*" alpha=${all#*--alpha } alpha=${alpha%% *}
    echo "  python3 -m sermtl.bin.score folds --exp exp/alpha${alpha} --data d --folds 01F 02M "
    exit
fi
echo "$*" >>calls
if [[ -e wait ]]; then
    trap 'echo ended >>ends; exit 143' TERM
    echo begun >>begins
    while [[ -e wait ]]; do sleep 0.05; done
fi
if [[ $* == *"--beta 1 "* ]]; then echo no room; exit 3; fi
"""
"""It notes how it was called, waits while there is a file `wait`, and fails with beta 1."""


class Loop:
    """The script in a folder of its own, beside the stand-in."""

    def __init__(self, recipe: Path, root: Path):
        self.root = root
        scripts = ("local/reproduce_paper.sh", "local/compare_normalisation.sh")
        for name in (*scripts, "utils/log.sh", "utils/parse_options.sh"):
            (root / name).parent.mkdir(exist_ok=True)
            shutil.copy(recipe / name, root / name)
        (root / "run.sh").write_text(RUN_SH)
        (root / "run.sh").chmod(0o755)

    def start(self, *words: str, script: str = "reproduce_paper") -> subprocess.Popen[str]:
        def defaults() -> None:  # where tests run under nohup or in the background, some are ignored
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)

        pipe = subprocess.PIPE
        words = (str(self.root / f"local/{script}.sh"), *words)
        return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, start_new_session=True, preexec_fn=defaults)

    def __call__(self, *words: str, **script: str) -> tuple[int, str, str]:
        process = self.start(*words, **script)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def lines(self, name: str) -> list[str]:
        path = self.root / name
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def loop(recipe: Path, tmp_path: Path) -> Loop:
    return Loop(recipe, tmp_path)


def wait_until(true: Callable[[], object], process: subprocess.Popen[str], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def test_protocols_seeds_and_settings_between_one_preparation_and_one_report(loop: Loop) -> None:
    status, out, err = loop("--seeds", "0 1", "--settings", "beta0 forward0.1 alpha0", "--nj", "2", "--alpha", "0.5")
    assert status == 0, err
    calls = loop.lines("calls")
    always = "--corpus mini --folds all --dev_ratio 0.1 --expdir exp --train_args  --nj 2"
    assert all(call.startswith(f"{always} --protocol ") for call in calls)
    steps = [call.removeprefix(f"{always} --protocol ") for call in calls]
    values = ["--alpha 0.5 --beta 0 --grl reverse", "--alpha 0.5 --beta 0.1 --grl forward"]
    values += ["--alpha 0 --beta 0 --grl reverse"]
    assert steps == [
        *(f"{protocol} --stage 1 --stop_stage 2" for protocol in ("speaker", "paper")),
        *(
            f"{protocol} --seed {seed} {chosen} --stage 3 --stop_stage 5"
            for protocol in ("speaker", "paper")
            for seed in (0, 1)
            for chosen in values
        ),
        f"paper --seed 1 {values[2]} --stage 6 --stop_stage 6",
    ]
    counts = re.findall(r"(\d+) done, 0 failed, (\d+) left", out)
    assert counts == [(str(number), str(12 - number)) for number in range(1, 13)]


def test_methods_of_speaker_normalisation_are_run_on_frozen_outputs_with_their_settings(loop: Loop) -> None:
    (loop.root / "run.sh").write_text(RUN_SH.replace("--beta 1 ", "--beta never "))
    words = ["--corpus", "emodb", "--probe_protocol", "kfold3", "--stage", "3", "--upstream", "U"]
    status, _, err = loop(*words, "--gradients", "beta0 reverse1", script="compare_normalisation")
    assert status == 0, err
    chosen = []
    for call in loop.lines("calls"):
        assert "--upstream U" in call and "--alpha 0 " in call
        if found := re.search(r"--protocol (\S+) .*--alpha 0 (.*?) (?:--train_config \S+ )?--stage 3", call):
            probed = "--dev_ratio 0.25" in call and "--inference_config conf/decode_train.yaml" in call
            chosen.append((found[1], probed, found[2], re.findall(r"--train_config (\S+)", call)[-1]))
    frozen, behind = "conf/frozen.yaml", "conf/frozen_grl.yaml"
    assert chosen == [
        (protocol, protocol == "kfold3", words, config)
        for protocol, half in (("speaker", "all"), ("kfold3", "half"))
        for words, config in (
            ("--spk_norm none", frozen),
            ("--spk_norm erase", frozen),
            (f"--spk_norm standardise --enrol {half}", frozen),
            (f"--spk_norm erase+standardise --enrol {half}", frozen),
            ("--beta 0 --grl reverse", behind),
            ("--beta 1 --grl reverse", behind),
        )
    ]


def test_what_cai_et_al_change_for_alpha_0_and_what_the_figures_need(loop: Loop) -> None:
    words = ["--protocols", "speaker", "--seeds", "0", "--settings", "beta0 alpha0", "--stage", "3"]
    for corpus, options, rates in (
        ("iemocap", [], ["1e-5"]),
        ("emodb", [], []),
        ("emodb", ["--alpha0_learning_rate", "2e-5", "--figures", "true", "--train_args", "--set epochs=2"], ["2e-5"]),
    ):
        (loop.root / "calls").unlink(missing_ok=True)
        status, _, err = loop(*words, "--corpus", corpus, *options)
        assert status == 0, err
        usual, without = loop.lines("calls")[:2]
        assert re.findall(r"--learning_rate (\S+)", without) == rates and "--learning_rate" not in usual
        assert ("--set monitor_test=true --set epochs=2" in usual) == ("--figures" in options)
        assert ("monitor_test" in usual) == ("--figures" in options)


def test_a_failing_experiment_stops_no_other_and_is_listed_with_its_log(loop: Loop) -> None:
    words = ["--protocols", "speaker", "--seeds", "0", "--settings", "reverse1 beta0 forward1", "--stage", "3"]
    status, out, err = loop(*words)
    assert status == 1
    assert "1 done, 2 failed, 0 left" in out
    logs = [f"exp/reproduce/mini/speaker_{setting}_seed0.log" for setting in ("reverse1", "forward1")]
    assert err.rstrip().endswith(
        "failed:\n" + "".join(f"  {log}\n" for log in logs) + "The same command tries them again."
    )
    assert loop.lines(logs[0]) == ["no room"]
    assert "--beta 0 --grl reverse --stage 6" in loop.lines("calls")[-1]  # the report is begun from one that is scored


def test_parallel_runs_so_many_at_once(loop: Loop) -> None:
    (loop.root / "wait").touch()
    process = loop.start("--protocols", "speaker", "--stage", "3", "--parallel", "3", "--settings", "beta0 alpha0")
    wait_until(lambda: len(loop.lines("begins")) == 3, process)
    time.sleep(0.3)
    assert len(loop.lines("begins")) == 3
    (loop.root / "wait").unlink()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and "6 done, 0 failed, 0 left" in out, err
    assert len(loop.lines("calls")) == len(set(loop.lines("calls"))) == 7


@pytest.mark.parametrize(("number", "stage"), [(signal.SIGTERM, 3), (signal.SIGINT, 3), (signal.SIGTERM, 1)])
def test_a_signal_ends_every_run_that_was_started(loop: Loop, number: signal.Signals, stage: int) -> None:
    (loop.root / "wait").touch()
    process = loop.start("--stage", str(stage), "--parallel", "2")
    running = 2 if stage == 3 else 1
    wait_until(lambda: len(loop.lines("begins")) == running, process)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as Ctrl-C in a terminal does
    else:
        process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number and "interrupted" in err
    assert loop.lines("ends") == ["ended"] * running
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_a_dry_run_prints_commands_and_what_is_finished_and_makes_nothing(loop: Loop) -> None:
    words = ["--protocols", "speaker", "--seeds", "0", "--settings", "beta0 alpha0", "--dry_run", "true"]
    scored = loop.root / "exp" / "alpha0.1"
    for name in ("01F/score_test", "02M/score_test", "."):
        (scored / name).mkdir(parents=True, exist_ok=True)
        (scored / name / "scores.json").touch()
    before = sorted(loop.root.rglob("*"))
    for states in (["finished", "to do"], ["to do", "to do"]):
        status, out, err = loop(*words)
        assert status == 0, err
        assert re.findall("^# (.*):", out, re.MULTILINE) == states
        assert [line.partition(" --stage ")[2] for line in out.splitlines() if line.startswith("./run.sh ")] == [
            *("1 --stop_stage 2", "3 --stop_stage 5", "3 --stop_stage 5", "6 --stop_stage 6")
        ]
        assert sorted(loop.root.rglob("*")) == before
        (scored / "02M/score_test/scores.json").unlink(missing_ok=True)
        before = sorted(loop.root.rglob("*"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--beta", "1"], "--beta is for ./run.sh; here --settings, --seeds and --protocols"),
        (["--every", "60"], "--every is gone: progress is printed after each experiment"),
        (["--settings", "beta0 backward1"], "'backward1' is none of beta0"),
        (["--settings", ""], "nothing to train"),
        (["--stage", "6"], "--stage takes 1, 2 or 3, not '6'"),
        (["--parallel", "a[$(touch x)]"], "--parallel takes a number from 1"),
        (["--dry_run", "maybe"], "expected true or false"),
    ],
)
def test_wrong_input_gets_one_clear_message(loop: Loop, words: list[str], says: str) -> None:
    status, out, err = loop(*words)
    assert status in (1, 2) and says in err and len(err.splitlines()) == 1
    assert loop.lines("calls") == []


@pytest.mark.parametrize(
    ("words", "says"),
    [(["--foo", "1"], "invalid option --foo"), (["--train_args", "--set epoch=3"], "did you mean epochs")],
)
def test_what_run_sh_refuses_is_refused(recipe: Path, words: list[str], says: str) -> None:
    script = [recipe / "local/reproduce_paper.sh", "--dry_run", "true", *words]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60)
    assert done.returncode in (1, 2) and says in done.stderr and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """Two settings of `mini`: everything killed at once in training, and started again."""
    machine = faults.Recipe(tmp_path_factory.mktemp("paper with a space"))
    work = machine.here
    words = ["local/reproduce_paper.sh", "--protocols", "speaker", "--seeds", "0", "--settings", "beta0 alpha0"]
    words += ["--folds", "01F", "--train_args", "--set epochs=1", "--ngpu", "0", "--num_threads", "1"]
    words += [word for name in ("data", "dump", "exp") for word in (f"--{name}dir", str(work / name))]
    begun = time.monotonic()
    process = machine.start(words)
    wait_until(lambda: any(work.glob("exp/*/*/model.safetensors")), process, faults.LIMIT)
    machine.kill_all(signal.SIGKILL)
    assert machine.wait(process, begun).status == -signal.SIGKILL and machine.settle()
    ended = machine.wait(machine.start(words), time.monotonic())
    assert ended.status == 0 and "2 done, 0 failed, 0 left" in ended.out, ended.out
    yield work, words
    machine.kill_all(signal.SIGKILL)


@pytest.mark.slow
def test_killed_in_training_it_ends_with_the_report(killed: tuple[Path, list[str]]) -> None:
    work, _ = killed
    report = work / "exp" / "report" / "mini"
    content = json.loads((report / "results.json").read_text())
    names = [f"mini_speaker_small_mini_alpha{alpha}_beta0_reverse_seed0_epochs-1" for alpha in (0.1, 0)]
    assert sorted(content["experiments"]) == names
    tables = content["tables"]
    compared = [(row[0], row[1]) for row in tables["speaker-comparisons"]["rows"]]
    assert compared == [("β 0, α 0 − β 0", "WA"), ("β 0, α 0 − β 0", "UA")]
    assert all(row[3] is not None for row in tables["speaker-speakers"]["rows"])  # the probe has held-out utterances
    cells, wrong, _ = recompute.compare(report)
    assert wrong == [] and sum(cells.values()) > 100


@pytest.mark.slow
def test_the_word_errors_in_the_report_are_jiwers(killed: tuple[Path, list[str]]) -> None:
    work, _ = killed
    texts = read_table(work / "data" / "mini" / "text")
    paths = list((work / "exp" / "report" / "mini" / "scores").glob("*.tsv"))
    assert len(paths) == 2
    for path in paths:
        hypotheses = read_table(work / "exp" / path.stem / "01F" / "decode_test" / "text")
        with open(path, encoding="utf-8") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                reference, found = texts[row["utt"]], hypotheses.pop(row["utt"])
                if "_alpha0_" in path.stem:  # its characters were not trained
                    reference = ""
                output = jiwer.process_words(reference, found) if reference else None
                errors = output.substitutions + output.deletions + output.insertions if output else 0
                assert (int(row["words"]), int(row["errors"])) == (len(reference.split()), errors)
        assert hypotheses == {}


@pytest.mark.slow
def test_a_dry_run_knows_what_run_sh_has_finished(killed: tuple[Path, list[str]], recipe: Path) -> None:
    work, words = killed
    fold = next((work / "exp").glob("*_alpha0_*")) / "01F"
    fold.rename(fold.with_name("away"))
    done = subprocess.run([*words, "--dry_run", "true"], cwd=recipe, capture_output=True, text=True, timeout=60)
    fold.with_name("away").rename(fold)
    assert done.returncode == 0, done.stderr
    assert re.findall("^# (.*):", done.stdout, re.MULTILINE) == ["finished", "to do"]
