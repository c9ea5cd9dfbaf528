"""A trained model as folders that plain transformers loads: a sequence classifier and a CTC model.

Both are exact. The classifier's learned layer weights are our mix of hidden states (one state is a weight of 1), its
projector is ours, or the identity, its mean over frames and classifier are our mean and linear layer; the CTC head is
our token head.
"""

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
UNREAD = -1e4
"""Score of a hidden state that is not read: its softmax weight is 0."""


def obstacle(trained: TrainedModel) -> str:
    """Why transformers' own classifier cannot compute what the model does; empty where it can."""
    upstream, heads = trained.model.upstream, trained.model.settings
    if upstream.input_bands:
        return "it reads log-mel features, and transformers' speech classes read waveforms"
    if upstream.config.model_type == "whisper":
        return "transformers' Whisper classifier averages over 30 s, padding included"
    if heads.pooling != "mean":
        return f"it pools by {heads.pooling}, and transformers' classifiers take plain means"
    if len(heads.layers) > 1 and (heads.standardise or trained.model.vector.speaker_norm.acts):
        return "it normalises each state before the mix, and transformers' classifiers mix first"
    if getattr(upstream.config, "do_stable_layer_norm", False) and heads.layers != (upstream.total_layers,):
        return "its last state ends in a norm, which transformers' classifiers compute only where they read it alone"
    return ""


def export_transformers(trained: TrainedModel, directory: Path) -> list[str]:
    """Write the classifier and, where one state is read for characters, the recogniser of a model without `obstacle`.

    Returns the folders' names.
    """
    _save(_classifier(trained), trained, directory / CLASSIFIER)
    heads = trained.model.settings
    if heads.ctc_layers != (len(trained.model.upstream.layers),) or heads.projection:
        return [CLASSIFIER]
    recogniser = directory / RECOGNISER
    tokens, ids = len(trained.tokenizer.tokens), {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    model = _with_encoder(AutoModelForCTC.from_config(_config(trained, vocab_size=tokens, **ids)), trained)
    model.lm_head.load_state_dict(trained.model.token_head.state_dict())
    _save(model, trained, recogniser)
    write_tokenizer(trained, recogniser)
    return [CLASSIFIER, RECOGNISER]


def _config(trained: TrainedModel, **values: Any) -> PretrainedConfig:
    """The upstream's configuration without our own keys, of the layers that it has."""
    config = trained.model.upstream.config
    kept = {key: value for key, value in config.to_dict().items() if key not in OUR_KEYS and not key.startswith("_")}
    kept["num_hidden_layers"] = len(trained.model.upstream.layers)
    return type(config)(**{**kept, "use_weighted_layer_sum": False, **values})


def _classifier(trained: TrainedModel) -> nn.Module:
    labels, heads, vector = dict(enumerate(trained.labels)), trained.model.settings, trained.model.vector
    names, width = {label: number for number, label in labels.items()}, trained.model.upstream.hidden_size
    weighted = heads.layers != (len(trained.model.upstream.layers),)
    config = _config(
        trained, id2label=labels, label2id=names, num_labels=len(labels), use_weighted_layer_sum=weighted,
        classifier_proj_size=heads.projection or width,
    )  # fmt: skip
    model = _with_encoder(AutoModelForAudioClassification.from_config(config), trained)
    with torch.no_grad():
        if weighted:
            model.layer_weights.fill_(UNREAD)
            scores = vector.mix.scores_n
            model.layer_weights[list(heads.layers)] = torch.zeros(1) if scores is None else scores.detach()
        if weighted and len(heads.layers) > 1:
            nn.init.eye_(model.projector.weight)
            nn.init.zeros_(model.projector.bias)
            if vector.projection:
                model.projector.load_state_dict(vector.projection.state_dict())
        else:  # what is done to one state is an affine map, whatever the settings; any speaker is the corpus's
            zero_1M = vector(torch.zeros(1, 1, width))
            model.projector.bias.copy_(zero_1M[0])
            model.projector.weight.copy_((vector(torch.eye(width)[:, None]) - zero_1M).T)
    model.classifier.load_state_dict(trained.model.emotion_head.state_dict())
    return model


def _with_encoder(model: Any, trained: TrainedModel) -> Any:
    getattr(model, model.base_model_prefix).load_state_dict(trained.model.upstream.model.state_dict())
    return model.eval()


def _save(model: Any, trained: TrainedModel, directory: Path) -> None:
    """Weights, configuration and the preprocessing of waveforms."""
    # They import torchaudio: after `before_transformers`.
    from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2FeatureExtractor

    model.save_pretrained(directory)
    if trained.model.upstream.config.model_type == "wav2vec2-bert":
        SeamlessM4TFeatureExtractor().save_pretrained(directory)
        return
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
