"""What `LSHDense` is compared with, as Keras layers of stock ops.

Together with `keras.layers.Dropout` and `LSHDense(selection="exact")`, the exact
largest, these are the methods of the papers that it follows and is measured against.
"""

from keras_lsh.baselines.adaptive_dropout import AdaptiveDropout
from keras_lsh.baselines.hashed_dense import HashedDense
from keras_lsh.baselines.winner_take_all import WinnerTakeAll

__all__ = ["AdaptiveDropout", "HashedDense", "WinnerTakeAll"]
