"""espeak-ng from the `espeakng_loader` wheel through ctypes: SSML in, samples out."""

import ctypes
from typing import Any

import numpy as np

SAMPLE_RATE = 22050
_SYNCHRONOUS = 2
_UTF8_AND_SSML = 0x1 | 0x10
_PARAMETERS = {"rate": 1, "pitch": 3, "range": 4}
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Synthesizer:
    """One espeak-ng per process: the library keeps its state in globals.

    The last bits of an utterance depend on those spoken before it; the same utterances in the same order
    from a process's start give the same samples. What the library refuses is a RuntimeError.
    """

    def __init__(self) -> None:
        import espeakng_loader

        self._library: Any = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        if self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, 0) != SAMPLE_RATE:
            raise RuntimeError(f"espeak-ng does not start with its data in {data.decode()}")
        self._chunks: list[np.ndarray] = []
        # Held by the object: ctypes would otherwise free it while the library still calls it.
        self._callback = _Callback(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: Any, count: int, _events: Any) -> int:
        if count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def speak(self, ssml: str, voice: str, seed: int, **parameters: int) -> np.ndarray:
        """Synthesize one utterance: int16 samples at 22,050 Hz, shape (S,).

        The text has prosody tags, but no outer ``<speak>``; a voice is a language and a variant, such as ``en-us+f2``;
        the seed is that of the noise in breath and flutter. Parameters: ``rate`` in words a minute, ``pitch`` and
        ``range`` from 0 to 100. RuntimeError where there is no such voice, or nothing was spoken.
        """
        self._chunks.clear()
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise RuntimeError(f"espeak-ng has no voice {voice}")
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        for name, value in parameters.items():
            self._library.espeak_SetParameter(_PARAMETERS[name], value, 0)
        text = f"<speak>{ssml}</speak>".encode()
        self._library.espeak_Synth(text, len(text) + 1, 0, 1, 0, _UTF8_AND_SSML, None, None)
        if not self._chunks:
            raise RuntimeError(f"espeak-ng said nothing for {ssml}")
        return np.concatenate(self._chunks)
