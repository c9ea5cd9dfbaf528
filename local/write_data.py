"""The tables of a prepared data directory, and the summary of what was prepared."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from checks import leave_out_lone_speakers, spelling_variants
from prepare_common import FIELDS, SPEAKER_FIELDS, Scan, Utterance, listed, warn

from sermtl.data.sampler import parts_by_size
from sermtl.errors import UserError
from sermtl.fileio.files import write_text
from sermtl.fileio.tables import known_speakers, spk2utt_of, write_table
from sermtl.fileio.text_table import plural, printable
from sermtl.fileio.wav_scp import CHANNELS
from sermtl.text.normalise import is_english, normalise

FEW_FOREIGN = 0.02
BATCH = 8  # utterances of an update by default
# Memory of training wav2vec2-base in float32: program, weights and moments; a second of audio (both measured).
WEIGHTS_GB, SECOND_GB = 1.9, 0.105


def path_problem(path: str) -> str | None:
    """Why a path cannot be written to wav.scp, or None."""
    if not path.isprintable():
        return f"path {path!r} holds a control character or bytes that are not UTF-8"
    if path != path.strip() or path.endswith("|"):
        return f"path {path!r} begins or ends with a blank or |, which wav.scp would misread"
    return None


def check_ids(utterances: Sequence[Utterance]) -> None:
    """Check that the ids of utterances, which are sorted, are unique, begin with their speaker's, and sort as those."""
    pairs = list(pairwise(utterances))
    if repeated := [f"{a.utt}: {a.where} and {b.where}" for a, b in pairs if a.utt == b.utt]:
        raise UserError(f"{len(repeated)} utterance ids occur twice:{listed(repeated)}")
    if other := [f"{u.utt} of speaker {u.speaker} ({u.where})" for u in utterances if not u.utt.startswith(u.speaker)]:
        raise UserError(
            f"{len(other)} utterance ids do not begin with their speaker's id, as in Kaldi:{listed(other)}\n"
            "rename the utterances in all tables, as to SPEAKER-UTTERANCE"
        )
    for before, after in pairs:
        if after.speaker < before.speaker:
            raise UserError(
                f"speaker ids {after.speaker!r} and {before.speaker!r} make utterances sort in another order than "
                f"speakers ({after.where}): rename one so that neither id begins with the other"
            )
    for names in spelling_variants(known_speakers({u.utt: u.speaker for u in utterances})):
        warn(
            f"speakers that differ in spelling only: {' '.join(names)}; if they are one person, the voice may be in "
            "training and in test: give it one id"
        )


def normalise_texts(scan: Scan, given: str) -> str:
    """Normalise all transcripts in place; returns the code of the language that is given or found.

    It is ``en`` where all words are of A to Z, but for a few (`FEW_FOREIGN` of all) of another script; else ``und``.
    """
    utterances = scan.utterances
    if given and not re.fullmatch(r"[a-z]{2,3}", given):
        raise UserError(f"--lang {given}: expected a code of two or three letters, such as en, de, ru")
    foreign = [u for u in utterances if not is_english([u.text])]
    words = [word for u in foreign for word in u.text.split() if not is_english([word])]
    latin = any("LATIN" in unicodedata.name(c, "") for c in "".join(words) if not c.isascii())
    few = len(words) <= FEW_FOREIGN * sum(len(u.text.split()) for u in utterances) and not latin
    lang = given or ("und" if foreign and not few else "en")
    if foreign and lang == "en":
        what = f"{len(foreign)} transcripts lose letters outside A to Z (give --lang if it is another)"
        warn(f"--lang en: {what}:{listed([f'{u.utt} ({u.where})' for u in foreign], 5)}")
    elif foreign and not given:
        warn("the text has letters outside A to Z: --lang und; name the language (--lang de) to spell out digits")
    for utterance in utterances:
        utterance.text = normalise(utterance.text, lang)
    if not any(u.text for u in utterances):
        warn(f"{scan.source} has no transcripts: train with alpha 0")
    return lang


