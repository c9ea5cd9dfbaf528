"""Pretrained encoders, one module a family.

In: waveforms or log-mel features with the lengths of the utterances. Out: hidden states of the utterances' frames.
Begin with `load.load_upstream`.
"""
