"""Prepare IEMOCAP (or `mini`, which has its layout): one pass over the tree, all tables of data/<corpus>.

Real trees hold litter, gaps, and bytes that are not UTF-8.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from known_corpus import AUDIO, Corpus, corpus_options, write_corpus
from prepare_common import Dropped, Scan, Utterance, boolean, entries

from sermtl.errors import UserError, command
from sermtl.fileio.tables import raw_lines

CODES = ("ang", "hap", "exc", "neu", "sad", "fru", "fea", "sur", "dis", "oth", "xxx")
# Folder of a session: the suffix of a dialog's file in it, none where the dialog is a folder.
PARTS = {"dialog/EmoEvaluation": (".txt",), "dialog/transcriptions": (".txt",), "sentences/wav": ()}
# Session, actor with the markers, dialog, real speaker, turn.
TURN = re.compile(r"Ses(\d\d)([FM])_((?:impro|script)\w*)_([FM])(\d{3}|XX\d*)")
_LABEL = re.compile(r"\[\s*[\d.]+\s*-\s*[\d.]+\s*\]\s+(\S+)\s+([A-Za-z]+)(?:\s|$)")
_LINE = re.compile(r"(Ses\w+)\s*(?:\[[^\]]*\]\s*)?:(.*)")

# The published counts: utterances of each class by real speaker (first row of four), and by the prefix of the file
# name, which makes the published folds.
CLASSES = ("neu", "hap", "ang", "sad")
BY_NAME = {
    "01F": ((171, 132, 147, 78), (226, 117, 97, 67)),
    "01M": ((213, 146, 82, 116), (158, 161, 132, 127)),
    "02F": ((135, 166, 67, 113), (209, 148, 65, 83)),
    "02M": ((227, 161, 70, 84), (153, 179, 72, 114)),
    "03F": ((130, 128, 92, 172), (156, 145, 88, 147)),
    "03M": ((190, 158, 148, 133), (164, 141, 152, 158)),
    "04F": ((76, 185, 205, 62), (128, 174, 177, 74)),
    "04M": ((182, 118, 122, 81), (130, 129, 150, 69)),
    "05F": ((221, 159, 78, 132), (192, 236, 78, 138)),
    "05M": ((163, 283, 92, 113), (192, 206, 92, 107)),
}
OF_FOUR = {
    f"{kind} {name} {label}": count
    for name, rows in BY_NAME.items()
    for kind, row in zip(("speaker", "prefix"), rows, strict=True)
    for label, count in zip(CLASSES, row, strict=True)
} | {"class hap": 1636}
# Of 10,039 utterances. Five classes add fru to the four (7,380); six have hap and exc apart besides (7,380).
OF_CODES = {
    "class neu": 1708, "class hap": 595, "class exc": 1041, "class ang": 1103, "class sad": 1084, "class fru": 1849,
    "class fea": 40, "class sur": 107, "class dis": 2, "class oth": 3, "class xxx": 2507,
}  # fmt: skip
CORPUS = Corpus(name="IEMOCAP", codes={"emotion": {code: code for code in CODES}}, classes=CLASSES, counts=OF_CODES)


Dialog = tuple[Path | None, ...]  # what a tree holds of it, in the order of PARTS; a part that is missing is None
Line = tuple[str, str, str]  # a turn, its label or text, and why the line cannot be used, or ""


def parse_label(line: str) -> Line | None:
    """Read a line of a label file; None for a line on something else."""
    if not line.startswith("["):
        return None
    if not (match := _LABEL.match(line)):
        return "-", "", "label line that cannot be read"
    turn, code = match[1], match[2].lower()
    if not TURN.fullmatch(turn):
        return turn, "", "not an IEMOCAP utterance id"
    return turn, code, "" if code in CODES else f"unknown emotion code {match[2][:20]}"


def parse_transcript(line: str) -> Line:
    """Read a line of a transcript file."""
    match = _LINE.fullmatch(line)
    return (match[1], match[2].strip(), "") if match else ("-", "", "transcript line without a turn")


def read_lines(
    path: Path | None, parse: Callable[[str], Line | None], again: str
) -> tuple[dict[str, tuple[str, str]], list[Dropped]]:
    """Read a file of UTF-8 or, by the line, the Windows code page: turn to (label or text, ``file:line``).

    Also returns the lines that cannot be used; ``again`` is the reason of a turn's second line.
    """
    values: dict[str, tuple[str, str]] = {}
    dropped = []
    for number, raw in raw_lines(path) if path else ():
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError:
            line = raw.decode("cp1252", errors="replace")
        line = line.strip("\ufeff \t\r\n\0")
        if line and (parsed := parse(line)):
            turn, value, problem = parsed
            if problem := problem or (again if turn in values else ""):
                dropped.append(Dropped(turn, problem, f"{path}:{number}"))
            else:
                values[turn] = (value, f"{path}:{number}")
    return values, dropped


def sessions(root: Path) -> dict[int, Path]:
    """Find the session folders; where there are none, a UserError names where they might be."""
    if not root.is_dir():
        raise UserError(f"no corpus folder {root}: give --corpus_dir .../IEMOCAP_full_release")
    folders = entries(root)
    found = {int(m[1]): path for name, path in folders.items() if (m := re.fullmatch(r"Session(\d+)", name))}
    if found:
        return found
    hint = "give the folder that holds Session1 to Session5"
    if "dialog" in folders or "sentences" in folders:
        hint = f"this is one session; did you mean --corpus_dir {root.resolve().parent} ?"
    for name in folders:
        if any(re.fullmatch(r"Session\d+", below) for below in entries(root / name)):
            hint = f"did you mean --corpus_dir {root / name} ?"
    state = "holds no Session folder" if any(root.iterdir()) else "is empty"
    raise UserError(f"{root} {state}: {hint}")


def read_tree(scan: Scan) -> list[Dialog]:
    """List the dialogs of all sessions in order; paths of the full release that are missing are noted in the scan."""
    root, dialogs, missing = scan.source, [], scan.missing
    found = sessions(root)
    missing += [f"{root / f'Session{number}'}" for number in range(1, 6) if number not in found]
    for _, session in sorted(found.items()):
        parts = {folder: entries(session / folder, *suffix) for folder, suffix in PARTS.items()}
        missing += [f"{session / folder}" for folder, content in parts.items() if not content]
        labels, _, wavs = parts.values()
        for name in sorted(name for name in labels.keys() | wavs.keys() if name.startswith("Ses")):
            dialogs.append(tuple(content.get(name) for content in parts.values()))
            for folder, content in parts.items():
                if content and name not in content:
                    missing.append(f"{session / folder / name}{''.join(PARTS[folder])}")
    if not any(labels for labels, *_ in dialogs):
        raise UserError(f"{root}: no label file Session*/dialog/EmoEvaluation/Ses*.txt; is the copy complete?")
    return dialogs


def scan_dialog(dialog: Dialog, scan: Scan) -> None:
    """Add one dialog to the scan: every labelled turn, wav and transcript line ends up somewhere.

    The speaker is the session and the letter of the last part, not the file name's prefix: Ses01F_impro01_M000 is
    spoken by Ses01M.
    """
    label_file, transcript, folder = dialog
    labels, bad_labels = read_lines(label_file, parse_label, "labelled again, the first label counts")
    texts, bad_lines = read_lines(transcript, parse_transcript, "transcribed again, the first transcript counts")
    wavs = entries(folder, *AUDIO) if folder else {}
    scan.dropped += bad_labels + bad_lines
    for turn, (code, where) in labels.items():
        if turn not in wavs and (folder is None or "XX" in turn):
            scan.dropped.append(Dropped(turn, "no audio", where))
            continue
        path, speaker = wavs.get(turn, f"{folder}/{turn}.wav"), turn[:5] + turn.rpartition("_")[2][0]
        u = Utterance(f"{speaker}-{turn}", str(path), speaker, code, texts.get(turn, ("", ""))[0], where=where)
        u.session, u.gender, u.fold, u.paper = speaker[:5], speaker[5].lower(), speaker[3:], turn[3:6]
        u.style = "scripted" if "_script" in turn else "improvised"
        scan.utterances.append(u)
    named = labels.keys() | {item.utt for item in bad_labels}
    for turn, path in wavs.items():
        if turn in named:
            continue
        if label_file is None or "XX" in turn or not TURN.fullmatch(turn):
            scan.dropped.append(Dropped(turn, "no label", str(path)))
        else:
            scan.broken.append(Dropped(turn, f"no label in {label_file} for the audio", str(path)))
    for turn, (_, where) in texts.items():
        if turn not in named and turn not in wavs:
            scan.dropped.append(Dropped(turn, "transcript line without label and audio", where))


@command
def main() -> None:
    """Read the options, scan, check and write; print how the copy differs from the published corpus."""
    parser = corpus_options(CORPUS, __doc__)
    parser.add_argument("--merge_excited", type=boolean, default=True, help="count exc as hap")
    args = parser.parse_args()
    corpus = CORPUS
    if args.merge_excited:
        if "exc" in (args.classes or "").split():
            raise UserError("--classes names exc, which is merged into hap: add --merge_excited false")
        corpus = replace(CORPUS, merged={"exc": "hap"}, counts={**OF_CODES, **OF_FOUR})
    scan = Scan(args, args.corpus_dir)
    for dialog in read_tree(scan):
        scan_dialog(dialog, scan)
    write_corpus(corpus, scan)


if __name__ == "__main__":
    raise SystemExit(main())
