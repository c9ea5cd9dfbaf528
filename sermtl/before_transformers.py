"""What transformers needs done before it is imported: modules that use torchaudio or transformers import this first.

torchaudio 2.11 ships libraries linked to CUDA. Beside a CPU-only torch ``import torchaudio`` raises OSError, and with
it every import of transformers' audio models, which import torchaudio whenever it is installed. Resampling and the
Kaldi filterbank need none of the libraries, so the Python parts are made importable; where torchaudio loads, nothing
changes.

transformers imports scikit-learn and SciPy, where they are installed, for assisted generation and for losses of object
detection. That is a quarter of the time in which a program of this recipe starts, so it is told that they are not.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any


def _no_extension(*_args: Any, **_kwargs: Any) -> None:
    raise RuntimeError("this part of torchaudio needs its compiled library, which does not fit this torch")


try:
    importlib.import_module("torchaudio")
except OSError:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
        del sys.modules[name]
    stand_in = types.ModuleType("torchaudio._extension")
    vars(stand_in).update(
        _IS_TORCHAUDIO_EXT_AVAILABLE=False,
        _IS_ALIGN_AVAILABLE=False,
        _load_lib=lambda _name: False,
        _check_cuda_version=lambda: None,
        fail_if_no_align=lambda _function: _no_extension,
    )
    sys.modules["torchaudio._extension"] = stand_in
    importlib.import_module("torchaudio")

for _name in ("is_sklearn_available", "is_scipy_available"):
    setattr(importlib.import_module("transformers.utils"), _name, lambda: False)
