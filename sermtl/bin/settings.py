"""Check an experiment's settings and print what run.sh needs of them, in lines `name=value`.

python -m sermtl.bin.settings --config conf/mini.yaml --set beta=1 --corpus mini --protocol speaker
"""

import argparse
import sys
from pathlib import Path

from sermtl.config import DecodeConfig, TrainConfig, load_config, read_yaml
from sermtl.corpus.protocols import find_protocol
from sermtl.data.names import dump_name, experiment_tag, hub_snapshot, stored_form
from sermtl.errors import UserError, command
from sermtl.model.geometry import check_feats_type, find_geometry


@command
def main() -> None:
    """Print what the stages need to know before the first one starts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="training settings (YAML)")
    parser.add_argument("--inference_config", type=Path, required=True, help="decoding settings (YAML)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="training settings to override")
    parser.add_argument("--corpus", required=True, help="name of the data directory")
    parser.add_argument("--protocol", required=True, help="name of the fold protocol")
    text = "true: look for the upstream's files now, not when training needs them"
    parser.add_argument("--trains", choices=["true", "false"], default="false", help=text)
    args = parser.parse_args()
    config = load_config(TrainConfig, args.config, args.set)
    load_config(DecodeConfig, args.inference_config)
    protocol, _ = find_protocol(args.protocol)
    if "\n" in config.upstream:
        raise UserError(f"upstream {config.upstream!r}: a line break in its name; rename it, or give a link to it")
    geometry = find_geometry(config.upstream)
    bands = read_yaml(geometry).get("input_bands", 0) if geometry else 0
    check_feats_type(config.upstream, config.feats_type, bands)
    if args.trains == "true" and geometry is None:
        if not Path(config.upstream).is_dir():
            hub_snapshot(config.upstream)
        elif not Path(config.upstream, "preprocessor_config.json").is_file():
            lacking = "no preprocessor_config.json, which says whether waveforms are normalised"
            print(f"warning: upstream {config.upstream} has {lacking}: the logs say what is assumed", file=sys.stderr)
    values = {
        "auto_tag": experiment_tag(args.corpus, args.protocol, args.config.stem, config, args.set),
        "feats_type": config.feats_type,
        "speeds": " ".join(f"{speed:g}" for speed in config.speed_perturb if speed != 1.0),
        "token_type": config.token_type,
        "nbpe": config.nbpe,
        "dump_name": dump_name(config),
        "speakers_default": "required" if protocol.disjoint_speakers else "known",
        "short_folds": str(config.feats_type == "stored" and stored_form(config).startswith("pooled")).lower(),
    }
    for name, value in values.items():
        print(f"{name}={value}")


if __name__ == "__main__":
    raise SystemExit(main())
