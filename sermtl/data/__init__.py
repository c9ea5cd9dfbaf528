"""What a fold is trained and tested on: dumps, lists and labels joined by utterance id, then batches.

In: `data/`, `dump/`, a fold's lists. Out: a `FoldData`, and batches as a function of (seed, epoch).
Begin with `fold_data.load_fold`, then `dataset.FoldDataset`.
"""
