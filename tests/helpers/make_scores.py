"""Make-believe experiments: decoded folds for tests of stage 5, scored ones for tests of stage 6.

``python tests/helpers/make_scores.py --root DIR --experiments 50`` writes score files of the size of IEMOCAP's ten
folds, to time the report; nothing in them is speech or text from any corpus.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sermtl.fileio.ark import write_ark
from sermtl.fileio.files import write_json
from sermtl.fileio.tables import write_list, write_table
from sermtl.score import metrics, score_folds
from sermtl.score import result_files as results
from sermtl.score.score_files import Utterance, write_utterances
from sermtl.score.speaker_probe import probe_fold

LABELS = ["ang", "hap", "neu", "sad"]
WORDS = "ALPHA BRAVO CHARLIE DELTA ECHO FOXTROT GOLF HOTEL INDIA JULIETT KILO LIMA".split()


def make_data(root: Path, speakers: int = 4, utterances: int = 24, seed: int = 0, dev: int = 0) -> Path:
    """A data directory ``data/toy`` with one fold a speaker; ``dev`` utterances of each other speaker are its dev."""
    random = np.random.default_rng(seed)
    data = root / "data" / "toy"
    names = [f"{number // 2 + 1:02d}{'FM'[number % 2]}" for number in range(speakers)]
    utts = [f"{names[i % speakers]}-toy_{i // speakers:04d}" for i in range(utterances)]
    spk = {utt: utt.split("-")[0] for utt in utts}
    write_table(data / "utt2spk", spk)
    write_table(data / "utt2emo", {utt: random.choice(LABELS) for utt in utts})
    write_table(data / "text", {utt: " ".join(random.choice(WORDS, random.integers(1, 9))) for utt in utts})
    write_table(data / "utt2style", {utt: random.choice(["improvised", "scripted"]) for utt in utts})
    folds = data / "folds" / "speaker"
    write_list(folds / "folds", names)
    for fold in names:
        write_list(folds / fold / "test", [utt for utt in utts if spk[utt] == fold])
        others = [utt for utt in utts if spk[utt] != fold]
        held_out = [utt for utt in others if int(utt[-4:]) < dev]
        write_list(folds / fold / "dev", held_out)
        write_list(folds / fold / "train", set(others) - set(held_out))
        audit = {"speaker_dependent": False, "speakers_shared_train_test": 0, "transcripts_shared_train_test": 3}
        (folds / fold / "audit.json").write_text(json.dumps(audit))
    return data


def make_decoded(data: Path, exp: Path, fold: str, settings: Mapping[str, Any], skill: float = 0.7) -> None:
    """``exp/<fold>``: what stages 3 and 4 leave behind, the hypotheses right with chance ``skill``."""
    random = np.random.default_rng([len(fold), *fold.encode(), int(settings.get("seed", 0))])
    utts = [line.strip() for line in (data / "folds/speaker" / fold / "test").open()]
    emo = dict(line.split() for line in (data / "utt2emo").open())
    text = dict(line.rstrip("\n").partition(" ")[::2] for line in (data / "text").open())
    trained = sorted({line.split("-")[0] for line in (data / "folds/speaker" / fold / "train").open()})
    out = exp / fold / "decode_test"
    keep = lambda: random.random() < skill  # noqa: E731
    write_table(out / "utt2emo", {u: emo[u] if keep() else random.choice(LABELS) for u in utts})
    write_table(out / "text", {u: " ".join(w for w in text[u].split() if keep()) for u in utts})
    write_table(out / "utt2spk", {u: random.choice(trained) for u in utts})
    write_list(exp / "labels.txt", LABELS)
    config = {"corpus": "toy", "protocol": "speaker", "fold": fold, **settings}
    (exp / fold / "config.yaml").write_text("".join(f"{key}: {value}\n" for key, value in config.items()))


def make_history(path: Path, epochs: int, seed: int = 0, test: bool = True) -> None:
    """A ``history.jsonl`` of a training that gets better."""
    random = np.random.default_rng(seed)
    lines = []
    for epoch in range(1, epochs + 1):
        line: dict[str, Any] = {"epoch": epoch, "lr": 1e-3 / epoch, "seconds": 60.0, "train": {"loss": 9.0 / epoch}}
        if test:
            wa = 0.75 - 0.5 / epoch + 0.01 * random.standard_normal()
            line["monitor_test"] = {"wa": wa, "wer": 0.24 + 0.7 / epoch}
        lines.append(json.dumps(line) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines))


def make_scored(
    data: Path, exp: Path, settings: Mapping[str, Any], folds: Sequence[str], rows: Mapping[str, Sequence[Utterance]]
) -> None:
    """``exp``: stage 5's files for given utterances, by the pooling that the recipe uses."""
    for fold in folds:
        out = exp / fold / "score_test"
        part = list(rows[fold])
        confusion = metrics.confusion_matrix([r.ref for r in part], [r.hyp for r in part], LABELS)
        edits = [metrics.count_edits("", "") | {"no_reference": 0, "utterances": 1} | r._asdict() for r in part]
        scores = {
            "protocol": settings.get("protocol", "speaker"), "speaker_dependent": settings.get("protocol") == "paper",
            "folds": [fold], "settings": {"corpus": data.name, "protocol": "speaker", "fold": fold, **settings},
            "ser": metrics.emotion_scores(confusion, LABELS) | {"no_reference": 0},
            "asr": metrics.asr_scores(edits),
            "spk": {"acc": None, "reason": "1 of 1 test speakers were not trained on"},
            "audit": {"speakers_shared_train_test": 0},
        }  # fmt: skip
        write_utterances(out / "per_utt.tsv", part)
        write_json(out / "scores.json", scores)
    names = [line.strip() for line in (data / "folds/speaker/folds").open()]
    pooled = score_folds.pool_folds(exp, names)
    (exp / "RESULTS.md").write_text(results.results_md(exp.name, pooled))
    write_json(exp / "scores.json", pooled)


