"""The benchmark's tables of updates and of decoding."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sermtl.bench import published
from sermtl.bench.material import make_material
from sermtl.bench.measure import Row, print_table, run_rounds, summarise, timed
from sermtl.bench.ours import Ours, build_model, decoders, row_names, update_flops
from sermtl.errors import UserError

QUICK_SECONDS = 200.0
"""After which ``--quick`` begins no further round."""
QUICK_ROWS = ("published-frozen", "ours", "ours-without-bf16", "ours-without-packing")
"""Beside *published*: few, so that five rounds of them fit that time on two cores."""


def choose_rows(only: list[str], quick: bool, device: torch.device) -> list[str]:
    """Names of the rows: *published* and those of ``only``; where it is empty, `QUICK_ROWS` or all.

    Raises:
        UserError: ``only`` names no row.
    """
    known = ["published", "published-frozen", *row_names(device)]
    if unknown := set(only) - set(known):
        raise UserError(f"--only: no row {' '.join(sorted(unknown))}; known: {' '.join(known)}")
    chosen = {"published", *(only or (QUICK_ROWS if quick else known))}
    return [name for name in known if name in chosen]


def updates_and_decoding(
    directory: Path,
    device: torch.device,
    rates: dict[str, float],
    rounds: int,
    size: int,
    only: list[str],
    limit: float = float("inf"),
) -> dict[str, Any]:
    """Measure and print both tables.

    Args:
        directory: For the dumps.
        device: Where the rows compute.
        rates: As for `summarise`.
        rounds: Timed updates of each row.
        size: Utterances of an update.
        only: The rows, as `choose_rows` gives them.
        limit: Seconds after which no further round begins.
    """
    torch.manual_seed(0)
    trained = build_model(device)
    upstream = trained.model.upstream
    material = make_material(directory, rounds + 1, size, upstream.geometry, upstream.config.conv_dim[-1])
    del material.updates[0][2:]  # it warms up
    baseline = published.Published().to(device).train()
    optimizer = torch.optim.AdamW(baseline.parameters(), lr=5e-5)

    def plain(frozen: bool, number: int) -> None:
        baseline.freeze(frozen)
        examples = [material.raw[index] for index in material.updates[number]]
        published.step(baseline, optimizer, examples, trained.front_end)

    weights = sum(parameter.numel() for parameter in baseline.parameters())
    convolutions = sum(parameter.numel() for parameter in baseline.wav2vec2.feature_extractor.parameters())
    resident_mb = 12 * weights / 2**20
    rows = [
        Row(
            name, partial(plain, frozen), partial(update_flops, upstream, material, passes=1 if frozen else 3),
            lambda: resident_mb, trained=weights - convolutions * frozen,
        )
        for name, frozen in (("published", False), ("published-frozen", True))
    ]  # fmt: skip
    ours = Ours(trained, material, device, directory)
    rows = [row for row in rows if row.name in only] + [ours.row(name) for name in only if name.startswith("ours")]
    rounds = run_rounds(rows, rounds, device, limit)
    report: dict[str, Any] = {"rounds": rounds, "batch_size": size, "rows": summarise(rows, size, rates)}
    print_table([{key: value for key, value in row.items() if key != "seconds"} for row in report["rows"]])

    indices = [index for update in material.updates[: max(1, 16 // size)] for index in update]
    examples = [material.raw[index] for index in indices]
    seconds = material.seconds(indices)
    ways: dict[str, Callable[[list[int]], None]] = {
        "published": lambda _: published.decode(baseline, examples, trained.front_end),
        **decoders(ours),
    }
    turns = [{name: timed(partial(way, indices), device) for name, way in ways.items()} for _ in range(3)]
    best = {name: min(turn[name] for turn in turns) for name in ways}
    report["decoding"] = [
        {"name": name, "audio_s": seconds, "seconds": spent, "real_time_factor": spent / seconds}
        for name, spent in best.items()
    ]
    print_table(report["decoding"])
    return report
