"""A trained model as folders that plain transformers loads: a sequence classifier and a CTC model.

Both are exact: the classifier's projector is the identity, so that projector, mean over frames and classifier are
our mean and linear layer; the CTC head is our token head.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import nn
from transformers import AutoModelForAudioClassification, AutoModelForCTC, PretrainedConfig

from sermtl.audio.read import SAMPLE_RATE
from sermtl.fileio.files import write_json
from sermtl.model.trained_model import TrainedModel
from sermtl.model.upstreams.load import OUR_KEYS
from sermtl.text.tokenizer import BOUNDARY, SPECIALS, BpeTokenizer

CLASSIFIER = "audio-classification"
RECOGNISER = "automatic-speech-recognition"


def export_transformers(trained: TrainedModel, directory: Path) -> list[str]:
    """Write the folders ``audio-classification/`` and ``automatic-speech-recognition/``; returns their names.

    The model is one over waveforms: transformers' own classes read nothing else.
    """
    _save(_classifier(trained), trained, directory / CLASSIFIER)
    recogniser = directory / RECOGNISER
    _save(_recogniser(trained), trained, recogniser)
    write_tokenizer(trained, recogniser)
    return [CLASSIFIER, RECOGNISER]


def _config(trained: TrainedModel, **values: Any) -> PretrainedConfig:
    """The upstream's configuration without our own keys."""
    config = trained.model.upstream.config
    kept = {key: value for key, value in config.to_dict().items() if key not in OUR_KEYS and not key.startswith("_")}
    return type(config)(**{**kept, "use_weighted_layer_sum": False, **values})


def _classifier(trained: TrainedModel) -> nn.Module:
    labels = dict(enumerate(trained.labels))
    size = trained.model.upstream.hidden_size
    names = {label: number for number, label in labels.items()}
    config = _config(trained, id2label=labels, label2id=names, num_labels=len(labels), classifier_proj_size=size)
    model = _with_encoder(AutoModelForAudioClassification.from_config(config), trained)
    with torch.no_grad():
        model.projector.weight.copy_(torch.eye(size))
        model.projector.bias.zero_()
    model.classifier.load_state_dict(trained.model.emotion_head.state_dict())
    return model


def _recogniser(trained: TrainedModel) -> nn.Module:
    tokens = len(trained.tokenizer.tokens)
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    model = _with_encoder(AutoModelForCTC.from_config(_config(trained, vocab_size=tokens, **ids)), trained)
    model.lm_head.load_state_dict(trained.model.token_head.state_dict())
    return model


def _with_encoder(model: Any, trained: TrainedModel) -> Any:
    getattr(model, model.base_model_prefix).load_state_dict(trained.model.upstream.model.state_dict())
    return model.eval()


def _save(model: Any, trained: TrainedModel, directory: Path) -> None:
    """Weights, configuration and the preprocessing of waveforms."""
    from transformers import Wav2Vec2FeatureExtractor  # it imports torchaudio: after `torchaudio_compat`

    model.save_pretrained(directory)
    normalize = trained.model.upstream.normalize
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=SAMPLE_RATE, do_normalize=normalize, return_attention_mask=True)
    extractor.save_pretrained(directory)


def write_tokenizer(trained: TrainedModel, directory: Path) -> None:
    """Write ``tokenizer.json``: repeats, blanks and specials are dropped, words are made, as sermtl does.

    transformers' own Wav2Vec2CTCTokenizer would write ``<s>`` into a text and leave double blanks.
    """
    tokens = trained.tokenizer.tokens
    subwords = isinstance(trained.tokenizer, BpeTokenizer)
    blank, boundary = tokens[0], "\u2581" if subwords else BOUNDARY
    tokenizer = Tokenizer(
        models.WordLevel({token: number for number, token in enumerate(tokens)}, unk_token=SPECIALS[3])
    )
    if not subwords:
        tokenizer.normalizer = normalizers.Replace(" ", boundary)
        tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(special, blank) for special in SPECIALS[1:]]
        + [
            decoders.CTC(pad_token=blank, word_delimiter_token=boundary, cleanup=False),
            decoders.Replace(boundary, " "),
            decoders.Fuse(),
            decoders.Replace(Regex(" +"), " "),
            decoders.Replace(Regex("^ | $"), ""),  # the library's Strip panics on an empty text
        ]
    )
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": blank,
            "unk_token": SPECIALS[3],
            "clean_up_tokenization_spaces": False,
            "model_max_length": 1_000_000,
        },
        sort_keys=True,
    )
