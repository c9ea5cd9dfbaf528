"""The model: an upstream under an emotion, a character (CTC) and a speaker head behind a gradient reversal.

In: a `batch.Batch` of waveforms, features or stored frames. Out: logits of the three heads, and their losses.
Begin with `multitask.MultiTaskModel`, then `upstreams.base.Upstream`.
"""
