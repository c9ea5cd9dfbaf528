"""Stamps for shell scripts: check whether outputs are current, and remove the temporary files of killed programs.

python -m sermtl.bin.stamp current --stamp data/X/stamp.json --settings a b --inputs corpus my.tsv
python -m sermtl.bin.stamp finish  --stamp data/X/stamp.json --settings a b --inputs corpus my.tsv
python -m sermtl.bin.stamp require --stage 3 --data data/X --folds_dir data/X/folds/speaker ... --folds 01F
python -m sermtl.bin.stamp clean data/X
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from sermtl.errors import command
from sermtl.fileio.files import remove_leftovers
from sermtl.fileio.stamp import NAME, Stamp, damaged_outputs, fold_roots, outdated, package_digest, read_stamp
from sermtl.fileio.tables import PARTS

ROOTS = ("data", "folds_dir", "dump", "tokens", "exp")


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
    for root in ROOTS:
        require.add_argument(f"--{root}", type=Path, required=True)
    clean = verbs.add_parser("clean", help="remove temporary files of programs that were killed")
    clean.add_argument("directories", nargs="+", type=Path)
    args = parser.parse_args()
    if args.verb == "clean":
        for directory in args.directories:
            remove_leftovers(directory)
        return 0
    return {"current": is_current, "finish": finish, "require": require_current}[args.verb](args)


def stamp_of(args: argparse.Namespace) -> Stamp:
    """The stamp that the words describe."""
    settings = {str(number): word for number, word in enumerate(args.settings)}
    return Stamp(args.stamp, package_digest(), settings, {str(path): path for path in args.inputs})


def is_current(args: argparse.Namespace) -> int:
    """Print that nothing changed, or begin."""
    stamp = stamp_of(args)
    if not stamp.changed():
        print(f"nothing changed: {stamp.path.parent}")
        return 0
    if stamp.path.parent.is_dir():
        stamp.begin()
    return 1


def finish(args: argparse.Namespace) -> int:
    """Write the stamp, with the inputs as they were when it was emptied, except those that were made since."""
    stamp, folder = stamp_of(args), args.stamp.parent
    stamp.take_begun()
    stamp.finish(sorted(p for p in folder.iterdir() if p.is_file() and p.name[0] != "." and p != stamp.path))
    return 0


def require_current(args: argparse.Namespace) -> int:
    """Print what a stage before ``--stage`` made from other inputs than there are now, or what has changed since."""
    for stage, path, roots in made_before(args):
        damaged = damaged_outputs(path, read_stamp(path) or {"outputs": {}})
        changed = [
            f"{path.parent / name} is not as it was made; if you changed it on purpose, remove {path}"
            for name in damaged
        ]
        for message in (outdated(path, roots) or changed)[:1]:
            print(f"error: {message}", file=sys.stderr)
            return 100 + stage
    return 0


def made_before(args: argparse.Namespace) -> Iterator[tuple[int, Path, Mapping[str, Path]]]:
    """Stamps of the stages before ``--stage``, in their order, each with the places of its inputs."""
    data = {"data": args.data}
    everything: list[tuple[int, Path, Mapping[str, Path]]] = [(1, args.data, {}), (1, args.folds_dir, data)]
    everything += [(2, args.dump / name, data) for name in args.dumps]
    for fold in args.folds:
        roots = fold_roots(args.exp / fold, args.data, args.folds_dir / fold)
        roots |= {"dump": args.dump, "tokens": args.tokens / fold}
        everything += [(2, args.tokens / fold, roots), (3, roots["exp"], roots)]
        everything += [(4, roots["exp"] / f"decode_{part}", roots) for part in PARTS]
        everything.append((5, roots["exp"] / "score_test", roots))
    everything.append((5, args.exp, {"exp": args.exp, "folds": args.folds_dir}))
    for stage, directory, places in sorted(everything, key=lambda item: item[0]):
        if stage < args.stage:
            yield stage, directory / NAME, places


if __name__ == "__main__":
    sys.exit(main())
