"""Cross-entropy over the active classes of each sample."""

from typing import Any

import keras
import tensorflow as tf

from keras_lsh import ops
from keras_lsh._arguments import check_argument, is_finite
from keras_lsh.labels import as_ids
from keras_lsh.ops._checks import require_same_batch
from keras_lsh.ops.active_labels import active_labels
from keras_lsh.sparse_logits import drawn_of, to_active


class _Reduction(keras.losses.Loss):
    """Keras' sample weights and reduction, of losses that are there already."""

    def call(self, _: Any, losses: tf.Tensor) -> tf.Tensor:
        return losses


class _ActiveLoss(keras.losses.Loss):
    """What the losses of sparse logits share."""

    # What computes the same from dense outputs.
    _dense_counterpart: str

    def __init__(
        self,
        from_logits: bool,
        label_smoothing: float,
        log_q: str | None,
        reduction: str | None,
        name: str | None,
        dtype: Any,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        check_argument(
            "from_logits", from_logits, isinstance(from_logits, bool), "a boolean"
        )
        check_argument(
            "label_smoothing",
            label_smoothing,
            is_finite(label_smoothing) and 0 <= label_smoothing <= 1,
            "a number in [0, 1]",
        )
        is_known = log_q is None or (isinstance(log_q, str) and log_q == "uniform")
        check_argument("log_q", log_q, is_known, "None or 'uniform'")
        self.from_logits = from_logits
        self.label_smoothing = label_smoothing
        self.log_q = log_q

    def __call__(
        self, y_true: Any, y_pred: Any, sample_weight: Any = None
    ) -> tf.Tensor:
        # Keras' own would cast the labels to `dtype`, where large ones lose digits.
        losses = self.call(y_true, y_pred)
        reduction = _Reduction(self.name, self.reduction, self.dtype)
        return reduction((), losses, sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """The loss of each sample, `[batch]`."""
        if not isinstance(y_pred, tf.SparseTensor):
            raise ValueError(
                f"{type(self).__name__} takes sparse logits, a `tf.SparseTensor` "
                "[batch, units], as of a layer with `output='sparse'`. Received: "
                f"y_pred of type {type(y_pred).__name__}. For dense outputs use "
                f"`{self._dense_counterpart}(from_logits={self.from_logits})`."
            )
        values, ids = to_active(y_pred, repeated=False)
        labels = require_same_batch(
            "y_true", as_ids(y_true, y_pred.shape[1]), "y_pred", values
        )
        # Sums of thousands of terms need more than 16 bits.
        values = tf.cast(values, "float64" if self.dtype == "float64" else "float32")
        if not self.from_logits:
            values = self._as_logits(values)
        drawn = None
        if self.log_q == "uniform":
            drawn = drawn_of(y_pred)
            if drawn is None:
                drawn = ids >= 0
        units = y_pred.shape[1] or y_pred.dense_shape[1]
        losses = self._of_samples(values, ids, labels, units, drawn)
        return tf.cast(losses, self.dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "from_logits": self.from_logits,
            "label_smoothing": self.label_smoothing,
            "log_q": self.log_q,
            "dtype": self.dtype,
        }

    def _of_samples(
        self,
        values: tf.Tensor,
        ids: tf.Tensor,
        labels: tf.Tensor,
        units: Any,
        drawn: tf.Tensor | None,
    ) -> tf.Tensor:
        """The loss of each sample; `drawn` None: no correction."""
        raise NotImplementedError

    def _as_logits(self, probabilities: tf.Tensor) -> tf.Tensor:
        raise NotImplementedError


@keras.saving.register_keras_serializable(package="keras_lsh")
class ActiveSoftmaxCrossentropy(_ActiveLoss):
    """Softmax cross-entropy over the active classes of each sample.

    `loss = logsumexp(active logits) - mean(logits of the labels)`: the softmax is over
    the sample's active classes in place of all, and the target is shared equally by the
    sample's different labels, one or many. Use it with `output="sparse"` and
    `force_labels=True`, which keeps the labels among the active classes while training.

    A label that is not active (as happens in `evaluate`, where labels are not forced)
    is added to the sample's classes with the smallest logit of the active ones. That is
    about the largest logit that it can have without being active, so the figure is
    finite, and, as far as the layer finds the classes with the largest logits, no
    larger than with the label's own logit. It gives no gradient. A sample without
    active classes has the loss of equal logits of all classes, `log(units)`.

    Labels are `[batch]` or `[batch, 1]` integers; `[batch, any]` with -1 in unused
    places; a `tf.RaggedTensor` `[batch, None]`; or a `tf.SparseTensor`
    `[batch, units]` with an entry that is not 0 for each class of a sample.

    Args:
        from_logits: Whether the entries of `y_pred` are logits. If not, they are
            probabilities, which are divided by their sum over the active classes and
            then raised to at least `keras.config.epsilon()`. Keras' losses have False
            here; `LSHDense` with `output="sparse"` gives logits.
        label_smoothing: A number in [0, 1], the share of the target that is spread
            equally over the active classes and the labels. With `log_q`, each stands
            for as many classes as it does in the sum.
        log_q: None; or `"uniform"`, where the active classes that are not labels are
            drawn uniformly, without replacement, from all that are not labels, as
            with `selection="random"`. Of `units - labels` such classes `drawn` are
            active, so each stands for `(units - labels) / drawn` of them, and its logit
            is raised by the logarithm of that, `-log(q)`; labels are certain. With
            `LSHDense(explore=...)` so are the classes that the tables found: the drawn
            ones stand for all the rest. The sum in the loss is then, on average, the
            sum over all classes.
        reduction: As in Keras: `"sum_over_batch_size"`, `"sum"`, `"mean"`,
            `"mean_with_sample_weight"`, `"none"` or None.
        name: Of the loss.
        dtype: Of the result. 16-bit types are computed in float32.

    Call arguments:
        y_true: The labels.
        y_pred: The `tf.SparseTensor`, `[batch, units]`, entries in the usual order of
            rows and columns.
        sample_weight: None, or `[batch]`.

    Raises:
        ValueError: If `y_pred` is dense.
        tf.errors.InvalidArgumentError: If a sample has no label, or a label is not in
            `[0, units)`.

    Example:

    ```python
    model.compile(
        keras_lsh.LazyAdam(1e-3),
        keras_lsh.losses.ActiveSoftmaxCrossentropy(),
        metrics=[keras_lsh.metrics.Accuracy()],
    )
    ```

    Source of the correction: Jean et al. 2015, "On Using Very Large Target Vocabulary
    for Neural Machine Translation" (ACL); Bengio & Senécal 2008, "Adaptive Importance
    Sampling to Accelerate Training of a Neural Probabilistic Language Model".
    """

    _dense_counterpart = "keras.losses.SparseCategoricalCrossentropy"

    def __init__(
        self,
        from_logits: bool = True,
        label_smoothing: float = 0.0,
        log_q: str | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "active_softmax_crossentropy",
        dtype: Any = None,
    ):
        super().__init__(from_logits, label_smoothing, log_q, reduction, name, dtype)

    def _as_logits(self, probabilities: tf.Tensor) -> tf.Tensor:
        probabilities = tf.maximum(probabilities, 0.0)  # unused places are -inf
        total = tf.reduce_sum(probabilities, axis=-1, keepdims=True)
        probabilities = tf.math.divide_no_nan(probabilities, total)
        return tf.math.log(tf.maximum(probabilities, keras.config.epsilon()))

    def _of_samples(
        self,
        values: tf.Tensor,
        ids: tf.Tensor,
        labels: tf.Tensor,
        units: Any,
        drawn: tf.Tensor | None,
    ) -> tf.Tensor:
        return ops.active_softmax_crossentropy(
            values, ids, labels, units, drawn, self.label_smoothing
        )


@keras.saving.register_keras_serializable(package="keras_lsh")
class ActiveSigmoidCrossentropy(_ActiveLoss):
    """Binary cross-entropies of the active classes, summed for each sample.

    For several labels a sample, or none. Every active class is a yes-or-no question of
    its own: `log(1 + exp(-logit))` for labels, `log(1 + exp(logit))` for others. A
    sample's loss is the sum over its active classes, not the mean over units as in
    `keras.losses.BinaryCrossentropy`, which would shrink with the width of the layer.
    Use it with `output="sparse"` and `force_labels=True`, which keeps the labels among
    the active classes while training.

    A label that is not active (as happens in `evaluate`, where labels are not forced)
    counts with the smallest logit of the active classes, or with 0 without such, and
    gives no gradient. That is about the largest logit that it can have without being
    active, so its term is finite, and, as far as the layer finds the classes with the
    largest logits, no larger than with its own logit.

    Labels are as in `ActiveSoftmaxCrossentropy`.

    Args:
        from_logits: Whether the entries of `y_pred` are logits. If not, they are
            probabilities, cut to `[epsilon, 1 - epsilon]` with
            `keras.config.epsilon()`. Keras' losses have False here; `LSHDense` with
            `output="sparse"` gives logits.
        label_smoothing: A number in [0, 1]. As in Keras, targets are moved towards a
            half: `1 - label_smoothing / 2` for labels, `label_smoothing / 2` for
            others.
        log_q: None; or `"uniform"`, where the active classes that are not labels are
            drawn uniformly, without replacement, from all that are not labels, as
            with `selection="random"` (or, with `LSHDense(explore=...)`, from all that
            are neither labels nor found by the tables). The terms of these are then
            divided by the probability `q = drawn / (units - labels)` of being drawn
            (importance weights), so that the loss is, on average, the sum over all
            classes; it and its gradients are accordingly larger.
        reduction: As in Keras: `"sum_over_batch_size"`, `"sum"`, `"mean"`,
            `"mean_with_sample_weight"`, `"none"` or None.
        name: Of the loss.
        dtype: Of the result. 16-bit types are computed in float32.

    Call arguments:
        y_true: The labels.
        y_pred: The `tf.SparseTensor`, `[batch, units]`, entries in the usual order of
            rows and columns.
        sample_weight: None, or `[batch]`.

    Raises:
        ValueError: If `y_pred` is dense.
        tf.errors.InvalidArgumentError: If a label is not in `[0, units)`.

    Example:

    ```python
    model.compile(
        keras_lsh.LazyAdam(1e-3),
        keras_lsh.losses.ActiveSigmoidCrossentropy(),
        metrics=[keras_lsh.metrics.PrecisionAtK(5)],
    )
    ```
    """

    _dense_counterpart = "keras.losses.BinaryCrossentropy"

    def __init__(
        self,
        from_logits: bool = True,
        label_smoothing: float = 0.0,
        log_q: str | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "active_sigmoid_crossentropy",
        dtype: Any = None,
    ):
        super().__init__(from_logits, label_smoothing, log_q, reduction, name, dtype)

    def _as_logits(self, probabilities: tf.Tensor) -> tf.Tensor:
        epsilon = keras.config.epsilon()
        probabilities = tf.clip_by_value(probabilities, epsilon, 1 - epsilon)
        return tf.math.log(probabilities) - tf.math.log1p(-probabilities)

    def _of_samples(
        self,
        values: tf.Tensor,
        ids: tf.Tensor,
        labels: tf.Tensor,
        units: Any,
        drawn: tf.Tensor | None,
    ) -> tf.Tensor:
        active = active_labels(values, ids, labels, units, drawn)
        smoothing = self.label_smoothing / 2
        yes = tf.constant(1 - smoothing, values.dtype)
        targets = tf.where(active.is_label, yes, smoothing)
        logits = tf.where(active.used, values, 0.0)
        terms = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
        of_missing = tf.nn.sigmoid_cross_entropy_with_logits(
            tf.fill(tf.shape(active.lowest), yes), active.lowest
        )
        losses = tf.reduce_sum(active.counts * terms, axis=-1)
        return losses + active.missing * of_missing
