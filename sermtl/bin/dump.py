"""Stage 2: audio of a data directory into Kaldi arks, in parts that jobs make side by side.

    python -m sermtl.bin.dump part --data data/X --out dump/X/raw --feats_type raw --job 1 --nj 4
    python -m sermtl.bin.dump merge --data data/X --out dump/X/raw --feats_type raw --nj 4

raw is 16-bit audio, fbank log-mel features, conv the outputs of --upstream's convolutional encoder, for which --out
is dump/X/conv/<digest>; python -m sermtl.bin.settings prints the digest.

A part streams: one utterance is in memory at a time. What was written is read back and compared. A part that
is whole and was made from the same audio is kept, so that a killed stage goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sermtl.audio.features import fbank
from sermtl.audio.resample import change_speed
from sermtl.audio.segments import Utterance, read_all, utterances
from sermtl.errors import UserError, command
from sermtl.fileio.ark import DUMP_DIGESTS, DUMP_SAMPLES, DUMP_TABLES, ArkWriter, checksum, read_entry, write_ark
from sermtl.fileio.stamp import NAME, Stamp, inputs
from sermtl.fileio.tables import read_table, write_table
from sermtl.fileio.wav_scp import stat_of

CODE_VERSION = 3
"""Raised when the same audio would give other arks."""
SHOWN = 10
"""Broken utterances that a message names."""
PART_FILES = ("ark", "scp", "lengths", "samples", "digests")


@command
def main() -> int:
    """Run one verb."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("verb", choices=["part", "merge"])
    parser.add_argument("--data", type=Path, required=True, help="data directory with wav.scp")
    parser.add_argument("--out", type=Path, required=True, help="dump directory")
    parser.add_argument("--feats_type", choices=["raw", "fbank", "conv"], required=True)
    parser.add_argument("--speed", type=float, default=1.0, help="speed perturbation; ids get sp<speed>-")
    parser.add_argument("--allow_pipes", choices=["true", "false"], default="false", help="run wav.scp's commands")
    parser.add_argument("--job", type=int, default=1, help="this part, from 1")
    parser.add_argument("--nj", type=int, default=1, help="number of parts")
    parser.add_argument("--upstream", default="", help="conv: whose convolutional encoder")
    parser.add_argument("--seed", type=int, default=0, help="conv: of the training, for an upstream without weights")
    parser.add_argument("--ngpu", type=int, default=0, help="conv: compute on a GPU")
    args = parser.parse_args()
    if args.verb == "part":
        pipes = args.allow_pipes == "true"
        features = conv_features(args) if args.feats_type == "conv" else fbank
        dump_part(args.data, args.out, args.feats_type, args.speed, args.job, args.nj, pipes, features)
    else:
        merge(args.data, args.out, args.feats_type, args.speed, args.nj)
    return 0


def conv_features(args: argparse.Namespace) -> Callable[[np.ndarray], np.ndarray]:
    """The convolutional encoder of ``--upstream``, where its outputs fit ``--out``'s name and disk."""
    # Only this kind of dump needs PyTorch, which takes seconds to import.
    import torch

    from sermtl.data.stored_features import ConvFeatures, check_name, check_space
    from sermtl.model.precision import use_whole_float32

    if args.ngpu and not torch.cuda.is_available():
        raise UserError("--ngpu: PyTorch sees no GPU here; use --ngpu 0")
    use_whole_float32()
    features = ConvFeatures(args.upstream, args.seed, torch.device("cuda" if args.ngpu else "cpu"))
    check_name(args.out, features.digest, args.speed)
    check_space(args.out, features.bytes_of(args.data, args.speed))
    return features


