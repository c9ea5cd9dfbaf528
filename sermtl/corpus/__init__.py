"""Data directories: validate and repair them, divide them into folds, audit what a fold shares.

In: the Kaldi tables of `data/<corpus>/`. Out: `folds/<protocol>/<fold>/{train,dev,test}` and `audit.json`.
Begin with `corpus.load_corpus`, then `folds.make_folds` and `audit.audit_fold`.
"""
