"""How fast training and decoding are on this machine, beside the step of the published code.

    python -m sermtl.bin.bench --quick
    python -m sermtl.bin.bench --rounds 7 --json bench.json
    python -m sermtl.bin.bench --only ours published --hours 0.5 --epoch_hours 1 10 100

wav2vec2-base with random weights, utterances of noise whose lengths are drawn as those of acted conversations are
(log-normal, median 3.58 s, 95 % under 11.1 s). All rows of a round compute the same utterances, in one process and in
turns; ratios are medians over rounds. docs/performance.md explains the rows.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from sermtl.errors import UserError, command
from sermtl.fileio.files import write_json

QUICK_SECONDS = 200.0
"""After which ``--quick`` begins no further round."""
QUICK_ROWS = ("published-frozen", "ours", "ours-without-bf16", "ours-without-packing")
"""Beside *published*: few, so that five rounds of them fit that time on two cores."""


@command
def main() -> int:
    """Measure, print and write."""
    args = parse()
    if args.ngpu and not torch.cuda.is_available():
        raise UserError("--ngpu 1: PyTorch sees no GPU here; use --ngpu 0")
    device = torch.device("cuda" if args.ngpu else "cpu")
    torch.set_num_threads(args.num_threads or len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory(prefix="sermtl-bench-") as name:
        report = measure(args, device, Path(name))
    if args.json:
        write_json(args.json, report)
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small updates, few rows; under five minutes on two cores")
    parser.add_argument("--rounds", type=int, default=5, help="timed updates of each row")
    parser.add_argument("--batch_size", type=int, help="utterances an update (default: 8; with --quick 2)")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="rows to run, beside published")
    parser.add_argument("--hours", type=float, help="run the recipe's stages on a corpus of so many hours")
    parser.add_argument("--upstream", default="tiny", help="of those stages")
    parser.add_argument("--epoch_hours", type=float, nargs="+", default=[], help="cost of an epoch of so many hours")
    parser.add_argument("--no_steps", action="store_true", help="leave out the tables of updates and decoding")
    parser.add_argument("--ngpu", type=int, default=0, choices=[0, 1])
    parser.add_argument("--num_threads", type=int, help="CPU threads (default: the cores)")
    parser.add_argument("--json", type=Path, help="write everything here too")
    return parser.parse_args()


def measure(args: argparse.Namespace, device: torch.device, directory: Path) -> dict[str, Any]:
    """All tables that are asked for, printed as they come."""
    # transformers takes seconds to import: --help and wrong words are answered without it.
    from sermtl.bench.measure import copy_rate, machine
    from sermtl.bench.recipe import epoch_costs, stage_seconds
    from sermtl.model.precision import matmul_rate

    rates = {"float32": matmul_rate(torch.float32, device), "bf16": matmul_rate(torch.bfloat16, device)}
    rates["copy"] = copy_rate(device)
    report: dict[str, Any] = {"machine": machine(device, rates), "rows": []}
    say("  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                  for key, value in report["machine"].items()))  # fmt: skip
    if not args.no_steps:
        report |= steps(args, device, directory, rates)
    if args.epoch_hours:
        report["epochs"] = epoch_costs(args.epoch_hours, directory / "epochs", say)
        print_table(report["epochs"])
    if args.hours:
        report["stages"] = stage_seconds(args.hours, args.upstream, directory / "stages", say)
        print_table([{"stage": number, "seconds": spent} for number, spent in report["stages"]["stages"].items()])
    return report


def steps(args: argparse.Namespace, device: torch.device, directory: Path, rates: dict[str, float]) -> dict[str, Any]:
    """The tables of updates and of decoding."""
    from sermtl.bench import published
    from sermtl.bench.material import make_material
    from sermtl.bench.measure import Row, run_rounds, summarise, timed
    from sermtl.bench.ours import Ours, build_model, convolution_flops, decoders, transformer_flops
    from sermtl.model.precision import has_bf16

    torch.manual_seed(0)
    trained = build_model(device)
    upstream = trained.model.upstream
    size = args.batch_size or (2 if args.quick else 8)
    channels = upstream.config.conv_dim[-1]
    material = make_material(directory, args.rounds + 1, size, upstream.geometry, channels)
    del material.updates[0][2:]  # it warms up
    baseline = published.Published().to(device).train()
    optimizer = torch.optim.AdamW(baseline.parameters(), lr=5e-5)

    def plain(frozen: bool, number: int) -> None:
        baseline.freeze(frozen)
        examples = [material.raw[index] for index in material.updates[number]]
        published.step(baseline, optimizer, examples, trained.front_end)

    def flops(passes: int, number: int) -> float:
        return sum(
            3 * transformer_flops(upstream, material.conv[index].length)
            + passes * convolution_flops(upstream, material.raw[index].length)
            for index in material.updates[number]
        )

    weights = sum(parameter.numel() for parameter in baseline.parameters())
    convolutions = sum(parameter.numel() for parameter in baseline.wav2vec2.feature_extractor.parameters())
    resident_mb = 12 * weights / 2**20
    bf16 = has_bf16(device)
    rows = [
        Row("published", partial(plain, False), partial(flops, 3), lambda: resident_mb, trained=weights),
        Row(
            "published-frozen",
            partial(plain, True),
            partial(flops, 1),
            lambda: resident_mb,
            trained=weights - convolutions,
        ),
    ]
    ours = Ours(trained, material, device, bf16, directory)
    rows += ours.rows()
    if args.only:
        unknown = set(args.only) - {row.name for row in rows}
        if unknown:
            raise UserError(f"--only: no row {' '.join(unknown)}; known: {' '.join(row.name for row in rows)}")
    if only := args.only or (QUICK_ROWS if args.quick else ()):
        rows = [row for row in rows if row.name in {"published", *only}]
    rounds = run_rounds(rows, args.rounds, device, QUICK_SECONDS if args.quick else float("inf"), say)
    sizes = [(size, material.seconds(update)) for update in material.updates[1 : rounds + 1]]
    report: dict[str, Any] = {"rounds": rounds, "batch_size": size, "rows": summarise(rows, sizes, rates)}
    print_table([{key: value for key, value in row.items() if "seconds" not in key} for row in report["rows"]])

    indices = [index for update in material.updates[: max(1, 16 // size)] for index in update]
    examples = [material.raw[index] for index in indices]
    seconds = material.seconds(indices)
    ways: dict[str, Callable[[list[int]], None]] = {
        "published": lambda _: published.decode(baseline, examples, trained.front_end),
        **decoders(ours),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(2 if args.quick else 3):
        for name, way in ways.items():
            spent[name].append(timed(partial(way, indices), device))
    report["decoding"] = [
        {"name": name, "audio_s": seconds, "seconds": min(times), "real_time_factor": min(times) / seconds}
        for name, times in spent.items()
    ]
    print_table(report["decoding"])
    return report


def print_table(rows: list[dict[str, Any]]) -> None:
    """A Markdown table."""
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".3g"), end="\n\n", flush=True)


def say(text: str) -> None:
    """A line of progress, on standard error."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
