"""Check and repair data directories: utils/validate_data_dir.sh and utils/fix_data_dir.sh."""

import argparse
import os
import sys
from pathlib import Path

from sermtl.corpus.fix import fix
from sermtl.corpus.validate import validate
from sermtl.errors import command


def run_validate(args: argparse.Namespace) -> int:
    """Check a directory; 1 where something is wrong."""
    faults, utt2spk = validate(
        args.data, text=not args.no_text, wav=not args.no_wav, spk_sort=not args.no_spk_sort,
        allow_pipes=args.allow_pipes == "true", nj=args.nj,
    )  # fmt: skip
    if faults:
        print(*faults, sep="\n", file=sys.stderr)
        print(f"validate_data_dir.sh: {args.data} is not as it should be; utils/fix_data_dir.sh sorts "
              "tables and drops utterances that some table lacks", file=sys.stderr)  # fmt: skip
        return 1
    speakers = len(set(utt2spk.values()))
    print(f"validate_data_dir.sh: successfully validated {args.data}: {len(utt2spk)} utterances, {speakers} speakers")
    return 0


def run_fix(args: argparse.Namespace) -> int:
    """Sort and intersect."""
    kept, before, notes = fix(args.data)
    print(*(f"fix_data_dir.sh: {note}" for note in notes), sep="\n", end="\n" * bool(notes), file=sys.stderr)
    print(f"fix_data_dir.sh: kept {kept} utterances out of {before}; originals of what changed: {args.data}/.backup")
    return 0


@command
def main() -> int:
    """Run the verb; dashes and underscores in option names are equal."""
    words = [f"--{w[2:].replace('-', '_')}" if w.startswith("--") and "=" not in w else w for w in sys.argv[1:]]
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(required=True, dest="verb")
    check = verbs.add_parser("validate", prog="validate_data_dir.sh", help="check a data directory")
    check.add_argument("data", type=Path, help="data directory")
    check.add_argument("--no_text", action="store_true", help="do not require text")
    check.add_argument("--no_wav", action="store_true", help="do not require wav.scp; audio is not opened")
    check.add_argument("--no_feats", action="store_true", help="accepted: feats.scp is never required")
    check.add_argument("--no_spk_sort", action="store_true", help="utterance ids need not begin with speaker ids")
    check.add_argument("--allow_pipes", choices=("true", "false"), default="false", help="skip shell commands")
    cores = len(os.sched_getaffinity(0))
    check.add_argument("--nj", type=int, default=min(4, cores), help="processes that open audio (default: %(default)s)")
    check.set_defaults(run=run_validate)
    mend = verbs.add_parser("fix", prog="fix_data_dir.sh", help="sort tables, keep utterances in all tables")
    mend.add_argument("data", type=Path, help="data directory")
    mend.set_defaults(run=run_fix)
    args = parser.parse_args(words)
    return args.run(args)


if __name__ == "__main__":
    raise SystemExit(main())
