"""Cross-entropy over the active classes of each sample."""

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_lsh._arguments import check_argument, is_finite
from keras_lsh.labels import as_ids
from keras_lsh.ops._checks import checked, require_same_batch
from keras_lsh.sparse_logits import contained, drawn_of, places_of, to_active


class _Active(NamedTuple):
    """The active classes of a batch. "Unused" are the places of short rows.

    Whoever computes a loss takes what it needs; a graph leaves out the rest. What is
    alike for all samples may be of a batch of 1.
    """

    logits: tf.Tensor  # [batch, active], anything if unused
    used: tf.Tensor  # bool [batch, active]
    is_label: tf.Tensor  # bool [batch, active]
    counts: tf.Tensor  # [batch, active], classes that each stands for; 0 if unused
    of_labels: tf.Tensor  # [batch, any], logits of the active labels; 0 in other places
    found: tf.Tensor  # bool [batch, any], which places of `of_labels` are of labels
    labels: tf.Tensor  # [batch], number of labels
    missing: tf.Tensor  # [batch], number of labels that are not active
    lowest: tf.Tensor  # [batch], the smallest logit, 0 without active classes
    has_active: tf.Tensor  # bool [batch], whether there are active classes


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
        losses = self._of_samples(self._active(y_true, y_pred), y_pred.dense_shape[1])
        return tf.cast(losses, self.dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "from_logits": self.from_logits,
            "label_smoothing": self.label_smoothing,
            "log_q": self.log_q,
            "dtype": self.dtype,
        }

    def _of_samples(self, active: _Active, units: tf.Tensor) -> tf.Tensor:
        raise NotImplementedError

    def _as_logits(self, probabilities: tf.Tensor) -> tf.Tensor:
        raise NotImplementedError

    def _active(self, y_true: Any, y_pred: Any) -> _Active:
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
        used = ids >= 0
        has_active = tf.reduce_any(used, axis=-1)
        places, found = places_of(ids, labels)
        found = tf.logical_and(found, labels >= 0)
        # One place more, so that there is one where there are no active classes.
        of_labels = tf.gather(tf.pad(values, [[0, 0], [0, 1]]), places, batch_dims=1)
        is_label = contained(ids, labels)

        def number(x: tf.Tensor) -> tf.Tensor:
            return tf.reduce_sum(tf.cast(x, values.dtype), axis=-1)

        num_labels, num_found = number(labels >= 0), number(found)
        missing = num_labels - num_found
        counts = tf.cast(used, values.dtype)
        if self.log_q == "uniform":
            drawn = drawn_of(y_pred)
            if drawn is None:
                drawn = used
            drawn = tf.logical_and(drawn, tf.logical_not(is_label))
            number_drawn = number(drawn)
            classes = tf.cast(y_pred.dense_shape[1], values.dtype)
            certain = number(used) - number_drawn + missing
            stands_for = (classes - certain) / tf.maximum(number_drawn, 1)
            counts *= tf.where(drawn, stands_for[:, tf.newaxis], 1.0)

        def least_used() -> tf.Tensor:
            infinity = tf.constant(float("inf"), values.dtype)
            lowest = tf.reduce_min(tf.where(used, values, infinity), axis=-1)
            return tf.where(has_active, lowest, 0.0)

        # While training, as a rule, no label is missing, and it need not be known. It
        # is a stand-in: to learn from it would teach another class.
        lowest = tf.cond(
            tf.reduce_any(missing > 0), least_used, lambda: tf.zeros_like(missing)
        )
        return _Active(
            logits=values,
            used=used,
            is_label=is_label,
            counts=counts,
            of_labels=tf.where(found, of_labels, 0.0),
            found=found,
            labels=num_labels,
            missing=missing,
            lowest=tf.stop_gradient(lowest),
            has_active=has_active,
        )


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

    def _of_samples(self, active: _Active, units: tf.Tensor) -> tf.Tensor:
        num_labels = checked(
            active.labels,
            lambda: tf.debugging.Assert(
                tf.reduce_all(active.labels > 0),
                [
                    "A softmax needs at least one label a sample. Drop samples without "
                    "labels, or use `ActiveSigmoidCrossentropy`. Without labels are "
                    "the samples of the batch at",
                    tf.where(active.labels == 0)[:, 0],
                ],
            ),
        )
        least = tf.constant(-float("inf"), active.logits.dtype)
        logits = tf.where(active.used, active.logits, least)
        # The loss is that of logits less any constant; with this one, exp is safe.
        largest = tf.reduce_max(logits, axis=-1)
        largest = tf.stop_gradient(tf.where(active.has_active, largest, 0.0))
        terms = tf.exp(logits - largest[:, tf.newaxis])
        if self.log_q is not None:
            terms *= active.counts
        lowest = active.lowest - largest
        total = tf.reduce_sum(terms, axis=-1) + active.missing * tf.exp(lowest)
        total = tf.where(active.has_active, total, tf.cast(units, total.dtype))

        missing = active.missing * lowest
        of_labels = active.of_labels - largest[:, tf.newaxis]
        of_labels = tf.reduce_sum(tf.where(active.found, of_labels, 0.0), axis=-1)
        target = (of_labels + missing) / num_labels
        if self.label_smoothing:
            logits = active.logits - largest[:, tf.newaxis]
            of_all = active.counts * tf.where(active.used, logits, 0.0)
            of_all = tf.reduce_sum(of_all, axis=-1) + missing
            number = tf.reduce_sum(active.counts, axis=-1) + active.missing
            target += self.label_smoothing * (of_all / number - target)
        return tf.math.log(total) - target


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

    def _of_samples(self, active: _Active, units: tf.Tensor) -> tf.Tensor:
        smoothing = self.label_smoothing / 2
        yes = tf.constant(1 - smoothing, active.logits.dtype)
        targets = tf.where(active.is_label, yes, smoothing)
        logits = tf.where(active.used, active.logits, 0.0)
        terms = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
        of_missing = tf.nn.sigmoid_cross_entropy_with_logits(
            tf.fill(tf.shape(active.lowest), yes), active.lowest
        )
        losses = tf.reduce_sum(active.counts * terms, axis=-1)
        return losses + active.missing * of_missing
