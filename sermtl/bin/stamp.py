"""Stamps for shell scripts: check whether outputs are current, and remove the temporary files of killed programs.

python -m sermtl.bin.stamp current --stamp data/X/stamp.json --settings a b --inputs corpus my.tsv
python -m sermtl.bin.stamp finish  --stamp data/X/stamp.json --settings a b --inputs corpus my.tsv
python -m sermtl.bin.stamp require --stage 3 --data data/X --folds_dir data/X/folds/speaker ... --folds 01F
python -m sermtl.bin.stamp clean data/X
"""

import argparse
import sys
from pathlib import Path

from sermtl.errors import command
from sermtl.fileio.files import remove_leftovers
from sermtl.fileio.stamp import NAME, Stamp, damaged_outputs, fold_roots, outdated, package_digest, read_stamp
from sermtl.fileio.tables import PARTS


@command
def main() -> int:
    """Run one verb."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, text in (
        ("current", "exit status 0 if nothing changed; else 1, and the stamp is emptied"),
        ("finish", "write the stamp; its outputs are all files of its folder"),
    ):
        one = verbs.add_parser(verb, help=text)
        one.add_argument("--stamp", type=Path, required=True)
        one.add_argument("--settings", nargs="*", default=[])
        one.add_argument("--inputs", nargs="*", type=Path, default=[])
    require = verbs.add_parser("require", help="exit status 0, or 100 + the stage to run again before --stage")
    require.add_argument("--stage", type=int, required=True)
    require.add_argument("--dumps", nargs="*", default=[], help="names of the dump directories in --dump")
    require.add_argument("--folds", nargs="*", default=[])
    for root in ("data", "folds_dir", "dump", "tokens", "exp"):
        require.add_argument(f"--{root}", type=Path, required=True)
    clean = verbs.add_parser("clean", help="remove temporary files of programs that were killed")
    clean.add_argument("directories", nargs="+", type=Path)
    args = parser.parse_args()
    if args.verb == "require":
        return require_current(args)
    if args.verb == "clean":
        for directory in args.directories:
            remove_leftovers(directory)
        return 0
    settings = {str(number): word for number, word in enumerate(args.settings)}
    made = Stamp(args.stamp, package_digest(), settings, {str(path): path for path in args.inputs})
    folder = made.path.parent
    if args.verb == "finish":
        made.take_begun()
        made.finish(sorted(p for p in folder.iterdir() if p.is_file() and p.name[0] != "." and p != made.path))
        return 0
    if not made.changed():
        print(f"nothing changed: {folder}")
        return 0
    if folder.is_dir():
        made.begin()
    return 1


def require_current(args: argparse.Namespace) -> int:
    """Print what a stage before ``--stage`` made from other inputs than there are now, or what has changed since."""
    data = {"data": args.data}
    made: list[tuple[int, Path, dict[str, Path]]] = [(1, args.data, {}), (1, args.folds_dir, data)]
    made += [(2, args.dump / name, data) for name in args.dumps]
    for fold in args.folds:
        exp, tokens = args.exp / fold, args.tokens / fold
        roots = fold_roots(exp, args.data, args.folds_dir / fold) | {"dump": args.dump, "tokens": tokens}
        made += [(2, tokens, roots), (3, exp, roots), *((4, exp / f"decode_{part}", roots) for part in PARTS)]
        made.append((5, exp / "score_test", roots))
    made.append((5, args.exp, {"exp": args.exp, "folds": args.folds_dir}))
    for stage, folder, roots in sorted(made, key=lambda item: item[0]):
        if stage < args.stage:
            path = folder / NAME
            changed = [
                f"{folder / name} is not as it was made; if you changed it on purpose, remove {path}"
                for name in damaged_outputs(path, read_stamp(path) or {"outputs": {}})
            ]
            for message in (outdated(path, roots) or changed)[:1]:
                print(f"error: {message}", file=sys.stderr)
                return 100 + stage
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
