"""Stage 6: the report over all experiments of a corpus."""

import argparse
from pathlib import Path

from sermtl.errors import UserError, command
from sermtl.fileio.stamp import NAME, Stamp, inputs, package_digest
from sermtl.report.build import build
from sermtl.report.figures import Sources
from sermtl.report.load import load_experiments
from sermtl.report.render import write_report

READ = (
    "*/scores.json", "*/*/config.yaml", "*/*/history.jsonl", "*/*/warnings.txt", "*/*/layer_weights.json",
    "*/*/decode_*/stamp.json", "*/*/score_test/*.json", "*/*/score_test/per_utt.tsv",
)  # fmt: skip
"""What it reads of the experiments."""


@command
def main() -> None:
    """Load, compute, write."""
    parser = argparse.ArgumentParser(prog="python -m sermtl.bin.report", description=__doc__)
    parser.add_argument("--exp", type=Path, required=True, help="directory of the experiments")
    parser.add_argument("--data", type=Path, required=True, help="data/<corpus>")
    parser.add_argument("--dump", type=Path, default=Path("dump"), help="parent of the corpus's dumps, dump/<corpus>")
    parser.add_argument("--corpus", required=True, help="name of the corpus in the experiments' settings")
    parser.add_argument("--out", type=Path, required=True, help="exp/report/<corpus>")
    args = parser.parse_args()
    if not args.exp.is_dir():
        raise UserError(f"{args.exp}: no such directory; ./run.sh --corpus {args.corpus} makes experiments")
    read = {f"exp:{path.relative_to(args.exp)}": path for name in READ for path in sorted(args.exp.glob(name))}
    tables = ("data:utt2session", "data:utt2style", "data:utt2spk", "data:utt2emo", "data:folds")
    read |= inputs({"data": args.data}, *tables)
    made = Stamp(args.out / NAME, package_digest(), {"corpus": args.corpus}, read)
    if not made.changed():
        print(f"nothing changed: {args.out / 'index.html'}")
        return
    made.begin()
    loaded = load_experiments(args.exp, args.data, args.corpus)
    document = build(loaded, args.corpus, Sources(args.data, args.out / "images", args.dump))
    write_report(document, loaded.experiments, args.out)
    files = (path for path in args.out.rglob("*") if path.is_file() and path != made.path)
    made.finish(sorted(path for path in files if not path.relative_to(args.out).parts[0].startswith(".")))
    for line in document.warnings:
        print(f"warning: {line}")
    for line in document.findings:
        print(line)
    print(f"{len(loaded.experiments)} experiments -> {args.out / 'index.html'}")


if __name__ == "__main__":
    raise SystemExit(main())
