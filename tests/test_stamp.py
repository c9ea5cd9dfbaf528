"""Stamps: what a directory was made from, and who notices when that, or the directory itself, is another."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys

import pytest
from small_corpus import run_program

from sermtl.bin import stamp as program
from sermtl.errors import UserError
from sermtl.files import remove_leftovers, temporary_path
from sermtl.stamp import NAME, Stamp, digest, inputs, outdated, read_stamp, refuse_damaged


@pytest.fixture
def made(tmp_path):
    """``out`` with two files, made from ``data/text``."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/text").write_text("u WORDS\n")
    (tmp_path / "out").mkdir()
    stamp = stamp_in(tmp_path)
    assert stamp.changed() == "not made yet"
    stamp.begin()
    assert stamp.changed() == "its making was cut off" and read_stamp(stamp.path) == {}
    outputs = [tmp_path / "out" / name for name in ("a", "b")]
    for path in outputs:
        path.write_text(path.name)
    stamp.finish(outputs)
    return tmp_path


def stamp_in(root, code=1, **settings):
    return Stamp(
        root / "out" / NAME, code, {"beta": 0.1, **settings}, inputs({"data": root / "data"}, "data:text", "data:lang")
    )


def test_what_did_not_change_is_current_also_elsewhere_and_at_another_time(made, tmp_path_factory):
    assert stamp_in(made).changed() == ""
    for path in made.rglob("*"):
        os.utime(path, (5e7, 5e7))
    there = tmp_path_factory.mktemp("moved") / "here"
    shutil.move(made, there)
    assert stamp_in(there).changed() == "" and outdated(there / "out" / NAME, {"data": there / "data"}) == []


def test_an_input_that_changes_while_a_stage_works_makes_its_outputs_outdated(made):
    stamp = stamp_in(made, beta=1.0)
    stamp.begin()
    (made / "data/text").write_text("u OTHER WORDS\n")
    stamp.finish([made / "out/a"])
    assert stamp_in(made, beta=1.0).changed() == "other inputs: data:text"


def test_every_change_is_told(made):
    assert stamp_in(made, code=2).changed() == "made by another version of the program"
    assert stamp_in(made, beta=1.0).changed() == "other settings: beta"
    (made / "data/lang").write_text("en\n")
    assert stamp_in(made).changed() == "other inputs: data:lang"
    assert outdated(made / "out" / NAME, {"data": made / "data"}) == [
        f"{made}/out was made from another {made}/data/lang"
    ]


@pytest.mark.parametrize("damage", ["other", "", None])
def test_outputs_that_are_not_as_they_were_made_are_named(made, damage):
    (made / "out/b").unlink() if damage is None else (made / "out/b").write_text(damage)
    assert stamp_in(made).changed() == "missing or damaged: b"
    with pytest.raises(UserError, match="missing or damaged: b; rerun stage 9"):
        refuse_damaged(made / "out" / NAME, "rerun stage 9")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"begun": []}', '{"begun": {"x": ""}}'])
def test_a_stamp_that_is_damaged_while_its_stage_works_is_one_message(tmp_path, content, capsys):
    (tmp_path / NAME).write_text(content)
    assert run_program(program.main, "finish", "--stamp", tmp_path / NAME, "--inputs", tmp_path / "a") == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith(f"error: {tmp_path / NAME}: damaged while its stage worked (")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"code": 1}'])
def test_a_damaged_stamp_is_no_stamp(made, content):
    (made / "out" / NAME).write_text(content)
    assert read_stamp(made / "out" / NAME) == {}
    assert stamp_in(made).changed() and outdated(made / "out" / NAME, {})


def test_a_source_that_is_gone_is_no_newer(made):
    (made / "data/text").unlink()
    assert outdated(made / "out" / NAME, {"data": made / "data"}) == []
    assert stamp_in(made).changed() == "other inputs: data:text"


def test_audio_counts_by_size_and_time_and_a_folder_by_its_files(tmp_path):
    (tmp_path / "wavs").mkdir()
    wav = tmp_path / "wavs/1.wav"
    wav.write_bytes(b"RIFF")
    (tmp_path / "wav.scp").write_text(f"u {wav}\nv cat x |\n")
    seen = {(digest(tmp_path / "wav.scp*"), digest(tmp_path / "wavs"))}
    os.utime(wav, ns=(1, 1))
    seen.add((digest(tmp_path / "wav.scp*"), digest(tmp_path / "wavs")))
    wav.write_bytes(b"RIFF.")
    seen.add((digest(tmp_path / "wav.scp*"), digest(tmp_path / "wavs")))
    assert len({one for one, _ in seen}) == len({two for _, two in seen}) == 3
    wav.unlink()
    assert digest(tmp_path / "wav.scp*") is None


def test_temporary_files_of_dead_processes_are_collected(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mine = temporary_path(tmp_path / "kept")
    gone = mine.with_name(f".x.{platform.node()}.{dead.pid}.tmp")
    far, far_and_old = tmp_path / ".x.elsewhere.7.tmp", tmp_path / ".y.elsewhere.7.tmp"
    for path in (mine, far, far_and_old):
        path.write_text("")
    (gone / "below").mkdir(parents=True)
    os.utime(far_and_old, (5e7, 5e7))
    unasked = subprocess.Popen([sys.executable, "-c", ""])  # dead, and its parent has not asked for its status
    os.waitid(os.P_PID, unasked.pid, os.WEXITED | os.WNOWAIT)
    gone.with_name(f".z.{platform.node()}.{unasked.pid}.tmp").write_text("")
    remove_leftovers(tmp_path)
    unasked.wait()
    assert {path.name for path in tmp_path.iterdir()} == {mine.name, far.name}
