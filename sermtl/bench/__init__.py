"""The benchmark of training and decoding: `python -m sermtl.bin.bench`."""
