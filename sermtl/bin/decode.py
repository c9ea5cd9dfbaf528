"""Stage 4: decode the lists test, dev and, where asked for, train of a fold; or all of another corpus.

    python -m sermtl.bin.decode --config conf/decode.yaml --data data/mini \\
        --folds_dir data/mini/folds/speaker --dump dump/mini --tokens dump/mini/tokens/speaker --exp exp/T --folds 01F
"""

import argparse
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sermtl.config import DecodeConfig, load_config, read_yaml
from sermtl.data import fold_data, fold_job
from sermtl.data.fold_data import FoldData, load_fold, refuse_cut_arks
from sermtl.data.names import stored_entry
from sermtl.errors import UserError, command
from sermtl.fileio.files import hold, sha256
from sermtl.fileio.stamp import NAME, refuse_damaged
from sermtl.fileio.tables import PARTS
from sermtl.inference.decode import CONDITIONS, decode, decode_stamp, enrolled, training_config, write_decoded
from sermtl.model.speaker_norm import SpeakerNorm
from sermtl.model.trained_model import load_model
from sermtl.train import history

log = logging.getLogger("sermtl.bin.decode")


@command
def main() -> None:
    """Decode one fold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="decoding settings (YAML)")
    fold_job.add_arguments(parser)
    parser.add_argument("--other_corpus", action="store_true", help="decode all of --data, another corpus's")
    args = parser.parse_args()
    device = fold_job.set_up(args)
    config = load_config(DecodeConfig, args.config)
    for paths in fold_job.own_folds(args):
        decode_fold(paths, config, device, args.other_corpus)


def decode_fold(paths: fold_job.FoldPaths, decode_config: DecodeConfig, device: torch.device, other: bool) -> None:
    """Decode one fold's lists, or all utterances of an ``other`` corpus."""
    refuse_damaged(paths.exp / NAME, "rerun ./run.sh --stage 3, which makes it again from the checkpoint")
    trained = load_model(paths.exp, device)
    config = training_config(paths.exp)
    if not history.is_finished(paths.exp, config):
        raise UserError(f"{paths.exp} is not trained to its last epoch, {config.epochs}; rerun ./run.sh --stage 3")
    unperturbed = replace(config, speed_perturb=())
    trained.model.upstream.lay_out(config.layout, device)
    settings = read_yaml(paths.exp / "config.yaml")
    dumped = settings["dump"]
    if other and paths.data.name in (*PARTS, settings["corpus"]):
        raise UserError(f"--trained {paths.exp.parent} needs another corpus than {paths.data}, or --corpus_name")
    fold_dir, tokens = (None, paths.exp / "tokens") if other else (paths.fold_dir, paths.tokens)
    fold = load_fold(paths.data, fold_dir, paths.dump, tokens, unperturbed, dumped)
    if unknown := set(fold.labels) - set(trained.labels):
        raise UserError(
            f"{paths.data / 'utt2emo'}: the model does not know {', '.join(sorted(unknown))}; it knows "
            f"{', '.join(trained.labels)}: prepare the corpus again with --label_map 'old=new' or --classes"
        )
    if not other and fold.digest != settings.get("inputs"):
        raise UserError(f"{paths.exp} was trained on other lists or data than there are now; rerun ./run.sh --stage 3")
    for part, name in (("test", paths.data.name if other else "test"), ("dev", "dev"), ("train", "train")):
        directory = paths.exp / f"decode_{name}"
        wanted = part != "train" or decode_config.decode_train or directory.is_dir()
        if not (wanted and fold.examples[part]):
            continue
        made = decode_stamp(paths, name, dumped, () if other else ("train", part))
        if not made.changed():
            log.info("nothing changed: %s", directory)
            continue
        hold(paths.exp)
        started = time.monotonic()
        refuse_cut_arks(fold.examples[part])
        front_end = trained.front_end
        if config.feats_type == "stored":
            front_end, trained.model.upstream.entry = front_end.stored(), stored_entry(config)
        dataset = fold_data.evaluation_set(front_end, config, fold, part)
        decoded = sorted(decode(trained, dataset, decode_config.batch_size, device), key=lambda d: d.utterance.encode())
        made.begin()
        curve = {}
        if part == "test" and trained.model.vector.speaker_norm.standardises:
            found = enrolled(trained, decoded, fold.examples[part], {*CONDITIONS, config.enrol})
            curve, decoded = {condition: found[condition] for condition in CONDITIONS}, found[config.enrol]
        made.finish(write_decoded(directory, decoded, trained.labels, curve))
        log.info("%s: %d utterances in %.1f s", directory, len(decoded), time.monotonic() - started)
    if not other and config.spk_norm == "none":
        write_erasing(paths.exp, fold)


def write_erasing(exp: Path, fold: FoldData) -> None:
    """Write what linear probes of the speaker find on dev behind erasers, where the training list is decoded too."""
    directories = [exp / f"decode_{part}" for part in ("train", "dev")]
    known = [[e for e in fold.examples[part] if e.speaker >= 0] for part in ("train", "dev")]
    decoded = all((directory / "emb.scp").is_file() for directory in directories)
    if not decoded or len({e.speaker for e in known[0]}) < 2 or not known[1]:
        return
    from sermtl.score.plain_models import erasing_curve, kept  # a second of imports
    from sermtl.score.speaker_probe import embeddings

    def erase(fitted_ND: np.ndarray, speakers: list[str], vectors_MD: np.ndarray) -> np.ndarray:
        names = sorted(set(speakers))
        norm = SpeakerNorm("erase", 1, fitted_ND.shape[1], len(names)).double()
        norm.fit(torch.from_numpy(fitted_ND)[:, None], torch.tensor([names.index(name) for name in speakers]))
        return norm.erase(torch.from_numpy(vectors_MD)[:, None])[:, 0].numpy()

    def compute() -> dict[str, Any]:
        vectors = [embeddings(d, [e.utterance for e in part]) for d, part in zip(directories, known, strict=True)]
        train, dev = ([e.speaker_name for e in part] for part in known)
        return {"hits": erasing_curve(vectors[0], train, vectors[1], dev, erase)}

    made_from = " ".join(sha256(directory / NAME) for directory in directories)
    kept(directories[1] / "erasing.json", made_from, compute)


if __name__ == "__main__":
    raise SystemExit(main())
