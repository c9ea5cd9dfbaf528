"""Audio files as 16 kHz mono samples, and log-mel features of them.

In: files, parts of archives, segments. Out: int16 samples (S,) or float32 features (T, 80).
Begin with `read.read_recording`; `headers` checks many files without decoding them.
"""
