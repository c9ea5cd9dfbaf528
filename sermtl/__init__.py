"""Speech emotion recognition by multi-task learning with speaker normalisation.

from sermtl import Speech2Emotion

model = Speech2Emotion.from_pretrained("exp/<tag>/<fold>/pack")
print(model(waveform, sampling_rate).emotion)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sermtl.inference.predict import Result, Segment, Speech2Emotion

__all__ = ["Result", "Segment", "Speech2Emotion"]


def __getattr__(name: str) -> Any:
    # On first use only: most programs of the package need no torch, which takes seconds to import.
    if name in __all__:
        from sermtl.inference import predict

        return getattr(predict, name)
    raise AttributeError(f"module 'sermtl' has no attribute {name!r}")
