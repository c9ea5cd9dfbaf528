"""Everything a fold is trained and tested on: its lists, tables, dump and token list, joined by utterance id."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sermtl.config import TrainConfig
from sermtl.data.dataset import Example, FoldDataset, feature_stats
from sermtl.errors import UserError
from sermtl.fileio.ark import DUMP_DIGESTS, DUMP_SAMPLES, DUMP_TABLES
from sermtl.fileio.stamp import refuse_damaged
from sermtl.fileio.tables import PARTS, UNKNOWN, known_speakers, read_list, read_table
from sermtl.model.front_end import FrontEnd
from sermtl.seeding import generator
from sermtl.text.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True)
class FoldData:
    """A fold's examples and what its heads' outputs mean."""

    examples: Mapping[str, list[Example]]
    """``train``, ``dev`` and ``test``."""
    labels: list[str]
    """Emotion classes of the corpus, in logit order (sorted)."""
    speakers: list[str]
    """Known training speakers, in logit order (sorted); ``unknown`` alone where there is none."""
    tokenizer: Tokenizer
    perturbed: Mapping[float, Mapping[str, Example]]
    """Speed -> utterance -> its perturbed copy."""
    texts: Mapping[str, str]
    """Utterance -> normalised transcript."""
    of_speaker: Mapping[str, list[Example]]
    """Speaker -> all of its utterances, without targets."""
    digest: str
    """Digest of lists, labels, transcripts, tokens and dumped audio: what a training depends on."""
    dump: Path
    """The dump directory."""


def load_fold(
    data: Path, fold_dir: Path | None, dump: Path, tokens: Path, config: TrainConfig, dump_name: str | None = None
) -> FoldData:
    """Join a fold's inputs.

    Args:
        data: Data directory with utt2emo, utt2spk and text.
        fold_dir: Directory with the lists ``train``, ``dev`` and ``test``; None: all utterances are ``test``.
        dump: Parent of the dump directories ``<feats_type>`` and ``<feats_type>_sp<speed>``.
        tokens: Directory with the fold's ``tokens.txt``.
        config: The training settings.
        dump_name: The dump directory's name where it is not ``<feats_type>`` (``stored/<digest>``).

    `UserError` where a file is missing (naming the stage that makes it), ids do not fit together, or a list cannot be
    trained on.
    """
    dump = dump / (dump_name or config.feats_type)
    dumped = read_dump(dump, config.feats_type)
    # Stored outputs make the batches that their audio makes: frames alone would leave ties.
    samples = read_table(dump / DUMP_SAMPLES) if config.feats_type == "stored" else {}
    emotions, speakers_of = read_table(data / "utt2emo"), read_table(data / "utt2spk")
    texts = read_table(data / "text")
    if fold_dir and not (fold_dir / "train").is_file():
        raise UserError(f"{fold_dir}/train is missing; run ./run.sh --stage 1 first")
    lists = {"train": [], "dev": [], "test": list(speakers_of)}
    if fold_dir:
        lists = {part: read_list(fold_dir / part) for part in PARTS}
    if config.random_dev:
        lists["train"], lists["dev"] = random_dev(lists["train"] + lists["dev"], config.random_dev, config.seed)
    tokenizer = load_tokenizer(tokens)
    for part, utterances in lists.items():
        _refuse_unknown(fold_dir / part if fold_dir else data / "utt2spk", utterances, dumped, dump)
        _refuse_unknown(fold_dir / part if fold_dir else data, utterances, speakers_of, data / "utt2spk")
    known = known_speakers(speakers_of)
    if fold_dir:
        if not lists["train"]:
            raise UserError(f"{fold_dir}/train is empty: this fold has no training data; choose another protocol")
        if not any(emotions.get(utterance) for utterance in lists["train"]):
            raise UserError(f"{fold_dir}/train: no utterance has an emotion label")
        for speaker, count in Counter(speakers_of[utterance] for utterance in lists["train"]).items():
            if count == 1 and speaker in known:
                print(f"warning: {fold_dir}/train: speaker {speaker} has a single utterance", flush=True)
    labels = sorted(set(emotions.values()) - {""})
    speakers = sorted({speakers_of[utterance] for utterance in lists["train"]} & known) or [UNKNOWN]
    label_ids = {label: number for number, label in enumerate(labels)}
    speaker_ids = {speaker: number for number, speaker in enumerate(speakers) if speaker in known}

    def example(utterance: str) -> Example:
        speaker = speakers_of[utterance]
        return replace(
            dumped[utterance],
            speaker_name=speaker,
            emotion=label_ids.get(emotions.get(utterance, ""), -1),
            speaker=speaker_ids.get(speaker, -1),
            tokens=tuple(tokenizer.encode(texts.get(utterance, ""))),
            samples=int(samples.get(utterance, 0)),
        )

    examples = {part: [example(utterance) for utterance in lists[part]] for part in PARTS}
    perturbed = {}
    for name, speed in ((f"sp{speed:g}", speed) for speed in config.speed_perturb if speed != 1.0):
        directory = dump.with_name(f"{dump.name}_{name}")
        copies = read_dump(directory, config.feats_type)
        _refuse_unknown(directory, [f"{name}-{utterance}" for utterance in lists["train"]], copies, directory)
        perturbed[speed] = {utterance: copies[f"{name}-{utterance}"] for utterance in lists["train"]}
    by_speaker: dict[str, list[Example]] = {}
    for utterance, speaker in speakers_of.items():
        if utterance in dumped:
            by_speaker.setdefault(speaker, []).append(dumped[utterance])
    digest = _digest(examples, labels, speakers, tokenizer.tokens)
    return FoldData(examples, labels, speakers, tokenizer, perturbed, texts, by_speaker, digest, dump)


def random_dev(utterances: list[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """Train and dev: of these utterances, a share that is drawn at random is dev."""
    drawn = generator(seed, "dev").permutation(len(utterances))[: round(share * len(utterances))]
    dev = {utterances[index] for index in drawn}
    return [name for name in utterances if name not in dev], [name for name in utterances if name in dev]


def read_dump(dump: Path, feats_type: str) -> dict[str, Example]:
    """A dump directory's examples without speakers and targets; `UserError` where its tables lack or differ."""
    scp_name, lengths_name = DUMP_TABLES[feats_type]
    if not (dump / scp_name).is_file():
        others = sorted(p.name for p in dump.parent.glob("*/feats.scp")) if feats_type == "stored" else []
        there = f" ({len(others)} of other upstreams or forms are there)" if others else ""
        raise UserError(f"{dump / scp_name} is missing{there}; run ./run.sh --stage 2 first")
    entries, values, checksums = (read_table(dump / name) for name in (scp_name, lengths_name, DUMP_DIGESTS))
    for utterance, value in values.items():
        if not value.isdecimal():
            raise UserError(f"{dump / lengths_name}: {utterance} has no length, but {value!r}; rerun stage 2")
    for name, table in ((lengths_name, values), (DUMP_DIGESTS, checksums)):
        if entries.keys() != table.keys():
            raise UserError(f"{dump}: {scp_name} and {name} name different utterances; rerun stage 2")
    return {
        utterance: Example(utterance, entry, int(values[utterance]), "", checksum=checksums[utterance])
        for utterance, entry in entries.items()
    }


