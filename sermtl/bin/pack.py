"""Stage 7: pack a trained and scored fold into ``exp/<tag>/<fold>/pack/``, or check a pack.

    python -m sermtl.bin.pack --data data/mini --folds_dir data/mini/folds/speaker --dump dump/mini \\
        --tokens dump/mini/tokens/speaker --exp exp/T --folds 01F
    python -m sermtl.bin.pack --check PACK
"""

import argparse
import logging
import sys
from pathlib import Path

from sermtl.errors import command

log = logging.getLogger("sermtl.bin.pack")


@command
def main() -> None:
    """Pack one fold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    if "--check" in sys.argv[1:]:
        parser.add_argument("--check", type=Path, required=True, help="the pack")
        from sermtl.pack.write_pack import check_pack

        directory = parser.parse_args().check
        print(f"{directory}: {check_pack(directory)} files as they were packed")
        return

    from transformers.utils import logging as transformers_logging

    from sermtl.data import fold_job
    from sermtl.pack.write_pack import earlier_options, pack_stamp, write_pack

    fold_job.add_arguments(parser)
    text = "add onnx/model.onnx (needs sermtl[onnx])"
    parser.add_argument("--onnx", choices=["true", "false"], default="false", help=text)
    for name, text in (("--model_license", "weights"), ("--data_license", "corpus")):
        parser.add_argument(name, default="", help=f"licence of the {text}, for the model card (default: as before)")
    args = parser.parse_args()
    fold_job.set_up(args)
    transformers_logging.disable_progress_bar()
    paths = fold_job.own_folds(args)[0]
    earlier = earlier_options(paths.exp)
    licences = {name: getattr(args, name) or earlier.get(name, "") for name in ("model_license", "data_license")}
    options = {"onnx": args.onnx == "true", **licences}
    if not pack_stamp(paths.exp, paths.fold_dir, paths.data, options).changed():
        log.info("nothing changed: %s", paths.exp / "pack")
        return
    target = write_pack(paths.exp, paths.fold_dir, paths.data, options)
    log.info("packed: %s", target)


if __name__ == "__main__":
    raise SystemExit(main())
