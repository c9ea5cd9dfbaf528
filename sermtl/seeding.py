"""Random numbers as a function of names, so that no generator's state has to be kept."""

import hashlib
from collections.abc import Iterable

import numpy as np


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from e.g. ``(seed, epoch, utterance)``; the same on every machine."""
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def halves(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Names in two halves, of equal size or the second one longer, in an order that only the names decide."""
    ordered = sorted(names, key=lambda name: derive_seed("half", name))
    return ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :]


def generator(*parts: int | str) -> np.random.Generator:
    """A NumPy generator seeded by `derive_seed`."""
    return np.random.default_rng(derive_seed(*parts))
