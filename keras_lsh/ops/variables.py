"""How the ops take a weight: the variable's handle, or its value as a tensor.

A handle lets an op read a few rows in place. A tensor is what freezing a graph, and a
SavedModel of stock ops, need; it is also all there is while Keras traces a model with
stateless variables.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

_local = threading.local()


@contextlib.contextmanager
def tensor_form() -> Iterator[None]:
    """Ops called in this scope take weights as tensors, not as variables' handles.

    For tracing functions that will be frozen. The scope belongs to the thread.
    """
    previous = _local.__dict__.get("tensor_form", False)
    _local.tensor_form = True
    try:
        yield
    finally:
        _local.tensor_form = previous


def variable_of(x: Any) -> Any:
    """The TensorFlow variable behind `x` if the handle form applies, or None.

    Of a variable that `tf.distribute` mirrors, it is the one of the current replica.
    """
    if isinstance(x, keras.Variable):
        x = x.value
    if _local.__dict__.get("tensor_form", False) or not isinstance(x, tf.Variable):
        return None
    if not isinstance(x, tf.distribute.DistributedValues):
        return x
    try:
        handle = x.handle
    except ValueError:  # no replica, as when Keras builds a model symbolically
        return None
    return next(part for part in x.values if part.handle is handle)


def watched_handle(variable: Any) -> tf.Tensor:
    """The handle of a variable, such that a gradient tape follows it.

    Taking the handle alone is no use of the variable to a tape; a read is. In a graph
    it is of no rows, should the graph not prune it. Done eagerly, that would put the
    variable into copy-on-read mode, in which every later read of it copies it whole.
    """
    if tf.executing_eagerly():
        variable.read_value()  # whose buffer it shares
    else:
        variable.sparse_read(tf.zeros([0], tf.int32))
    return variable.handle


def as_float32(weight: Any) -> tf.Tensor:
    """A weight, or some rows of one, as a float32 tensor, however it is stored."""
    return tf.cast(tf.convert_to_tensor(weight), tf.float32)
