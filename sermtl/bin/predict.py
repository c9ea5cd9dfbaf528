"""Emotion, transcript and posteriors of audio files.

    python -m sermtl.bin.predict --model exp/<tag>/<fold>/pack a.wav folder/ list.scp
    python -m sermtl.bin.predict --model exp/<tag> --json a.wav > a.jsonl     all folds, averaged
    python -m sermtl.bin.predict --model PACK --window 10 --hop 5 --timeline day.tsv --plot day.png day.flac

Results go to standard output, everything else to standard error. The exit status is 1 where files could not be read
(they are listed at the end), 2 where nothing could be done at all.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sermtl.errors import UserError, command
from sermtl.fileio.files import atomic_write, check_writable

if TYPE_CHECKING:
    from sermtl.inference.inputs import Item
    from sermtl.inference.predict import Result, Speech2Emotion

OPTIONS: dict[str, dict[str, Any]] = {
    "audio": {"nargs": "*", "help": "audio files, folders, lists.scp"},
    "--model": {
        "action": "append",
        "required": True,
        "help": "a fold, a pack, exp/<tag> (all of its folds), or an id of the hub;\nseveral are averaged",
    },
    "--window": {
        "type": float,
        "help": "hear longer recordings in windows of so many seconds\n(default: 10, for those of more than a minute)",
    },
    "--hop": {"type": float, "help": "seconds from one window to the next (default: half a window)"},
    "--timeline": {
        "type": Path,
        "metavar": "TSV",
        "help": "write the segments of one emotion: path start end emotion posteriors",
    },
    "--plot": {
        "type": Path,
        "metavar": "PNG",
        "help": "draw waveform, posteriors over time, transcript;\nanother name than *.png: a folder, for one each",
    },
    "--device": {"help": "cpu or cuda (default: a GPU where there is one)"},
}


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

    from sermtl.inference.inputs import find_audio
    from sermtl.inference.output import JsonLines, TableLines, TsvLines, cell, segment_lines
    from sermtl.inference.predict import Speech2Emotion, in_samples

    if args.hop is not None and args.window is None:
        args.window = 2 * args.hop
    in_samples(args.window, args.hop)
    items = find_audio(args.audio)
    targets = plot_targets(args.plot, items)
    for path in [args.timeline, *targets]:
        if path is not None:
            check_writable(path)
    torch.set_num_threads(args.num_threads)
    model = Speech2Emotion.from_pretrained(args.model, args.device)
    lines = (JsonLines if args.json else TsvLines if args.tsv else TableLines)(
        model.labels, items, len(model.models) > 1
    )
    loaded = time.monotonic()

    problems: list[UserError] = []
    seconds, segments = 0.0, []
    if lines.head is not None:
        show(lines.head)
    progress = tqdm(total=len(items), unit="file", disable=None if sys.stderr.isatty() else True, leave=False)
    results = model.files([item.path for item in items], args.window, args.hop)
    for item, target, (_, result) in zip(items, targets, results, strict=True):
        progress.update()
        if isinstance(result, UserError):
            problems.append(result)
            continue
        seconds += result.seconds
        with tqdm.external_write_mode():
            show(lines.line(item, result))
        if args.timeline:
            segments += segment_lines(item, result, model.labels)
        if target is not None:
            try:
                draw(model, item, result, target)
            except UserError as error:
                problems.append(error)
    progress.close()

    if args.timeline:
        with atomic_write(args.timeline) as file:
            file.write("\t".join(["path", "start", "end", "emotion", *model.labels]) + "\n")
            file.writelines(f"{line}\n" for line in segments)
    elapsed = time.monotonic() - loaded
    say(
        f"{len(items) - len(problems)} of {len(items)} files, {seconds:.1f} s of audio in {elapsed:.2f} s: "
        f"real-time factor {elapsed / seconds if seconds else 0:.4f} (after {loaded - started:.1f} s of loading)"
    )
    for problem in problems:
        say(cell(f"not read: {problem}"))
    return 1 if problems else 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sermtl.bin.predict", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name, options in OPTIONS.items():
        parser.add_argument(name, **options)
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="an object a line: path, emotion, scores, text, seconds")
    output.add_argument("--tsv", action="store_true", help="tab-separated, with a head line")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--num_threads", type=int, default=cores, help="CPU threads (default: the cores)")
    args = parser.parse_args()
    if not args.audio:
        raise UserError("no audio: name files, folders or lists.scp after the options")
    if args.num_threads < 1:
        raise UserError("--num_threads takes 1 or more")
    return args


def show(line: str) -> None:
    """A line of the results; where nobody reads them any more, the program ends as others do that SIGPIPE kills."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what its buffer still holds
        sys.exit(128 + signal.SIGPIPE)


def say(message: str) -> None:
    """A line for the person, apart from the results."""
    print(message, file=sys.stderr, flush=True)


def plot_targets(target: Path | None, items: list[Item]) -> list[Path | None]:
    """Which picture each recording gets: ``--plot`` itself if it ends in ``.png``, else one of its own in that folder.

    Raises:
        UserError: It has another ending, or is one picture for several recordings.
    """
    if target is None:
        return [None] * len(items)
    if target.suffix and not target.is_dir():
        if target.suffix.lower() != ".png":
            raise UserError(f"--plot {target}: pictures are PNG; give a name that ends in .png, or a folder")
        if len(items) > 1:
            raise UserError(f"--plot {target}: there are {len(items)} recordings; name a folder for their pictures")
        return [target]
    names: dict[Path, None] = {}
    for item in items:
        stem = (item.utterance or Path(item.path).stem).replace("/", "_")
        name, number = target / f"{stem}.png", 2
        while name in names:
            name, number = target / f"{stem}-{number}.png", number + 1
        names[name] = None
    return list(names)


def draw(model: Speech2Emotion, item: Item, result: Result, target: Path) -> None:
    """Draw a recording; one that was heard in one piece is heard again in short windows for the posteriors."""
    from sermtl.audio.stream import audio_blocks
    from sermtl.inference.plot import envelope, plot
    from sermtl.inference.predict import Segment

    note = "in windows"
    if not result.timeline:
        window = max(0.5, result.seconds / 4)
        note = f"in windows of {window:.1f} s; the whole recording: {result.emotion}"
        _, again = next(iter(model.files([item.path], window, window / 5)))
        if isinstance(again, UserError):
            raise again
        part = again.timeline or (Segment(0.0, result.seconds, result.emotion, result.scores),)
        result = replace(result, timeline=part)
    shown = item.utterance or Path(item.path).name
    plot(target, shown, result, envelope(audio_blocks(item.path), result.seconds), note)


if __name__ == "__main__":
    sys.exit(main())
