"""Greedy decoding of the CTC head."""

from __future__ import annotations

import numpy as np
import torch

from sermtl.model.multitask import Output
from sermtl.text.tokenizer import Tokenizer


def greedy_texts(output: Output, tokenizer: Tokenizer) -> list[str]:
    """The best token of each own frame, repeats collapsed, as words; empty where there are no tokens."""
    if output.tokens_BTV is None:
        return [""] * len(output.frames_B)
    best_BT = output.tokens_BTV.argmax(-1).to(torch.int32).cpu().numpy()
    return [
        tokenizer.decode(collapse(row_T[:frames]))
        for row_T, frames in zip(best_BT, output.frames_B.tolist(), strict=True)
    ]


def collapse(best_T: np.ndarray) -> list[int]:
    """Token ids without repeats and blanks (id 0), as CTC reads a path."""
    kept = np.ones(len(best_T), dtype=bool)
    kept[1:] = best_T[1:] != best_T[:-1]
    return [int(token) for token in best_T[kept] if token != 0]
