"""Packs: a trained and scored fold as one directory for others, for transformers and ONNX Runtime too.

In: `exp/<tag>/<fold>/` with its scores. Out: weights, model card, transformers folders, ONNX graph.
Begin with `write_pack.write_pack`.
"""