def _refuse_unknown(where: Path, utterances: list[str], table: Mapping[str, object], source: Path) -> None:
    unknown = [utterance for utterance in utterances if utterance not in table]
    if unknown:
        raise UserError(
            f"{where}: {len(unknown)} utterances are not in {source}, e.g. {unknown[0]}; "
            "the lists are of another preparation: rerun from stage 1"
        )


def refuse_cut_arks(examples: Iterable[Example]) -> None:
    """Refuse (`UserError`) arks of another size than stage 2 wrote; one without a stamp is not checked.

    Its content is compared when it is read, an utterance at a time: a large dump would take minutes here.
    """
    for ark in sorted({example.entry.rpartition(":")[0] for example in examples}):
        refuse_damaged(Path(ark).with_suffix(".json"), "rerun ./run.sh --stage 2", contents=False)


def _digest(examples: Mapping[str, list[Example]], labels: list[str], speakers: list[str], tokens: list[str]) -> str:
    digest = hashlib.sha256(repr((labels, speakers, tokens)).encode())
    for part in PARTS:
        for e in examples[part]:
            targets = (e.emotion, e.speaker, e.tokens)
            digest.update(repr((part, e.utterance, e.length, targets, e.checksum)).encode())
    return digest.hexdigest()


def speaker_statistics(
    config: TrainConfig, fold: FoldData, examples: Sequence[Example]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and deviation of each speaker's own unlabelled features, where ``cmvn: speaker`` asks for them."""
    if config.feats_type != "fbank" or config.cmvn != "speaker":
        return {}
    names = {example.speaker_name for example in examples}
    return {name: feature_stats(fold.of_speaker[name]) for name in sorted(names)}


def evaluation_set(front_end: FrontEnd, config: TrainConfig, fold: FoldData, part: str) -> FoldDataset:
    """A fold's list without augmentation."""
    examples = fold.examples[part]
    return FoldDataset(examples, front_end, speaker_stats=speaker_statistics(config, fold, examples))
