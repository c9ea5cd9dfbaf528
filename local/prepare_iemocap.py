"""Prepare IEMOCAP (or `mini`, which has its layout): one pass over the tree, all tables of data/<corpus>."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from audio_headers import check_audio
from iemocap_counts import CLASSES, differences
from iemocap_tree import CODES, TURN, Dialog, read_labels, read_transcript, read_tree
from labels import chosen_classes, label_options, map_labels, refuse_absent
from prepare_common import Dropped, Utterance, boolean, entries, leave_out_lone_speakers, listed, options, warn
from write_data import write_data

from sermtl.errors import UserError, command
from sermtl.text.normalise import normalise


@dataclass
class Scan:
    """What was found: usable utterances, those not used, and those whose label or audio is lost."""

    utterances: list[Utterance] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    broken: list[Dropped] = field(default_factory=list)
    without_text: list[str] = field(default_factory=list)


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
        text=normalise(text),
        session=speaker[:5],
        gender=speaker[5].lower(),
        style="scripted" if "_script" in turn else "improvised",
        paper=turn[3:6],
        fold=speaker[3:],
        where=where,
    )


def scan_dialog(dialog: Dialog, classes: Sequence[str], new_names: Mapping[str, str], scan: Scan) -> None:
    """Add one dialog to the scan: every labelled turn, wav and transcript line ends up somewhere."""
    labels, bad_labels = read_labels(dialog.labels) if dialog.labels else ({}, [])
    texts, bad_lines = read_transcript(dialog.transcript) if dialog.transcript else ({}, [])
    wavs = entries(dialog.wavs, ".wav", ".flac") if dialog.wavs else {}
    scan.dropped += bad_labels + bad_lines
    for turn, (code, where) in labels.items():
        if new_names.get(code, code) not in classes:
            scan.dropped.append(Dropped(turn, f"class {code} is not asked for", where))
        elif turn in wavs:
            if turn not in texts:
                scan.without_text.append(turn)
            text = texts.get(turn, ("", ""))[0]
            scan.utterances.append(make_utterance(turn, wavs[turn], code, text, where))
        elif dialog.wavs is None or "XX" in turn:
            scan.dropped.append(Dropped(turn, "no audio", where))
        else:
            scan.broken.append(Dropped(turn, f"no audio {dialog.wavs / turn}.wav for the label", where))
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
    parser = options(__doc__)
    parser.add_argument("--corpus_dir", type=Path, required=True, help="the folder IEMOCAP_full_release")
    label_options(parser, f"out of {' '.join(CODES)}; default: {' '.join(CLASSES)}")
    parser.add_argument("--merge_excited", type=boolean, default=True, help="count exc as hap")
    parser.add_argument("--known_counts", type=boolean, default=True, help="compare the counts with the published ones")
    args = parser.parse_args()
    mapped = bool(args.label_map)
    if args.merge_excited:
        if "exc" in (args.classes or "").split():
            raise UserError("--classes names exc, which is merged into hap: add --merge_excited false")
        args.label_map = {"exc": "hap"} | args.label_map
    classes = chosen_classes(args, CLASSES, CODES)
    dialogs, missing = read_tree(args.corpus_dir)
    if missing:
        warn(f"{args.corpus_dir} is a partial copy; missing are:{listed(missing)}")
    scan = Scan()
    for dialog in dialogs:
        scan_dialog(dialog, classes, args.label_map, scan)
    map_labels(scan.utterances, args.label_map)
    if scan.without_text:
        count = len(scan.without_text)
        warn(f"{count} utterances have no transcript line, first {scan.without_text[0]}; their text is empty")
    utterances, broken = check_audio(scan.utterances, args, scan.broken)
    if utterances:
        refuse_absent(classes, utterances, args.corpus_dir)
    utterances, alone = leave_out_lone_speakers(utterances, args)
    write_data(args.out, utterances, "en", scan.dropped + broken + alone)
    if args.known_counts and not mapped:
        found = differences(utterances, classes, args.merge_excited)
        if found:
            warn(f"{len(found)} counts differ from the published ones:{listed(found)}")
        else:
            print(f"{args.out}: all counts by class, speaker and prefix are the published ones")


if __name__ == "__main__":
    raise SystemExit(main())
