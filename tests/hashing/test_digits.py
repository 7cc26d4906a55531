"""packed against an example."""

import numpy as np
import tensorflow as tf

from keras_lsh.hashing.digits import packed


def test_packed_puts_the_first_function_first():
    digits = np.int32([[[1, 0, 2], [0, 0, 1]]])
    np.testing.assert_array_equal(packed(tf.constant(digits), 3), [[11, 1]])
