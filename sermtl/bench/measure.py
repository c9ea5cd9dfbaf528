"""Timing rows in turns, their memory, and what the machine is."""

import ctypes
import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from sermtl.model.precision import has_bf16

PAPER_UPDATES = 62_800
"""Of the paper's run: 100 epochs of about 5,024 utterances, 8 an update."""
ADAMW_BYTES = 28
"""That AdamW moves for a float32 weight: it reads weight, gradient and two moments, and writes all but the gradient."""


@dataclass
class Row:
    """A way to compute an update, and its seconds in each round."""

    name: str
    run: Callable[[int], None]
    """Computes update ``n``."""
    flops: Sequence[float] = ()
    """Arithmetic that each update needs this way, without padding and recomputation."""
    resident_mb: float = 0.0
    """Weights and moments that stand between updates."""
    bf16: bool = False
    trained: int = 0
    """Weights that the optimiser changes."""
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Processor seconds of all threads, which other programs on the machine hardly touch."""
    peak_mb: float = 0.0


def run_rounds(rows: list[Row], rounds: int, device: torch.device, limit: float) -> int:
    """Time every row on update 1, 2, ... in turns, after a round that warms up; returns the rounds that were run.

    Rows start in another order each round. No round begins that would end after ``limit`` seconds.
    """
    began, longest = time.monotonic(), 0.0
    for number in range(rounds + 1):
        started = time.monotonic()
        if number > 1 and started - began + longest > limit:
            return number - 1
        for row in rows[number % len(rows) :] + rows[: number % len(rows)]:
            before, used = rest(device), time.process_time()
            seconds = timed(partial(row.run, number), device)
            peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else status_mb("VmHWM")
            row.peak_mb = max(row.peak_mb, peak - before + row.resident_mb)
            if number:
                row.seconds.append(seconds)
                row.cpu.append(time.process_time() - used)
        if number:
            longest = max(longest, time.monotonic() - started)
        say(f"round {number} of {rounds}: {time.monotonic() - started:.1f} s{'' if number else ' (warms up)'}")
    return rounds


def say(text: str) -> None:
    """A line of progress, on standard error."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def print_table(rows: list[dict[str, Any]]) -> None:
    """A Markdown table."""
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".3g"), end="\n\n", flush=True)


def timed(function: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call."""
    started = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def copy_rate(device: torch.device) -> float:
    """Bytes a second that a copy of 400 MB reads and writes, the best of some."""
    source = torch.zeros(100_000_000, device=device)
    target = torch.zeros_like(source)
    return 2 * source.nbytes / min(timed(partial(target.copy_, source), device) for _ in range(5))


def matmul_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Floating-point operations a second of (rows, 768) x (768, 3072), the best of some; 16 times the rows on a GPU."""
    rows = 2048 * (16 if device.type == "cuda" else 1)
    a, b = (torch.randn(size, device=device).to(dtype) for size in ((rows, 768), (768, 3072)))
    return 2 * rows * 768 * 3072 / min(timed(partial(torch.matmul, a, b), device) for _ in range(6))


def rates_of(device: torch.device) -> dict[str, float]:
    """Operations a second of products in ``float32`` (and ``bf16`` where the device has it), bytes of a ``copy``."""
    rates = {"float32": matmul_rate(torch.float32, device), "copy": copy_rate(device)}
    if has_bf16(device):  # minutes of emulation where it has not
        rates["bf16"] = matmul_rate(torch.bfloat16, device)
    return rates


def rest(device: torch.device) -> float:
    """Megabytes in use, from which the next peak is counted."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    gc.collect()
    if platform.system() == "Linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    return status_mb("VmRSS")


def status_mb(name: str) -> float:
    """A size of this process, in megabytes; 0 where there is no /proc."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return 0.0
    return next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith(name))


def summarise(rows: list[Row], batch_size: int, rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """Rates and ratios of rows that were timed on the same updates; the first is what the others are compared with.

    ``batch_size`` is the utterances of an update, ``rates`` those of `rates_of`.
    """
    table = []
    for row in rows:
        ratios = [plain / seconds for plain, seconds in zip(rows[0].seconds, row.seconds, strict=True)]
        processor = [plain / seconds for plain, seconds in zip(rows[0].cpu, row.cpu, strict=True)]
        mean = statistics.mean(row.seconds)
        flops = statistics.mean(row.flops[1 : 1 + len(row.seconds)])
        arithmetic = flops / rates["bf16" if row.bf16 else "float32"]
        table.append(
            {
                "name": row.name,
                "utterances_per_s": batch_size / mean,
                "ratio": statistics.median(ratios),
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
                "cpu_ratio": statistics.median(processor),
                "peak_mb": row.peak_mb,
                "s": statistics.median(row.seconds),
                "floor_s": arithmetic + ADAMW_BYTES * row.trained / rates["copy"],
                "paper_run_hours": PAPER_UPDATES * mean / 3600,
                "seconds": row.seconds,
            }
        )
    return table


def machine(device: torch.device, rates: Mapping[str, float]) -> dict[str, Any]:
    """The machine and the versions that the numbers belong to."""
    name = platform.processor()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return {
        "name": name,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "gflops_float32": rates["float32"] / 1e9,
        "gflops_bf16": rates["bf16"] / 1e9 if "bf16" in rates else None,
        "gb_per_s": rates["copy"] / 1e9,
        "python": platform.python_version(),
        **{library: version(library) for library in ("torch", "transformers", "kaldiio")},
    }
