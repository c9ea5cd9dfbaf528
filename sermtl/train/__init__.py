"""Training of one fold, by one process or several, from a checkpoint where there is one.

In: a `FoldData` and a `TrainConfig`. Out: `exp/<tag>/<fold>/`: weights, history, checkpoint, TensorBoard.
Begin with `trainer.Trainer.run`.
"""
