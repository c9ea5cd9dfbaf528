"""Prepare IEMOCAP (or `mini`, which has its layout): one pass over the tree, all tables of data/<corpus>."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from iemocap_counts import CLASSES, OF_CODES, OF_FOUR
from iemocap_tree import CODES, TURN, Dialog, read_labels, read_transcript, read_tree
from known_corpus import AUDIO, Corpus, Scan, corpus_options, write_corpus
from prepare_common import Dropped, Utterance, boolean, entries

from sermtl.errors import UserError, command

CORPUS = Corpus(name="IEMOCAP", codes={"emotion": {code: code for code in CODES}}, classes=CLASSES, counts=OF_CODES)


def make_utterance(turn: str, path: Path, emotion: str, text: str, where: str) -> Utterance:
    """Derive speaker, session, gender, style and folds from an utterance's id.

    The speaker is the session and the letter of the last part, not the file name's prefix: Ses01F_impro01_M000 is
    spoken by Ses01M.
    """
    match = TURN.fullmatch(turn)
    assert match, turn
    speaker = f"Ses{match[1]}{match[4]}"
    return Utterance(
        utt=f"{speaker}-{turn}",
        path=str(path),
        speaker=speaker,
        emotion=emotion,
        text=text,
        session=speaker[:5],
        gender=speaker[5].lower(),
        style="scripted" if "_script" in turn else "improvised",
        paper=turn[3:6],
        fold=speaker[3:],
        where=where,
    )


def scan_dialog(dialog: Dialog, scan: Scan) -> None:
    """Add one dialog to the scan: every labelled turn, wav and transcript line ends up somewhere."""
    labels, bad_labels = read_labels(dialog.labels) if dialog.labels else ({}, [])
    texts, bad_lines = read_transcript(dialog.transcript) if dialog.transcript else ({}, [])
    wavs = entries(dialog.wavs, *AUDIO) if dialog.wavs else {}
    scan.dropped += bad_labels + bad_lines
    for turn, (code, where) in labels.items():
        if turn not in wavs and (dialog.wavs is None or "XX" in turn):
            scan.dropped.append(Dropped(turn, "no audio", where))
        else:
            path = wavs.get(turn) or Path(f"{dialog.wavs}/{turn}.wav")
            scan.utterances.append(make_utterance(turn, path, code, texts.get(turn, ("", ""))[0], where))
    named = labels.keys() | {item.utt for item in bad_labels}
    for turn, path in wavs.items():
        if turn in named:
            continue
        if dialog.labels is None or "XX" in turn or not TURN.fullmatch(turn):
            scan.dropped.append(Dropped(turn, "no label", str(path)))
        else:
            scan.broken.append(Dropped(turn, f"no label in {dialog.labels} for the audio", str(path)))
    for turn, (_, where) in texts.items():
        if turn not in named and turn not in wavs:
            scan.dropped.append(Dropped(turn, "transcript line without label and audio", where))


@command
def main() -> None:
    """Read the options, scan, check and write; print how the copy differs from the published corpus.

    Raises:
        UserError: The folder is no such corpus, or audio or labels are broken.
    """
    parser = corpus_options(CORPUS, __doc__)
    parser.add_argument("--merge_excited", type=boolean, default=True, help="count exc as hap")
    args = parser.parse_args()
    corpus = CORPUS
    if args.merge_excited:
        if "exc" in (args.classes or "").split():
            raise UserError("--classes names exc, which is merged into hap: add --merge_excited false")
        corpus = replace(CORPUS, merged={"exc": "hap"}, counts={**OF_CODES, **OF_FOUR})
    dialogs, missing = read_tree(args.corpus_dir)
    scan = Scan(missing=missing)
    for dialog in dialogs:
        scan_dialog(dialog, scan)
    write_corpus(corpus, scan, args)


if __name__ == "__main__":
    raise SystemExit(main())