def make_rows(data: Path, seed: int, skill: float) -> dict[str, list[Utterance]]:
    """Random outcomes of every test utterance, by fold."""
    random = np.random.default_rng(seed)
    spk = dict(line.split() for line in (data / "utt2spk").open())
    emo = dict(line.split() for line in (data / "utt2emo").open())
    words = {line.split()[0]: len(line.split()) - 1 for line in (data / "text").open()}
    rows: dict[str, list[Utterance]] = {}
    for utt, speaker in spk.items():
        hyp = emo[utt] if random.random() < skill else random.choice(LABELS)
        errors = int(random.binomial(words[utt], 0.3))
        conf = float(random.uniform(0.25, 1))
        posteriors = conf, conf if hyp == emo[utt] else (1 - conf) * float(random.random())
        edits = words[utt], errors, 5 * words[utt], 2 * errors
        row = Utterance(utt, speaker, emo[utt], str(hyp), *edits, "", *(round(value, 6) for value in posteriors))
        rows.setdefault(speaker, []).append(row)
    return rows


def make_embeddings(
    data: Path, fold: Path, spread: float, seed: int = 0, parts: Sequence[str] = ("dev", "test")
) -> None:
    """Embeddings of a fold's lists: a cloud a speaker, ``spread`` apart, with emotion in another direction."""
    spk = dict(line.split() for line in (data / "utt2spk").open())
    emo = dict(line.split() for line in (data / "utt2emo").open())
    centre = {name: np.random.default_rng([7, *name.encode()]).normal(size=16) for name in sorted(set(spk.values()))}
    random = np.random.default_rng([seed, *fold.name.encode()])
    fold.mkdir(parents=True, exist_ok=True)
    if not (fold / "config.yaml").exists():
        (fold / "config.yaml").write_text("spk_norm: grl\n")
    for part in parts:
        utts = [line.strip() for line in (data / "folds/speaker" / fold.name / part).open()]
        decoded = fold / f"decode_{part}"
        with write_ark(decoded / "emb.ark") as writer:
            for utt in utts:
                vector = spread * centre[spk[utt]] + random.normal(size=16)
                vector[LABELS.index(emo[utt])] += 4
                writer.write_array(utt, vector)
        write_table(decoded / "emb.scp", writer.scp)
        write_table(decoded / "utt2spk", {utt: random.choice(sorted(centre)) for utt in utts})


def grid(root: Path, data: Path, experiments: int, epochs: int = 0, embeddings: int = 0) -> list[Path]:
    """The paper's settings, seed after seed, up to a number; the first ``embeddings`` have embeddings."""
    settings = [
        ("reverse", 0.0, 0.1),
        *((g, b, 0.1) for g in ("reverse", "forward") for b in (0.1, 1.0)),
        ("reverse", 0.0, 0.0),
    ]
    made: list[Path] = []
    names = [line.strip() for line in (data / "folds/speaker/folds").open()]
    for number in range(experiments):
        grl, beta, alpha = settings[number % len(settings)]
        seed = number // len(settings)
        values = {"upstream": "small", "alpha": alpha, "beta": beta, "grl": grl, "seed": seed, "epochs": 2}
        exp = root / "exp" / f"toy_speaker_small_alpha{alpha:g}_beta{beta:g}_{grl}_seed{seed}"
        make_scored(data, exp, values, names, make_rows(data, 1000 + number, 0.6 + 0.02 * (number % 5)))
        for fold in names if epochs else []:
            make_history(exp / fold / "history.jsonl", epochs, number)
        for fold in names if number < embeddings else []:
            make_embeddings(data, exp / fold, 0.4 + beta * (0.6 if grl == "reverse" else 0.2), seed)
            found = probe_fold(exp / fold, data, data / "folds/speaker" / fold)
            write_json(exp / fold / "score_test/probe.json", found)
        made.append(exp)
    return made


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--experiments", type=int, default=50)
    parser.add_argument("--speakers", type=int, default=10)
    parser.add_argument("--utterances", type=int, default=5531)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--dev", type=int, default=0, help="dev utterances of each speaker; with embeddings if above 0")
    args = parser.parse_args()
    data = make_data(args.root, args.speakers, args.utterances, dev=args.dev)
    grid(args.root, data, args.experiments, args.epochs, args.experiments if args.dev else 0)


if __name__ == "__main__":
    main()
