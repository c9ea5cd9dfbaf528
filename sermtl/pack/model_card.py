"""The model card of a pack: data, protocol, settings, scores with intervals, use and limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import yaml

from sermtl.fileio.tables import PARTS
from sermtl.fileio.text_table import markdown
from sermtl.score import statistics
from sermtl.score.score_files import Utterance

SHOWN = (
    "upstream", "feats_type", "cmvn", "alpha", "beta", "grl", "grl_schedule", "freeze_feature_encoder", "epochs",
    "batch_size", "learning_rate", "token_type", "select", "seed",
)  # fmt: skip
SPEAKER_DEPENDENT = (
    "**Speaker-dependent**: speakers of the test list also stand in the training list. These scores say little about "
    "other people, and compare only with others of the same protocol."
)
CMVN_SPEAKER = (
    "**Not of single files**: for these scores, features were normalised by the mean and variance of all recordings of "
    "each test speaker (`cmvn: speaker`). A single file is normalised by its own statistics: expect lower scores."
)
SPEAKER_INDEPENDENT = "Speaker-independent: no speaker of the test list stands in the training list."
CITATION = """\
S. Ha, "Speech Emotion Recognition via multi-task learning with speaker normalization".

X. Cai, J. Yuan, R. Zheng, L. Huang, K. Church, "Speech Emotion Recognition with Multi-Task Learning",
Interspeech 2021."""


@dataclass(frozen=True)
class Facts:
    """What a card states."""

    labels: Sequence[str]
    settings: Mapping[str, Any]
    """Of the training; an ``upstream`` with a ``/`` is a model of the hub."""
    scores: Mapping[str, Any]
    rows: Sequence[Utterance]
    """The fold's test utterances."""
    audit: Mapping[str, Any]
    lang: str = ""
    pooled: Mapping[str, Any] = field(default_factory=dict)
    """Scores over all folds, where there are some."""
    model_license: str = ""
    data_license: str = ""
    folders: Sequence[str] = ()
    """What else the pack holds: folders for transformers, ONNX files."""
    notes: Sequence[str] = ()


def model_card(facts: Facts) -> str:
    """The card as Markdown with the hub's YAML head."""
    s = facts.settings
    corpus, protocol, fold = str(s.get("corpus")), str(facts.scores["protocol"]), str(s.get("fold"))
    parts = [
        f"---\n{yaml.safe_dump(_head(facts), sort_keys=True, allow_unicode=True)}---",
        f"# Emotion and words from speech: {corpus}, protocol {protocol}, fold {fold}",
        f"Recognises {_and(facts.labels)}, and transcribes the words; made with the sermtl recipe.",
        _usage(facts),
        "## Data and protocol",
        _data(facts, corpus, protocol, fold),
        "## Scores",
        _scores(facts),
        "## Training settings",
        "\n".join(f"- {key}: {s[key]}" for key in SHOWN if key in s) + "\n\nAll of them: `config.yaml`.",
        "## Intended use and limits",
        _limits(facts),
        "## Licences",
        f"- model weights: {facts.model_license or 'not stated'}\n"
        f"- training data ({corpus}): {facts.data_license or 'not stated'}\n"
        "- sermtl's code: Apache-2.0",
        "## Citation",
        CITATION,
    ]
    return "\n\n".join(parts) + "\n"


def _head(facts: Facts) -> dict[str, Any]:
    head: dict[str, Any] = {
        "pipeline_tag": "audio-classification",
        "tags": ["speech-emotion-recognition", "automatic-speech-recognition", "sermtl"],
        "license": facts.model_license or "other",
    }
    if not facts.model_license:
        head["license_name"] = "not-stated"
    if facts.lang:
        head["language"] = facts.lang
    upstream = str(facts.settings.get("upstream", ""))
    if "/" in upstream:  # of a file or a folder there is only the name
        head["base_model"] = upstream
    return head


def _usage(facts: Facts) -> str:
    lines = [
        "```python",
        "from sermtl import Speech2Emotion",
        "",
        'model = Speech2Emotion.from_pretrained("PACK")  # this directory',
        "result = model(waveform, sampling_rate)",
        "print(result.emotion, result.scores, result.text)",
        "```",
    ]
    if "audio-classification" in facts.folders:
        lines += [
            "",
            "Without sermtl, by transformers alone (one recording at a time, as floats at 16 kHz):",
            "",
            "```python",
            "from transformers import pipeline",
            "",
            'pipeline("audio-classification", model="PACK/audio-classification", top_k=None)(waveform)',
            'pipeline("automatic-speech-recognition", model="PACK/automatic-speech-recognition")(waveform)',
            "```",
        ]
    return "\n".join([*lines, *(f"\n{note}" for note in facts.notes)])