def write_data(scan: Scan, lang: str) -> None:
    """Normalise the transcripts (``lang`` as for `normalise_texts`), write all tables, and print what is in them."""
    leave_out_lone_speakers(scan)
    write_tables(scan, normalise_texts(scan, lang))


def write_tables(scan: Scan, lang: str) -> None:
    """The part of `write_data` that follows once texts are normalised; optional tables without values are removed."""
    utterances = scan.utterances = sorted(scan.utterances, key=lambda u: u.utt)
    out, wav_scp, segments = scan.args.out, scan.wav_scp, scan.segments
    if not utterances:
        reasons = Counter(item.reason for item in scan.dropped).most_common(5)
        why = listed([f"{count} x {reason}" for reason, count in reasons])
        raise UserError(f"no utterance is left for {out}{': dropped were' if why else ''}{why}")
    if wav_scp is None:
        if problems := [f"{p} ({u.where})" for u in utterances if (p := path_problem(u.path))]:
            raise UserError(f"{len(problems)} paths cannot be written to wav.scp:{listed(problems)}")
        wav_scp, recordings = {u.utt: u.path for u in utterances}, {u.utt: u.channel for u in utterances}
    else:
        recordings = {u.path: u.channel for u in utterances}
        wav_scp = {key: entry for key, entry in wav_scp.items() if key in recordings}
    check_ids(utterances)
    utt2spk = {u.utt: u.speaker for u in utterances}
    tables: dict[str, dict[str, str]] = {
        "wav.scp": wav_scp,
        "segments": {u.utt: segments[u.utt] for u in utterances} if segments else {},
        "utt2spk": utt2spk,
        "spk2utt": spk2utt_of(utt2spk),
        "utt2dur": {u.utt: f"{round(u.seconds, 6)}" for u in utterances},
        CHANNELS: recordings,
    }
    tables |= {name: {u.utt: getattr(u, field) for u in utterances} for name, field in FIELDS.items()}
    tables |= {name: {u.speaker: getattr(u, field) for u in utterances} for name, field in SPEAKER_FIELDS.items()}
    for name, table in tables.items():
        if name == "text" or any(table.values()):
            unknown = {"spk2gender": "u", CHANNELS: "{} mean"}.get(name, "")
            write_table(out / name, {key: value or unknown.format(key) for key, value in table.items()})
        else:
            (out / name).unlink(missing_ok=True)
    write_text(out / "lang", f"{lang}\n")
    write_text(out / "dropped.tsv", "".join("\t".join(map(printable, item)) + "\n" for item in scan.dropped))
    summarise(scan)


def summarise(scan: Scan) -> None:
    """Print what was written, how much memory training takes, and what was dropped."""
    out, utterances = scan.args.out, scan.utterances
    speakers = len(known_speakers({u.utt: u.speaker for u in utterances}))
    classes = Counter(u.emotion or "(no emotion)" for u in utterances)
    counts = " ".join(f"{name} {count}" for name, count in sorted(classes.items()))
    seconds = sorted((u.seconds for u in utterances), reverse=True)
    print(f"{out}: {len(utterances)} utterances, {speakers} speakers, {sum(seconds) / 3600:.2f} h: {counts}")
    middle = median(seconds)
    parts = parts_by_size(range(len(seconds[:BATCH])), seconds, BATCH, middle)
    largest = max(len(part) * seconds[part[0]] for part in parts)
    print(
        f"{out}: shortest {seconds[-1]:.2f} s, median {middle:.2f} s, longest {seconds[0]:.2f} s; the {BATCH} longest "
        f"are computed in {plural(len(parts), 'part')} of up to {largest:.0f} s with padding: training all of "
        f"wav2vec2-base takes about {WEIGHTS_GB + SECOND_GB * largest:.1f} GB; --max_seconds leaves long ones out"
    )
    if empty := sum(not u.text for u in utterances):
        print(f"{out}: {empty} utterances have an empty transcript after normalisation")
    for reason, count in sorted(Counter(item.reason.rpartition(": ")[2] for item in scan.dropped).items()):
        print(f"{out}: dropped {count}: {reason}")
    if scan.dropped:
        print(f"{out}: all of them, with file and line, are in {out / 'dropped.tsv'}")
