"""Codes of several digits."""

import tensorflow as tf


def packed(digits: tf.Tensor, values: int) -> tf.Tensor:
    """Codes int32 `[n, tables]` from `[n, tables, functions]`, each `< values`."""
    places = [values**place for place in reversed(range(digits.shape[-1]))]
    return tf.reduce_sum(digits * places, axis=-1)
