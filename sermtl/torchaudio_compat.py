"""Make torchaudio's Python parts importable beside a torch that its compiled library does not fit.

torchaudio 2.11 ships libraries linked to CUDA. Beside a CPU-only torch ``import torchaudio`` raises
OSError, and with it every import of transformers' audio models, which import torchaudio whenever it is
installed. Resampling and the Kaldi filterbank need none of the libraries. Modules that use torchaudio
import this one first; where torchaudio loads, it changes nothing.
"""

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
