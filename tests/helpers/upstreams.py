"""Small models of transformers' own, with random weights, and waveforms for them."""

from __future__ import annotations

import json

import torch
from safetensors.torch import load_file

# isort: off
from sermtl import before_transformers  # noqa: F401 (before transformers)
from transformers import AutoConfig, AutoModel

# isort: on
from sermtl.model.upstreams.load import OUR_KEYS
from sermtl.model.upstreams.wav2vec2 import Wav2Vec2

CONV = {"conv_dim": [12] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
SMALL = CONV | {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
LARGE = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
FAMILIES = {
    "wav2vec2-base": ("wav2vec2", {}),
    "xls-r": ("wav2vec2", LARGE),
    "hubert-base": ("hubert", {}),
    "hubert-large": ("hubert", LARGE),
    "hubert-batch-norm": ("hubert", {"conv_pos_batch_norm": True}),
    "wavlm-base": ("wavlm", {}),
    "wavlm-large": ("wavlm", LARGE),
    "unispeech-sat": ("unispeech-sat", {}),
    "unispeech-sat-large": ("unispeech-sat", LARGE),
    "data2vec-audio": ("data2vec-audio", {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 7}),
}
# No longer read by transformers, and in the files of the published models all the same.
LEGACY = {"freeze_feat_extract_train": True, "mask_channel_length": 10, "no_mask_time_overlap": False}
LEGACY |= {"mask_time_selection": "static", "torch_dtype": "float32", "gradient_checkpointing": False}


def transformers_model(model_type, **values):
    """A model of transformers' own in which no weight or bias has its neutral first value."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **(SMALL | values))
    if model_type == "wavlm":
        config._attn_implementation = "eager"
    model = AutoModel.from_config(config).eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
            tensor.add_(0.1 * torch.randn_like(tensor).abs())
    return model


def every_state(upstream):
    """The upstream, from now on giving all hidden states."""
    upstream.read(tuple(range(upstream.total_layers + 1)))
    return upstream


def around(model):
    """Our upstream over a model of transformers' own."""
    for key, default in OUR_KEYS.items():
        setattr(model.config, key, default)
    return Wav2Vec2(model, model.config)


def hidden_states(model, wav_BS, **masks):
    """All hidden states of transformers' own model; the last includes its final norm."""
    output = model(wav_BS, output_hidden_states=True, **masks)
    return [*output.hidden_states[:-1], output.last_hidden_state]


def save(model, folder, weights="safetensors"):
    """Save as published models are: with their legacy keys, and under either format of weights."""
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | LEGACY))
    if weights == "bin":
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        names = (("parametrizations.weight.original0", "weight_g"), ("parametrizations.weight.original1", "weight_v"))
        for new, old in names:
            tensors = {name.replace(new, old): tensor for name, tensor in tensors.items()}
        torch.save(tensors, folder / "pytorch_model.bin")
    return folder


def wave(*lengths, seed=0):
    """Waveforms (B, S) continued with zeros, and their lengths."""
    generator = torch.Generator().manual_seed(seed)
    wav_BS = torch.zeros(len(lengths), max(*lengths, 400))
    for row, length in zip(wav_BS, lengths, strict=True):
        row[:length] = torch.randn(length, generator=generator)
    return wav_BS, torch.tensor(lengths)
