"""Stored outputs of a frozen convolutional encoder (``--feats_type conv``): computing them, naming and sizing them.

An utterance goes through the encoder alone, so nothing is padded, and what is stored is the same in any dump. A dump
is named by a digest of the encoder, so that another encoder's is never taken for it.

Shape suffixes: S samples, T frames, C channels.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import torch

from sermtl.audio.resample import SAMPLE_RATE
from sermtl.config import TrainConfig
from sermtl.data.fold_job import check_gpus
from sermtl.errors import UserError
from sermtl.fileio.tables import read_table
from sermtl.model.front_end import FrontEnd
from sermtl.model.out_of_memory import is_exhausted
from sermtl.model.precision import use_whole_float32
from sermtl.model.upstreams.load import load_upstream
from sermtl.model.upstreams.wav2vec2 import Upstream
from sermtl.seeding import derive_seed

CODE_VERSION = 1
"""Raised when the same encoder would give other outputs."""


class ConvFeatures:
    """The convolutional encoder of the upstream that a training with this seed begins with.

    Raises:
        UserError: The upstream cannot be loaded, or reads no waveforms.
    """

    def __init__(self, upstream: str, seed: int, device: torch.device):
        torch.manual_seed(derive_seed(seed, "weights"))  # an encoder without pretrained weights is the seed's
        self.upstream = load_upstream(upstream)
        if self.upstream.input_bands:
            raise UserError(f"upstream {upstream} reads log-mel features, no waveforms; use --feats_type fbank")
        self.digest = conv_digest(self.upstream)
        self.device = device
        # Only the encoder is needed: the rest of the memory goes to other jobs.
        del self.upstream.model.encoder, self.upstream.model.feature_projection
        self.upstream.to(device).eval()
        self._waveform = FrontEnd("raw", self.upstream.normalize, "", self.upstream.geometry).waveform

    @torch.inference_mode()
    def __call__(self, samples_S: np.ndarray) -> np.ndarray:
        """Float32 outputs (T, C) for int16 samples.

        Raises:
            UserError: They do not fit the memory.
        """
        wav_S = torch.from_numpy(self._waveform(samples_S))
        missing = max(0, self.upstream.geometry.receptive_field - len(wav_S))
        wav_1S = torch.nn.functional.pad(wav_S, (0, missing))[None].to(self.device)
        try:
            conv_1TC, _ = self.upstream.convolve(wav_1S, torch.tensor([len(samples_S)], device=self.device))
        except RuntimeError as error:
            if not is_exhausted(error):
                raise
            raise UserError(
                f"out of memory with an utterance of {len(samples_S) / SAMPLE_RATE:.1f} s: {error}; give stage 2 a "
                "machine with more memory (--ngpu 0 uses the host's), or leave such utterances out"
            ) from error
        return conv_1TC[0].float().cpu().numpy()

    def bytes_of(self, data: Path, speed: float) -> int:
        """Size of a whole dump, from the durations in ``utt2dur``."""
        channels, frames = self.upstream.config.conv_dim[-1], self.upstream.geometry.frames
        seconds = map(float, read_table(data / "utt2dur").values())
        return sum(4 * channels * frames(round(s / speed * SAMPLE_RATE)) + 64 for s in seconds)


def conv_features(upstream: str, seed: int, ngpu: int, data: Path, out: Path, speed: float) -> ConvFeatures:
    """The convolutional encoder of ``--upstream``, where its outputs fit the name and the disk of ``out``.

    Raises:
        UserError: They do not, or PyTorch sees no GPU and one is asked for.
    """
    check_gpus(ngpu)
    use_whole_float32()
    features = ConvFeatures(upstream, seed, torch.device("cuda" if ngpu else "cpu"))
    wanted = features.digest if speed == 1.0 else f"{features.digest}_sp{speed:g}"
    if out.name != wanted:
        raise UserError(f"{out}: this upstream's outputs belong in {out.parent / wanted}")
    out.mkdir(parents=True, exist_ok=True)
    there = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())  # of a dump that was cut off
    needed, free = features.bytes_of(data, speed) - there, shutil.disk_usage(out).free
    if needed > free:
        raise UserError(
            f"{out} needs {needed / 1e9:.2f} GB more, and its disk has {free / 1e9:.2f} GB free; "
            "make room, give another --dumpdir, or use --feats_type raw, which stores the waveforms only"
        )
    return features


def conv_digest(upstream: Upstream) -> str:
    """Digest of all that decides a convolutional encoder's outputs: weights, shapes, and how waveforms come in."""
    config = upstream.config
    shape = (upstream.geometry, config.conv_dim, config.feat_extract_activation, upstream.normalize, CODE_VERSION)
    digest = hashlib.sha256(repr(shape).encode())
    for name, tensor in sorted(upstream.model.feature_extractor.state_dict().items()):
        values = tensor.detach().cpu().float().contiguous().numpy()
        digest.update(f"{name} {values.shape}\n".encode())
        digest.update(values)
    return digest.hexdigest()[:16]


def dump_name(config: TrainConfig, trained: Upstream | None = None) -> str:
    """The dump directory's name under ``dump/<corpus>/``.

    Args:
        config: The training settings; for ``conv`` their upstream is loaded.
        trained: The upstream after training, instead.
    """
    if config.feats_type != "conv":
        return config.feats_type
    digest = conv_digest(trained) if trained else ConvFeatures(config.upstream, config.seed, torch.device("cpu")).digest
    return f"conv/{digest}"
