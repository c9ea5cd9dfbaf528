"""What a device computes in, at which rate, and how exactly."""

from __future__ import annotations

import time

import torch


def has_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for matrix products in bf16: a GPU, or a CPU with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def matmul_rate(dtype: torch.dtype, device: torch.device, rows: int = 2048) -> float:
    """Floating-point operations a second of (rows, 768) x (768, 3072), the best of some; 16 times the rows on a GPU."""
    if device.type == "cuda":
        rows *= 16
    a, b = (torch.randn(size, device=device).to(dtype) for size in ((rows, 768), (768, 3072)))
    best = float("inf")
    for _ in range(6):
        started = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * rows * 768 * 3072 / best


def use_whole_float32() -> None:
    """Let convolutions of float32 on a GPU keep all bits; PyTorch's default rounds their inputs to ten (TF32)."""
    torch.backends.cudnn.allow_tf32 = False
