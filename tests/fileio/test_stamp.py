"""Stamps: what a directory was made from, and who notices when that, or the directory itself, is another."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from datadirs import make_data, rows_of
from small_corpus import run_program

from sermtl.bin import dump, tokens
from sermtl.bin import stamp as program
from sermtl.data import dump as dumping
from sermtl.data.fold_job import FoldPaths
from sermtl.errors import UserError
from sermtl.fileio.files import remove_leftovers, temporary_path
from sermtl.fileio.stamp import NAME, Stamp, digest, inputs, outdated, package_digest, read_stamp, refuse_damaged
from sermtl.train.fold import train_stamp


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


def test_every_change_is_reported(made):
    assert stamp_in(made, code=2).changed() == "made by another version of the program"
    assert stamp_in(made, beta=1.0).changed() == "other settings: beta"
    (made / "data/lang").write_text("en\n")
    assert stamp_in(made).changed() == "other inputs: data:lang"
    assert outdated(made / "out" / NAME, {"data": made / "data"}) == [
        f"{made}/out was made from another {made}/data/lang"
    ]


@pytest.mark.parametrize("versioned", ["train.settings_file", "inference.decode"])
def test_a_trained_or_decoded_fold_is_stale_under_another_code_version(tmp_path, monkeypatch, versioned):
    made_by = importlib.import_module(f"sermtl.{versioned}")
    paths = FoldPaths(*[tmp_path] * 5)
    fold = SimpleNamespace(dump=tmp_path / "raw")

    def stamp():
        if versioned == "train.settings_file":
            return train_stamp(paths, fold)
        return made_by.decode_stamp(paths, "test", "raw", ("train", "test"))

    stamp().finish([])
    assert stamp().changed() == ""
    monkeypatch.setattr(made_by, "CODE_VERSION", made_by.CODE_VERSION + 1)
    assert stamp().changed() == "made by another version of the program"


def test_arks_and_token_lists_are_made_again_under_another_code_version(tmp_path, monkeypatch, capsys):
    rows = rows_of(speakers=2, each=2)
    data = make_data(tmp_path / "data", rows, audio=True)
    (data / "lang").write_text("en\n")
    (tmp_path / "folds/1").mkdir(parents=True)
    (tmp_path / "folds/1/train").write_text("".join(f"{row['utt']}\n" for row in rows))
    for kept, newer in ((0, 0), (3, 0), (0, 1), (3, 0)):
        for made_by in (dumping, tokens):
            monkeypatch.setattr(made_by, "CODE_VERSION", made_by.CODE_VERSION + newer)
        for verb in ("part", "merge"):
            words = ["--data", data, "--out", tmp_path / "dump", "--feats_type", "raw"]
            assert run_program(dump.main, verb, *words) == 0
        words = ["--data", data, "--folds_dir", tmp_path / "folds", "--folds", "1", "--out", tmp_path / "tokens"]
        assert run_program(tokens.main, *words) == 0
        assert capsys.readouterr().out.count("nothing changed: ") == kept


def test_what_is_soon_redone_is_stale_under_another_version_of_any_file_of_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr("sermtl.fileio.stamp.__file__", str(tmp_path / "sermtl/fileio/stamp.py"))
    (tmp_path / "sermtl/bin").mkdir(parents=True)
    digests = []
    for name, text in (("bin/score.py", "1"), ("bin/score.py", "2"), ("page.css", ""), ("x.pyc", "")):
        (tmp_path / "sermtl" / name).write_text(text)
        package_digest.cache_clear()
        digests.append(package_digest())
    package_digest.cache_clear()
    assert len(set(digests)) == 3 and digests[2] == digests[3]


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
