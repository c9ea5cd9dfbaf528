"""Prepare a data directory that Kaldi or ESPnet made: its wav.scp and segments as they are, plus `utt2emo`."""

import io
import os
from collections import Counter, defaultdict
from operator import itemgetter
from pathlib import Path

from checks import audio_seconds, keep_classes, keep_durations, label_problem, name_problem, report_broken
from prepare_common import FIELDS, SPEAKER_FIELDS, Scan, Utterance, boolean, is_unknown, listed, options, warn
from write_data import write_data

from sermtl.audio.formats import open_sound
from sermtl.audio.headers import TOLERANCE, map_recordings
from sermtl.audio.read import read_recording
from sermtl.audio.resample import SAMPLE_RATE
from sermtl.errors import UserError, command
from sermtl.fileio.tables import read_table
from sermtl.fileio.wav_scp import CHANNELS, channel_number, is_pipe, locate, read_channels


def optional(path: Path) -> dict[str, str]:
    """Read a table, or nothing where the file is absent."""
    return read_table(path) if path.exists() else {}


def read_utterances(folder: Path) -> list[Utterance]:
    """Read all tables but wav.scp and segments into records; ``utt2spk`` and ``utt2emo`` must be there."""
    if not folder.is_dir():
        raise UserError(f"no data directory {folder}: give --corpus_dir data/train or the like")
    if not (folder / "utt2emo").is_file():
        raise UserError(f"{folder} has no utt2emo: write one, `utterance emotion` a line, sorted in byte order")
    utt2spk = read_table(folder / "utt2spk")
    utterances = {
        utt: Utterance(utt, "", utt if is_unknown(speaker) else speaker, where=f"{folder / 'utt2spk'}:{number}")
        for number, (utt, speaker) in enumerate(utt2spk.items(), 1)
    }
    for name, field in FIELDS.items():
        table = optional(folder / name)
        for utt, value in table.items():
            if utt in utterances:
                setattr(utterances[utt], field, value.strip())
        if table.keys() - utterances.keys():
            warn(f"{folder / name}: {len(table.keys() - utterances.keys())} utterances are not in utt2spk")
    for name, field in SPEAKER_FIELDS.items():
        table = optional(folder / name)
        for utterance in utterances.values():
            setattr(utterance, field, table.get(utterance.speaker, ""))
    return list(utterances.values())


def recordings(folder: Path, allow_pipes: bool) -> dict[str, str]:
    """Read wav.scp; shell commands in it without consent are a UserError."""
    wav_scp = read_table(folder / "wav.scp")
    pipes = [f"{key} {entry}" for key, entry in wav_scp.items() if is_pipe(entry)]
    if pipes and not allow_pipes:
        raise UserError(
            f"{folder / 'wav.scp'} would run {len(pipes)} shell commands; read them, then pass --allow_pipes true "
            f"if you trust them:{listed(pipes, 5)}"
        )
    files = [entry for entry in wav_scp.values() if not is_pipe(entry)]
    if files and not any(os.path.isabs(entry) for entry in files[:100]) and not os.path.exists(files[0]):
        warn(f"{folder / 'wav.scp'}: its paths are relative and are looked up from {Path.cwd()}")
    return wav_scp


def channels_of(entry: str) -> int:
    """Channels of a recording whose header was read before."""
    source = locate(entry)
    with open_sound(io.BytesIO(source.read()) if source.path != entry else entry, entry) as sound:
        return sound.channels


def places(path: Path) -> dict[str, str]:
    """The keys of a table, with ``file:line`` of each."""
    return {key: f"{path}:{number}" for number, key in enumerate(read_table(path), 1)}


def durations(folder: Path, wav_scp: dict[str, str], nj: int, channel: int) -> dict[str, float | str]:
    """Seconds of every recording (or what is wrong with it).

    Those of shell commands come from reco2dur or utt2dur; a command that has no line there is run.
    """
    files = [key for key, entry in wav_scp.items() if not is_pipe(entry)]
    found = map_recordings(audio_seconds, [wav_scp[key] for key in files], nj)
    seconds: dict[str, float | str] = dict(zip(files, found, strict=True))
    place, known = places(folder / "wav.scp"), optional(folder / "utt2dur") | optional(folder / "reco2dur")
    channels = read_channels(folder / CHANNELS)
    for key, entry in wav_scp.items():
        if isinstance(fault := seconds.get(key), str):
            seconds[key] = f"{entry}: {fault} ({place[key]})"
        elif fault is None:
            try:
                samples = None if key in known else read_recording(entry, True, channels.get(key, channel))
                seconds[key] = float(known[key]) if samples is None else len(samples) / SAMPLE_RATE
            except UserError as error:
                seconds[key] = str(error)
            except ValueError:
                seconds[key] = f"{known[key]!r} is no number of seconds"
    return seconds


