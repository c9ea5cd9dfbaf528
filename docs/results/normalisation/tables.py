"""The tables of speaker-normalisation.md, from the files of experiments, without code of the recipe.

    python docs/results/normalisation/tables.py --exp exp --corpus emodb --data data/emodb --probe_protocol kfold5

It reads what stages 4 and 5 of `local/compare_normalisation.sh` wrote: the outcome of each utterance, of each probe on
each utterance, what was recognised with other amounts of enrolled audio, and embeddings. Intervals are those of
`tests/recompute.py`: Student's t with the jackknife's errors over speakers and over seeds. Gender probes are logistic
regressions (scikit-learn) fitted here to the embeddings of the dev lists and tested on those of unseen speakers.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

import kaldiio
import numpy as np
import yaml
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

sys.path.append(str(Path(__file__).resolve().parents[3] / "tests"))
from recompute import ends, student  # noqa: E402

AMOUNTS = ["0", "1", "2", "5", "10", "20", "half", "all", "5_of_one_emotion"]
ORDER = ["none", "erase", "standardise", "erase+standardise", "grl"]
Rows = list[tuple[str, int, Any]]
"""Speaker, seed, and data of one utterance."""


def mean(values: list[float]) -> float:
    """The mean as a plain number."""
    return float(np.mean(values))


def shown(rows: Rows, least: float = 0.0) -> str:
    """Mean and interval as text, of shares or with ``least`` -1 of differences."""
    value, low, high = ends(student(mean, rows), least, 1.0)
    return f"{value:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")


def table(path: Path) -> dict[str, str]:
    """A table of the Kaldi kind: first word, and the rest of the line."""
    pairs = (line.rstrip("\n").partition(" ") for line in path.open(encoding="utf-8"))
    return {name: rest for name, _, rest in pairs}


class Method:
    """The experiments of one method under one protocol, all seeds."""

    def __init__(self, experiments: list[tuple[int, Path]]):
        self.folds = [(seed, fold) for seed, exp in experiments for fold in sorted(exp.glob("*/score_test"))]
        self.right: dict[tuple[str, str, int], float] = {}
        """By utterance, speaker and seed."""
        for seed, scored in self.folds:
            with (scored / "per_utt.tsv").open(encoding="utf-8") as file:
                for row in csv.DictReader(file, delimiter="\t"):
                    if row["ref"]:
                        self.right[row["utt"], row["spk"], seed] = float(row["ref"] == row["hyp"])

    @property
    def seeds(self) -> list[int]:
        """Of the experiments."""
        return sorted({seed for _, _, seed in self.right})

    def accuracy(self) -> str:
        """WA."""
        return shown([(speaker, seed, value) for (_, speaker, seed), value in self.right.items()])

    def difference(self, other: Method) -> str:
        """In WA, from another method on the same utterances and seeds."""
        both = self.right.keys() & other.right.keys()
        return shown([(key[1], key[2], self.right[key] - other.right[key]) for key in sorted(both)], -1.0)

    def enrolled(self, amount: str, emotions: dict[str, str]) -> float | None:
        """WA with another amount of audio of the test speaker."""
        files = [scored.parent / "decode_test" / "enrol" / amount for _, scored in self.folds]
        found = [(utt, label) for path in files if path.is_file() for utt, label in table(path).items()]
        return mean([float(emotions[utt] == label) for utt, label in found]) if found else None

    def hits(self, part: str, kind: str) -> dict[tuple[int, str, str, str], float]:
        """Share of the splits in which a probe is right, by seed, fold, utterance and speaker."""
        rows = {}
        for seed, scored in self.folds:
            found = json.loads((scored / "probe.json").read_text(encoding="utf-8"))[part]
            splits = found.get("hits", {}).get(kind, [])
            for number, speaker in enumerate(found.get("speakers", []) if splits else []):
                outcomes = [float(split[number]) for split in splits if split[number] != "-"]
                if outcomes:
                    rows[seed, scored.parent.name, found["utts"][number], speaker] = mean(outcomes)
        return rows

    def probe(self, part: str, kind: str, base: Method | None = None) -> str:
        """Accuracy of a speaker probe with its interval; or its difference from another method's."""
        own, other = self.hits(part, kind), base.hits(part, kind) if base else {}
        if not own:
            return "–"
        if base is None:
            return shown([(key[3], key[0], value) for key, value in own.items()])
        return shown([(key[3], key[0], own[key] - other[key]) for key in sorted(own.keys() & other.keys())], -1.0)

    def chance(self, part: str) -> float:
        """Accuracy of the linear probe with shuffled speakers."""
        files = [json.loads((scored / "probe.json").read_text(encoding="utf-8")) for _, scored in self.folds]
        hits, tests = np.sum([pair for found in files for pair in found[part]["chance"]["linear"]], axis=0)
        return float(hits / tests)

    def error_rate(self) -> float | None:
        """Mean over folds and seeds of the equal error rate between unseen speakers."""
        found = [json.loads((scored / "probe.json").read_text())["verification"]["eer"] for _, scored in self.folds]
        return mean([one for one in found if one is not None]) if any(one is not None for one in found) else None

    def gender(self, genders: dict[str, str], speakers: dict[str, str]) -> str:
        """Accuracy on unseen speakers of a gender probe that is fitted to the dev lists."""
        rows = []
        for seed, scored in self.folds:
            parts = json.loads((scored / "probe.json").read_text(encoding="utf-8"))
            vectors = {
                part: kaldiio.load_scp(str(scored.parent / f"decode_{name}" / "emb.scp"))
                for part, name in (("held_out", "dev"), ("unseen", "test"))
            }
            if not parts["unseen"].get("utts"):
                continue
            known, new = ([(utt, vectors[part][utt]) for utt in parts[part]["utts"]] for part in ("held_out", "unseen"))
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
            model.fit(np.stack([vector for _, vector in known]), [genders[speakers[utt]] for utt, _ in known])
            guesses = model.predict(np.stack([vector for _, vector in new]))
            for (utt, _), guess in zip(new, guesses, strict=True):
                rows.append((speakers[utt], seed, float(guess == genders[speakers[utt]])))
        return shown(rows) if rows else "–"


