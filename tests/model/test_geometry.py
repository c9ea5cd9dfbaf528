import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sermtl.errors import UserError
from sermtl.model.geometry import ConvGeometry, find_geometry

BASE = ConvGeometry((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2))


def test_wav2vec2_frames():
    assert BASE.receptive_field == 400
    assert [BASE.frames(n) for n in (0, 1, 399, 400, 719, 720, 16000)] == [1, 1, 1, 1, 1, 2, 49]


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 4)), max_size=4), st.integers(1, 300))
def test_frames_are_those_of_torch_convolutions(layers, length):
    geometry = ConvGeometry(tuple(k for k, _ in layers), tuple(s for _, s in layers))
    signal = torch.zeros(1, 1, max(length, geometry.receptive_field))
    for kernel, stride in layers:
        signal = torch.conv1d(signal, torch.ones(1, 1, kernel), stride=stride)
    assert geometry.frames(length) == signal.shape[2]
    assert geometry.frames(geometry.receptive_field) == 1


def test_the_receptive_field_is_what_one_frame_sees():
    signal = torch.zeros(1, 1, 2000, requires_grad=True)
    out = signal
    for kernel, stride in zip(BASE.kernels, BASE.strides, strict=True):
        out = torch.conv1d(out, torch.ones(1, 1, kernel), stride=stride)
    out[0, 0, 2].backward()
    assert int((signal.grad != 0).sum()) == BASE.receptive_field


def test_an_upstream_is_a_geometry_a_folder_or_a_model_id(tmp_path, recipe):
    assert find_geometry("tiny") == recipe / "conf" / "upstream" / "tiny.yaml"
    (tmp_path / "mine.yaml").write_text("hidden_size: 16\n")
    assert find_geometry(str(tmp_path / "mine.yaml")) == tmp_path / "mine.yaml"
    assert find_geometry(str(tmp_path)) is None
    assert find_geometry("facebook/wav2vec2-base") is None


@pytest.mark.parametrize("name", ["tinny", "./none/here", "/no/such/folder", "a/b/c", "", "some/none.yaml", "none.yml"])
def test_another_upstream_is_refused_with_what_there_is(name):
    with pytest.raises(UserError, match="conf/upstream.*small.*tiny"):
        find_geometry(name)


def test_a_near_name_is_offered():
    with pytest.raises(UserError, match=r"did you mean tiny\?"):
        find_geometry("tinny")
