"""utils/parse_options.sh: every row of the option contract, driven through a small script."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = r"""#!/usr/bin/env bash
# Runs the recipe.
set -euo pipefail

# General
stage=1        # first stage to run
foo_bar=none   # something
tag=""         # 100%% of the name
dry_run=false  # print only
declare -i count=3
. %s/utils/parse_options.sh
printf '%%s\n' "stage=${stage}" "foo_bar=${foo_bar}" "tag=${tag}" "dry_run=${dry_run}" "rest=$*"
"""


class Script:
    """run.sh with the options above; called with words, gives status, stdout as a dict, stderr."""

    def __init__(self, folder: Path, recipe: Path) -> None:
        self.folder = folder
        self.file = folder / "run.sh"
        self.file.write_text(SCRIPT % recipe, encoding="utf-8")

    def __call__(self, *words: str, **env: str) -> tuple[int, dict[str, str], str]:
        done = subprocess.run(
            ["bash", str(self.file), *words],
            capture_output=True,
            text=True,
            cwd=self.folder,
            timeout=10,
            env={**os.environ, **env},
        )
        pairs = (line.split("=", 1) for line in done.stdout.splitlines())
        return done.returncode, {k: v for k, v in pairs}, done.stderr


@pytest.fixture
def script(tmp_path: Path, recipe: Path) -> Script:
    return Script(tmp_path, recipe)


@pytest.mark.parametrize("option", ["--foo-bar", "--foo_bar"])
def test_dashes_and_underscores_are_equal(script: Script, option: str) -> None:
    assert script(option, "V") == (0, dict(stage="1", foo_bar="V", tag="", dry_run="false", rest=""), "")


@pytest.mark.parametrize(
    "value",
    ["", "two words", "-1", "--stage", "--help", "$(touch evil)", "`touch evil`", "a'b\"c", "a\\tb", "*", "x;y|z&"],
)
def test_values_are_stored_as_they_are(script: Script, value: str) -> None:
    status, got, err = script("--tag", value, "--stage", "-1")
    assert (status, got["tag"], got["stage"], err) == (0, value, "-1", "")
    assert not (script.folder / "evil").exists()


def test_equals_sign_is_refused_with_the_form_wanted(script: Script) -> None:
    status, _, err = script("--stage=3")
    assert status == 1
    assert err == "run.sh: options are two words: write --stage 3, not --stage=3\n"


@pytest.mark.parametrize(
    ("option", "nearest"),
    [("--foo_bra", "foo_bar"), ("--stge", "stage"), ("--dry", "dry_run"), ("--hlep", "help"), ("--confg", "config")],
)
def test_unknown_option_names_the_nearest(script: Script, option: str, nearest: str) -> None:
    status, _, err = script(option, "3")
    assert status == 1
    assert err == f"run.sh: invalid option {option} (did you mean --{nearest}?)\n"


@pytest.mark.parametrize("option", ["--PATH", "--help_message", "--count", "--a[0]", "--x$(touch evil)", "--_po_used"])
def test_what_is_no_plain_lower_case_variable_is_no_option(script: Script, option: str) -> None:
    status, _, err = script(option, "3")
    assert (status, err.startswith(f"run.sh: invalid option {option} ")) == (1, True)
    assert not (script.folder / "evil").exists()


def test_the_environment_adds_no_options_but_may_share_a_name(script: Script) -> None:
    assert script("--http_proxy", "x", http_proxy="y")[0] == 1
    status, got, _ = script("--stage", "4", stage="9")
    assert (status, got["stage"]) == (0, "4")
    assert script(stage="9")[1]["stage"] == "1"


@pytest.mark.parametrize("value", ["yes", "", "1", "--tag", "True"])
def test_a_boolean_stays_one(script: Script, value: str) -> None:
    status, _, err = script("--dry-run", value)
    assert (status, err) == (1, f"run.sh: --dry-run: expected true or false, got '{value}'\n")


def test_an_option_that_is_true_by_chance_is_no_boolean(script: Script) -> None:
    assert script("--tag", "true", "--tag", "other")[1]["tag"] == "other"
    assert script("--dry_run", "true")[1]["dry_run"] == "true"


def test_last_option_without_value_is_an_error(script: Script) -> None:
    assert script("--stage", "2", "--tag")[::2] == (1, "run.sh: option --tag needs a value\n")
    assert script("--config")[0] == 1


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_is_made_of_the_comments(script: Script, option: str) -> None:
    status, out, err = script("--stage", "4", option)
    assert (status, out) == (0, {})
    assert "Runs the recipe." in err
    assert "General" in err
    assert "  --stage              first stage to run [1]\n" in err
    assert "100% of the name" in err
    assert "count" not in err


def test_help_message_is_text(script: Script) -> None:
    text = script.file.read_text().replace("stage=1 ", "help_message='50%% of $(date) %d'\nstage=1 ", 1)
    script.file.write_text(text)
    assert script("--help")[::2] == (0, "50%% of $(date) %d\n")


def test_config_is_read_first_and_the_command_line_wins(script: Script) -> None:
    (script.folder / "a.conf").write_text(
        '# comment\n\nstage=5\ntag="two words"  # why\nfoo_bar=$(touch evil) # x\r\n', encoding="utf-8"
    )
    (script.folder / "b.conf").write_text("stage=6\ndry_run=true", encoding="utf-8")
    status, got, err = script("--foo_bar", "mine", "--config", "a.conf", "--config", "b.conf")
    assert (status, err) == (0, "")
    assert got == dict(stage="6", foo_bar="mine", tag="two words", dry_run="true", rest="")
    assert script("--config", "a.conf")[1]["foo_bar"] == "$(touch evil)"
    assert not (script.folder / "evil").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("stge=3", "run.sh: x.conf:2: invalid option stge (did you mean --stage?)\n"),
        ("echo hello", "run.sh: x.conf:2: expected name=value, got 'echo hello'\n"),
        ("dry_run=yes", "run.sh: x.conf:2: dry_run: expected true or false, got 'yes'\n"),
    ],
)
def test_config_errors_name_the_line(script: Script, line: str, message: str) -> None:
    (script.folder / "x.conf").write_text(f"stage=2\n{line}\n", encoding="utf-8")
    assert script("--config", "x.conf")[::2] == (1, message)


def test_unreadable_config(script: Script) -> None:
    assert script("--config", "none.conf")[::2] == (1, "run.sh: --config: cannot read 'none.conf'\n")


def test_parsing_stops_at_a_word_that_is_no_option(script: Script) -> None:
    status, got, _ = script("--stage", "2", "word", "--tag", "x")
    assert (status, got["stage"], got["tag"], got["rest"]) == (0, "2", "", "word --tag x")


def test_nothing_is_left_behind(script: Script) -> None:
    script.file.write_text(script.file.read_text() + "\nset | grep -c '^_po' >count || true\n")
    script("--stage", "2")
    assert (script.folder / "count").read_text() == "0\n"


def test_log_line_and_die(tmp_path: Path, recipe: Path) -> None:
    file = tmp_path / "run.sh"
    file.write_text(f". {recipe}/utils/log.sh\nf() {{ log one two; }}\nf\nlog '%s'\ndie 3 why\necho no\n")
    done = subprocess.run(["bash", str(file)], capture_output=True, text=True, timeout=10)
    assert done.returncode == 3
    stamp = "dddd-dd-ddTdd:dd:dd"
    first, second = (
        "".join("d" if c.isdigit() else c for c in line[:19]) + line[19:] for line in done.stdout.splitlines()
    )
    assert first == f"{stamp} (run.sh:2:f) one two"
    assert second == f"{stamp} (run.sh:4:main) %s"
    assert done.stderr[19:] == " (run.sh:5:main) why\n"


@pytest.mark.parametrize("value", ["", "two words", "$(date)", "a;b", "it's", "*", 'a "b"', "line\nline", "~", "x=`y`"])
def test_job_word_survives_the_job_shell(tmp_path: Path, recipe: Path, value: str) -> None:
    done = subprocess.run(
        [
            "bash",
            "-c",
            '. "$1/utils/log.sh"; "$1/utils/run.pl" x.log printf "$(job_word "<%s>")" "$(job_word "$2")"',
            "-",
            recipe,
            value,
        ],
        cwd=tmp_path,
        timeout=10,
    )
    assert done.returncode == 0
    assert f"\n<{value}># Accounting" in (tmp_path / "x.log").read_text()


def test_an_option_that_is_gone_names_what_replaces_it(script: Script) -> None:
    (script.folder / "old.conf").write_text("int8=true\n")
    for words, where in ((["--int8", "true"], "--int8"), (["--config", "old.conf"], "old.conf:1: int8")):
        status, _, error = script(*words)
        assert status == 1 and len(error.splitlines()) == 1
        assert f"{where} is gone" in error and "--onnx true" in error and "quantize_dynamic" in error
