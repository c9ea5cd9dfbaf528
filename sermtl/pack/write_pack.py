"""Packing a trained and scored fold into one directory that needs neither the experiment nor the corpus.

    pack.json            version, contents, the SHA-256 of each file
    README.md            the model card
    model.json model.safetensors tokens/ labels.txt     what sermtl loads
    config.yaml scores.json audit.json scores_all_folds.json
    audio-classification/ automatic-speech-recognition/ for plain transformers (models over waveforms)
    onnx/                where asked for

No file holds a date, a path or a host: two trainings with the same settings give the same bytes.
"""

import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from sermtl.audio.resample import SAMPLE_RATE
from sermtl.config import read_yaml
from sermtl.errors import UserError
from sermtl.fileio.files import replaced_directory, sha256, write_json, write_text
from sermtl.fileio.stamp import NAME, Stamp, fold_roots, inputs, outdated, package_digest, read_stamp
from sermtl.inference.pretrained import NEEDED, PACK_FORMAT, check_files, read_manifest
from sermtl.model.trained_model import load_model
from sermtl.pack.model_card import model_card
from sermtl.pack.transformers_export import export_transformers, obstacle
from sermtl.score.score_files import read_audit, read_scores, read_utterances

NOT_PLAIN = "Plain transformers cannot express this model: {reason}. Use sermtl{onnx}."

STAMP = "pack.stamp.json"
INPUTS = (
    "exp:config.yaml", "exp:score_test/scores.json", "exp:score_test/per_utt.tsv", "top:scores.json", "fold:audit.json",
    "data:lang",
)  # fmt: skip


def write_pack(fold: Path, fold_dir: Path, data: Path, options: Mapping[str, Any]) -> Path:
    """Write ``fold/pack`` of a trained and scored ``exp/<tag>/<fold>``, in place of an earlier one.

    ``fold_dir`` has the fold's lists and audit, ``data`` the language; the options are ``onnx`` (whether a graph is
    added), ``model_license`` and ``data_license``. `UserError` where something is missing (naming the stage that makes
    it), or ``fold/pack`` is no pack.
    """
    target = fold / "pack"
    if target.exists() and not (target / "pack.json").is_file():
        raise UserError(f"{target} is no pack, so it is not replaced; move it away")
    for file, stage in ((fold / "model.json", 3), (fold / "score_test" / "scores.json", 5)):
        if not file.is_file():
            raise UserError(f"{file} is missing; ./run.sh --stage {stage} makes it")
    for decoded_or_scored in ("decode_test", "score_test"):
        for message in outdated(fold / decoded_or_scored / NAME, {"exp": fold, "decode": fold / "decode_test"})[:1]:
            raise UserError(f"{message}: it was trained again since it was scored; rerun ./run.sh --stage 4")
    with replaced_directory(target) as partial:
        _fill(partial, fold, fold_dir, data, options)
    pack_stamp(fold, fold_dir, data, options).finish(target / name for name in _files(target))
    return target


def pack_stamp(fold: Path, fold_dir: Path, data: Path, options: Mapping[str, Any]) -> Stamp:
    """The stamp beside ``fold/pack``; inside, it would be a file that ``pack.json`` does not list."""
    names, roots = (*INPUTS, *(f"exp:{name}" for name in NEEDED)), fold_roots(fold, data, fold_dir)
    return Stamp(fold / STAMP, package_digest(), options, inputs(roots, *names))


def earlier_options(fold: Path) -> dict[str, Any]:
    """The options that ``fold/pack`` was made with; none where there is no pack."""
    stamp = read_stamp(fold / STAMP) if (fold / "pack").is_dir() else None
    return stamp["settings"] if stamp else {}


def check_pack(directory: Path) -> int:
    """Compare all files of a pack with their sums; gives their number.

    `UserError` where it is no pack, or files are missing, damaged or not listed.
    """
    if not (directory / "pack.json").is_file():
        raise UserError(f"{directory} is no pack: it holds no pack.json")
    manifest = read_manifest(directory)
    check_files(directory, manifest, list(manifest["files"]))
    extra = sorted(set(_files(directory)) - {*manifest["files"], "pack.json"})
    if extra:
        raise UserError(f"{directory}: files that pack.json does not list: {', '.join(extra)}")
    return len(manifest["files"])


def _fill(target: Path, fold: Path, fold_dir: Path, data: Path, options: Mapping[str, Any]) -> None:
    trained = load_model(fold, torch.device("cpu"))
    for name in NEEDED:
        if (fold / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(fold / name, target / name)
    write_text(target / "labels.txt", "".join(f"{label}\n" for label in trained.labels))
    reason = obstacle(trained)
    folders: list[str] = [] if reason else export_transformers(trained, target)
    if options["onnx"]:
        from sermtl.pack.onnx_export import export_onnx

        folders += export_onnx(trained, target / "onnx")
    onnx = " or the ONNX file" if options["onnx"] else ""
    lang, pooled = data / "lang", fold.parent / "scores.json"
    facts: dict[str, Any] = {
        **options,
        "labels": trained.labels,
        "settings": _without_folder(read_yaml(fold / "config.yaml")),
        "scores": _published_scores(fold / "score_test" / "scores.json"),
        "rows": read_utterances(fold / "score_test" / "per_utt.tsv"),
        "audit": read_audit(fold_dir / "audit.json"),
        "lang": lang.read_text(encoding="utf-8").strip() if lang.is_file() else "",
        "pooled": _published_scores(pooled) if pooled.is_file() else {},
        "folders": folders,
        "notes": [NOT_PLAIN.format(reason=reason, onnx=onnx)] if reason else [],
    }
    write_text(target / "config.yaml", yaml.safe_dump(facts["settings"], sort_keys=False, allow_unicode=True))
    for name, key in (("scores", "scores"), ("audit", "audit"), ("scores_all_folds", "pooled")):
        if facts[key]:
            write_json(target / f"{name}.json", facts[key], sort_keys=True)
    write_text(target / "README.md", model_card(facts))
    for path in target.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)  # transformers' weights are readable by their owner only
    manifest = {
        "format": PACK_FORMAT,
        "labels": trained.labels,
        "sampling_rate": SAMPLE_RATE,
        "holds": ["sermtl", *folders],
        "made_with": {name: version(name) for name in ("sermtl", "torch", "transformers")},
        "files": {
            name: {"bytes": (target / name).stat().st_size, "sha256": sha256(target / name)} for name in _files(target)
        },
    }
    write_json(target / "pack.json", manifest, sort_keys=True)


def _published_scores(path: Path) -> dict[str, Any]:
    scores = read_scores(path)
    return scores | {"settings": _without_folder(scores["settings"])}


def _without_folder(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings whose upstream, where it is a file or a folder (so that it has a digest), is only its name."""
    local = settings.get("upstream_digest") is not None
    return settings | {"upstream": Path(settings["upstream"]).name} if local else settings


def _files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())
