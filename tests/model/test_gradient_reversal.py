import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sermtl.model.gradient_reversal import reversal_scale, scale_gradient


def test_the_values_pass_unchanged():
    values = torch.randn(3, 4, requires_grad=True)
    assert torch.equal(scale_gradient(values, -0.1), values)


def test_agrees_with_numerical_gradients():
    values = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: scale_gradient(x, 1.0).tanh(), values, check_undefined_grad=False)


@given(st.floats(0, 10), st.floats(0, 1), st.sampled_from(["constant", "dann"]))
def test_forward_is_the_negative_of_reverse(beta, progress, schedule):
    reverse = reversal_scale(beta, "reverse", schedule, progress)
    assert reverse <= 0 and reverse == -reversal_scale(beta, "forward", schedule, progress)


def test_constant_is_beta_from_the_first_update_to_the_last():
    assert {reversal_scale(0.1, "reverse", "constant", p) for p in (0, 0.3, 1)} == {-0.1}
    assert reversal_scale(0.0, "reverse", "constant", 0.5) == 0


@given(st.floats(0, 1), st.floats(0, 3))
def test_dann_is_the_schedule_of_ganin_et_al(progress, beta):
    # 2 / (1 + exp(-10 p)) - 1 is tanh(5 p).
    expected = beta * math.tanh(5 * progress)
    assert reversal_scale(beta, "forward", "dann", progress) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_dann_at_known_points():
    values = [reversal_scale(1.0, "reverse", "dann", p) for p in (0, 0.1, 0.5, 1)]
    assert values == pytest.approx([0, -0.46212, -0.98661, -0.99991], abs=1e-5)
