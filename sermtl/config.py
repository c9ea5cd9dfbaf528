"""Training and decoding settings: frozen dataclasses from YAML, documented field by field."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from sermtl.errors import UserError

T = TypeVar("T")
DEEPEST = 20
"""Values within values of a YAML file; settings need three."""
NOT_NEGATIVE = ["alpha", "beta", "save_minutes", "weight_decay", "grad_clip", "adam_eps"]
NOT_NEGATIVE += ["freq_masks", "time_masks", "num_workers"]
POSITIVE = ["epochs", "batch_size", "bucket_batches", "accum_grad", "freq_mask_width", "time_mask_width", "nbpe"]
"""Settings of training that take 0 or more, and 1 or more."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training; the defaults are those of ``conf/train.yaml``, which gives their sources."""

    upstream: str = "facebook/wav2vec2-base"
    """A transformers model id or folder, or a geometry ``conf/upstream/<name>.yaml`` (from scratch)."""
    feats_type: str = "raw"
    """What the upstream reads: ``raw`` waveforms, ``fbank`` (80 log-mel bands, 10 ms), or ``conv``: the outputs of its
    frozen convolutional encoder, which stage 2 stores."""
    alpha: float = 0.1
    """Weight of the CTC loss; 0 trains without characters."""
    beta: float = 0.1
    """Scale of the speaker head's gradient at the encoder; at 0 the encoder gets no gradient of the speaker loss."""
    grl: str = "reverse"
    """``reverse`` multiplies that gradient by -beta (adversarial), ``forward`` by +beta."""
    grl_schedule: str = "constant"
    """``constant``, or ``dann``: beta times 2 / (1 + exp(-10 p)) - 1 over training progress p."""
    freeze_feature_encoder: bool = False
    """Whether the convolutional encoder of a pretrained upstream keeps its weights."""
    epochs: int = 100
    """Passes over the training list."""
    batch_size: int = 8
    """Utterances an update."""
    bucket_batches: int = 16
    """This many shuffled batches are sorted by length together and divided again; 1 shuffles only."""
    accum_grad: int = 1
    """Parts into which an update's utterances are split to save memory; the update is the same."""
    learning_rate: float = 5e-5
    """Peak learning rate of AdamW."""
    warmup_ratio: float = 0.1
    """Share of the updates over which the learning rate climbs linearly."""
    lr_schedule: str = "linear"
    """Decay after the warm-up: ``linear`` or ``cosine``, to 0 at the last update."""
    weight_decay: float = 0.0
    """AdamW's decoupled decay, on weight matrices only."""
    adam_betas: tuple[float, ...] = (0.9, 0.999)
    """AdamW's two moment decays."""
    adam_eps: float = 1e-8
    """AdamW's epsilon."""
    grad_clip: float = 1.0
    """Largest norm of an update's gradient; 0 does not clip."""
    cmvn: str = "utterance"
    """Mean and variance of fbank are taken by ``utterance``, ``speaker`` or training set (``global``)."""
    norm_vars: bool = True
    """Whether fbank normalisation divides by the deviation too, or takes off the mean only."""
    speed_perturb: tuple[float, ...] = ()
    """Speeds of which each epoch draws one an utterance, e.g. [0.9, 1.0, 1.1]; dumped by stage 2."""
    freq_masks: int = 0
    """SpecAugment on fbank input: number of frequency masks."""
    freq_mask_width: int = 12
    """Largest width of a frequency mask, in bands."""
    time_masks: int = 0
    """SpecAugment on fbank input: number of time masks."""
    time_mask_width: int = 20
    """Largest width of a time mask, in frames of 10 ms (never over a fifth of the utterance)."""
    token_type: str = "char"
    """``char``, or ``bpe`` trained on the fold's training text."""
    nbpe: int = 100
    """Size of the bpe vocabulary."""
    seed: int = 0
    """Every random draw is a function of (seed, epoch, utterance or update)."""
    precision: str = "auto"
    """``float32``, ``bf16`` (autocast), or ``auto``: bf16 on a GPU that has it, and for a pretrained upstream on a CPU
    with AMX or AVX512-BF16, else float32; the same for all folds of an experiment."""
    layout: str = "auto"
    """Batches: utterances ``padded`` to the longest, ``packed`` end to end, or ``auto``: packed on a CPU where the
    upstream is wide enough to gain by it (256). The outputs are the same; dropout draws other numbers."""
    select: str = "last"
    """The model that is scored: the ``last`` epoch's, or the ``best`` on dev by UA."""
    monitor_test: bool = False
    """Log test scores each epoch (the paper's figures). They select nothing and are marked."""
    max_nonfinite: float = 0.01
    """Share of an epoch's updates whose loss or gradient may be non-finite (and one may) before training stops;
    0 stops at the first."""
    save_minutes: float = 10.0
    """A checkpoint is written after each epoch, and within an epoch this many minutes after the last one."""
    deterministic: bool = False
    """Whether a GPU takes only algorithms that give the same bits each time, as a CPU always does; slower."""
    num_workers: int = 2
    """Loader processes."""
    in_memory: bool = False
    """Whether the training set is read once and kept, for file systems that are slow to read it each epoch."""

    def __post_init__(self) -> None:
        """Refuse values out of range, naming the key."""
        _choice(self, "feats_type", "raw", "fbank", "conv")
        _choice(self, "grl", "reverse", "forward")
        _choice(self, "grl_schedule", "constant", "dann")
        _choice(self, "lr_schedule", "linear", "cosine")
        _choice(self, "cmvn", "utterance", "speaker", "global")
        _choice(self, "token_type", "char", "bpe")
        _choice(self, "precision", "auto", "float32", "bf16")
        _choice(self, "layout", "auto", "padded", "packed")
        _choice(self, "select", "last", "best")
        if self.feats_type == "conv" and not self.freeze_feature_encoder:
            raise UserError(
                "feats_type is 'conv', stored outputs of the convolutional encoder, which freeze_feature_encoder=false "
                'trains; give --train_args "--set freeze_feature_encoder=true", or use feats_type raw'
            )
        for key in NOT_NEGATIVE:
            _check(self, key, getattr(self, key) >= 0, "0 or more")
        for key in POSITIVE:
            _check(self, key, getattr(self, key) >= 1, "1 or more")
        _check(self, "learning_rate", self.learning_rate > 0, "above 0")
        for key in ("warmup_ratio", "max_nonfinite"):
            _check(self, key, 0 <= getattr(self, key) <= 1, "between 0 and 1")
        two_decays = len(self.adam_betas) == 2 and all(0 <= value < 1 for value in self.adam_betas)
        _check(self, "adam_betas", two_decays, "two numbers in [0, 1)")
        _check(self, "speed_perturb", all(0.5 <= s <= 2 for s in self.speed_perturb), "speeds from 0.5 to 2")


