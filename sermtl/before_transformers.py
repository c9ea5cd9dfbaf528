"""What transformers needs done before it is imported; modules that use it import this one first.

transformers imports torchaudio whenever it is installed (see `torchaudio_compat`), and scikit-learn and SciPy for
assisted generation and losses of object detection. The latter take a quarter of the time in which a program of this
recipe starts, so they are hidden from transformers there; in programs that import the package they are not.
"""

import importlib
import sys

from sermtl import torchaudio_compat  # noqa: F401

if "sermtl.bin" in sys.modules:
    for _name in ("is_sklearn_available", "is_scipy_available"):
        setattr(importlib.import_module("transformers.utils"), _name, lambda: False)