def part_of(data: Path, job: int, nj: int) -> list[Utterance]:
    """The utterances of part ``job`` of ``nj``."""
    everything = utterances(data)
    if not 1 <= job <= nj:
        raise UserError(f"--job {job} is not within 1 to --nj {nj}")
    return everything[len(everything) * (job - 1) // nj : len(everything) * job // nj]


def digest_of(part: list[Utterance], feats_type: str, speed: float) -> str:
    """What a part is made from: ids, paths, sizes and times of the files, settings."""
    digest = hashlib.sha256(f"{feats_type} {speed}\n".encode())
    for utterance in part:
        try:
            stat = stat_of(utterance.recording)
        except OSError:
            stat = None
        digest.update(f"{tuple(utterance)} {stat}\n".encode())
    return digest.hexdigest()


def dump_part(
    data: Path, out: Path, feats_type: str, speed: float, job: int, nj: int, allow_pipes: bool = False,
    features: Callable[[np.ndarray], np.ndarray] = fbank,
) -> None:  # fmt: skip
    """Write ``out/parts/<job>.{ark,scp,lengths,samples,digests}`` and its stamp.

    Raises:
        UserError: Audio files that cannot be read (the first ten are named, all of them on stdout); an ark that does
            not give back what was written.
    """
    part = part_of(data, job, nj)
    stem = out / "parts" / f"{job}"
    made = part_stamp(part, stem, feats_type, speed)
    if not made.changed():
        print(f"nothing changed: {stem}.ark ({len(part)} utterances)")
        return
    prefix = "" if speed == 1.0 else f"sp{speed:g}-"
    lengths: dict[str, int] = {}
    sizes: dict[str, int] = {}
    digests: dict[str, str] = {}
    broken: list[str] = []
    with write_ark(f"{stem}.ark") as writer:
        for name, samples in read_all(part, allow_pipes):
            if isinstance(samples, UserError):
                broken.append(f"  {name}: {samples}")
            elif not broken:
                key, heard = prefix + name, samples if speed == 1.0 else change_speed(samples, speed)
                try:
                    values = heard if feats_type == "raw" else features(heard)
                except UserError as error:
                    raise UserError(f"{key}: {error}") from error
                write_one(writer, key, values)
                lengths[key], sizes[key], digests[key] = len(values), len(heard), checksum(values)
        if broken:
            head = f"{len(broken)} of {len(part)} utterances of {data} cannot be read; repair their audio, or remove "
            if len(broken) > SHOWN:
                print(*broken, sep="\n")  # run.pl shows the log's last lines
                broken = [*broken[:SHOWN], f"  ... and {len(broken) - SHOWN} more, all listed above in this log"]
            raise UserError(head + "it and rerun stage 1 with --skip_broken true:\n" + "\n".join(broken))
    check_ark(writer.scp, lengths, digests, feats_type)
    write_table(f"{stem}.scp", writer.scp)
    write_table(f"{stem}.lengths", lengths)
    write_table(f"{stem}.samples", sizes)
    write_table(f"{stem}.digests", digests)
    made.finish(Path(f"{stem}.{suffix}") for suffix in PART_FILES)
    print(f"part {job}: {len(part)} utterances written to {stem}.ark")


def write_one(writer: ArkWriter, key: str, values: np.ndarray) -> None:
    """Add samples (S,) or features (T, F) to the ark."""
    if values.ndim == 1:
        writer.write_audio(key, values)
    else:
        writer.write_array(key, values)


def check_ark(scp: dict[str, str], lengths: dict[str, int], digests: dict[str, str], feats_type: str) -> None:
    """Read an ark back: every entry, its length, and the digest of its samples.

    Raises:
        UserError: An entry is not what was written.
    """
    for key, entry in scp.items():
        values = read_entry(entry, key, feats_type)
        if len(values) != lengths[key] or checksum(values) != digests[key]:
            raise UserError(f"{entry}: {key} is not what was written there; check the disk and rerun stage 2")


def part_stamp(part: list[Utterance], stem: Path, feats_type: str, speed: float) -> Stamp:
    """The stamp ``<job>.json`` of a part."""
    settings = {"made_from": digest_of(part, feats_type, speed)}
    return Stamp(Path(f"{stem}.json"), CODE_VERSION, settings, {})


def merge(data: Path, out: Path, feats_type: str, speed: float, nj: int) -> None:
    """Join the parts' tables; check that every utterance is there once, and no part is older than its audio.

    Raises:
        UserError: A part is missing or outdated.
    """
    scp: dict[str, str] = {}
    lengths: dict[str, str] = {}
    sizes: dict[str, str] = {}
    digests: dict[str, str] = {}
    for job in range(1, nj + 1):
        stem = out / "parts" / f"{job}"
        # The jobs read the arks a moment ago: sizes are enough here.
        if part_stamp(part_of(data, job, nj), stem, feats_type, speed).changed(contents=False):
            raise UserError(f"{stem}.ark is missing, truncated or older than its audio; rerun stage 2")
        # The directory may have moved since the part was written.
        entries = read_table(f"{stem}.scp").items()
        scp.update({key: f"{stem}.ark:{entry.rpartition(':')[2]}" for key, entry in entries})
        lengths.update(read_table(f"{stem}.lengths"))
        sizes.update(read_table(f"{stem}.samples"))
        digests.update(read_table(f"{stem}.digests"))
    expected = len(utterances(data))
    if len(scp) != expected or not scp.keys() == lengths.keys() == digests.keys():
        raise UserError(f"{out}: {len(scp)} utterances dumped, {expected} in {data}; rerun stage 2")
    settings = {"feats_type": feats_type, "speed": speed, "nj": nj, "out": out}
    made = Stamp(out / NAME, CODE_VERSION, settings, inputs({"data": data}, "data:wav.scp*", "data:segments"))
    if not made.changed():
        print(f"nothing changed: {out}")
        return
    made.begin()
    names = (*DUMP_TABLES[feats_type], DUMP_SAMPLES, DUMP_DIGESTS)
    tables = dict(zip(names, (scp, lengths, sizes, digests), strict=True))
    for name, table in tables.items():
        write_table(out / name, table)
    for path in (out / "parts").iterdir():
        # Of a run with more jobs.
        if path.name.partition(".")[0] not in {str(job) for job in range(1, nj + 1)}:
            path.unlink()
    made.finish(out / name for name in tables)
    print(f"{out}: {len(scp)} utterances")


if __name__ == "__main__":
    sys.exit(main())
