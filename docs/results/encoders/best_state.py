"""WA of a linear classifier on one hidden state, which is chosen for each test fold on its training list alone.

    python docs/results/encoders/best_state.py --data data/emodb --dump dump/emodb/stored/<digest>

The dump holds the pooled states of each utterance (stage 2 with freeze all). For each fold of ``--protocol speaker``
the state is the one at which the report's probe (`sermtl.score.plain_models`) is most often right when each speaker
of the training list is held out in turn; a linear SVM, trained there on the whole training list, then sees the test
list.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from sklearn.metrics import accuracy_score, recall_score
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

sys.path.append(str(Path(__file__).resolve().parents[3]))
from sermtl.fileio.ark import read_matrix  # noqa: E402
from sermtl.fileio.tables import read_list, read_table  # noqa: E402
from sermtl.score.plain_models import layer_probe  # noqa: E402


def main() -> None:
    """Print the state of each fold, and the pooled WA and UA."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dump", type=Path, required=True)
    args = parser.parse_args()
    emotions, speakers = read_table(args.data / "utt2emo"), read_table(args.data / "utt2spk")
    vectors = {utt: read_matrix(entry) for utt, entry in read_table(args.dump / "feats.scp").items()}
    folds = args.data / "folds" / "speaker"
    references: list[str] = []
    hypotheses: list[str] = []
    for fold in read_list(folds / "folds"):
        train, test = (read_list(folds / fold / part) for part in ("train", "test"))
        train_UnP, test_UnP = (np.stack([vectors[utt] for utt in part]).astype(np.float64) for part in (train, test))
        classes = [emotions[utt] for utt in train]
        held_out = LeaveOneGroupOut().split(train, groups=[speakers[utt] for utt in train])
        rates = layer_probe(train_UnP, classes, held_out)
        state = int(np.argmax(rates))
        model = make_pipeline(StandardScaler(), LinearSVC(C=0.01, dual="auto", random_state=0))
        hypotheses += list(model.fit(train_UnP[:, state], classes).predict(test_UnP[:, state]))
        references += [emotions[utt] for utt in test]
        print(fold, "state", state, "WA on training speakers", *(f"{rate:.3f}" for rate in rates), flush=True)
    right = accuracy_score(references, hypotheses, normalize=False)
    ua = recall_score(references, hypotheses, average="macro")
    print(f"WA {right / len(references):.4f} ({right:.0f}/{len(references)})  UA {ua:.4f}")


if __name__ == "__main__":
    main()
