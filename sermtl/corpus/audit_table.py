"""Audits for people: one table a protocol, and each message once with the folds that it holds for."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sermtl.corpus.audit import FEW, Audit
from sermtl.fileio.tables import PARTS
from sermtl.fileio.text_table import aligned


def audit_options(description: str | None) -> argparse.ArgumentParser:
    """Make a parser with the options that all programs that audit have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="data directory")
    parser.add_argument(
        "--audio", choices=("true", "false"), default="false",
        help="compare decoded samples (decodes all audio) instead of the bytes of files",
    )  # fmt: skip
    return parser


def print_audits(audits: Sequence[Audit]) -> bool:
    """Print the table, then warnings and broken promises on stderr.

    Returns:
        All promises are kept.
    """
    print(audit_table(audits), end="", flush=True)
    for line in gathered(audits, "warnings"):
        print(f"warning: {line}", file=sys.stderr)
    broken = gathered(audits, "broken")
    for line in broken:
        print(f"error: {line}", file=sys.stderr)
    return not broken


def gathered(audits: Sequence[Audit], key: str) -> list[str]:
    """One line for each message under ``key`` ("broken", "warnings"), with the folds that it holds for."""
    folds: dict[str, list[str]] = {}
    for audit in audits:
        for message in audit[key]:
            folds.setdefault(message, []).append(audit["fold"])
    lines = []
    for message, names in folds.items():
        some = " ".join(names[:FEW]) + (" ..." if len(names) > FEW else "")
        where = "all folds" if len(names) == len(audits) > 1 else f"fold{'s' * (len(names) > 1)} {some}"
        lines.append(f"{where}: {message}")
    return lines


def audit_table(audits: Sequence[Audit]) -> str:
    """One aligned line a fold: sizes, what test shares with train and dev, classes of the test part."""
    classes = audits[0]["classes"]
    head = ["fold", "train", "dev", "test", "spk-train", "spk-test", "spk-shared", "ses-shared", "text-seen",
            "audio-seen", *classes]  # fmt: skip
    body = [head]
    for a in audits:
        shown = [f"utterances_{part}" for part in PARTS]
        shown += ["speakers_train", "speakers_test", "speakers_shared_train_test", "sessions_shared_train_test"]
        shown += ["test_utterances_transcript_seen", "test_utterances_audio_seen"]
        numbers = [str(a["class_counts_test"][name]) for name in classes]
        body.append([a["fold"], *("-" if a[key] is None else str(a[key]) for key in shown), *numbers])
    total: Counter[str] = Counter()
    for a in audits:
        total.update(a["class_counts_test"])
    sums = [total_of(audits, k) for k in ("test_utterances_transcript_seen", "test_utterances_audio_seen")]
    tested = str(sum(a["utterances_test"] for a in audits))
    body.append(["all", "", "", tested, "", "", "", "", *sums, *(str(total[name]) for name in classes)])
    return aligned(body)


def total_of(audits: Sequence[Audit], key: str) -> str:
    """Sum a figure over folds; ``-`` where it is not known."""
    values = [a[key] for a in audits]
    return "-" if None in values else str(sum(values))
