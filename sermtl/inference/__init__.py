"""Decoding of a fold's lists, and prediction for any audio.

In: a trained model with a dump, or with files or waveforms. Out: emotion, posteriors, transcript, embedding.
Begin with `decode.decode` for stage 4, with `predict.Speech2Emotion` for other audio.
"""
