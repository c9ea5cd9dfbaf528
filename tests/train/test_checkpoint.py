import io
import os
import pickle

import pytest
import torch
from datadirs import Bomb

from sermtl.errors import UserError
from sermtl.train import checkpoint
from sermtl.train.checkpoint import NAME, PREVIOUS, load_checkpoint, save_checkpoint


def state(epoch):
    generator = torch.Generator().manual_seed(epoch)
    weights = {"a.weight": torch.randn(20, 10, generator=generator), "a.bias": torch.zeros(10)}
    history = [{"epoch": n + 1, "train": {"loss": 0.1 * n, "wer": None}} for n in range(epoch)]
    return {
        "model": weights,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}},
        "epoch": epoch,
        "history": history,
    }


def same(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first["model"][name], second["model"][name]) for name in first["model"])
    return first["epoch"] == second["epoch"] and first["history"] == second["history"]


@pytest.fixture
def two(tmp_path):
    """A folder with the checkpoints of epochs 1 and 2."""
    save_checkpoint(tmp_path, state(1))
    save_checkpoint(tmp_path, state(2))
    return tmp_path


def test_there_is_none_before_the_first(tmp_path):
    assert load_checkpoint(tmp_path) is None and load_checkpoint(tmp_path / "no_folder") is None


def test_the_newest_comes_back_and_the_one_before_is_kept(two, capsys):
    assert same(load_checkpoint(two), state(2))
    assert sorted(path.name for path in two.iterdir()) == [PREVIOUS, NAME]
    (two / NAME).unlink()
    assert same(load_checkpoint(two), state(1))
    assert capsys.readouterr().out == ""


def test_plain_torch_reads_the_file(two):
    assert same(torch.load(two / NAME, weights_only=True), state(2))


def flipped(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DAMAGES = {f"bit flipped at {share}": share for share in (0, 0.3, 0.5, 0.9, 1)}
DAMAGES |= {f"cut to {size} bytes": size for size in (0, 1, 60, 500, -72, -1)}


def damage(path, kind):
    content = path.read_bytes()
    if "flipped" in kind:
        path.write_bytes(flipped(content, int(DAMAGES[kind] * (len(content) - 1))))
    else:
        path.write_bytes(content[: DAMAGES[kind]])


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_newest_one_is_passed_over_with_a_message(two, kind, capsys):
    damage(two / NAME, kind)
    assert same(load_checkpoint(two), state(1))
    message = capsys.readouterr().out
    assert f"{two / NAME} is damaged" in message and PREVIOUS in message
    save_checkpoint(two, state(2))
    assert same(load_checkpoint(two), state(2))


def test_a_damaged_one_never_takes_the_place_of_a_whole_one(two, monkeypatch):
    damage(two / NAME, "cut to 500 bytes")
    load_checkpoint(two)
    real = os.replace
    monkeypatch.setattr(
        os, "replace", lambda source, target: real(source, target) if target == two / PREVIOUS else 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        save_checkpoint(two, state(2))
    monkeypatch.undo()
    assert same(load_checkpoint(two), state(1))


def test_two_damaged_ones_stop_with_what_to_do(two):
    for name in (NAME, PREVIOUS):
        (two / name).write_bytes((two / name).read_bytes()[:100])
    with pytest.raises(UserError) as error:
        load_checkpoint(two)
    assert str(two / NAME) in str(error.value) and str(two / PREVIOUS) in str(error.value)
    assert f"remove {two}" in str(error.value)


@pytest.mark.parametrize("step", ["write", "sync", "first rename", "second rename"])
def test_a_crash_while_saving_loses_no_state(two, step, monkeypatch):
    """Whatever call fails, epoch 2 or 3 can be resumed."""
    calls = []

    def fails(real, after=0):
        def call(*args):
            calls.append(args)
            if len(calls) > after:
                raise OSError("the machine went off")
            return real(*args)

        return call

    if step == "write":
        monkeypatch.setattr(checkpoint.torch, "save", fails(torch.save))
    elif step == "sync":
        monkeypatch.setattr(os, "fsync", fails(os.fsync))
    else:
        monkeypatch.setattr(os, "replace", fails(os.replace, after=int(step == "second rename")))
    with pytest.raises((UserError, OSError)):
        save_checkpoint(two, state(3))
    monkeypatch.undo()
    assert calls
    assert same(load_checkpoint(two), state(2))
    assert {path.name for path in two.iterdir()} <= {NAME, PREVIOUS}


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    marker = tmp_path / "code_ran"
    save_checkpoint(tmp_path, {"epoch": 1, "history": Bomb(marker)})
    with pytest.raises(UserError, match=NAME):
        load_checkpoint(tmp_path)
    assert not marker.exists()
    # The pickle is one that does run.
    torch.load(tmp_path / NAME, weights_only=False)
    assert marker.exists()


def test_no_checkpoint_of_another_program_is_loaded(tmp_path):
    torch.save(state(1), tmp_path / NAME)
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(tmp_path)
    buffer = io.BytesIO()
    pickle.dump({"epoch": 1}, buffer)
    (tmp_path / NAME).write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(tmp_path)
