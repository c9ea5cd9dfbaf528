"""Writing a protocol's folds: lists and audit of each, their names and their table, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sermtl.corpus.audit import Audio, Audit, audit_fold
from sermtl.corpus.audit_table import audit_table, print_audits
from sermtl.corpus.corpus import Corpus
from sermtl.corpus.folds import Fold, without_copies
from sermtl.corpus.protocols import find_protocol
from sermtl.errors import UserError
from sermtl.fileio.files import replaced_directory, write_json, write_text
from sermtl.fileio.stamp import NAME, Stamp
from sermtl.fileio.tables import write_list
from sermtl.fileio.text_table import plural


class BrokenPromise(UserError):
    """The folds do not keep what their protocol promises and must not be used."""

    status = 1


def write_folds(
    corpus: Corpus,
    audio: Audio,
    folds: Iterable[Fold],
    made: Stamp,
    *,
    protocol: str,
    dev_ratio: float,
    copies: str,
    notes: Iterable[str] = (),
) -> None:
    """Write folds into the folder of the stamp ``made``, finish it, and print what the audits found.

    Args:
        corpus: The data directory.
        audio: Its groups of equal audio.
        folds: What `make_folds` gives for ``protocol`` and ``dev_ratio``.
        made: The stamp.
        protocol: The protocol's name.
        dev_ratio: The share of training that became dev.
        copies: What to do with audio of the test part that is also in train or dev: stop, drop (it there) or keep.
        notes: What the protocol left out, to be printed.

    Raises:
        BrokenPromise: A fold breaks one; the folder stays as it was.
    """
    out, audits, row = made.path.parent, [], find_protocol(protocol)[0]
    with replaced_directory(out) as staging:
        for fold in folds:
            training = len(fold.train) + len(fold.dev)
            if copies == "drop" and audio.codes is not None:
                fold = without_copies(fold, audio.codes)
            lists = fold.lists(corpus)
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
        for note in notes:
            print(f"{protocol}: {note}")
        made.finish(sorted(path for path in staging.rglob("*") if path.is_file()), staging / NAME)


def report(corpus: Corpus, protocol: str, audits: list[Audit], out: Path) -> None:
    """Print the table, warnings and broken promises.

    Raises:
        BrokenPromise: There are any.
    """
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
