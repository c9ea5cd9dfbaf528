"""Training and decoding settings: frozen dataclasses from YAML, documented field by field."""

import dataclasses
import difflib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

from sermtl.errors import UserError

T = TypeVar("T")
DEEPEST = 20  # values within values of a YAML file; settings need three
LEAST = dict.fromkeys("alpha beta save_minutes weight_decay grad_clip adam_eps spk_shrink freq_masks".split(), 0)
LEAST |= dict.fromkeys("time_masks num_workers projection updates head_learning_rate speaker_learning_rate".split(), 0)
LEAST |= dict.fromkeys("epochs batch_size bucket_batches accum_grad freq_mask_width time_mask_width nbpe".split(), 1)
GONE = {"freeze_feature_encoder": "give freeze: conv for true, freeze: none for false"}  # of earlier versions


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training; the defaults are those of ``conf/train.yaml``, which gives their sources."""

    upstream: str = "facebook/wav2vec2-base"
    """A transformers model id or folder, or a geometry ``conf/upstream/<name>.yaml`` (from scratch)."""
    feats_type: Literal["raw", "fbank", "stored"] = "raw"
    """What training reads: ``raw`` waveforms, ``fbank`` (80 log-mel bands, 10 ms), or ``stored``: what the frozen part
    of the upstream makes of each utterance, which stage 2 computes once."""
    alpha: float = 0.1
    """Weight of the CTC loss; 0 trains without characters."""
    beta: float = 0.1
    """Scale of the speaker head's gradient at the encoder; at 0 the encoder gets no gradient of the speaker loss."""
    grl: Literal["reverse", "forward"] = "reverse"
    """``reverse`` multiplies that gradient by -beta (adversarial), ``forward`` by +beta."""
    grl_schedule: Literal["constant", "dann"] = "constant"
    """``constant``, or ``dann``: beta times 2 / (1 + exp(-10 p)) - 1 over training progress p."""
    spk_norm: Literal["none", "grl", "erase", "standardise", "erase+standardise"] = "grl"
    """Speaker normalisation: by the gradient of ``beta`` (``grl``); by a linear map that hides the training speakers
    (``erase``); by each speaker's own statistics of other, unlabelled utterances (``standardise``)."""
    spk_statistics: Literal["mean", "mean_std"] = "mean"
    """What ``standardise`` takes of a speaker: means, or deviations too."""
    spk_shrink: float = 0.5
    """A speaker's statistics of n utterances count n / (n + k), the corpus's the rest; k is this times the variance
    within training speakers over that between them, of each dimension."""
    enrol: str = "all"
    """How many other utterances of a test speaker ``standardise`` gets: a number, ``half``, or ``all``."""
    speaker_head: Literal["linear", "mlp"] = "linear"
    """Of standardised vectors: a linear layer, or one with a hidden layer of 256 before it."""
    freeze: str = "none"
    """What keeps its weights: ``none``, ``conv`` (the convolutional front), a number k (front, projection, positions
    and the first k layers; heads then read states from k on), or ``all``. It runs in evaluation mode, without
    SpecAugment."""
    layers: str = "last"
    """Which hidden state the heads read: ``last``, a number (0 enters the first layer), or ``mix``: learned softmax
    weights over all. Layers above the highest one that is read are left out."""
    ctc_layers: str = ""
    """The same for the characters' head; empty: as ``layers``."""
    projection: int = 0
    """Size of a linear layer between what is pooled (or, for characters, a frame) and the heads; 0: none."""
    pooling: Literal["mean", "mean_std", "attention"] = "mean"
    """Of an utterance's frames: ``mean``, ``mean_std`` (means and deviations), or learned ``attention``."""
    pooled_norm: Literal["none", "train"] = "none"
    """``train``: each state and dimension, once pooled, is standardised by the training list; needs freeze all."""
    final_dropout: str = "auto"
    """Share of what the heads read that training drops; ``auto``: what the upstream's configuration says."""
    class_weights: Literal["none", "balanced"] = "none"
    """``balanced``: the emotion loss of class c is weighted by n / (C n_c), for n utterances of C classes, n_c of c."""
    sampling: Literal["natural", "balanced"] = "natural"
    """``balanced``: a pass draws as many utterances of each class (those of small classes several times)."""
    epochs: int = 100
    """Passes over the training list, or with ``updates`` blocks of so many updates."""
    updates: int = 0
    """Updates of an epoch, whose passes over the training list follow one another; 0: one pass."""
    batch_size: int = 8
    """Utterances an update."""
    bucket_batches: int = 16
    """This many shuffled batches are sorted by length together and divided again; 1 shuffles only."""
    accum_grad: int = 1
    """Parts into which an update's utterances are split to save memory; the update is the same."""
    learning_rate: float = 5e-5
    """Peak learning rate of AdamW."""
    head_learning_rate: float = 0.0
    """The same of all that is not the upstream; 0: as ``learning_rate``."""
    speaker_learning_rate: float = 0.0
    """The same of the speaker head; 0: as of the other heads."""
    warmup_ratio: float = 0.1
    """Share of the updates over which the learning rate climbs linearly."""
    lr_schedule: Literal["linear", "cosine", "constant"] = "linear"
    """After the warm-up: ``linear`` or ``cosine`` decay that is 0 one update after the last, or ``constant``."""
    weight_decay: float = 0.0
    """AdamW's decoupled decay, on weight matrices only."""
    adam_betas: tuple[float, ...] = (0.9, 0.999)
    """AdamW's two moment decays."""
    adam_eps: float = 1e-8
    """AdamW's epsilon."""
    grad_clip: float = 1.0
    """Largest norm of an update's gradient; 0 does not clip."""
    cmvn: Literal["utterance", "speaker", "global"] = "utterance"
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
    token_type: Literal["char", "bpe"] = "char"
    """``char``, or ``bpe`` trained on the fold's training text."""
    nbpe: int = 100
    """Size of the bpe vocabulary."""
    seed: int = 0
    """Every random draw is a function of (seed, epoch, utterance or update)."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """``float32``, ``bf16`` (autocast), or ``auto``: bf16 on a GPU that has it, and for a pretrained upstream on a CPU
    with AMX or AVX512-BF16, else float32; the same for all folds of an experiment."""
    layout: Literal["auto", "padded", "packed"] = "auto"
    """Batches: utterances ``padded`` to the longest, ``packed`` end to end, or ``auto``: packed from a width of 256 on,
    where the upstream can be. The outputs are the same; dropout draws other numbers."""
    select: Literal["last", "best"] = "last"
    """The model that is scored: the ``last`` epoch's, or the ``best`` on dev by ``select_by``."""
    select_by: Literal["ua", "wa"] = "ua"
    """``ua`` or ``wa``."""
    calibrate: bool = False
    """Whether the emotion posteriors of the model that is written are calibrated by a temperature fitted to dev."""
    random_dev: float = 0.0
    """Share of train and dev together that is drawn at random as dev; 0: the fold's own lists."""
    monitor_test: bool = False
    """Log test scores each epoch (the paper's figures). They select nothing and are marked."""
    max_nonfinite: float = 0.01
    """Share of an epoch's updates whose loss or gradient may be non-finite (and one may) before training stops;
    0 stops at the first."""
    save_minutes: float = 10.0
    """A checkpoint is written after each epoch (not within seconds of the last one), and within an epoch this many
    minutes after the last one."""
    cuda_graphs: bool = False
    """Whether a GPU trains the layers of packed utterances as CUDA graphs, which each new size of a batch is captured
    in; dropout draws other numbers."""
    deterministic: bool = False
    """Whether a GPU takes only algorithms that give the same bits each time, as a CPU always does; slower."""
    num_workers: int = 2
    """Loader processes."""
    in_memory: bool = False
    """Whether the training set is read once and kept, for file systems that are slow to read it each epoch."""

    def __post_init__(self) -> None:
        """Refuse values out of range, naming the key."""
        for key, hint in get_type_hints(TrainConfig).items():
            if get_origin(hint) is Literal:
                _choice(self, key, *get_args(hint))
        _number_or(self, "freeze", 1, "none", "conv", "all")
        _number_or(self, "layers", 0, "last", "mix")
        _number_or(self, "ctc_layers", 0, "", "last", "mix")
        _number_or(self, "enrol", 0, "half", "all")
        takes = f"0 with spk_norm {self.spk_norm}, which reverses no gradient"
        _check(self, "beta", not self.beta or self.spk_norm == "grl", takes)
        if self.feats_type == "stored" and self.freeze == "none":
            raise UserError("feats_type is 'stored', but freeze is 'none': nothing is frozen that could be stored")
        if self.class_weights == self.sampling == "balanced":
            raise UserError("class_weights and sampling are both 'balanced': rare classes would count twice; give one")
        if self.pooled_norm == "train" and self.freeze != "all":
            raise UserError(f"pooled_norm is 'train', which needs freeze 'all', not {self.freeze!r}: states would move")
        if self.beta and self.freeze == "all" and not self.projection:
            raise UserError(
                f"beta is {self.beta:g}, but with freeze 'all' and projection 0 nothing is trained before the heads "
                "whose gradient could be reversed; give --beta 0, or a projection"
            )
        if self.final_dropout != "auto":
            share = _typed(TrainConfig, "random_dev", self.final_dropout, "final_dropout")
            _check(self, "final_dropout", 0 <= share < 1, "auto, or a number in [0, 1)")
        for key, least in LEAST.items():
            _check(self, key, getattr(self, key) >= least, f"{least} or more")
        _check(self, "learning_rate", self.learning_rate > 0, "above 0")
        for key in ("warmup_ratio", "max_nonfinite", "random_dev"):
            _check(self, key, 0 <= getattr(self, key) <= 1, "between 0 and 1")
        two_decays = len(self.adam_betas) == 2 and all(0 <= value < 1 for value in self.adam_betas)
        _check(self, "adam_betas", two_decays, "two numbers in [0, 1)")
        _check(self, "speed_perturb", all(0.5 <= s <= 2 for s in self.speed_perturb), "speeds from 0.5 to 2")


