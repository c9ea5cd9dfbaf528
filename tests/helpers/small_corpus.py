"""A tiny corpus taken through stages 1 and 2 by the real programs: data tables, folds, dump and token lists."""

from __future__ import annotations

import logging
import signal as os_signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from datadirs import make_data, write_wav

from sermtl.bin import dump as dump_program
from sermtl.bin import folds as folds_program
from sermtl.bin import tokens as tokens_program
from sermtl.fileio.tables import write_table

EMOTIONS = ("ang", "hap", "neu", "sad")
WORDS = ("NO", "SO", "WHY", "YES")
RAW_GEOMETRY = {
    "model_type": "wav2vec2",
    "conv_dim": [8, 8, 8],
    "conv_kernel": [10, 8, 4],
    "conv_stride": [5, 8, 4],
    "num_feat_extract_layers": 3,
    "feat_extract_norm": "group",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "num_conv_pos_embeddings": 7,
    "num_conv_pos_embedding_groups": 2,
    "layerdrop": 0.0,
    "mask_time_prob": 0.3,
    "mask_time_length": 2,
    "mask_feature_prob": 0.1,
    "mask_feature_length": 2,
}
"""Group norm, dropout and SpecAugment are on, as in wav2vec2-base; 160 samples a frame."""
FBANK_GEOMETRY = RAW_GEOMETRY | {
    "input_bands": 80,
    "conv_dim": [16],
    "conv_kernel": [3],
    "conv_stride": [2],
    "num_feat_extract_layers": 1,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0,
}
SETTINGS = {
    "raw": {"feats_type": "raw", "freeze": "none"},
    "fbank": {"feats_type": "fbank", "freq_masks": 1, "time_masks": 1},
}


def run_program(main: Callable[[], int], *words: object) -> int:
    """Run a program's ``main`` in this process as in a new one; gives its exit status.

    What programs change of their process (the command line, logging, the handler of SIGTERM) is put back.
    """
    argv, on_sigterm = sys.argv, os_signal.getsignal(os_signal.SIGTERM)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    sys.argv = ["program", *map(str, words)]
    try:
        return main()
    finally:
        sys.argv = argv
        os_signal.signal(os_signal.SIGTERM, on_sigterm)
        for handler in root.handlers:
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)


def signal(speaker: int, emotion: int, samples: int, seed: int) -> np.ndarray:
    """A tone (S,), int16, whose pitch is the emotion's and whose overtone is the speaker's, in noise."""
    time_S = np.arange(samples) / 16000
    pitch = 150 * 1.5**emotion
    tone_S = np.sin(2 * np.pi * pitch * time_S) + 0.4 * np.sin(2 * np.pi * pitch * (2 + speaker) * time_S)
    noise_S = np.random.default_rng(seed).normal(0, 0.05, samples)
    return (6000 * (tone_S + noise_S)).astype(np.int16)


def speech(seed: int, samples: int = 16000) -> np.ndarray:
    """A recording (S,), int16, which other seeds give another pitch and another overtone."""
    return signal(seed % 3, seed % 4, samples, seed)


@dataclass
class SmallCorpus:
    """Where the corpus is, and the programs' arguments for it."""

    root: Path
    name: str = "small"
    fold: str = "s0"
    protocol: str = "speaker"

    @property
    def data(self) -> Path:
        return self.root / "data" / self.name

    @property
    def folds_dir(self) -> Path:
        return self.data / "folds" / self.protocol

    @property
    def dump(self) -> Path:
        return self.root / "dump" / self.name

    @property
    def tokens(self) -> Path:
        return self.dump / "tokens" / self.protocol

    def arguments(self, exp: Path, *folds: str) -> list[object]:
        """The words that training and decoding share."""
        paths = {"data": self.data, "folds_dir": self.folds_dir, "dump": self.dump, "tokens": self.tokens, "exp": exp}
        words = [word for name, path in paths.items() for word in (f"--{name}", path)]
        return [*words, "--folds", *(folds or (self.fold,))]

    def config(self, feats_type: str = "raw", **settings: object) -> Path:
        """A training configuration over a geometry of a few hundred parameters, written as YAML."""
        geometry = self.root / f"{feats_type}_geometry.yaml"
        values = {"upstream": str(geometry), "epochs": 2, "learning_rate": 5e-3, "bucket_batches": 1, "num_workers": 0}
        values |= SETTINGS[feats_type] | settings
        path = self.root / f"train{abs(hash(tuple(sorted(map(str, values.items())))))}.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return path

    def dump_audio(self, feats_type: str, speed: float = 1.0, nj: int = 2) -> Path:
        """Run stage 2's dump; gives the dump directory."""
        out = self.dump / (feats_type if speed == 1.0 else f"{feats_type}_sp{speed:g}")
        words = ["--data", self.data, "--out", out, "--feats_type", feats_type, "--speed", speed, "--nj", nj]
        for job in range(1, nj + 1):
            assert run_program(dump_program.main, "part", *words, "--job", job) == 0
        assert run_program(dump_program.main, "merge", *words) == 0
        return out


def make_small_corpus(root: Path, speakers: int = 3, each: int = 8, dev_ratio: float = 0.0) -> SmallCorpus:
    """Make ``speakers * each`` utterances of 0.1 to 0.4 s and take them through stages 1 and 2.

    The last speaker has three special utterances: no transcript, one too long for its frames, and no emotion.
    """
    corpus = SmallCorpus(root)
    last = f"s{speakers - 1}"
    texts = {f"{last}-00": "", f"{last}-01": "WHY " * 40, f"{last}-02": "NO NO"}
    rows, wavs = [], {}
    for s in range(speakers):
        for n in range(each):
            utt = f"s{s}-{n:02d}"
            words = WORDS[(s + n) % 4] + (" " + WORDS[n // 4 % 4] if n % 3 else "")
            emotion = "" if utt == f"{last}-02" else EMOTIONS[n % 4]
            rows.append({"utt": utt, "utt2spk": f"s{s}", "utt2emo": emotion, "utt2session": str(s // 2)})
            rows[-1]["text"] = texts.get(utt, words).strip()
            samples = signal(s, n % 4, 1600 + 600 * ((5 * n + s) % 8), seed=100 * s + n)
            wavs[utt] = str(write_wav(root / "wav" / f"{utt}.wav", samples))
    make_data(corpus.data, rows)
    write_table(corpus.data / "wav.scp", wavs)
    (corpus.data / "lang").write_text("en\n", encoding="utf-8")
    words = ["--data", corpus.data, "--protocol", corpus.protocol, "--dev_ratio", dev_ratio]
    assert run_program(folds_program.main, *words) == 0
    names = (corpus.folds_dir / "folds").read_text(encoding="utf-8").split()
    words = ["--data", corpus.data, "--folds_dir", corpus.folds_dir, "--folds", " ".join(names)]
    assert run_program(tokens_program.main, *words, "--out", corpus.tokens) == 0
    for feats_type, geometry in (("raw", RAW_GEOMETRY), ("fbank", FBANK_GEOMETRY)):
        corpus.dump_audio(feats_type)
        (root / f"{feats_type}_geometry.yaml").write_text(yaml.safe_dump(geometry), encoding="utf-8")
    return corpus
