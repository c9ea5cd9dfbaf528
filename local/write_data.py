"""The tables of a prepared data directory, and the summary of what was prepared."""

from __future__ import annotations

import argparse
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from labels import spelling_variants
from prepare_common import FIELDS, SPEAKER_FIELDS, Dropped, Utterance, clean, listed, warn

from sermtl.data.sampler import parts_by_size
from sermtl.errors import UserError
from sermtl.fileio.files import write_text
from sermtl.fileio.tables import known_speakers, spk2utt_of, write_table
from sermtl.fileio.text_table import plural
from sermtl.fileio.wav_scp import CHANNELS
from sermtl.text.normalise import is_english, normalise

FEW_FOREIGN = 0.02
BATCH = 8
"""Utterances of an update by default."""
WEIGHTS_GB, SECOND_GB = 1.9, 0.105
"""Memory of training wav2vec2-base in float32: program, weights and moments; a second of audio (both measured)."""


def path_problem(path: str) -> str | None:
    """Why a path cannot be written to wav.scp, or None."""
    if not path.isprintable():
        return f"path {path!r} holds a control character or bytes that are not UTF-8"
    if path != path.strip() or path.endswith("|"):
        return f"path {path!r} begins or ends with a blank or |, which wav.scp would misread"
    return None


def check_ids(utterances: Sequence[Utterance]) -> None:
    """Check that ids are unique, begin with their speaker's, and sort as speakers do.

    Raises:
        UserError: They do not; lists all that are repeated or begin otherwise.
    """
    seen: dict[str, str] = {}
    repeated = []
    for utterance in utterances:
        if utterance.utt in seen:
            repeated.append(f"{utterance.utt}: {seen[utterance.utt]} and {utterance.where}")
        seen[utterance.utt] = utterance.where
    if repeated:
        raise UserError(f"{len(repeated)} utterance ids occur twice:{listed(repeated)}")
    other = [f"{u.utt} of speaker {u.speaker} ({u.where})" for u in utterances if not u.utt.startswith(u.speaker)]
    if other:
        raise UserError(
            f"{len(other)} utterance ids do not begin with their speaker's id, as in Kaldi:{listed(other)}\n"
            "rename the utterances in all tables, as to SPEAKER-UTTERANCE"
        )
    previous = ""
    for utterance in sorted(utterances, key=lambda u: u.utt.encode()):
        if utterance.speaker.encode() < previous.encode():
            raise UserError(
                f"speaker ids {utterance.speaker!r} and {previous!r} make utterances sort in another order than "
                f"speakers ({utterance.where}): rename one so that neither id begins with the other"
            )
        previous = utterance.speaker
    for names in spelling_variants(known_speakers({u.utt: u.speaker for u in utterances})):
        warn(
            f"speakers that differ in spelling only: {' '.join(names)}; if they are one person, the voice may be in "
            "training and in test: give it one id"
        )


def normalise_texts(utterances: Sequence[Utterance], given: str, source: Path) -> str:
    """Normalise all transcripts in place by the language given, else ``en`` for A to Z alone, else ``und`` (unknown).

    A few words of another script (at most `FEW_FOREIGN` of all) among words of A to Z leave it at ``en``.

    Returns:
        The language's code.

    Raises:
        UserError: The code is no code.
    """
    if given and not re.fullmatch(r"[a-z]{2,3}", given):
        raise UserError(f"--lang {given}: expected a code of two or three letters, such as en, de, ru")
    foreign = [u for u in utterances if not is_english([u.text])]
    words = [word for u in foreign for word in u.text.split() if not is_english([word])]
    count = sum(len(u.text.split()) for u in utterances)
    few = len(words) <= FEW_FOREIGN * count and not any(
        "LATIN" in unicodedata.name(c, "") for c in "".join(words) if not c.isascii()
    )
    lang = given or ("und" if foreign and not few else "en")
    if foreign and lang == "en":
        shown = listed([f"{u.utt} ({u.where})" for u in foreign], 5)
        warn(
            f"--lang en: {len(foreign)} transcripts lose letters outside A to Z (give --lang if it is another):{shown}"
        )
    elif foreign and not given:
        warn("the text has letters outside A to Z: --lang und; name the language (--lang de) to spell out digits")
    for utterance in utterances:
        utterance.text = normalise(utterance.text, lang)
    if not any(u.text for u in utterances):
        warn(f"{source} has no transcripts: train with alpha 0")
    return lang


def leave_out_lone_speakers(
    utterances: list[Utterance], args: argparse.Namespace
) -> tuple[list[Utterance], list[Dropped]]:
    """Leave out the utterances whose speaker has no other, unless speakers need not be known.

    Neither the speaker head nor a fold that holds speakers out can use them; later stages call them unknown.

    Raises:
        UserError: There are some, and neither ``speakers`` nor ``skip_broken`` says what to do; lists them.
    """
    numbers = Counter(u.speaker for u in utterances)
    alone = [u for u in utterances if numbers[u.speaker] == 1]
    lines = [f"{u.speaker}: {u.utt} ({u.where})" for u in alone]
    if alone and args.speakers == "known":
        warn(f"the speakers of {len(alone)} of {len(utterances)} utterances are unknown, or have no other utterance")
        return utterances, []
    if alone and not args.skip_broken:
        raise UserError(
            f"speakers that are unknown or have a single utterance, from which no speaker is learned "
            f"({len(lines)}):{listed(lines)}\ncorrect their speaker ids, pass --skip_broken true to leave them out, or "
            "train on them with --speakers known (the default of --protocol random5; if no speaker is known, with "
            "--beta 0 too)"
        )
    if alone:
        warn(f"speakers with a single utterance are left out ({len(lines)}):{listed(lines)}")
    dropped = [Dropped(u.utt, "the only utterance of its speaker", u.where) for u in alone]
    return [u for u in utterances if numbers[u.speaker] > 1], dropped


