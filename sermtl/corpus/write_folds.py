"""Writing a protocol's folds, whole or not at all; and their audits for people: a table, and each message once."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from sermtl.corpus.audit import FEW, Audio, Audit, audit_fold
from sermtl.corpus.corpus import Corpus
from sermtl.corpus.folds import Fold, without_copies
from sermtl.corpus.protocols import find_protocol
from sermtl.errors import UserError
from sermtl.fileio.files import replaced_directory, write_json, write_text
from sermtl.fileio.stamp import NAME, Stamp
from sermtl.fileio.tables import PARTS, write_list
from sermtl.fileio.text_table import aligned, plural

COLUMNS = {
    "train": "utterances_train", "dev": "utterances_dev", "test": "utterances_test", "spk-train": "speakers_train",
    "spk-test": "speakers_test", "spk-shared": "speakers_shared_train_test", "ses-shared": "sessions_shared_train_test",
    "text-seen": "test_utterances_transcript_seen", "audio-seen": "test_utterances_audio_seen",
}  # fmt: skip
"""Of the table: head -> key of the audit; the classes of the test part follow."""
SUMMED = ("test", "text-seen", "audio-seen")
"""Those with a sum over the folds, beside the classes."""


class BrokenPromise(UserError):
    """The folds do not keep what their protocol promises and must not be used."""

    status = 1


def audit_options(description: str | None) -> argparse.ArgumentParser:
    """Make a parser with the options that all programs that audit have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="data directory")
    text = "compare decoded samples (decodes all audio) instead of the bytes of files"
    parser.add_argument("--audio", choices=("true", "false"), default="false", help=text)
    return parser


def write_folds(
    corpus: Corpus, audio: Audio, folds: Iterable[Fold], made: Stamp, *, protocol: str, dev_ratio: float, copies: str
) -> None:
    """Write what `make_folds` gave into the folder of the stamp ``made``, finish it, and print what the audits found.

    ``copies`` says what to do with audio of the test part that is also in train or dev: stop, drop (it there) or keep.
    `BrokenPromise` where a fold breaks one; the folder stays as it was.
    """
    out, audits, row = made.path.parent, [], find_protocol(protocol)[0]
    with replaced_directory(out) as staging:
        for fold in folds:
            training = len(fold.train) + len(fold.dev)
            if copies == "drop" and audio.codes is not None:
                fold = without_copies(fold, audio.codes)
            lists = {part: [corpus.utts[row] for row in getattr(fold, part)] for part in PARTS}
            audit = audit_fold(
                corpus, audio, lists, protocol=protocol, fold=fold.name,
                disjoint_speakers=row.disjoint_speakers, disjoint_transcripts=row.disjoint_transcripts,
                marked=row.marked, allow_copies=copies == "keep",
            )  # fmt: skip
            if dropped := training - len(fold.train) - len(fold.dev):
                what = f"{plural(dropped, 'training utterance')} with the audio of a test utterance left out"
                audit["warnings"].append(what)
            if dev_ratio and not len(fold.dev):
                audit["warnings"].append(f"--dev_ratio {dev_ratio:g} of so few utterances gives an empty dev")
            for part, ids in lists.items():
                write_list(staging / fold.name / part, ids)
            write_json(staging / fold.name / "audit.json", audit, sort_keys=True)
            audits.append(audit)
        write_text(staging / "folds", "".join(f"{audit['fold']}\n" for audit in audits))
        write_text(staging / "audit.txt", audit_table(audits))
        report(corpus, protocol, audits, out)
        made.finish(sorted(path for path in staging.rglob("*") if path.is_file()), staging / NAME)


def report(corpus: Corpus, protocol: str, audits: list[Audit], out: Path) -> None:
    """Print the table and warnings; stop with the broken promises."""
    kept = print_audits(audits)
    if any(audit["speaker_dependent"] for audit in audits):
        unknown = " or unknown" if any(audit["utterances_speaker_unknown"] for audit in audits) else ""
        print(
            f"protocol {protocol} is speaker-dependent{unknown}: compare its scores with those of the same lists only"
        )
    train, dev = (sum(audit[f"utterances_{part}"] for audit in audits) for part in ("train", "dev"))
    if dev:
        print(f"dev takes {dev / (train + dev):.0%} of what could be trained on")
    if not kept:
        hint = "; correct utt2session or use --protocol speaker" if protocol == "session" else ""
        if any(audit["test_utterances_audio_seen"] for audit in audits):
            hint += "; --copies drop leaves copies of test audio out of training, --copies keep goes on with them"
        raise BrokenPromise(f"{corpus.path} breaks the promise of protocol {protocol}, {out} stays as it was{hint}")
    unlabelled = int((~corpus.labelled).sum())
    note = f"; {unlabelled} without emotion are not scored" if unlabelled else ""
    print(f"{len(audits)} folds of {len(corpus.utts)} utterances{note}: {out}")


def print_audits(audits: Sequence[Audit]) -> bool:
    """Print the table, then warnings and broken promises on stderr; gives whether all promises are kept."""
    print(audit_table(audits), end="", flush=True)
    for key, kind in (("warnings", "warning"), ("broken", "error")):
        for line in gathered(audits, key):
            print(f"{kind}: {line}", file=sys.stderr)
    return not any(audit["broken"] for audit in audits)


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
    """One aligned line a fold: sizes, what test shares with train and dev, classes of the test part; then the sums."""
    classes = audits[0]["classes"]
    rows = [[*(a[key] for key in COLUMNS.values()), *(a["class_counts_test"][c] for c in classes)] for a in audits]
    sums = []
    for name, values in zip([*COLUMNS, *[SUMMED[0]] * len(classes)], zip(*rows, strict=True), strict=True):
        sums.append("" if name not in SUMMED else None if None in values else sum(values))
    names = [*(audit["fold"] for audit in audits), "all"]
    body = [[name, *("-" if v is None else v for v in row)] for name, row in zip(names, [*rows, sums], strict=True)]
    return aligned([["fold", *COLUMNS, *classes], *body])
