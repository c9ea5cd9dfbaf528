"""The fixed rule for bf16."""

import pytest
import torch

from sermtl.model import precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("avx512_bf16", [True, False])
@pytest.mark.parametrize("amx", [True, False])
def test_a_cpu_has_bf16_with_either_set_of_instructions(monkeypatch, avx512_bf16, amx):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert precision.has_bf16(CPU) == (avx512_bf16 or amx)
