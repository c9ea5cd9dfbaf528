"""Stage 2: audio of a data directory into Kaldi arks, in parts that jobs make side by side.

    python -m sermtl.bin.dump part --data data/X --out dump/X/raw --feats_type raw --job 1 --nj 4
    python -m sermtl.bin.dump merge --data data/X --out dump/X/raw --feats_type raw --nj 4

A part streams: one utterance is in memory at a time. A part that is whole and was made from the same
audio is kept, so that a killed stage goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

from sermtl import audio
from sermtl.ark import DUMP_TABLES, write_ark
from sermtl.datadir import read_table, write_table
from sermtl.errors import UserError, command
from sermtl.files import atomic_write

CODE_VERSION = 1
"""Raised when the same audio would give other arks."""


@command
def main() -> int:
    """Run one verb."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("verb", choices=["part", "merge"])
    parser.add_argument("--data", type=Path, required=True, help="data directory with wav.scp")
    parser.add_argument("--out", type=Path, required=True, help="dump directory")
    parser.add_argument("--feats_type", choices=["raw", "fbank"], required=True)
    parser.add_argument("--speed", type=float, default=1.0, help="speed perturbation; ids get sp<speed>-")
    parser.add_argument("--job", type=int, default=1, help="this part, from 1")
    parser.add_argument("--nj", type=int, default=1, help="number of parts")
    args = parser.parse_args()
    if args.verb == "part":
        dump_part(args.data, args.out, args.feats_type, args.speed, args.job, args.nj)
    else:
        merge(args.data, args.out, args.feats_type, args.speed, args.nj)
    return 0


def part_of(data: Path, job: int, nj: int) -> dict[str, str]:
    """The audio of part ``job`` of ``nj``: utterance -> path."""
    wav_scp = list(read_table(data / "wav.scp").items())
    if not 1 <= job <= nj:
        raise UserError(f"--job {job} is not within 1 to --nj {nj}")
    return dict(wav_scp[len(wav_scp) * (job - 1) // nj : len(wav_scp) * job // nj])


def digest_of(part: dict[str, str], feats_type: str, speed: float) -> str:
    """What a part is made from: ids, paths, sizes and times of the files, settings, code."""
    digest = hashlib.sha256(f"{CODE_VERSION} {feats_type} {speed}\n".encode())
    for utterance, path in part.items():
        try:
            stat = Path(path).stat()
        except OSError:
            stat = None
        digest.update(f"{utterance} {path} {stat and (stat.st_size, stat.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


def dump_part(data: Path, out: Path, feats_type: str, speed: float, job: int, nj: int) -> None:
    """Write ``out/parts/<job>.{ark,scp,lengths,digest}``; the digest comes last and marks a whole part.

    Raises:
        UserError: Audio files that cannot be read, all of them in one message.
    """
    part = part_of(data, job, nj)
    digest = digest_of(part, feats_type, speed)
    stem = out / "parts" / f"{job}"
    if is_whole(stem, digest):
        print(f"part {job}: {len(part)} utterances were there already")
        return
    prefix = "" if speed == 1.0 else f"sp{speed:g}-"
    lengths: dict[str, int] = {}
    broken: list[str] = []
    with write_ark(f"{stem}.ark") as writer:
        for utterance, path in part.items():
            try:
                if path.rstrip().endswith("|"):
                    raise UserError(f"{path}: a shell command, not a file; wav.scp must name audio files")
                samples_S = audio.read_audio(path)
            except UserError as error:
                broken.append(f"  {utterance}: {error}")
                continue
            if broken:
                continue
            if speed != 1.0:
                samples_S = audio.change_speed(samples_S, speed)
            if feats_type == "raw":
                writer.write_audio(prefix + utterance, samples_S)
                lengths[prefix + utterance] = len(samples_S)
            else:
                features_TF = audio.fbank(samples_S)
                writer.write_array(prefix + utterance, features_TF)
                lengths[prefix + utterance] = len(features_TF)
        if broken:
            head = f"{len(broken)} of {len(part)} audio files of {data}/wav.scp cannot be used; "
            raise UserError(head + "repair them, or remove their lines and rerun stage 1:\n" + "\n".join(broken))
    write_table(f"{stem}.scp", writer.scp)
    write_table(f"{stem}.lengths", lengths)
    with atomic_write(f"{stem}.digest") as file:
        file.write(f"{digest} {Path(f'{stem}.ark').stat().st_size}\n")
    print(f"part {job}: {len(part)} utterances written to {stem}.ark")


def is_whole(stem: Path, digest: str) -> bool:
    """Whether a part was finished from the same inputs and its ark still has its size."""
    try:
        size = Path(f"{stem}.ark").stat().st_size
        return Path(f"{stem}.digest").read_text().split() == [digest, str(size)]
    except OSError:
        return False


def merge(data: Path, out: Path, feats_type: str, speed: float, nj: int) -> None:
    """Join the parts' tables; check that every utterance is there once, and no part is older than its audio.

    Raises:
        UserError: A part is missing or outdated.
    """
    scp: dict[str, str] = {}
    lengths: dict[str, str] = {}
    for job in range(1, nj + 1):
        stem = out / "parts" / f"{job}"
        if not is_whole(stem, digest_of(part_of(data, job, nj), feats_type, speed)):
            raise UserError(f"{stem}.ark is missing, truncated or older than its audio; rerun stage 2")
        scp.update(read_table(f"{stem}.scp"))
        lengths.update(read_table(f"{stem}.lengths"))
    expected = len(read_table(data / "wav.scp"))
    if len(scp) != expected or scp.keys() != lengths.keys():
        raise UserError(f"{out}: {len(scp)} utterances dumped, {expected} in {data}/wav.scp; rerun stage 2")
    scp_name, lengths_name = DUMP_TABLES[feats_type]
    write_table(out / lengths_name, lengths)
    write_table(out / scp_name, scp)
    print(f"{out}: {len(scp)} utterances")


if __name__ == "__main__":
    sys.exit(main())
