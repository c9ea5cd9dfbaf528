"""Speed of training and decoding on this machine, compared with the update of the published code.

    python -m sermtl.bin.bench --quick
    python -m sermtl.bin.bench --rounds 7 --json bench.json
    python -m sermtl.bin.bench --only ours --epoch_hours 1 10 100

The model is wav2vec2-base with random weights, the utterances are noise with the durations of acted conversations
(log-normal, median 3.58 s, 95 % under 11.1 s). All rows of a round compute the same utterances, in one process and in
turns; ratios are medians over rounds. docs/performance.md explains the rows.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from sermtl.errors import UserError, command
from sermtl.fileio.files import write_json

QUICK_SECONDS = 200.0
"""After which ``--quick`` begins no further round."""
GONE = {
    "hours": "`time ./run.sh ...` gives the seconds of a run, which prints those of each stage",
    "upstream": "`time ./run.sh --upstream NAME ...` gives the seconds of a run with it",
}
"""Options that are gone, and what replaces them."""


@command
def main() -> None:
    """Measure, print and write."""
    args = parse()
    if args.ngpu and not torch.cuda.is_available():
        raise UserError("--ngpu 1: PyTorch sees no GPU here; use --ngpu 0")
    device = torch.device("cuda" if args.ngpu else "cpu")
    torch.set_num_threads(args.num_threads or len(os.sched_getaffinity(0)))
    # transformers takes seconds to import: --help and wrong options are answered without it.
    from sermtl.bench.epochs import epoch_costs
    from sermtl.bench.measure import machine, print_table, rates_of, say
    from sermtl.bench.rows import Rows, choose_rows, updates_and_decoding

    names = choose_rows(args.only, args.quick, device)
    rates = rates_of(device)
    report: dict[str, Any] = {"machine": machine(device, rates), "rows": []}
    say("  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                  for key, value in report["machine"].items()))  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="sermtl-bench-") as name:
        directory = Path(name)
        if not args.no_steps:
            size = args.batch_size or (2 if args.quick else 8)
            limit = QUICK_SECONDS if args.quick else float("inf")
            rows = Rows(directory, device, args.rounds + 1, size)
            report |= updates_and_decoding(rows, names, rates, args.rounds, limit)
        if args.epoch_hours:
            report["epochs"] = epoch_costs(args.epoch_hours, directory / "epochs")
            print_table(report["epochs"])
    if args.json:
        write_json(args.json, report)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--quick", action="store_true", help="small updates, few rows; under five minutes on two cores")
    parser.add_argument("--rounds", type=int, default=5, help="timed updates of each row (default: 5)")
    parser.add_argument("--batch_size", type=int, help="utterances per update (default: 8; with --quick 2)")
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW", help="rows to run besides published")
    parser.add_argument("--epoch_hours", type=float, nargs="+", default=[], help="time an epoch of so many hours")
    parser.add_argument("--no_steps", action="store_true", help="leave out the tables of updates and decoding")
    parser.add_argument("--ngpu", type=int, default=0, choices=[0, 1], help="1: on a GPU (default: 0)")
    parser.add_argument("--num_threads", type=int, help="CPU threads (default: number of cores)")
    parser.add_argument("--json", type=Path, help="write all results to this file too")
    for name in GONE:
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    args = parser.parse_args()
    for name, instead in GONE.items():
        if getattr(args, name) is not None:
            raise UserError(f"--{name} is gone: {instead}")
    return args


if __name__ == "__main__":
    raise SystemExit(main())
