"""Keras layers."""

from keras_lsh.layers.lsh_dense import LSHDense
from keras_lsh.layers.sparse_input_dense import SparseInputDense

__all__ = ["LSHDense", "SparseInputDense"]
