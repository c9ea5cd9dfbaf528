"""Kaldi arks: RIFF audio (int16, or float32 of quiet files) and float32 matrices, written whole or not at all.

The only module that uses kaldiio, which is loaded when an entry is read or written. Nothing read from a file is
executed: pipes and pickles are refused.
"""

import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from sermtl.errors import UserError
from sermtl.fileio.files import atomic_write
from sermtl.fileio.wav_scp import SAMPLE_RATE

FEATURE_TABLES = ("feats.scp", "utt2num_frames")
DUMP_TABLES = {"raw": ("wav.scp", "utt2num_samples"), "fbank": FEATURE_TABLES, "stored": FEATURE_TABLES}
"""Names, as Kaldi and ESPnet call them, of a dump's scp and of its table of lengths."""
DUMP_SAMPLES = "utt2num_samples"
"""Table of the samples that a dump was made from."""
DUMP_DIGESTS = "utt2digest"
"""Table of checksums of the utterances' samples or features."""


class ArkWriter:
    """Adds entries to an open ark and collects the lines of its scp."""

    def __init__(self, file: IO[bytes], path: Path):
        self._file = file
        self._path = path
        self.scp: dict[str, str] = {}

    def write_audio(self, key: str, samples_S: np.ndarray) -> None:
        """Add int16 or float32 samples at 16 kHz as a RIFF entry."""
        from scipy.io import wavfile  # kaldiio writes no floats, and libsndfile the time of day

        entry = io.BytesIO()
        wavfile.write(entry, SAMPLE_RATE, samples_S)
        self._write(key, key.encode() + b" " + entry.getbuffer())

    def write_array(self, key: str, array: np.ndarray) -> None:
        """Add a float32 vector or matrix."""
        import kaldiio

        # What kaldiio leaves half written it writes again, and fails at again, when it is collected as garbage.
        entry = io.BytesIO()
        kaldiio.save_ark(entry, {key: np.ascontiguousarray(array, dtype=np.float32)})
        self._write(key, entry.getvalue())

    def _write(self, key: str, entry: bytes) -> None:
        if key in self.scp:
            raise UserError(f"{self._path}: utterance {key} twice")
        self.scp[key] = f"{self._path}:{self._file.tell() + len(key.encode()) + 1}"
        self._file.write(entry)


@contextmanager
def write_ark(path: str | Path) -> Iterator[ArkWriter]:
    """Write an ark that appears under ``path`` only when the block ends well."""
    with atomic_write(path, "wb") as file:
        yield ArkWriter(file, Path(path))


def read_audio_entry(specifier: str, key: str = "") -> np.ndarray:
    """Samples (S,), int16 or, of a quiet file, float32, of ``file.ark:offset``; `UserError` where it holds none."""
    value = _read(specifier, key)
    if not (isinstance(value, tuple) and value[0] == SAMPLE_RATE):
        raise UserError(f"{specifier} ({key}): not {SAMPLE_RATE} Hz audio; rerun stage 2")
    samples_S = value[1]
    if samples_S.dtype not in (np.int16, np.float32) or samples_S.ndim != 1:
        raise UserError(f"{specifier} ({key}): neither 16-bit nor float32 mono audio; rerun stage 2")
    return samples_S


def read_matrix(specifier: str, key: str = "") -> np.ndarray:
    """Float matrix (or vector) of ``file.ark:offset``, a read-only array; `UserError` where it holds none."""
    value = _read(specifier, key)
    if not isinstance(value, np.ndarray):
        raise UserError(f"{specifier} ({key}): audio where features were expected; rerun stage 2")
    return value


def read_entry(specifier: str, key: str, feats_type: str) -> np.ndarray:
    """Samples (S,), features (T, F) or stored frames (T, C) of a dump's entry; `UserError` for another kind."""
    return read_audio_entry(specifier, key) if feats_type == "raw" else read_matrix(specifier, key)


def checksum(array: np.ndarray) -> str:
    """CRC-32 of samples or features, however they are laid out in arks; compared whenever an utterance is read."""
    return f"{zlib.crc32(np.ascontiguousarray(array).data):08x}"


def _read(specifier: str, key: str) -> object:
    import kaldiio
    from scipy.io import wavfile

    path, _, offset = specifier.rpartition(":")
    if specifier.rstrip().endswith("|") or not path or not offset.isdigit():
        raise UserError(f"{specifier!r} ({key}): expected file.ark:offset")
    try:
        with open(path, "rb") as file:
            file.seek(int(offset))
            head = file.read(8)
            # kaldiio would unpickle such an entry, which can run code
            if head[:3] in (b"PKL", b"NPY", b""):
                raise UserError(f"{specifier} ({key}): no Kaldi entry there; rerun stage 2")
            # and scipy shorten truncated audio
            size = 8 + int.from_bytes(head[4:], "little")
            if head[:4] == b"RIFF" and int(offset) + size > os.fstat(file.fileno()).st_size:
                raise UserError(f"{specifier} ({key}): the file ends within this entry; rerun stage 2")
            file.seek(int(offset))
            if head[:4] == b"RIFF":
                return wavfile.read(io.BytesIO(file.read(size)))
            return kaldiio.matio.read_kaldi(file)
    except OSError as error:
        raise UserError(f"cannot read {specifier} ({key}): {error.strerror or error}; rerun stage 2") from error
    except UserError:
        raise
    except Exception as error:  # both raise many kinds on damaged bytes
        message = f"{specifier} ({key}): damaged entry ({type(error).__name__}: {error}); rerun stage 2"
        raise UserError(message) from error
