"""Keras layers."""

from keras_lsh.layers.lsh_dense import LSHDense

__all__ = ["LSHDense"]
