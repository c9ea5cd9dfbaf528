"""Stage 2: the audio of a data directory in Kaldi arks, written in parts that are merged.

A part streams: one utterance is in memory at a time. What was written is read back and compared. A part that
is whole and was made from the same audio is kept, so that a killed stage goes on where it stopped.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np

from sermtl.audio.resample import change_speed
from sermtl.audio.segments import AudioSpan, audio_spans, read_all
from sermtl.errors import UserError
from sermtl.fileio.ark import DUMP_DIGESTS, DUMP_SAMPLES, DUMP_TABLES, checksum, read_entry, write_ark
from sermtl.fileio.stamp import NAME, Stamp, inputs
from sermtl.fileio.tables import read_table, write_table
from sermtl.fileio.wav_scp import CHANNELS, stat_of

CODE_VERSION = 3
"""Raised when the same audio would give other arks."""
SHOWN = 10
"""Broken utterances that a message names."""
TABLES = ("scp", "lengths", "samples", "digests")
"""Beside a part's ark; merged, the four tables of the dump directory."""
Features = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""Makes features (T, F) of int16 samples (S,), by utterance."""


@dataclass(frozen=True)
class Dump:
    """A dump directory ``out`` of ``data`` in ``nj`` parts."""

    data: Path
    out: Path
    feats_type: str
    speed: float
    nj: int

    @cached_property
    def spans(self) -> list[AudioSpan]:
        """Where the audio of all utterances is."""
        return audio_spans(self.data)

    def part(self, job: int) -> list[AudioSpan]:
        """Those of part ``job``, counted from 1."""
        if not 1 <= job <= self.nj:
            raise UserError(f"--job {job} is not within 1 to --nj {self.nj}")
        count = len(self.spans)
        return self.spans[count * (job - 1) // self.nj : count * job // self.nj]

    def part_stamp(self, job: int) -> Stamp:
        """The stamp ``parts/<job>.json``: ids, paths, spans, sizes and times of the audio files, and settings."""
        digest = hashlib.sha256(f"{self.feats_type} {self.speed}\n".encode())
        for span in self.part(job):
            try:
                stat = stat_of(span.recording)
            except OSError:
                stat = None
            digest.update(f"{tuple(span)} {stat}\n".encode())
        return Stamp(self.out / "parts" / f"{job}.json", CODE_VERSION, {"made_from": digest.hexdigest()}, {})

    def write_part(self, job: int, allow_pipes: bool, load: Callable[[], tuple[Features, int]]) -> None:
        """Write ``parts/<job>.{ark,scp,lengths,samples,digests}`` and their stamp.

        ``load`` gives what makes features, and of how many utterances at once; not called for a part that is there.
        `UserError` where audio files cannot be read (the first ten are named, all of them on stdout), or the ark does
        not give back what was written.
        """
        part, made, stem = self.part(job), self.part_stamp(job), self.out / "parts" / f"{job}"
        if not made.changed():
            print(f"nothing changed: {stem}.ark ({len(part)} utterances)")
            return
        features, at_once = load()
        rows: dict[str, tuple[int, int, str]] = {}
        broken: list[str] = []
        with write_ark(f"{stem}.ark") as writer:
            readable = self._readable(part, allow_pipes, broken)
            while wavs := dict(islice(readable, at_once)):
                for key, values in features(wavs).items():
                    (writer.write_audio if values.ndim == 1 else writer.write_array)(key, values)
                    rows[key] = len(values), len(wavs[key]), checksum(values)
            if broken:
                raise UserError(self.unreadable(broken, len(part)))
        for key, entry in writer.scp.items():
            values = read_entry(entry, key, self.feats_type)
            if (len(values), checksum(values)) != (rows[key][0], rows[key][2]):
                raise UserError(f"{entry}: {key} is not what was written there; check the disk and rerun stage 2")
        for column, suffix in enumerate(TABLES):
            write_table(f"{stem}.{suffix}", {key: (entry, *rows[key])[column] for key, entry in writer.scp.items()})
        made.finish(Path(f"{stem}.{suffix}") for suffix in ("ark", *TABLES))
        print(f"part {job}: {len(part)} utterances written to {stem}.ark")

    def _readable(
        self, part: list[AudioSpan], allow_pipes: bool, broken: list[str]
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Ids and samples until one cannot be read; from there on only what else is to be listed as broken."""
        for name, samples in read_all(part, allow_pipes):
            if isinstance(samples, UserError):
                broken.append(f"  {name}: {samples}")
            elif not broken and self.speed == 1.0:
                yield name, samples
            elif not broken:
                yield f"sp{self.speed:g}-{name}", change_speed(samples, self.speed)

    def unreadable(self, broken: list[str], count: int) -> str:
        """The message about utterances that cannot be read; prints them all where they are many."""
        head = f"{len(broken)} of {count} utterances of {self.data} cannot be read; repair their audio, or remove "
        if len(broken) > SHOWN:
            print(*broken, sep="\n")  # run.pl shows the log's last lines
            broken = [*broken[:SHOWN], f"  ... and {len(broken) - SHOWN} more, all listed above in this log"]
        return head + "it and rerun stage 1 with --skip_broken true:\n" + "\n".join(broken)

    def merge(self) -> None:
        """Join the parts' tables; `UserError` where an utterance is not there once, or a part is outdated."""
        tables: dict[str, dict[str, str]] = {suffix: {} for suffix in TABLES}
        for job in range(1, self.nj + 1):
            stem = self.out / "parts" / f"{job}"
            # The jobs have just read the arks back: sizes are enough here.
            if self.part_stamp(job).changed(contents=False):
                raise UserError(f"{stem}.ark is missing, truncated or older than its audio; rerun stage 2")
            for suffix, table in tables.items():
                table.update(read_table(f"{stem}.{suffix}"))
            # The directory may have moved since the part was written.
            entries = read_table(f"{stem}.scp").items()
            tables["scp"].update({key: f"{stem}.ark:{entry.rpartition(':')[2]}" for key, entry in entries})
        scp, expected = tables["scp"], len(self.spans)
        if len(scp) != expected or any(table.keys() != scp.keys() for table in tables.values()):
            raise UserError(f"{self.out}: {len(scp)} utterances dumped, {expected} in {self.data}; rerun stage 2")
        settings = {"feats_type": self.feats_type, "speed": self.speed, "nj": self.nj, "out": self.out}
        sources = inputs({"data": self.data}, "data:wav.scp*", "data:segments", f"data:{CHANNELS}")
        made = Stamp(self.out / NAME, CODE_VERSION, settings, sources)
        if not made.changed():
            print(f"nothing changed: {self.out}")
            return
        made.begin()
        names = (*DUMP_TABLES[self.feats_type], DUMP_SAMPLES, DUMP_DIGESTS)
        for name, suffix in zip(names, TABLES, strict=True):
            write_table(self.out / name, tables[suffix])
        for path in (self.out / "parts").iterdir():
            if path.name.partition(".")[0] not in map(str, range(1, self.nj + 1)):  # of a run with more jobs
                path.unlink()
        made.finish(self.out / name for name in names)
        print(f"{self.out}: {len(scp)} utterances")
