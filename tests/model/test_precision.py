"""bf16 is for machines that gain by it."""

import pytest
import torch

from sermtl.model import precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(("has_it", "faster", "pays"), [(True, 2.0, True), (True, 0.5, False), (False, 2.0, False)])
def test_a_cpu_takes_bf16_where_it_has_it_and_is_faster_in_it(monkeypatch, has_it, faster, pays):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_it)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(precision, "matmul_rate", lambda dtype, *_: faster if dtype == torch.bfloat16 else 1.0)
    assert precision.bf16_pays(CPU) == pays


def test_the_rate_is_one_that_a_machine_can_have():
    assert 1e8 < precision.matmul_rate(torch.float32, CPU, 64) < 1e14