@dataclass(frozen=True)
class DecodeConfig:
    """Settings of decoding (``conf/decode.yaml``)."""

    batch_size: int = 16
    """Utterances a batch, of similar length; outputs do not depend on it."""
    decode_train: bool = False
    """Whether the training list is decoded too (where it was once, it always is): a check of the speaker head."""

    def __post_init__(self) -> None:
        """Refuse values out of range, naming the key."""
        _check(self, "batch_size", self.batch_size >= 1, "1 or more")


def load_config(cls: type[T], path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> T:
    """Read ``cls`` from a YAML file, then apply ``key=value`` overrides (values are YAML too).

    `UserError` with file and key for an unknown key, or a value of another type or out of range.
    """
    values = read_yaml(path)
    typed = {key: _typed(cls, key, value, str(path)) for key, value in values.items()}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or "\n" in text:  # YAML would make a space of a line break
            raise UserError(f"--set {override!r}: expected key=value, in one line")
        typed[key] = _typed(cls, key, _parse(text, f"--set {override}"), f"--set {override}")
    no_beta = {"beta": 0.0} if cls is TrainConfig and typed.get("spk_norm", "grl") != "grl" else {}
    try:
        return cls(**(no_beta | typed))
    except UserError as error:
        raise UserError(f"{path}{' with --set' if overrides else ''}: {error}") from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file's mapping of strings (an empty file is an empty one); `UserError` where it has none."""
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
    if key in GONE:
        raise UserError(f"{where}: {key} is gone; {GONE[key]}")
    if key not in hints:
        raise UserError(f"{where}: unknown key {key!r}{nearest(key, list(hints))}; known: {', '.join(hints)}")
    wanted = str if get_origin(hints[key]) is Literal else hints[key]
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
    if (key, value) == ("feats_type", "conv"):
        raise UserError("feats_type 'conv' is gone; give feats_type: stored and freeze: conv")
    if value not in known:
        raise UserError(f"{key} is {value!r}{nearest(str(value), list(known))}; it takes {' or '.join(known)}")


def _number_or(config: Any, key: str, least: int, *known: str) -> None:
    value = getattr(config, key)
    if not (value.isdecimal() and int(value) >= least):
        _check(config, key, value in known, f"{', '.join(filter(None, known))}, or a number from {least}")


def _check(config: Any, key: str, holds: bool, takes: str) -> None:
    if not holds:
        raise UserError(f"{key} is {getattr(config, key)!r}; it takes {takes}")


def as_dict(config: Any) -> dict[str, Any]:
    """The settings as plain YAML values."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()}
