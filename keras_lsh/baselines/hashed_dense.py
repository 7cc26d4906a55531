"""HashedNets: a large kernel drawn by hashing from few weights."""

import math
from typing import Any

import keras
import tensorflow as tf

from keras_lsh._arguments import check_argument, is_float, is_integer
from keras_lsh.baselines._dense_variant import DenseVariant


@keras.saving.register_keras_serializable(package="keras_lsh")
class HashedDense(DenseVariant):
    """A densely-connected layer whose connections share few weights, by hashing.

    `HashedDense` implements `output = activation(dot(input, kernel) + bias)` with

        kernel[j, i] = sign(i, j) * shared_weights[bucket(i, j)]

    for input `j` and unit `i` (the paper's `V_ij = w_h(i,j) xi(i, j)`), where `bucket`
    and `sign` are two hash functions with values in `0 .. len(shared_weights) - 1` and
    in {-1, 1}. They depend on `seed` alone and are computed whenever needed, so that
    all there is to store are `ceil(compression * input_dim * units)` shared weights and
    `units` biases. The gradient of a shared weight is the sum over the connections that
    share it, with their signs.

    It saves space in files and in the optimizer. It is never faster than
    `keras.layers.Dense`, and takes more memory while it runs: the whole kernel is
    computed for every batch, and so are its gradient and the hashes.

    Source: Chen, Wilson, Tyree, Weinberger & Chen 2015, "Compressing Neural Networks
    with the Hashing Trick" (ICML), section 4. The paper's hash function is xxHash; here
    it is MurmurHash3's finalizer, of the input's number and then of that and the
    unit's. The bias is not hashed.

    Args:
        units: Positive integer, number of units.
        activation: Activation function. None: linear.
        use_bias: Whether the layer has a bias.
        kernel_initializer: Initializer of the shared weights. It is called with Dense's
            shape `(input_dim, units)`, so that the kernel has the variance that Dense's
            would have, and the first of its numbers are taken: meant for independent
            random numbers and constants.
        bias_initializer: Initializer of the bias.
        kernel_regularizer: Regularizer of the shared weights, each counted once.
        bias_regularizer: Regularizer of the bias.
        activity_regularizer: Regularizer of the output.
        kernel_constraint: Constraint on the shared weights, a vector.
        bias_constraint: Constraint on the bias.
        compression: The paper's compression factor, in (0, 1]: shared weights per
            connection. Even with 1, some connections share a weight and some weights
            have no connection.
        seed: Integer from 0 to 2**31 - 1: which hash functions.

    Input shape:
        N-D tensor of shape `(batch_size, ..., input_dim)`.

    Output shape:
        N-D tensor of shape `(batch_size, ..., units)`.

    Example:

    >>> layer = keras_lsh.baselines.HashedDense(1000, "relu", compression=1 / 8)
    >>> layer(np.random.normal(size=(2, 784))).shape
    TensorShape([2, 1000])
    >>> layer.count_params()
    99000
    """

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        *,
        compression: float = 1 / 8,
        seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(
            units,
            activation,
            use_bias,
            kernel_initializer,
            bias_initializer,
            kernel_regularizer,
            bias_regularizer,
            activity_regularizer,
            kernel_constraint,
            bias_constraint,
            **kwargs,
        )
        check_argument(
            "compression",
            compression,
            (is_integer(compression) or is_float(compression)) and 0 < compression <= 1,
            "a number in (0, 1]",
        )
        check_argument(
            "seed",
            seed,
            is_integer(seed) and 0 <= seed < 2**31,
            "an integer from 0 to 2**31 - 1",
        )
        self.compression = float(compression)
        self.seed = int(seed)

    @property
    def kernel(self) -> tf.Tensor:
        """The kernel `(input_dim, units)` that the shared weights stand for."""
        if not self.built:
            raise ValueError(
                f"Layer {self.name!r} has no weights yet. Build it first, by calling "
                "it on data or with `layer.build(input_shape)`."
            )
        weights = tf.convert_to_tensor(self.shared_weights)
        if weights.dtype.size < 4:  # sums of many gradients
            weights = tf.cast(weights, tf.float32)
        return _spread(weights, self.input_spec.axes[-1], self.units, self.seed)

    def call(self, inputs: Any) -> Any:
        kernel = tf.cast(self.kernel, self.compute_dtype)
        return self.activation(self._products(inputs, kernel))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "compression": self.compression,
            "seed": self.seed,
        }

    def _add_kernel(self, input_dim: int) -> None:
        count = math.ceil(self.compression * input_dim * self.units)

        def initialize(shape: Any, dtype: Any = None) -> Any:
            kernel = self.kernel_initializer((input_dim, self.units), dtype=dtype)
            return keras.ops.reshape(kernel, (-1,))[:count]

        self.shared_weights = self.add_weight(
            name="shared_weights",
            shape=(count,),
            initializer=initialize,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
            autocast=False,
        )


def _spread(weights: tf.Tensor, input_dim: int, units: int, seed: int) -> tf.Tensor:
    """The kernel `[input_dim, units]` of the shared weights."""
    count = weights.shape[0]
    buckets, signs = _hashes(input_dim, units, count, seed, weights.dtype)

    # Not `tf.gather`'s own gradient: it lists a weight once per connection, and Keras'
    # optimizers take such a list for one of different weights.
    @tf.custom_gradient
    def spread(weights: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            return tf.math.unsorted_segment_sum(upstream * signs, buckets, count)

        return tf.gather(weights, buckets) * signs, gradient

    return spread(weights)


def _hashes(
    input_dim: int, units: int, buckets: int, seed: int, dtype: tf.DType
) -> tuple[tf.Tensor, tf.Tensor]:
    """Bucket, int32, and sign, of type `dtype`, of every connection.

    Both `[input_dim, units]`.
    """
    bucket = _hash(input_dim, units, 2 * seed) % tf.constant(buckets, tf.uint32)
    highest_bit = tf.bitwise.right_shift(
        _hash(input_dim, units, 2 * seed + 1), _u32(31)
    )
    return tf.cast(bucket, tf.int32), 1 - 2 * tf.cast(highest_bit, dtype)


def _hash(input_dim: int, units: int, seed: int) -> tf.Tensor:
    """uint32 `[input_dim, units]`, pseudo-random."""
    inputs = tf.cast(tf.range(input_dim), tf.uint32)
    inputs = _mix(tf.bitwise.bitwise_xor(inputs, _mix(_u32(seed))))
    outputs = tf.cast(tf.range(units), tf.uint32) * _u32(0x9E3779B9)
    return _mix(inputs[:, tf.newaxis] + outputs)


def _mix(h: tf.Tensor) -> tf.Tensor:
    """MurmurHash3's finalizer for 32 bits, a bijection; arithmetic is modulo 2**32."""
    h = tf.bitwise.bitwise_xor(h, tf.bitwise.right_shift(h, _u32(16))) * _u32(
        0x85EBCA6B
    )
    h = tf.bitwise.bitwise_xor(h, tf.bitwise.right_shift(h, _u32(13))) * _u32(
        0xC2B2AE35
    )
    return tf.bitwise.bitwise_xor(h, tf.bitwise.right_shift(h, _u32(16)))


def _u32(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint32)
