import gc
import io
import pickle
import sys
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile
from datadirs import Bomb
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sermtl.errors import UserError
from sermtl.fileio.ark import ArkWriter, read_audio_entry, read_matrix, write_ark
from sermtl.fileio.wav_scp import locate

int16 = hnp.arrays(np.int16, st.integers(1, 300), elements=st.integers(-32768, 32767))
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
floats = hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=2, max_side=30), elements=finite)
keys = st.text("abÄ漢-_.0", min_size=1, max_size=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ark")


@given(st.dictionaries(keys, int16, min_size=1, max_size=4))
@settings(max_examples=30)
def test_audio_comes_back_to_the_bit_through_its_offset(folder, audio):
    with write_ark(folder / "audio.ark") as writer:
        for key, samples in audio.items():
            writer.write_audio(key, samples)
    assert list(writer.scp) == list(audio)
    for key, samples in audio.items():
        read = read_audio_entry(writer.scp[key], key)
        assert read.dtype == np.int16 and np.array_equal(read, samples)
        rate, theirs = kaldiio.load_mat(writer.scp[key])
        assert rate == 16000 and np.array_equal(theirs, samples)


def test_float32_audio_comes_back_to_the_bit_among_int16(folder):
    quiet = np.random.default_rng(0).normal(0, 1e-6, 999).astype(np.float32)
    with write_ark(folder / "mixed.ark") as writer:
        for key, samples in {"a": quiet, "b": np.arange(9, dtype=np.int16), "c": quiet[:5]}.items():
            writer.write_audio(key, samples)
    assert np.array_equal(read_audio_entry(writer.scp["a"]), quiet)
    assert np.array_equal(read_audio_entry(writer.scp["c"]), quiet[:5])
    assert read_audio_entry(writer.scp["b"]).tolist() == [*range(9)]
    source = locate(writer.scp["a"])
    whole, rate = soundfile.read(io.BytesIO(source.read()), dtype="float32")
    assert rate == 16000 and np.array_equal(whole, quiet), "a RIFF file that others read"
    (folder / "cut.ark").write_bytes((folder / "mixed.ark").read_bytes()[:600])
    with pytest.raises(UserError, match="the file ends within this entry"):
        read_audio_entry(writer.scp["a"].replace("mixed", "cut"))


@given(st.dictionaries(keys, floats, min_size=1, max_size=4))
@settings(max_examples=30)
def test_float_arrays_are_what_kaldiio_reads(folder, arrays):
    with write_ark(folder / "feats.ark") as writer:
        for key, array in arrays.items():
            writer.write_array(key, array)
    for key, theirs in kaldiio.load_ark(str(folder / "feats.ark")):
        ours = read_matrix(writer.scp[key], key)
        assert ours.dtype == np.float32
        assert np.array_equal(ours, theirs) and np.array_equal(ours, arrays[key])
        assert np.array_equal(kaldiio.load_mat(writer.scp[key]), ours)


def test_an_ark_reads_in_sequence_and_through_its_scp(folder):
    audio = {f"utt{n}": np.full(n + 1, n, dtype=np.int16) for n in range(5)}
    with write_ark(folder / "sequence.ark") as writer:
        for key, samples in audio.items():
            writer.write_audio(key, samples)
    read = {key: samples for key, (_, samples) in kaldiio.load_ark(str(folder / "sequence.ark"))}
    assert {key: samples.tolist() for key, samples in read.items()} == {k: v.tolist() for k, v in audio.items()}
    (folder / "sequence.scp").write_text("".join(f"{key} {entry}\n" for key, entry in writer.scp.items()))
    assert kaldiio.load_scp(str(folder / "sequence.scp"))["utt3"][1].tolist() == [3] * 4


def test_doubles_and_transposed_arrays_are_written_as_float32(folder):
    array = np.arange(6.0).reshape(2, 3).T / 3
    with write_ark(folder / "double.ark") as writer:
        writer.write_array("a", array)
    assert np.array_equal(read_matrix(writer.scp["a"]), array.astype(np.float32))


def test_paths_with_colons_blanks_and_commas(folder):
    odd = folder / "a: b,c"
    with write_ark(odd / "x.ark") as writer:
        writer.write_audio("u", np.array([1, 2], dtype=np.int16))
    assert read_audio_entry(writer.scp["u"]).tolist() == [1, 2]


def test_an_ark_appears_whole_or_not_at_all(folder):
    path = folder / "whole" / "x.ark"
    with write_ark(path) as writer:
        writer.write_audio("old", np.ones(4, dtype=np.int16))
    before = path.read_bytes()
    with pytest.raises(RuntimeError), write_ark(path) as writer:
        writer.write_audio("new", np.ones(9, dtype=np.int16))
        raise RuntimeError("killed")
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["x.ark"]


def test_a_repeated_key_is_refused(folder):
    with pytest.raises(UserError, match="utt7 twice"), write_ark(folder / "twice.ark") as writer:
        writer.write_audio("utt7", np.ones(4, dtype=np.int16))
        writer.write_audio("utt7", np.ones(4, dtype=np.int16))
    assert not (folder / "twice.ark").exists()


def test_pickles_and_numpy_objects_are_not_opened(folder):
    (folder / "pickle.ark").write_bytes(b"utt PKL" + pickle.dumps(Bomb(folder / "code_ran")))
    kaldiio.save_ark(str(folder / "numpy.ark"), {"utt": np.ones(3)}, write_function="numpy")
    for name in ("pickle", "numpy"):
        for read in (read_matrix, read_audio_entry):
            with pytest.raises(UserError, match=rf"{name}.ark:4 \(utt\)"):
                read(f"{folder}/{name}.ark:4", "utt")
    assert not (folder / "code_ran").exists()
    # The pickle is one that does run.
    kaldiio.load_mat(f"{folder}/pickle.ark:4")
    assert (folder / "code_ran").exists()


@pytest.mark.parametrize("entry", ["touch {0} |", "cat {0}.ark|", "| cat:4", "{0}", "{0}.ark:x", ":5", ""])
def test_pipes_and_other_specifiers_are_not_run(folder, entry):
    marker = folder / "marker"
    for read in (read_matrix, read_audio_entry):
        with pytest.raises(UserError):
            read(entry.format(marker), "utt")
    assert not marker.exists()


def cut_entries(folder, write):
    """Write two entries and give the second's specifier in files cut at every length, and its whole value."""
    with write_ark(folder / "cut.ark") as writer:
        write(writer)
    content = (folder / "cut.ark").read_bytes()
    offset = int(writer.scp["last"].rpartition(":")[2])
    for length in (0, 1, offset - 1, *range(offset, len(content))):
        (folder / "short.ark").write_bytes(content[:length])
        yield f"{folder}/short.ark:{offset}"


def test_truncated_audio_is_refused_wherever_it_ends(folder):
    def write(writer):
        writer.write_audio("first", np.arange(20, dtype=np.int16))
        writer.write_audio("last", np.arange(50, dtype=np.int16))

    for specifier in cut_entries(folder, write):
        with pytest.raises(UserError, match="last"):
            read_audio_entry(specifier, "last")


def test_truncated_matrices_are_refused_wherever_they_end(folder):
    def write(writer):
        writer.write_array("first", np.ones((2, 2)))
        writer.write_array("last", np.ones((3, 5)))

    for specifier in cut_entries(folder, write):
        with pytest.raises(UserError, match="last"):
            read_matrix(specifier, "last")


@given(st.binary(max_size=80))
@settings(max_examples=150)
def test_arbitrary_bytes_never_raise_anything_else(folder, content):
    (folder / "bytes.ark").write_bytes(content)
    for read in (read_matrix, read_audio_entry):
        try:
            read(f"{folder}/bytes.ark:0", "utt")
        except UserError as error:
            assert "bytes.ark" in str(error)


def test_the_wrong_kind_of_entry_is_reported(folder):
    with write_ark(folder / "kinds.ark") as writer:
        writer.write_audio("audio", np.ones(4, dtype=np.int16))
        writer.write_array("matrix", np.ones((2, 2)))
    with pytest.raises(UserError, match="audio where features were expected"):
        read_matrix(writer.scp["audio"], "audio")
    with pytest.raises(UserError, match="not 16000 Hz audio"):
        read_audio_entry(writer.scp["matrix"], "matrix")
    kaldiio.save_ark(str(folder / "rate.ark"), {"u": (8000, np.ones(4, dtype=np.int16))})
    kaldiio.save_ark(str(folder / "stereo.ark"), {"u": (16000, np.ones((4, 2), dtype=np.int16))})
    for name in ("rate", "stereo"):
        with pytest.raises(UserError, match=f"{name}.ark:2"):
            read_audio_entry(f"{folder}/{name}.ark:2", "u")
    with pytest.raises(UserError, match=r"cannot read .*none.ark:0 \(u\)"):
        read_audio_entry(f"{folder}/none.ark:0", "u")


def test_what_is_read_cannot_be_changed_by_accident(folder):
    with write_ark(folder / "readonly.ark") as writer:
        writer.write_array("m", np.ones((2, 2)))
    with pytest.raises(ValueError):
        read_matrix(writer.scp["m"])[0, 0] = 2


@pytest.mark.parametrize("samples", [100, 100_000])
def test_a_full_disk_is_one_error(samples, monkeypatch):
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    with pytest.raises(OSError, match="No space left"), open("/dev/full", "wb") as file:
        ArkWriter(file, Path("x.ark")).write_audio("u", np.zeros(samples, np.int16))
    gc.collect()
    assert ignored == []
