"""Losses of sparse logits: outputs of which only the active classes are there."""

from keras_lsh.losses.crossentropy import (
    ActiveSigmoidCrossentropy,
    ActiveSoftmaxCrossentropy,
)
from keras_lsh.losses.stock import check_compile

__all__ = [
    "ActiveSigmoidCrossentropy",
    "ActiveSoftmaxCrossentropy",
    "check_compile",
]
