"""A trained model as one ONNX graph from waveforms to posteriors, with lengths as an input.

    waveform (B, S) float32 in [-1, 1] at 16 kHz, lengths (B,) int64 own samples
    -> posteriors (B, C), tokens (B, T, V) log-probabilities, frames (B,) own frames, embedding (B, D)

The front end is in the graph: normalisation of the waveform, or Kaldi's log-mel features with their normalisation.
Only an utterance's own samples and frames are used, so the results do not depend on the batch.

Shape suffixes: B batch, S samples, T frames, F bands, K frequencies, C classes, V tokens, D hidden.
"""

import logging
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sermtl.audio.features import FBANK_BANDS, FBANK_WINDOW
from sermtl.audio.resample import SAMPLE_RATE
from sermtl.errors import UserError
from sermtl.model.batch import Batch
from sermtl.model.padded import own_frames
from sermtl.model.spectrum import HOP, power_spectrum, spectrum_kernel
from sermtl.model.trained_model import TrainedModel

OPSET = 17
OUTPUTS = ["posteriors", "tokens", "frames", "embedding"]
FFT = 512


class LogMel(nn.Module):
    """The front end over log-mel features: `sermtl.audio.features.fbank` and its normalisation as convolutions."""

    def __init__(self, trained: TrainedModel):
        super().__init__()
        from torchaudio.compliance.kaldi import get_mel_banks

        front_end = trained.front_end
        self.kernel = nn.Buffer(spectrum_kernel(FFT, kaldi=True))
        mel_FK = get_mel_banks(FBANK_BANDS, FFT, float(SAMPLE_RATE), 20.0, 0.0, 100.0, -500.0, 1.0)[0]
        self.mel = nn.Buffer(F.pad(mel_FK, (0, 1)).T.contiguous())
        self.fixed, self.norm_vars = front_end.cmvn == "global", front_end.norm_vars
        if self.fixed:
            assert front_end.global_mean_F is not None and front_end.global_std_F is not None
            self.mean = nn.Buffer(torch.from_numpy(front_end.global_mean_F))
            self.std = nn.Buffer(torch.from_numpy(front_end.global_std_F))

    def forward(self, waveform_BS: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised features (B, T, F), 0 beyond their own frames, and the number of own frames (B,)."""
        power_BTK = power_spectrum(F.pad(waveform_BS, (0, FBANK_WINDOW)) * 32768.0, self.kernel)
        mel_BTF = torch.matmul(power_BTK, self.mel)
        features_BTF = mel_BTF.clamp(min=float(np.finfo(np.float32).eps)).log()
        frames_B = (lengths_B.clamp(min=FBANK_WINDOW) - FBANK_WINDOW) // HOP + 1
        own_BT1 = own_frames(frames_B, features_BTF.shape[1])[:, :, None]
        if not self.fixed:
            count_B11 = frames_B[:, None, None].to(features_BTF.dtype)
            mean = (features_BTF * own_BT1).sum(1, keepdim=True) / count_B11
            std = torch.sqrt((((features_BTF - mean) * own_BT1).square().sum(1, keepdim=True)) / count_B11)
        else:
            mean, std = self.mean, self.std
        centred_BTF = (features_BTF - mean) * own_BT1
        return centred_BTF / (std + 1e-5) if self.norm_vars else centred_BTF, frames_B


class Graph(nn.Module):
    """From waveforms to the outputs of the heads."""

    def __init__(self, trained: TrainedModel):
        super().__init__()
        self.model, upstream = trained.model, trained.model.upstream
        self.normalize, self.receptive_field = upstream.normalize, upstream.geometry.receptive_field
        self.log_mel = LogMel(trained) if upstream.input_bands else None

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Posteriors (B, C), token log-probabilities (B, T, V) if any, own frames (B,), embedding (B, M)."""
        own_BS = own_frames(lengths, waveform.shape[1])
        inputs, lengths_B = waveform * own_BS, lengths
        if self.log_mel is not None:
            inputs, lengths_B = self.log_mel(inputs, lengths)
            inputs = F.pad(inputs, (0, 0, 0, self.receptive_field))
        else:
            if self.normalize:
                count_B1 = lengths[:, None].to(inputs.dtype)
                centred_BS = (inputs - inputs.sum(1, keepdim=True) / count_B1) * own_BS
                inputs = centred_BS / torch.sqrt(centred_BS.square().sum(1, keepdim=True) / count_B1 + 1e-7)
            inputs = F.pad(inputs, (0, self.receptive_field))  # continued to one frame
        none_B = torch.zeros_like(lengths_B)
        # The speaker is none of those that were trained on.
        output = self.model(Batch([], inputs, lengths_B, none_B, none_B - 1, none_B[:, None], none_B))
        tokens = () if output.tokens_BTV is None else (output.tokens_BTV.log_softmax(-1),)
        return (output.emotion_BC.softmax(-1), *tokens, output.frames_B, output.vector_BM)


def export_onnx(trained: TrainedModel, directory: Path) -> list[str]:
    """Write ``model.onnx``; returns its name from the pack's root, in a list. `UserError` without onnx, onnxruntime."""
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"ONNX needs a package that is not installed ({error.name}): pip install 'sermtl[onnx]'"
        ) from error
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "model.onnx"
    # Of different lengths, so that nothing that depends on them becomes a constant.
    example_BS = 0.1 * torch.sin(torch.arange(3 * 24000).reshape(3, 24000) * 0.05)
    lengths_B = torch.tensor([24000, 8000, 16001])
    reads_characters = bool(trained.model.settings.ctc_layers)
    outputs = [name for name in OUTPUTS if reads_characters or name != "tokens"]
    batch: dict[str, dict[int, str]] = {name: {0: "batch"} for name in ("waveform", "lengths", *outputs)}
    batch["waveform"][1] = "samples"
    if reads_characters:
        batch["tokens"][1] = "frame"
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on Python numbers that tracing keeps, and on the exporter's age
        torch.onnx.export(
            Graph(trained).eval(),
            (example_BS, lengths_B),
            str(path),
            input_names=["waveform", "lengths"],
            output_names=outputs,
            dynamic_axes=batch,
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(str(path))
    for node in model.graph.node:  # the exporter's notes on where it ran
        node.doc_string = ""
        del node.metadata_props[:]
    properties = {"labels": " ".join(trained.labels), "sampling_rate": str(SAMPLE_RATE), "format": "sermtl 1"}
    onnx.helper.set_model_props(model, properties)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return ["onnx/model.onnx"]
