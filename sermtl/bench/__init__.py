"""The benchmark of training and decoding: `python -m sermtl.bin.bench`.

In: generated utterances. Out: seconds and memory of the published update and of ours, measured in turns.
Begin with `measure.run_rounds`, then `published` and `rows`.
"""
