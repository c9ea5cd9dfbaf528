"""The report over all experiments of a corpus.

In: `exp/*/scores.json` and the score files of their folds. Out: `exp/report/<corpus>/`: a page, tables, figures.
Begin with `load.load_experiments`, then `build.build` and `render.write_report`. Imports no PyTorch.
"""