def write_data(
    utterances: list[Utterance],
    args: argparse.Namespace,
    source: Path,
    lang: str,
    dropped: Sequence[Dropped],
    wav_scp: dict[str, str] | None = None,
    segments: dict[str, str] | None = None,
) -> list[Utterance]:
    """Write all tables of a data directory; optional tables that have no values are removed.

    Prints what was written and what was dropped, by reason.

    Args:
        utterances: Sound ones of the classes that are asked for, with their transcripts as the corpus has them.
        args: Those of `prepare_common.options`.
        source: What they were read from, for messages.
        lang: The language of the transcripts; empty: as `normalise_texts` finds it.
        dropped: Those that are not used.
        wav_scp: Of a corpus that comes with it, with ``segments``; else every utterance is a file.
        segments: Likewise.

    Returns:
        Those that were written.

    Raises:
        UserError: No utterance is left, an id or path does not fit into a table, or nothing can be written.
    """
    utterances, alone = leave_out_lone_speakers(utterances, args)
    lang = normalise_texts(utterances, lang, source)
    return write_tables(args.out, utterances, lang, [*dropped, *alone], wav_scp, segments)


def write_tables(
    out: Path,
    utterances: list[Utterance],
    lang: str,
    dropped: Sequence[Dropped],
    wav_scp: dict[str, str] | None = None,
    segments: dict[str, str] | None = None,
) -> list[Utterance]:
    """The part of `write_data` that follows once texts are normalised."""
    if not utterances:
        reasons = Counter(item.reason for item in dropped).most_common(5)
        why = listed([f"{count} x {reason}" for reason, count in reasons])
        raise UserError(f"no utterance is left for {out}{': dropped were' if why else ''}{why}")
    if given := wav_scp is not None:
        used = {u.path for u in utterances}
        wav_scp = {key: entry for key, entry in wav_scp.items() if key in used}
        segments = segments and {u.utt: segments[u.utt] for u in utterances}
    else:
        problems = [f"{p} ({u.where})" for u in utterances if (p := path_problem(u.path))]
        if problems:
            raise UserError(f"{len(problems)} paths cannot be written to wav.scp:{listed(problems)}")
        wav_scp = {u.utt: u.path for u in utterances}
    check_ids(utterances)
    utterances = sorted(utterances, key=lambda u: u.utt)
    utt2spk = {u.utt: u.speaker for u in utterances}
    tables: dict[str, dict[str, str]] = {
        "wav.scp": wav_scp,
        "segments": segments or {},
        "utt2spk": utt2spk,
        "spk2utt": spk2utt_of(utt2spk),
        "utt2dur": {u.utt: f"{round(u.seconds, 6)}" for u in utterances},
    }
    if any(u.channel for u in utterances):
        key = "path" if given else "utt"
        tables[CHANNELS] = {getattr(u, key): u.channel or f"{getattr(u, key)} mean" for u in utterances}
    else:
        (out / CHANNELS).unlink(missing_ok=True)
    tables |= {name: {u.utt: getattr(u, field) for u in utterances} for name, field in FIELDS.items()}
    tables |= {name: {u.speaker: getattr(u, field) for u in utterances} for name, field in SPEAKER_FIELDS.items()}
    for name, table in tables.items():
        if name == "text" or any(table.values()):
            unknown = "u" if name == "spk2gender" else ""
            write_table(out / name, {key: value or unknown for key, value in table.items()})
        else:
            (out / name).unlink(missing_ok=True)
    write_text(out / "lang", f"{lang}\n")
    write_text(out / "dropped.tsv", "".join("\t".join(map(clean, item)) + "\n" for item in dropped))
    _summarise(out, utterances, dropped)
    return utterances


def _summarise(out: Path, utterances: list[Utterance], dropped: Sequence[Dropped]) -> None:
    hours = sum(u.seconds for u in utterances) / 3600
    speakers = len(known_speakers({u.utt: u.speaker for u in utterances}))
    classes = Counter(u.emotion or "(no emotion)" for u in utterances)
    counts = " ".join(f"{name} {count}" for name, count in sorted(classes.items()))
    empty = sum(not u.text for u in utterances)
    print(f"{out}: {len(utterances)} utterances, {speakers} speakers, {hours:.2f} h: {counts}")
    seconds = sorted((u.seconds for u in utterances), reverse=True)
    middle = median(seconds)
    parts = parts_by_size(range(len(seconds[:BATCH])), seconds, BATCH, middle)
    largest = max(len(part) * seconds[part[0]] for part in parts)
    print(
        f"{out}: shortest {seconds[-1]:.2f} s, median {middle:.2f} s, longest {seconds[0]:.2f} s; the {BATCH} longest "
        f"are computed in {plural(len(parts), 'part')} of up to {largest:.0f} s with padding: training all of "
        f"wav2vec2-base takes about {WEIGHTS_GB + SECOND_GB * largest:.1f} GB; --max_seconds leaves long ones out"
    )
    if empty:
        print(f"{out}: {empty} utterances have an empty transcript after normalisation")
    for reason, count in sorted(Counter(item.reason.rpartition(": ")[2] for item in dropped).items()):
        print(f"{out}: dropped {count}: {reason}")
    if dropped:
        print(f"{out}: all of them, with file and line, are in {out / 'dropped.tsv'}")
