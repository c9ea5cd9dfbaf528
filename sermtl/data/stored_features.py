"""Stored outputs of the frozen part of an upstream (``--feats_type stored``): computing and sizing them.

On a CPU an utterance goes through the upstream alone, so nothing is padded. A GPU takes several at once.
`sermtl.data.names` says which form is stored, and where.

Shape suffixes: B utterances, S samples, T frames, D values of a frame, n states, P pooled values of a state.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from sermtl.audio.resample import SAMPLE_RATE
from sermtl.config import TrainConfig
from sermtl.data.dataset import stack
from sermtl.data.fold_job import check_gpus
from sermtl.data.names import stored_entry
from sermtl.errors import UserError
from sermtl.fileio.tables import read_table
from sermtl.model.batch import is_exhausted
from sermtl.model.front_end import FrontEnd
from sermtl.model.heads import head_settings, pool
from sermtl.model.precision import use_whole_float32
from sermtl.model.upstreams.load import load_upstream
from sermtl.seeding import derive_seed

GPU_BATCH = 16
"""Utterances that go through the upstream at once on a GPU, which else waits for what starts its computations."""


class StoredFeatures:
    """The frozen part of the upstream of a training with these settings; `UserError` where it reads no waveforms."""

    def __init__(self, config: TrainConfig, device: torch.device):
        torch.manual_seed(derive_seed(config.seed, "weights"))  # an upstream without pretrained weights is the seed's
        self.upstream = load_upstream(config.upstream)
        if self.upstream.input_bands:
            raise UserError(f"upstream {config.upstream} reads log-mel features, no waveforms; use --feats_type fbank")
        self.form, self.pooling, self.device = stored_entry(config), config.pooling, device
        layers, states = self.upstream.total_layers, head_settings(config, self.upstream.total_layers).states
        known = {"pooled": tuple(range(layers + 1)), "states": states, "front": (0,)}
        self.upstream.read((self.form,) if isinstance(self.form, int) else known[self.form])
        self.upstream.to(device).eval()
        self._waveform = FrontEnd("raw", self.upstream.normalize, "", self.upstream.geometry).waveform

    @torch.inference_mode()
    def __call__(self, wavs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Float32 frames (T, D), or pooled vectors (n, P), of int16 samples (S,); `UserError` without memory."""
        lengths = [len(samples_S) for samples_S in wavs.values()]
        longest = max(*lengths, self.upstream.geometry.receptive_field)
        wavs_BS = stack([self._waveform(samples_S) for samples_S in wavs.values()], longest)
        try:
            on_device = wavs_BS.to(self.device), torch.tensor(lengths, device=self.device)
            values = [each.float().cpu().numpy() for each in self._outputs(*on_device)]
        except RuntimeError as error:
            if not is_exhausted(error):
                raise
            if len(wavs) > 1:
                return {key: self({key: samples_S})[key] for key, samples_S in wavs.items()}
            raise UserError(
                f"{next(iter(wavs))}: out of memory with an utterance of {lengths[0] / SAMPLE_RATE:.1f} s: {error}; "
                "give stage 2 a machine with more memory (--ngpu 0 uses the host's), or leave such utterances out"
            ) from error
        return dict(zip(wavs, values, strict=True))

    def _outputs(self, wavs_BS: torch.Tensor, lengths_B: torch.Tensor) -> list[torch.Tensor]:
        if self.form == "front":
            front_BTC, frames_B = self.upstream.front(wavs_BS, lengths_B)
            states = [front_BTC]
        else:
            states, frames_B = self.upstream(wavs_BS, lengths_B)
        if self.form == "pooled":
            return list(torch.stack([pool(state, frames_B, self.pooling) for state in states], 1))
        joined_BTD = torch.cat(states, 2)
        return [frames_TD[:frames] for frames_TD, frames in zip(joined_BTD, frames_B.tolist(), strict=True)]

    @property
    def described(self) -> str:
        """The form in words."""
        if self.form == "pooled":
            what = "means" if self.pooling == "mean" else "means and deviations"
            return f"{what} of {len(self.upstream.reads)} hidden states, one vector each an utterance"
        if self.form == "front":
            return "frames of the front"
        return (
            f"frames of hidden state{'s' * (len(self.upstream.reads) > 1)} {', '.join(map(str, self.upstream.reads))}"
        )

    def bytes_of(self, samples: Sequence[int]) -> int:
        """Size of a whole dump, of utterances of so many samples."""
        upstream = self.upstream
        values = upstream.front_size if self.form == "front" else len(upstream.reads) * upstream.hidden_size
        if self.form == "pooled":
            return len(samples) * (64 + 4 * values * (1 if self.pooling == "mean" else 2))
        return sum(64 + 4 * values * upstream.geometry.frames(length) for length in samples)


def stored_features(config: TrainConfig, ngpu: int, data: Path, out: Path, speed: float) -> tuple[StoredFeatures, int]:
    """The frozen part of the upstream, and of how many utterances at once; prints the size of what is stored."""
    check_gpus(ngpu)
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")  # read at its first use; it grows with each length
    use_whole_float32()
    if not ngpu:
        torch.set_num_threads(1)  # as many parts as cores are made side by side
    features = StoredFeatures(config, torch.device("cuda" if ngpu else "cpu"))
    samples = [round(float(s) / speed * SAMPLE_RATE) for s in read_table(data / "utt2dur").values()]
    size = features.bytes_of(samples)
    print(f"storing {features.described}: {size / 1e6:.1f} MB in {out}", flush=True)
    if cut := features.upstream.count_cut(samples):
        print(f"{cut} utterances are longer than the upstream takes at once: encoded in windows, without overlap")
    check_space(out, size)
    return features, GPU_BATCH if ngpu else 1


def check_space(out: Path, needed: int) -> None:
    """Refuse to begin (`UserError`) a dump that the disk cannot hold, counting what is there of it already."""
    out.mkdir(parents=True, exist_ok=True)
    there = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    free = shutil.disk_usage(out).free
    if needed - there > free:
        raise UserError(
            f"{out} needs {(needed - there) / 1e9:.2f} GB more, and its disk has {free / 1e9:.2f} GB free; "
            "make room, give another --dumpdir, or use --feats_type raw, which stores the waveforms only"
        )
