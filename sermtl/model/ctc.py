"""Greedy decoding of the CTC head."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sermtl.model.multitask import Output
from sermtl.text.tokenizer import Tokenizer


def greedy_texts(output: Output, tokenizer: Tokenizer) -> list[str]:
    """The best token of each own frame, repeats collapsed, as words; empty where there are no tokens."""
    if output.tokens_BTV is None:
        return [""] * len(output.frames_B)
    return texts_of(best_tokens(output.tokens_BTV).cpu(), output.frames_B, tokenizer)


def best_tokens(tokens_BTV: Tensor) -> Tensor:
    """The best token (B, T) of each frame, int32."""
    return tokens_BTV.argmax(-1).to(torch.int32)


def texts_of(best_BT: Tensor, frames_B: Tensor, tokenizer: Tokenizer) -> list[str]:
    """The words of the best tokens of own frames, which are on the CPU."""
    rows = zip(best_BT.numpy(), frames_B.tolist(), strict=True)
    return [tokenizer.decode(collapse(row_T[:frames])) for row_T, frames in rows]


def collapse(best_T: np.ndarray) -> list[int]:
    """Token ids without repeats and blanks (id 0), as CTC reads a path."""
    kept = np.ones(len(best_T), dtype=bool)
    kept[1:] = best_T[1:] != best_T[:-1]
    return [int(token) for token in best_T[kept] if token != 0]