def methods(exp: Path, corpus: str, protocol: str) -> dict[str, Method]:
    """Method -> its experiments; reversed gradients last, by beta."""
    found: dict[tuple[int, float, str], list[tuple[int, Path]]] = {}
    for config in sorted(exp.glob(f"{corpus}_{protocol}_*/scores.json")):
        folds = sorted(config.parent.glob("*/config.yaml"))
        settings = yaml.safe_load(folds[0].read_text(encoding="utf-8"))
        name = settings["spk_norm"]
        place = ORDER.index(name), settings["beta"]
        if name == "grl":
            name = f"grl, projection {settings['projection']}, β {settings['beta']:g}"
        elif "standardise" in name:
            name += f", {settings['enrol']}"
        found.setdefault((*place, name), []).append((settings["seed"], config.parent))
    return {key[2]: Method(found[key]) for key in sorted(found)}


def base(made: dict[str, Method], name: str) -> Method:
    """What a method is compared with: a reversed gradient with β 0, the others with none."""
    return next((m for n, m in made.items() if name.startswith("grl") and n.endswith("β 0")), made["none"])


def line(*cells: object) -> None:
    """Print a row."""
    print("| " + " | ".join(f"{c:.3f}" if isinstance(c, float) else "–" if c is None else str(c) for c in cells) + " |")


def head(*names: str) -> None:
    """Print a table's head."""
    print()
    line(*names)
    line(*["---"] * len(names))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--exp", type=Path, required=True)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--probe_protocol", required=True, help="kfold5, kfold3, ...")
    args = parser.parse_args()
    emotions, speakers = table(args.data / "utt2emo"), table(args.data / "utt2spk")
    genders = table(args.data / "spk2gender") if (args.data / "spk2gender").is_file() else {}

    made = methods(args.exp, args.corpus, "speaker")
    head("`--spk_norm`", "seeds", "WA", "difference")
    for name, method in made.items():
        zero = base(made, name)
        same = method is zero
        line(name, " ".join(map(str, method.seeds)), method.accuracy(), "" if same else method.difference(zero))
    head("enrolled", *AMOUNTS)
    for name, method in made.items():
        if "standardise" in name:
            line(name, *(method.enrolled(amount, emotions) for amount in AMOUNTS))

    made = methods(args.exp, args.corpus, args.probe_protocol)
    for part in ("held_out", "unseen"):
        own = ["head", "refit"] if part == "held_out" else []
        head(part, "seeds", "linear", "difference", "chance, linear", "nearest neighbour", "perceptron", *own)
        for name, method in made.items():
            zero = base(made, name)
            change = "" if method is zero else method.probe(part, "linear", zero)
            others = [method.probe(part, kind) for kind in ("nearest", "mlp", *own)]
            seeds = " ".join(map(str, method.seeds))
            line(name, seeds, method.probe(part, "linear"), change, method.chance(part), *others)
    head("unseen", "EER", "gender, linear", "WA")
    for name, method in made.items():
        line(name, method.error_rate(), method.gender(genders, speakers) if genders else "–", method.accuracy())


if __name__ == "__main__":
    main()
