"""Optimizers that update only the rows that had a gradient."""

from keras_lsh.optimizers.lazy_adam import LazyAdam, LossScaleOptimizer

__all__ = ["LazyAdam", "LossScaleOptimizer"]