def _data(facts: Facts, corpus: str, protocol: str, fold: str) -> str:
    dependent = SPEAKER_DEPENDENT if facts.scores["speaker_dependent"] else SPEAKER_INDEPENDENT
    lines = [f"- corpus `{corpus}`, protocol `{protocol}`, fold `{fold}`", f"- {dependent}"]
    audit = facts.audit
    for part in PARTS:
        if f"utterances_{part}" in audit:
            speakers = audit.get(f"speakers_{part}")
            lines.append(f"- {part}: {audit[f'utterances_{part}']} utterances of {speakers} speakers")
    seen = audit.get("test_utterances_transcript_seen_share")
    if seen is not None:
        lines.append(
            f"- {seen:.0%} of the test transcripts also occur in training: the word error rate is for such text"
        )
    return "\n".join([*lines, "- the whole audit: `audit.json`"])


def _scores(facts: Facts) -> str:
    ser, asr, spk = (facts.scores[head] for head in ("ser", "asr", "spk"))
    bounds = _intervals(facts)
    by_speaker = (facts.settings.get("feats_type"), facts.settings.get("cmvn")) == ("fbank", "speaker")
    speaker = f"{spk['acc']:.3f}" if spk.get("acc") is not None else f"undefined: {spk.get('reason', 'not measured')}"
    rows = [
        ["WA (accuracy)", f"{_number(ser['wa'])}{bounds['wa']}", f"{ser['n']} utterances"],
        ["UA (mean recall)", f"{_number(ser['ua'])}{bounds['ua']}", f"{len(facts.labels)} classes"],
        ["WER", f"{_number(asr['wer'])}{bounds['wer']}", f"{asr['words']} words"],
        ["speaker accuracy", speaker, "training speakers"],
    ]
    confusions = [[label, *row] for label, row in zip(facts.labels, ser["confusion"], strict=True)]
    lines = [
        "On this fold's test list; in brackets 95 % bootstrap intervals over its utterances, which do not show how the "
        "scores vary from speaker to speaker.",
        *(["", CMVN_SPEAKER] if by_speaker else []),
        "",
        markdown(["measure", "value", "of"], rows),
        "Confusions (rows: truth):",
        "",
        markdown(["", *facts.labels], confusions).rstrip(),
    ]
    if facts.pooled:
        p = facts.pooled
        missing = len(p.get("missing_folds", []))
        folds = f"{len(p['folds'])} of {len(p['folds']) + missing}" if missing else f"all {len(p['folds'])}"
        lines += [
            "",
            f"The same settings over {folds} folds, pooled: WA {_number(p['ser']['wa'])}, UA "
            f"{_number(p['ser']['ua'])}, WER {_number(p['asr']['wer'])} on {p['ser']['n']} utterances.",
        ]
    return "\n".join(lines)


def _intervals(facts: Facts) -> dict[str, str]:
    """95 % intervals as text, by resampling utterances: a fold has too few speakers to resample those."""
    index = {label: number for number, label in enumerate(facts.labels)}
    counts = statistics.additive_counts(
        np.array([index.get(row.ref, -1) for row in facts.rows]),
        np.array([index.get(row.hyp, -1) for row in facts.rows]),
        np.array([row.words for row in facts.rows]),
        np.array([row.errors for row in facts.rows]),
        len(facts.labels),
    )
    replicates = statistics.rates(statistics.bootstrap(counts, np.arange(len(counts))))
    found = {name: statistics.interval(values) for name, values in replicates.items()}
    return {name: f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "" for name, ends in found.items()}


def _limits(facts: Facts) -> str:
    lines = [
        "- For research on speech. It predicts how the corpus's labellers would judge speech, not what a person feels.",
        "- Not for decisions about people: hiring, policing, insurance, schooling, medicine. In the European Union, "
        "inferring emotions at work and at school is prohibited with few exceptions (Regulation 2024/1689, art. 5).",
        f"- It knows {_and(facts.labels)} only, and always chooses one of them, for music and silence too.",
        "- Trained on the corpus's language, speakers, recording and kind of speech (acted or not). Elsewhere, "
        "scores are lower, and posteriors are not calibrated.",
    ]
    if facts.lang:
        lines.append(f"- Transcripts are in `{facts.lang}`, in the words and the spelling of the training text.")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
