"""Hypotheses of a decoded list of utterances, joined to their references by utterance id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sermtl.errors import UserError
from sermtl.fileio import stamp as stamps
from sermtl.fileio.files import write_text
from sermtl.fileio.tables import UNKNOWN, known_speakers, read_table
from sermtl.score import metrics
from sermtl.score.score_files import Utterance, write_utterances


def score_utterances(
    decode: Path, data: Path, test: Sequence[str], out: Path, again: str
) -> tuple[list[Utterance], dict[str, Any]]:
    """Join the tables of ``decode`` to those of ``data``; write ``ref.trn hyp.trn per_utt.tsv`` into ``out``.

    Returns:
        The utterances of ``test`` that have an emotion, and their ASR scores.

    Raises:
        UserError: Hypotheses or references are missing or left over; ``again`` is the remedy.
    """
    hyp = {name: read_table(decode / name) for name in ("utt2emo", "text", "utt2spk")}
    _refuse_mismatch(test, {decode / name: table for name, table in hyp.items()}, again)
    ref = {name: lookup(data / name, test) for name in ("utt2emo", "text", "utt2spk")}
    known = known_speakers(read_table(data / "utt2spk"))
    scored = [utt for utt in test if ref["utt2emo"][utt]]
    spk = {utt: speaker if speaker in known else UNKNOWN for utt, speaker in ref["utt2spk"].items()}
    edits = {utt: metrics.count_edits(ref["text"][utt], hyp["text"][utt]) for utt in scored}
    rows = [
        Utterance(
            utt, spk[utt], ref["utt2emo"][utt], hyp["utt2emo"][utt],
            (e := edits[utt])["words"], e["errors"] + e["no_reference_words"], e["chars"],
            e["char_errors"] + e["no_reference_chars"], hyp["utt2spk"][utt],
        )
        for utt in scored
    ]  # fmt: skip
    spoken = [row for row in rows if row.words]
    write_text(out / "ref.trn", "".join(_trn(ref["text"][row.utt], row) for row in spoken))
    write_text(out / "hyp.trn", "".join(_trn(hyp["text"][row.utt], row) for row in spoken))
    write_utterances(out / "per_utt.tsv", rows)
    return rows, metrics.asr_scores(list(edits.values()))


def refuse_stale(decode: Path, trained: Path, roots: Mapping[str, Path], again: str, *others: Path) -> None:
    """Refuse hypotheses (and ``others``) that are incomplete, or of other weights or data than the present ones.

    Hypotheses of another program (no stamp, and no model in the fold's directory) are scored unchecked.
    """
    stamp = decode / stamps.NAME
    if (trained / "model.safetensors").exists() and not stamp.exists():
        raise UserError(f"{decode} is incomplete (no {stamps.NAME}); {again}")
    for path in (stamp, *(other / stamps.NAME for other in others)):
        stamps.refuse_damaged(path, again)
        for message in stamps.outdated(path, roots)[:1]:
            raise UserError(f"{message}; {again}")


def _refuse_mismatch(test: Sequence[str], tables: Mapping[Path, Mapping[str, str]], again: str) -> None:
    problems = []
    for path, table in tables.items():
        for what, ids in (("lacks", set(test) - set(table)), ("has extra", set(table) - set(test))):
            if ids:
                problems.append(
                    f"{path} {what} {len(ids)} of {len(test)} test utterances: {metrics.first(sorted(ids))}"
                )
    if problems:
        raise UserError("\n  ".join(["hypotheses are not those of the test list:", *problems, again]))


def lookup(path: Path, ids: Iterable[str]) -> dict[str, str]:
    """The values of a table for these ids, all of which it must have."""
    table, wanted = read_table(path), list(ids)
    if missing := [utt for utt in wanted if utt not in table]:
        raise UserError(f"{path} lacks {len(missing)} utterances: {metrics.first(missing)}; run ./run.sh --stage 1")
    return {utt: table[utt] for utt in wanted}


def _trn(words: str, row: Utterance) -> str:
    utt = row.utt if row.utt.startswith(f"{row.spk}-") else f"{row.spk}-{row.utt}"
    return f"{words} ({utt})\n".lstrip()
