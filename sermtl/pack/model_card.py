"""The model card of a pack: data, protocol, settings, scores with intervals, use and limits."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml

from sermtl.fileio.tables import PARTS
from sermtl.fileio.text_table import markdown
from sermtl.score import statistics
from sermtl.score.score_files import Utterance

SHOWN = (
    "upstream", "feats_type", "cmvn", "alpha", "beta", "grl", "grl_schedule", "freeze", "layers", "ctc_layers",
    "projection", "pooling", "pooled_norm", "epochs", "batch_size", "learning_rate", "token_type", "select", "seed",
)  # fmt: skip
TEMPLATE = Path(__file__).with_suffix(".md.j2")


def model_card(facts: Mapping[str, Any]) -> str:
    """The card as Markdown with the hub's YAML head.

    Args:
        facts: ``labels``, the training's ``settings`` (an ``upstream`` with a ``/`` is a model of the hub), ``scores``,
            ``rows`` (the fold's test utterances), ``audit``, ``lang``, ``pooled`` (scores over all folds, or nothing),
            ``model_license``, ``data_license``, ``folders`` (for transformers, ONNX files) and ``notes``.
    """
    labels, settings = facts["labels"], facts["settings"]
    template = jinja2.Template(
        TEMPLATE.read_text(encoding="utf-8"), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    return template.render(
        facts,
        head=yaml.safe_dump(_head(facts), sort_keys=True, allow_unicode=True),
        classes=" and ".join(filter(None, [", ".join(labels[:-1]), labels[-1]])),
        shown=[key for key in SHOWN if key in settings],
        parts=[part for part in PARTS if f"utterances_{part}" in facts["audit"]],
        bounds=_intervals(labels, facts["rows"]),
        confusion=[[label, *row] for label, row in zip(labels, facts["scores"]["ser"]["confusion"], strict=True)],
        markdown=markdown,
        number=lambda value: "undefined" if value is None else f"{value:.3f}",
    )


def _head(facts: Mapping[str, Any]) -> dict[str, Any]:
    upstream = str(facts["settings"].get("upstream", ""))
    head = {
        "pipeline_tag": "audio-classification",
        "tags": ["speech-emotion-recognition", "automatic-speech-recognition", "sermtl"],
        "license": facts["model_license"] or "other",
        "license_name": "" if facts["model_license"] else "not-stated",
        "language": facts["lang"],
        "base_model": upstream if "/" in upstream else "",  # of a file or a folder there is only the name
    }
    return {key: value for key, value in head.items() if value}


def _intervals(labels: Sequence[str], rows: Sequence[Utterance]) -> dict[str, str]:
    """95 % intervals as text, over utterances: a fold has too few speakers for intervals over those."""
    index = {label: number for number, label in enumerate(labels)}
    rows_U4 = [(index.get(row.ref, -1), index.get(row.hyp, -1), row.words, row.errors) for row in rows]
    refs_U, hyps_U, words_U, errors_U = np.array(rows_U4, dtype=int).reshape(-1, 4).T
    counts = statistics.additive_counts(refs_U, hyps_U, words_U, errors_U, len(labels))
    measured = statistics.jackknife(counts[:, None], statistics.rates)
    found = {name: value.interval(name != "wer") for name, value in measured.items()}
    return {name: f" [{ends[0]:.3f}, {ends[1]:.3f}]" if np.isfinite(ends[0]) else "" for name, ends in found.items()}
