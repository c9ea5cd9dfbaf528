"""Scores: counts that pool over folds, intervals and tests, the speaker probe, score files.

In: decoded hypotheses and reference tables. Out: `result_*.txt`, `scores.json`, `RESULTS.md`. Imports no PyTorch.
Begin with `metrics`, then `score_folds.score_fold`.
"""
