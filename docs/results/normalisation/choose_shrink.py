"""WA of standardised speakers by k of the shrinkage n / (n + k), on training speakers alone.

    python docs/results/normalisation/choose_shrink.py --data data/emodb --dump dump/emodb/stored/<digest> --state 3

The dump holds the pooled states of each utterance (stage 2 with freeze all). For each fold of ``--protocol speaker``,
each speaker of the training list is held out in turn: a linear support vector machine is trained on the others, each
standardised by all of the own utterances, and recognises the utterances of the one who is held out with the enrolments
that stage 4 writes. Test lists are not read. A row is a k: WA with each enrolment, over all folds and speakers.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

sys.path.append(str(Path(__file__).resolve().parents[3]))
from sermtl.data.dataset import Example  # noqa: E402
from sermtl.fileio.ark import read_matrix  # noqa: E402
from sermtl.fileio.tables import read_list, read_table  # noqa: E402
from sermtl.inference.enrol import CONDITIONS, enrolment  # noqa: E402

SHRINKS = (0, 1, 2, 5, 10, 20, 50)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dump", type=Path, required=True)
    parser.add_argument("--state", type=int, required=True)
    args = parser.parse_args()
    emotions, speakers = read_table(args.data / "utt2emo"), read_table(args.data / "utt2spk")
    scp = read_table(args.dump / "feats.scp")
    vectors = {utt: read_matrix(entry)[args.state].astype(np.float64) for utt, entry in scp.items()}
    folds = args.data / "folds" / "speaker"
    lists = [frozenset(read_list(folds / fold / "train")) for fold in read_list(folds / "folds")]
    right: Counter[tuple[int, str]] = Counter()
    tested = 0
    known: dict[frozenset[str], Counter[tuple[int, str]]] = {}  # two folds share most pairs of lists
    for train in lists:
        for held_out in sorted({speakers[utt] for utt in train}):
            test = sorted(utt for utt in train if speakers[utt] == held_out)
            fitted = frozenset(train) - frozenset(test)
            key = fitted | {f"test {held_out}"}
            if key not in known:
                known[key] = hits(vectors, speakers, emotions, sorted(fitted), test)
            right.update(known[key])
            tested += len(test)
    print("k", *CONDITIONS, sep="\t")
    for k in SHRINKS:
        print(k, *(f"{right[k, condition] / tested:.3f}" for condition in CONDITIONS), sep="\t")


def hits(
    vectors: dict[str, np.ndarray],
    speakers: dict[str, str],
    emotions: dict[str, str],
    train: list[str],
    test: list[str],
) -> Counter[tuple[int, str]]:
    """How many of one speaker's utterances are recognised, by k and enrolment."""
    train_UP = np.stack([vectors[utt] for utt in train])
    corpus_P, names = train_UP.mean(0), np.array([speakers[utt] for utt in train])
    classes = sorted(set(emotions.values()))
    examples = {utt: Example(utt, "", 0, speakers[utt], emotion=classes.index(emotions[utt])) for utt in test}
    found: Counter[tuple[int, str]] = Counter()
    for k in SHRINKS:
        means_UP = np.stack([shrunk(train_UP[names == name], corpus_P, k) for name in names])
        model = make_pipeline(StandardScaler(), LinearSVC(C=0.01, dual="auto", random_state=0))
        model.fit(train_UP - means_UP, [emotions[utt] for utt in train])
        for condition in CONDITIONS:
            own_UP = []
            for utt in test:
                others = [examples[other] for other in test if other != utt]
                chosen = [vectors[name] for name in enrolment(examples[utt], others, condition)]
                own_UP.append(vectors[utt] - shrunk(np.array(chosen), corpus_P, k))
            guesses = model.predict(np.array(own_UP))
            found[k, condition] += int((guesses == [emotions[utt] for utt in test]).sum())
    return found


def shrunk(vectors_NP: np.ndarray, corpus_P: np.ndarray, k: int) -> np.ndarray:
    """A speaker's mean (P,), drawn towards the corpus's."""
    share = len(vectors_NP) / (len(vectors_NP) + k) if len(vectors_NP) else 0.0
    return share * vectors_NP.mean(0) + (1 - share) * corpus_P if share else corpus_P


if __name__ == "__main__":
    main()