@dataclass(frozen=True)
class DecodeConfig:
    """Settings of decoding (``conf/decode.yaml``)."""

    batch_size: int = 16
    """Utterances a batch, of similar length; outputs do not depend on it."""

    def __post_init__(self) -> None:
        """Refuse values out of range, naming the key."""
        _check(self, "batch_size", self.batch_size >= 1, "1 or more")


def load_config(cls: type[T], path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> T:
    """Read ``cls`` from a YAML file, then apply ``key=value`` overrides (values are YAML too).

    Raises:
        UserError: The file is missing or not a mapping; a key is unknown; a value has the wrong type
            or range. The message names the file and the key.
    """
    values = read_yaml(path)
    typed = {key: _typed(cls, key, value, str(path)) for key, value in values.items()}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or "\n" in text:  # YAML would make a space of a line break
            raise UserError(f"--set {override!r}: expected key=value, in one line")
        typed[key] = _typed(cls, key, _parse(text, f"--set {override}"), f"--set {override}")
    try:
        return cls(**typed)
    except UserError as error:
        raise UserError(f"{path}{' with --set' if overrides else ''}: {error}") from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file's mapping of strings (an empty file is an empty one).

    Raises:
        UserError: The file is missing, no YAML, or no mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    values = _parse(text, str(path))
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"{path}: expected lines of `key: value`")
    return values


def nearest(word: str, known: list[str]) -> str:
    """A hint ``" (did you mean X?)"``, or nothing where no known word is near."""
    close = difflib.get_close_matches(word, known, 1)
    return f" (did you mean {close[0]}?)" if close else ""


def experiment_tag(corpus: str, protocol: str, config_name: str, config: TrainConfig, extra: list[str]) -> str:
    """The name of an experiment's directory; each combination of settings has its own.

    Args:
        corpus: Name of the data directory.
        protocol: Name of the fold protocol.
        config_name: Stem of the training configuration's file.
        config: The resolved settings.
        extra: Further ``key=value`` settings from the command line.
    """
    in_name = {"upstream", "alpha", "beta", "grl", "seed"}
    upstream = re.sub(r"\.ya?ml$", "", Path(config.upstream).name) or config.upstream
    parts = [corpus, protocol, upstream, config_name]
    parts += [f"alpha{config.alpha:g}", f"beta{config.beta:g}", config.grl, f"seed{config.seed}"]
    parts += [word for word in sorted(extra) if word.partition("=")[0] not in in_name]
    return "_".join(re.sub(r"[^A-Za-z0-9.+-]+", "-", part).strip("-") for part in parts)


def _parse(text: str, where: str) -> Any:
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            # A few lines of aliases unfold to gigabytes when the value is printed.
            if depth > DEEPEST or isinstance(event, yaml.AliasEvent):
                raise UserError(f"{where}: values more than {DEEPEST} deep, or aliases (*name), are not read")
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{where}: not valid YAML: {error}") from error


def _typed(cls: type, key: str, value: Any, where: str) -> Any:
    """Convert a YAML value to its field's type, or say what the field takes."""
    hints = get_type_hints(cls)
    if key not in hints:
        raise UserError(f"{where}: unknown key {key!r}{nearest(key, list(hints))}; known: {', '.join(hints)}")
    wanted = hints[key]
    if wanted is float and not isinstance(value, bool):
        try:  # YAML 1.1 reads 1e-4 as a string
            number = float(value)
            if math.isfinite(number):
                return number
        except (TypeError, ValueError):
            pass
    elif wanted is tuple or getattr(wanted, "__origin__", None) is tuple:
        items = value if isinstance(value, list) else [value] if value not in (None, "") else []
        if all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in items):
            return tuple(float(item) for item in items)
    elif isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool)):
        return value
    elif wanted is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    kind = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    raise UserError(f"{where}: {key} takes {kind.get(wanted, 'a list of numbers')}, not {repr(value)[:100]}")


def _choice(config: Any, key: str, *known: str) -> None:
    value = getattr(config, key)
    if value not in known:
        raise UserError(f"{key} is {value!r}{nearest(str(value), list(known))}; it takes {' or '.join(known)}")


def _check(config: Any, key: str, holds: bool, takes: str) -> None:
    if not holds:
        raise UserError(f"{key} is {getattr(config, key)!r}; it takes {takes}")


def as_dict(config: Any) -> dict[str, Any]:
    """The settings as plain YAML values."""
    values = dataclasses.asdict(config)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
