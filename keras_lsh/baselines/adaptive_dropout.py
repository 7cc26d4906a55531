"""Adaptive dropout (standout): units drop out by what they would have said."""

import math
from typing import Any

import keras
import numpy as np

from keras_lsh._arguments import check_argument, is_finite, is_float, is_integer
from keras_lsh.baselines._dense_variant import DenseVariant

# How far beta moves with a batch towards where it should be. It gets there in tens of
# batches: soon enough to follow weights that learn, slow enough to average over small
# batches.
_CALIBRATION_RATE = 0.1
# Mean activities are kept this far from 0 and 1, where the log-odds are infinite.
_SMALLEST_ACTIVITY = 1e-6


@keras.saving.register_keras_serializable(package="keras_lsh")
class AdaptiveDropout(DenseVariant):
    """A densely-connected layer whose units are kept the likelier, the larger they are.

    With `products = dot(input, kernel) + bias`, `AdaptiveDropout` implements

        keep = sigmoid(alpha * products + beta)
        output = mask * activation(products), mask ~ Bernoulli(keep)    in training
        output = keep * activation(products)                            at inference

    where every unit of every sample is drawn by itself. The probabilities are those of
    a binary belief network that is laid over the layer and shares its weights; no
    gradient passes through them in training. `alpha=0` is dropout that keeps
    `sigmoid(beta)` of the units (and, unlike `keras.layers.Dropout`, scales them down
    at inference, not up in training).

    `active` asks for a fraction of units to be kept, and finds beta: with each training
    batch, beta moves by a tenth of `logit(active) - logit(mean(keep))`, which leads to
    where the mean of `keep`, over samples and units, is `active`. The fraction holds on
    average, not for each sample, and in the first tens of batches only roughly.

    It is never faster than `keras.layers.Dense`: all products are computed in order to
    decide which to drop, and at inference all units answer. It is here for its accuracy
    at a given share of active units.

    Source: Ba & Frey 2013, "Adaptive dropout for training deep neural networks" (NIPS).
    From the paper: the sampling, the expectation at inference (section 2), and the
    belief network's weights as an affine function of the layer's (Algorithm 2); the
    paper writes `alpha * w + beta` for the latter, and this layer adds beta to the
    belief network's bias only, not to each weight. Belief networks with weights of
    their own are not implemented. Spring & Shrivastava 2017, "Scalable and Sustainable
    Deep Learning via Randomized Hashing" (KDD), compare with it at given fractions of
    active units. Ours: `active` and the way it finds beta.

    Args:
        units: Positive integer, number of units.
        activation: Activation function. None: linear.
        use_bias: Whether the layer has a bias.
        kernel_initializer: Initializer of the kernel, `(input_dim, units)`.
        bias_initializer: Initializer of the bias.
        kernel_regularizer: Regularizer of the kernel.
        bias_regularizer: Regularizer of the bias.
        activity_regularizer: Regularizer of the output.
        kernel_constraint: Constraint on the kernel.
        bias_constraint: Constraint on the bias.
        alpha: How much a unit's product counts. Negative values keep the smallest.
        beta: What is added to all units' log-odds of being kept. With `active`, where
            the search for beta starts. None: 0, or with `active` `logit(active)`.
        active: How many units to keep on average: a float in (0, 1) is a fraction of
            `units`, an integer from 1 to `units - 1` a count. None: whatever `alpha`
            and `beta` give.
        seed: Integer, seed of the masks. None: at random.

    Input shape:
        N-D tensor of shape `(batch_size, ..., input_dim)`.

    Output shape:
        N-D tensor of shape `(batch_size, ..., units)`; in training, zeros where
        dropped.

    Call arguments:
        inputs: Input tensor.
        training: Whether to sample (and, with `active`, to move beta).
        mask: Boolean `(batch_size, ...)`; what it masks does not count for beta.

    Example:

    >>> layer = keras_lsh.baselines.AdaptiveDropout(1000, "relu", active=0.05)
    >>> outputs = layer(np.random.normal(size=(2, 784)), training=True)
    >>> outputs.shape
    TensorShape([2, 1000])
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
        alpha: float = 1.0,
        beta: float | None = None,
        active: float | int | None = None,
        seed: int | None = None,
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
        check_argument("alpha", alpha, is_finite(alpha), "a finite number")
        check_argument(
            "beta", beta, beta is None or is_finite(beta), "a finite number or None"
        )
        self.alpha = float(alpha)
        self.beta = None if beta is None else float(beta)
        self._wanted_activity = _as_fraction(active, self.units)
        self.active = active.item() if isinstance(active, np.generic) else active
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.calibrated_beta: Any = None

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        if self._wanted_activity is not None:
            start = _logit(self._wanted_activity) if self.beta is None else self.beta
            self.calibrated_beta = self.add_weight(
                name="calibrated_beta",
                shape=(),
                initializer=keras.initializers.Constant(start),
                dtype="float32",
                trainable=False,
                autocast=False,
                aggregation="mean",
            )

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        products = self._products(inputs, self.kernel)
        outputs = self.activation(products)
        keep = self._keep_probabilities(products)
        if not training:
            return outputs * keras.ops.cast(keep, outputs.dtype)
        uniform = keras.random.uniform(
            keras.ops.shape(keep), dtype=keep.dtype, seed=self.seed_generator
        )
        # Written such that NaN is kept, and comes out.
        outputs = keras.ops.where(uniform >= keep, 0, outputs)
        if self.calibrated_beta is not None and self.trainable:
            self._calibrate(keep, mask)
        return outputs

    def keep_probabilities(self, inputs: Any) -> Any:
        """The probability of each unit to be kept.

        Args:
            inputs: `[batch, ..., input_dim]`.

        Returns:
            float32 (float64 if the layer computes in it) `[batch, ..., units]`.
        """
        inputs = keras.ops.convert_to_tensor(inputs, self.compute_dtype)
        if not self.built:
            self.build(inputs.shape)
        return self._keep_probabilities(self._products(inputs, self.kernel))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "alpha": self.alpha,
            "beta": self.beta,
            "active": self.active,
            "seed": self.seed,
        }

    def _add_kernel(self, input_dim: int) -> None:
        self.kernel = self.add_weight(
            name="kernel",
            shape=(input_dim, self.units),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )

    def _keep_probabilities(self, products: Any) -> Any:
        # In half precision small probabilities, and their mean, would be coarse.
        products = keras.ops.cast(products, _at_least_float32(self.compute_dtype))
        beta = self.beta or 0.0
        if self.calibrated_beta is not None:
            beta = keras.ops.cast(self.calibrated_beta, products.dtype)
        return keras.ops.sigmoid(self.alpha * products + beta)

    def _calibrate(self, keep: Any, mask: Any) -> None:
        """One step of beta towards the wanted mean of `keep`.

        The log-odds of the mean grow with beta, at most as fast as beta does: the step
        has the right direction and does not overshoot.
        """
        activity = keras.ops.mean(keep, axis=-1)  # of each sample
        if mask is None:
            activity = keras.ops.mean(activity)
        else:
            counts = keras.ops.cast(mask, activity.dtype)
            counts = keras.ops.reshape(
                counts,
                (*keras.ops.shape(counts), *(1,) * (activity.ndim - counts.ndim)),
            )
            counts = counts * keras.ops.ones_like(activity)
            total = keras.ops.sum(keras.ops.where(counts > 0, activity, 0))
            activity = total / keras.ops.sum(counts)
        activity = keras.ops.clip(activity, _SMALLEST_ACTIVITY, 1 - _SMALLEST_ACTIVITY)
        error = _logit(self._wanted_activity) - (
            keras.ops.log(activity) - keras.ops.log1p(-activity)
        )
        # An empty batch has no mean, and a NaN among the inputs must not stay in beta.
        error = keras.ops.where(keras.ops.isfinite(error), error, 0)
        step = keras.ops.cast(_CALIBRATION_RATE * error, "float32")
        self.calibrated_beta.assign_add(step)


def _at_least_float32(dtype: str) -> str:
    return "float64" if dtype == "float64" else "float32"


def _logit(probability: Any) -> float:
    return math.log(probability) - math.log1p(-probability)


def _as_fraction(active: Any, units: int) -> float | None:
    if active is None:
        return None
    expected = f"a fraction in (0, 1) or a count from 1 to units-1={units - 1}"
    if is_integer(active):
        check_argument("active", active, 0 < active < units, expected)
        return int(active) / units
    check_argument("active", active, is_float(active) and 0 < active < 1, expected)
    return float(active)
