"""Emotion, transcript and posteriors of audio files.

    python -m sermtl.bin.predict --model exp/<tag>/<fold>/pack a.wav folder/ list.scp
    python -m sermtl.bin.predict --model exp/<tag> --json a.wav > a.jsonl     all folds, averaged
    python -m sermtl.bin.predict --model PACK --window 10 --hop 5 --timeline day.tsv --plot day.png day.flac

Results go to standard output, all else to standard error. The exit status is 1 if a file could not be read (these are
listed at the end), and 2 if nothing could be done.
"""

import argparse
import io
import os
import sys
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from sermtl.errors import UserError, command
from sermtl.fileio.files import check_writable
from sermtl.fileio.tables import read_table
from sermtl.fileio.text_table import printable


@command
def main() -> int:
    """Predict what the command line names."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    args = parse()
    started = time.monotonic()
    # After the command line is known to be right: torch takes seconds to import.
    import torch
    from tqdm import tqdm

    from sermtl.inference import output
    from sermtl.inference.inputs import find_audio
    from sermtl.inference.plot import draw, plot_targets
    from sermtl.inference.predict import Speech2Emotion
    from sermtl.inference.windows import window_and_hop
    from sermtl.score.result_files import against_reference

    if args.hop is not None and args.window is None:
        args.window = 2 * args.hop
    window_and_hop(args.window, args.hop)
    items, guesses, reference = find_audio(args.audio), [], read_table(args.ref) if args.ref else {}
    speakers = read_table(args.speaker_of) if args.speaker_of else {}
    if unknown := [item.path for item in items if speakers and name_of(item) not in speakers]:
        raise UserError(f"{args.speaker_of}: no speaker for {len(unknown)} recordings, first {unknown[0]}")
    items.sort(key=lambda item: speakers.get(name_of(item), ""))
    targets = plot_targets(args.plot, items)
    for path in filter(None, [args.timeline, *targets]):
        check_writable(path)
    torch.set_num_threads(args.num_threads)
    model = Speech2Emotion.from_pretrained(args.model, args.device)
    form = output.json_lines if args.json else output.tsv_lines if args.tsv else output.table_lines
    head, line = form(model.labels, items, len(model.models) > 1)
    if args.enrol:
        model.enrol_files([item.path for item in find_audio([args.enrol])], args.channel)
    elif model.standardises and not args.speaker_of:
        print("no --enrol, no --speaker-of: all speakers are taken for one of average statistics", file=sys.stderr)
    loaded = time.monotonic()

    problems: list[UserError] = []
    seconds, segments = 0.0, []
    if head:
        output.print_line(head)
    progress = tqdm(total=len(items), unit="file", disable=None if sys.stderr.isatty() else True, leave=False)

    def results() -> Iterator[tuple[str, Any]]:
        for _, group in groupby(items, lambda item: speakers.get(name_of(item))):
            paths = [item.path for item in group]
            if args.speaker_of:  # a single recording has no others to enrol it
                model.enrol_files(paths if len(paths) > 1 else [], args.channel)
            yield from model.files(paths, args.window, args.hop, args.channel)

    for item, target, (_, result) in zip(items, targets, results(), strict=True):
        progress.update()
        if isinstance(result, UserError):
            problems.append(result)
            continue
        seconds += result.seconds
        guesses.append((name_of(item), result.emotion))
        with tqdm.external_write_mode():
            output.print_line(line(item, result))
        segments += output.segment_lines(item, result) if args.timeline else []
        try:
            if target is not None:
                draw(model, item, result, target)
        except UserError as error:
            problems.append(error)
    progress.close()

    if args.timeline:
        output.write_timeline(args.timeline, segments, model.labels)
    elapsed = time.monotonic() - loaded
    if model.cut:
        print(f"{model.cut} recordings are longer than the upstream takes at once: encoded in parts", file=sys.stderr)
    print(
        f"{len(items) - len(problems)} of {len(items)} files, {seconds:.1f} s of audio in {elapsed:.2f} s: "
        f"real-time factor {elapsed / seconds if seconds else 0:.4f} (after {loaded - started:.1f} s of loading)",
        *(printable(f"not read: {problem}") for problem in problems), sep="\n", file=sys.stderr, flush=True,
    )  # fmt: skip
    if args.ref:
        print(against_reference(reference, guesses, model.labels), end="", file=sys.stderr)
    return 1 if problems else 0


def name_of(item: Any) -> str:
    """What tables call a recording."""
    return item.utterance or Path(item.path).stem


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sermtl.bin.predict", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("audio", nargs="*", help="audio files, folders, .scp lists")
    text = "a fold, a pack, exp/<tag> (all of its folds), or a model of the hub;\nseveral are averaged"
    add("--model", action="append", required=True, help=text)
    add("--channel", type=int, default=0, help="channel to read where there are several, from 1 (default: average)")
    add("--enrol", help="recordings of the one speaker of all audio: a folder, a file or a list (spk_norm standardise)")
    text = "a table `utterance speaker` (or `file-name speaker`): all recordings of a speaker enrol for each other"
    add("--speaker-of", type=Path, metavar="UTT2SPK", help=text)
    text = "length of windows, in seconds, for longer recordings\n(default: 10, for recordings of more than a minute)"
    add("--window", type=float, help=text)
    add("--hop", type=float, help="seconds from one window to the next (default: half a window)")
    text = "write the segments of one emotion: path start end emotion posteriors"
    add("--timeline", type=Path, metavar="TSV", help=text)
    text = "draw waveform, posteriors over time, transcript;\na name without .png: a folder, one picture per recording"
    add("--plot", type=Path, metavar="PNG", help=text)
    text = "a table `utterance emotion` (or `file-name emotion`, without its suffix): print WA, UA and the confusion"
    add("--ref", type=Path, metavar="UTT2EMO", help=text)
    add("--device", help="cpu or cuda (default: a GPU if there is one)")
    printed = parser.add_mutually_exclusive_group()
    printed.add_argument("--json", action="store_true", help="JSON lines: path, emotion, scores, text, seconds")
    printed.add_argument("--tsv", action="store_true", help="tab-separated, with a header line")
    add("--num_threads", type=int, default=len(os.sched_getaffinity(0)), help="CPU threads (default: number of cores)")
    args = parser.parse_args()
    if not args.audio:
        raise UserError("no audio: name files, folders or .scp lists after the options")
    if args.enrol and args.speaker_of:
        raise UserError("--enrol says that all audio is of one speaker, --speaker-of whose each is: give one of them")
    if args.num_threads < 1 or args.channel < 0:
        raise UserError("--num_threads takes 1 or more, --channel 0 or more")
    return args


if __name__ == "__main__":
    raise SystemExit(main())
