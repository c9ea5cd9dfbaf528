"""WA of standardised speakers by `spk_shrink`, on training speakers alone.

    python docs/results/normalisation/choose_shrink.py --data data/emodb --dump dump/emodb/stored/<digest> --state 3

The dump holds the pooled states of each utterance (stage 2 with freeze all). For each fold of ``--protocol speaker``,
each speaker of the training list is held out in turn: a linear support vector machine is trained on the others, each
standardised by all of the own utterances, and recognises the utterances of the one who is held out, with the enrolments
that stage 4 writes. Test lists are not read. A row is a value: WA with each enrolment, over all folds and speakers.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

sys.path.append(str(Path(__file__).resolve().parents[3]))
from sermtl.data.dataset import Example  # noqa: E402
from sermtl.fileio.ark import read_matrix  # noqa: E402
from sermtl.fileio.tables import read_list, read_table  # noqa: E402
from sermtl.inference.decode import CONDITIONS, enrolment  # noqa: E402
from sermtl.model.speaker_norm import SpeakerNorm  # noqa: E402

VALUES = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0)
Counts = Counter[tuple[float, str]]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dump", type=Path, required=True)
    parser.add_argument("--state", type=int, required=True)
    args = parser.parse_args()
    emotions, speakers = read_table(args.data / "utt2emo"), read_table(args.data / "utt2spk")
    scp = read_table(args.dump / "feats.scp")
    vectors = {utt: torch.from_numpy(read_matrix(entry)[args.state].astype(np.float64)) for utt, entry in scp.items()}
    folds = args.data / "folds" / "speaker"
    right, tested = Counter[tuple[float, str]](), 0
    known: dict[tuple[str, ...], Counts] = {}  # most pairs of two who are held out come twice
    for fold in read_list(folds / "folds"):
        train = [*read_list(folds / fold / "train"), *read_list(folds / fold / "dev")]
        for held_out in sorted({speakers[utt] for utt in train}):
            test = sorted(utt for utt in train if speakers[utt] == held_out)
            fitted = sorted(set(train) - set(test))
            key = (held_out, *fitted)
            if key not in known:
                known[key] = recognised(vectors, speakers, emotions, fitted, test)
            right.update(known[key])
            tested += len(test)
    print("spk_shrink", *CONDITIONS, sep="\t")
    for value in VALUES:
        print(value, *(f"{right[value, condition] / tested:.3f}" for condition in CONDITIONS), sep="\t")


def recognised(
    vectors: Mapping[str, torch.Tensor],
    speakers: Mapping[str, str],
    emotions: Mapping[str, str],
    train: Sequence[str],
    test: Sequence[str],
) -> Counts:
    """How many of one speaker's utterances are recognised, by value and enrolment."""
    names, classes = sorted({speakers[utt] for utt in train}), sorted(set(emotions.values()))
    pooled_U1P, tested_U1P = (torch.stack([vectors[utt] for utt in utts])[:, None] for utts in (train, test))
    speakers_U = torch.tensor([names.index(speakers[utt]) for utt in train])
    examples = {utt: Example(utt, "", 0, speakers[utt], emotion=classes.index(emotions[utt])) for utt in test}
    members = {}
    for condition in CONDITIONS:
        others = [[examples[other] for other in test if other != utt] for utt in test]
        chosen = [enrolment(examples[utt], own, condition) for utt, own in zip(test, others, strict=True)]
        members[condition] = torch.tensor([[other in names for other in test] for names in chosen])
    found = Counter[tuple[float, str]]()
    for value in VALUES:
        norm = SpeakerNorm("standardise", 1, pooled_U1P.shape[-1], len(names), "mean", value).double()
        norm.fit(pooled_U1P, speakers_U)
        model = make_pipeline(StandardScaler(), LinearSVC(C=0.01, dual="auto", random_state=0))
        model.fit(norm.standardise(pooled_U1P, speakers_U)[:, 0].numpy(), [emotions[utt] for utt in train])
        for condition in CONDITIONS:
            own = norm.estimate(tested_U1P, members[condition])
            guesses = model.predict(norm.standardise(tested_U1P, None, own)[:, 0].numpy())
            found[value, condition] += int((guesses == [emotions[utt] for utt in test]).sum())
    return found


if __name__ == "__main__":
    main()
