"""What a device computes in, and how exactly."""

import torch


def has_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for matrix products in bf16: a GPU, or a CPU with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def use_whole_float32() -> None:
    """Let convolutions of float32 on a GPU keep all bits; PyTorch's default rounds their inputs to ten (TF32)."""
    torch.backends.cudnn.allow_tf32 = False