def set_duration(u: Utterance, segment: str, seconds: dict[str, float | str]) -> str | None:
    """Set an utterance's duration and recording (as its path); returns what is wrong."""
    words = segment.split()
    if len(words) != 3:
        return f"segment {segment!r} is not `recording start end`"
    length = seconds.get(words[0], f"no line for {words[0]} in wav.scp")
    if isinstance(length, str):
        return f"recording {words[0]}: {length}"
    try:
        start, end = float(words[1]), float(words[2])
    except ValueError:
        return f"segment {segment!r}: start and end are seconds"
    end = length if end == -1 else end
    u.path, u.seconds = words[0], end - start
    if not 0 <= start < end:
        return f"segment {segment!r} has no samples"
    return f"segment {segment!r} ends after the recording's {length:.2f} s" if end > length + 0.1 else None


def check(scan: Scan, folder: Path, seconds: dict[str, float | str]) -> None:
    """Set the durations of utterances; those that cannot be used are broken."""
    place = places(folder / ("wav.scp" if scan.segments is None else "segments"))
    segments = {u.utt: f"{u.utt} 0 -1" for u in scan.utterances} if scan.segments is None else scan.segments

    def problem(u: Utterance) -> str | None:
        if u.utt not in segments:
            return "no line in segments"
        if problem := set_duration(u, segments[u.utt], seconds):
            u.where = place.get(u.utt, u.where)
            return problem.removeprefix(f"recording {u.utt}: ") if scan.segments is None else problem
        return name_problem(u.speaker or " ") or name_problem(u.session or "x") or label_problem(u.emotion)

    scan.drop(problem, scan.broken)


def refuse_overlaps(folder: Path, scan: Scan, segments: dict[str, str], wav_scp: dict[str, str]) -> None:
    """Refuse segments of two recordings that are one file and one channel, where both hold the same stretch."""
    shared = {entry for entry, count in Counter(wav_scp.values()).items() if count > 1}
    several = {entry for entry in shared if is_pipe(entry) or channels_of(entry) > 1}
    spans = defaultdict(list)
    for u in scan.utterances:
        if (entry := wav_scp[u.path]) in shared:
            channel = channel_number(u.channel.rpartition(" ")[2]) if entry in several else 0
            start = float(segments[u.utt].split()[1])
            spans[entry, channel].append((start, start + u.seconds, u))
    found = []
    for (entry, _), inside in spans.items():
        last_end, last = 0.0, inside[0][2]
        for start, end, u in sorted(inside, key=itemgetter(0)):
            if u.path != last.path and start < last_end - TOLERANCE:
                found.append(f"{last.utt} (recording {last.path}) and {u.utt} (recording {u.path}) in {entry}")
            if end > last_end:
                last_end, last = end, u
    if found:
        raise UserError(
            f"{folder / 'segments'}: segments of two recordings share the sound of one file ({len(found)}):"
            f"{listed(found, 5)}\n"
            f"give each its channel in {folder / CHANNELS}: `recording file A`, `recording file B`"
        )


@command
def main() -> None:
    """Read the options and the tables, check and write."""
    parser = options(__doc__)
    parser.add_argument("--corpus_dir", type=Path, required=True, help="the data directory, with utt2emo")
    parser.add_argument("--lang", default="", help="en, de, ... (default: its file lang, or seen from the text)")
    parser.add_argument("--allow_pipes", type=boolean, default=False, help="let wav.scp name shell commands")
    args = parser.parse_args()
    folder: Path = args.corpus_dir
    if args.out.resolve() == folder.resolve():
        raise UserError(f"{folder} would be overwritten: name another --out (run.sh: --corpus_name)")
    segments = read_table(folder / "segments") if (folder / "segments").exists() else None
    scan = Scan(args, folder / "utt2emo", read_utterances(folder), segments=segments)
    used = {u.utt for u in scan.utterances}
    if segments is not None:
        used = {word for value in segments.values() for word in value.split()[:1]}
    scan.wav_scp = wav_scp = {key: entry for key, entry in recordings(folder, args.allow_pipes).items() if key in used}
    check(scan, folder, durations(folder, wav_scp, args.nj, channel_number(args.channel) or 0))
    report_broken(scan)
    channels = optional(folder / CHANNELS)
    for u in scan.utterances:
        u.channel = channels.get(u.path, "")
    if segments:
        refuse_overlaps(folder, scan, segments, wav_scp)
    keep_durations(scan)
    keep_classes(scan)
    scan.source = folder
    lang_file = folder / "lang"
    write_data(scan, args.lang or (lang_file.read_text(encoding="utf-8").strip() if lang_file.exists() else ""))


if __name__ == "__main__":
    raise SystemExit(main())
