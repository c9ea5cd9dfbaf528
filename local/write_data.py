"""The tables of a prepared data directory, and the summary of what was prepared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from prepare_common import Dropped, Utterance, clean, listed

from sermtl.errors import UserError
from sermtl.fileio.files import atomic_write
from sermtl.fileio.tables import write_table

OPTIONAL = ("segments", "utt2session", "spk2gender", "utt2style", "spk2fold", "utt2paper")


def path_problem(path: str) -> str | None:
    """Why a path cannot stand in wav.scp, or None."""
    if not path.isprintable():
        return f"path {path!r} holds a control character or bytes that are not UTF-8"
    if path != path.strip() or path.endswith("|"):
        return f"path {path!r} begins or ends with a blank or |, which wav.scp would misread"
    return None


def check_ids(utterances: Iterable[Utterance]) -> None:
    """Check that ids are unique and that sorting by utterance and by speaker agree.

    Raises:
        UserError: They do not; lists all repeated ids.
    """
    seen: dict[str, str] = {}
    repeated = []
    for utterance in utterances:
        if utterance.utt in seen:
            repeated.append(f"{utterance.utt}: {seen[utterance.utt]} and {utterance.where}")
        seen[utterance.utt] = utterance.where
    if repeated:
        raise UserError(f"{len(repeated)} utterance ids occur twice:{listed(repeated)}")
    previous = ""
    for utterance in sorted(utterances, key=lambda u: u.utt.encode()):
        if utterance.speaker.encode() < previous.encode():
            raise UserError(
                f"speaker ids {utterance.speaker!r} and {previous!r} make utterances sort in another order than "
                f"speakers ({utterance.where}): rename one so that neither id begins with the other"
            )
        previous = utterance.speaker


def write_data(
    out: Path,
    utterances: list[Utterance],
    lang: str,
    dropped: Sequence[Dropped],
    wav_scp: dict[str, str] | None = None,
    segments: dict[str, str] | None = None,
) -> None:
    """Write all tables of a data directory; optional tables that have no values are removed.

    ``wav_scp`` and ``segments`` are those of a corpus that comes with them; else every utterance is a file.
    Prints what was written and what was dropped, by reason.

    Raises:
        UserError: No utterance is left, an id or path cannot stand in a table, or nothing can be written.
    """
    if not utterances:
        reasons = Counter(item.reason for item in dropped).most_common(5)
        why = listed([f"{count} x {reason}" for reason, count in reasons])
        raise UserError(f"no utterance is left for {out}{': dropped were' if why else ''}{why}")
    if wav_scp is None:
        problems = [f"{p} ({u.where})" for u in utterances if (p := path_problem(u.path))]
        if problems:
            raise UserError(f"{len(problems)} paths cannot stand in wav.scp:{listed(problems)}")
        wav_scp = {u.utt: u.path for u in utterances}
    check_ids(utterances)
    for name in OPTIONAL:
        (out / name).unlink(missing_ok=True)
    write_table(out / "wav.scp", wav_scp)
    if segments:
        write_table(out / "segments", segments)
    by_speaker: dict[str, list[str]] = {}
    for u in sorted(utterances, key=lambda u: u.utt.encode()):
        by_speaker.setdefault(u.speaker, []).append(u.utt)
    write_table(out / "text", {u.utt: u.text for u in utterances})
    write_table(out / "utt2spk", {u.utt: u.speaker for u in utterances})
    write_table(out / "spk2utt", {speaker: " ".join(utts) for speaker, utts in by_speaker.items()})
    write_table(out / "utt2emo", {u.utt: u.emotion for u in utterances})
    write_table(out / "utt2dur", {u.utt: round(u.seconds, 6) for u in utterances})
    for name, field in (("utt2session", "session"), ("utt2style", "style"), ("utt2paper", "paper")):
        if any(getattr(u, field) for u in utterances):
            write_table(out / name, {u.utt: getattr(u, field) for u in utterances})
    for name, field, unknown in (("spk2gender", "gender", "u"), ("spk2fold", "fold", "")):
        if any(getattr(u, field) for u in utterances):
            write_table(out / name, {u.speaker: getattr(u, field) or unknown for u in utterances})
    with atomic_write(out / "lang") as file:
        file.write(f"{lang}\n")
    with atomic_write(out / "dropped.tsv") as file:
        for item in dropped:
            file.write("\t".join(clean(field) for field in (item.utt, item.reason, item.where)) + "\n")
    _summarise(out, utterances, dropped)


def _summarise(out: Path, utterances: list[Utterance], dropped: Sequence[Dropped]) -> None:
    hours = sum(u.seconds for u in utterances) / 3600
    speakers = len({u.speaker for u in utterances})
    classes = Counter(u.emotion or "(no emotion)" for u in utterances)
    counts = " ".join(f"{name} {count}" for name, count in sorted(classes.items()))
    empty = sum(not u.text for u in utterances)
    print(f"{out}: {len(utterances)} utterances, {speakers} speakers, {hours:.2f} h: {counts}")
    if empty:
        print(f"{out}: {empty} utterances have an empty transcript after normalisation")
    for reason, count in sorted(Counter(item.reason.rpartition(": ")[2] for item in dropped).items()):
        print(f"{out}: dropped {count}: {reason}")
    if dropped:
        print(f"{out}: every dropped one with its place is in {out / 'dropped.tsv'}")
