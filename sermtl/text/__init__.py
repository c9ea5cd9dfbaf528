"""Transcripts and token lists.

In: a transcript as the corpus has it. Out: normalised words, token ids, and words again.
Begin with `normalise.normalise`, then `tokenizer.load_tokenizer`.
"""
