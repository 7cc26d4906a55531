"""Metrics of the classes that a model ranks first, of sparse logits or dense scores."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lsh._arguments import check_argument, is_finite, is_integer
from keras_lsh.labels import as_ids
from keras_lsh.ops._checks import require_same_batch, require_shape
from keras_lsh.sparse_logits import top_k


class _RankingMetric(keras.metrics.Mean):
    """Mean over samples of a figure of their `k` classes with the largest scores."""

    # What `y_pred` must be.
    _units: int | None = None
    _scores = "scores of shape [batch, units]"

    def __init__(self, k: int, name: str | None, dtype: Any):
        check_argument("k", k, is_integer(k) and k > 0, "a positive integer")
        super().__init__(name=name, dtype=dtype)
        self.k = int(k)
        # Where Keras' callbacks look up what `mode="auto"` means.
        self._direction = "up"

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Takes in a batch.

        Args:
            y_true: The labels: `[batch]` or `[batch, 1]` integers; `[batch, any]` with
                -1 in unused places; a `tf.RaggedTensor` `[batch, None]`; or a
                `tf.SparseTensor` `[batch, units]` with an entry that is not 0 for each
                class of a sample.
            y_pred: The scores, `[batch, units]`: logits or probabilities, dense or a
                `tf.SparseTensor` of the active classes, entries in the usual order of
                rows and columns.
            sample_weight: None, or `[batch]`.

        Raises:
            ValueError: If `y_pred` is not of rank 2, or `y_true` of another form.
            tf.errors.InvalidArgumentError: If a label is not in `[0, units)`.
        """
        if not isinstance(y_pred, tf.SparseTensor):
            y_pred = tf.convert_to_tensor(y_pred)
            if not y_pred.dtype.is_floating:
                y_pred = tf.cast(y_pred, tf.float64)
        require_shape("y_pred", y_pred, [None, self._units], self._scores)
        first, _ = top_k(y_pred, self.k)
        labels = require_same_batch(
            "y_true", as_ids(y_true, y_pred.shape[1]), "y_pred", first
        )
        equal = tf.equal(first[:, :, tf.newaxis], labels[:, tf.newaxis, :])
        hits = tf.logical_and(tf.reduce_any(equal, axis=-1), first >= 0)
        figures, weights = self._figures(first, hits, labels)
        if weights is None:
            weights = sample_weight
        elif sample_weight is not None:
            sample_weight = tf.cast(sample_weight, weights.dtype)
            weights *= tf.reshape(sample_weight, [-1])
        super().update_state(figures, sample_weight=weights)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "k": self.k}

    def _figures(
        self, first: tf.Tensor, hits: tf.Tensor, labels: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """The figure of each sample, `[batch]`, and weights of the samples or None.

        Args:
            first: int32 `[batch, k]`, the classes ranked first, in order; -1 if there
                are no more.
            hits: bool, of the same shape, which of them are labels.
            labels: int32 `[batch, any]`, -1 in unused places.
        """
        raise NotImplementedError


@keras.saving.register_keras_serializable(package="keras_lsh")
class Accuracy(_RankingMetric):
    """How often the class with the largest score is the label, or one of the labels.

    Takes what `"accuracy"` of Keras does not: sparse logits, and several labels a
    sample. Ties go to the class with the smallest number, NaN counts as the smallest
    score. Samples without labels, or without active classes, count 0.

    Args:
        name: Of the metric.
        dtype: Of the result.
    """

    def __init__(self, name: str | None = "accuracy", dtype: Any = None):
        super().__init__(1, name, dtype)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["k"]
        return config

    def _figures(self, first: Any, hits: Any, labels: Any) -> Any:
        return tf.reduce_any(hits, axis=-1), None


@keras.saving.register_keras_serializable(package="keras_lsh")
class TopKAccuracy(_RankingMetric):
    """How often a label is among the `k` classes with the largest scores.

    Of several labels, one is enough. Ties, NaN and samples without labels are as in
    `Accuracy`; of a sample with fewer than `k` active classes, all count.

    Args:
        k: Positive integer, how many classes to look at.
        name: Of the metric; None is `top_<k>_accuracy`.
        dtype: Of the result.
    """

    def __init__(self, k: int, name: str | None = None, dtype: Any = None):
        super().__init__(k, name or f"top_{k}_accuracy", dtype)

    def _figures(self, first: Any, hits: Any, labels: Any) -> Any:
        return tf.reduce_any(hits, axis=-1), None


@keras.saving.register_keras_serializable(package="keras_lsh")
class PrecisionAtK(_RankingMetric):
    """P@k: the share of labels among the `k` classes with the largest scores.

    The mean over samples of `hits / k`, as in the Extreme Classification Repository:
    the divisor is `k` whatever the number of labels, so samples with fewer labels than
    `k` cannot reach 1, and samples without labels count 0. With fewer than `k` active
    classes the missing ones count as wrong. Ties go to the class with the smallest
    number, NaN counts as the smallest score.

    Args:
        k: Positive integer, how many classes to look at.
        name: Of the metric; None is `precision_at_<k>`.
        dtype: Of the result.

    Example:

    >>> metric = keras_lsh.metrics.PrecisionAtK(2)
    >>> metric.update_state([[0, 2], [1, -1]], [[.5, .1, .4], [.5, .1, .4]])
    >>> float(metric.result())
    0.5
    """

    def __init__(self, k: int, name: str | None = None, dtype: Any = None):
        super().__init__(k, name or f"precision_at_{k}", dtype)

    def _figures(self, first: Any, hits: Any, labels: Any) -> Any:
        return tf.reduce_sum(tf.cast(hits, tf.float32), axis=-1) / self.k, None


@keras.saving.register_keras_serializable(package="keras_lsh")
class NDCGAtK(_RankingMetric):
    """nDCG@k: hits at the first `k` places, the earlier the better, over the best.

    The mean over samples of `sum(hit[i] / log2(i + 1), i = 1..k)`, divided by what a
    ranking with all labels first would have. Samples without labels count 0. Missing
    classes, ties and NaN are as in `PrecisionAtK`.

    Args:
        k: Positive integer, how many classes to look at.
        name: Of the metric; None is `ndcg_at_<k>`.
        dtype: Of the result.

    Source: Järvelin & Kekäläinen 2002, "Cumulated Gain-Based Evaluation of IR
    Techniques" (TOIS), with labels as relevant and all else as not.
    """

    def __init__(self, k: int, name: str | None = None, dtype: Any = None):
        super().__init__(k, name or f"ndcg_at_{k}", dtype)

    def _figures(self, first: Any, hits: Any, labels: Any) -> Any:
        gains = tf.constant(1 / np.log2(np.arange(self.k) + 2), tf.float32)
        gained = tf.reduce_sum(tf.where(hits, gains, 0.0), axis=-1)
        # The best gain with no label, one, and so on.
        best = tf.pad(tf.cumsum(gains), [[1, 0]])
        number = tf.reduce_sum(tf.cast(labels >= 0, tf.int32), axis=-1)
        best = tf.gather(best, tf.minimum(number, self.k))
        return tf.math.divide_no_nan(gained, best), None


@keras.saving.register_keras_serializable(package="keras_lsh")
class PropensityScoredPrecisionAtK(_RankingMetric):
    """PSP@k: precision that counts a rare label for more than a frequent one.

    The sum over samples of `sum(hit[i] / p[class at place i], i = 1..k)`, divided by
    the largest that any ranking could have, as in the Extreme Classification
    Repository: a ratio of sums, not a mean of ratios. `p` are the propensities, the
    probabilities that a label that holds is noted. Missing classes, ties and NaN are as
    in `PrecisionAtK`.

    Args:
        k: Positive integer, how many classes to look at.
        propensities: `[units]`, in (0, 1], as `keras_lsh.metrics.propensities` makes
            them of the counts of the labels in the training set. They become part of
            the metric's configuration, and so of a saved model.
        name: Of the metric; None is `psp_at_<k>`.
        dtype: Of the result.

    Source: Jain, Prabhu & Varma 2016, "Extreme Multi-label Loss Functions for
    Recommendation, Tagging, Ranking & Other Missing Label Applications" (KDD).
    """

    def __init__(
        self, k: int, propensities: Any, name: str | None = None, dtype: Any = None
    ):
        super().__init__(k, name or f"psp_at_{k}", dtype)
        self.propensities = np.asarray(propensities, np.float32)
        check_argument(
            "propensities",
            propensities,
            self.propensities.ndim == 1
            and bool(np.all((self.propensities > 0) & (self.propensities <= 1))),
            "an array [units] of numbers in (0, 1]",
        )
        self._units = len(self.propensities)
        self._scores += f" with a propensity for each of the {self._units} units"
        with tf.init_scope():
            self._inverse = tf.constant(1 / self.propensities)

    def get_config(self) -> dict[str, Any]:
        # The shortest numbers that give the same float32.
        numbers = [float(str(p)) for p in self.propensities]
        return {**super().get_config(), "propensities": numbers}

    def _figures(self, first: Any, hits: Any, labels: Any) -> Any:
        def scores(ids: Any, present: Any) -> tf.Tensor:
            inverse = tf.gather(self._inverse, tf.maximum(ids, 0))
            return tf.where(present, inverse, 0.0)

        found = tf.reduce_sum(scores(first, hits), axis=-1)
        of_labels = scores(labels, labels >= 0)
        k = tf.minimum(self.k, tf.shape(labels)[1])
        best = tf.reduce_sum(tf.math.top_k(of_labels, k).values, axis=-1)
        # The mean of ratios, weighted by their divisors, is the ratio of sums.
        return tf.math.divide_no_nan(found, best), best


def propensities(
    label_counts: Any, samples: int, a: float = 0.55, b: float = 1.5
) -> np.ndarray:
    """How probable it is that a label that holds is noted, by how often it is noted.

    `1 / (1 + c * (count + b)**-a)` with `c = (log(samples) - 1) * (b + 1)**a`.

    Args:
        label_counts: `[units]`, in how many samples of the training set each label is.
        samples: Number of samples of the training set, at least 3.
        a: A constant of the data set; the authors give 0.5 for Wikipedia and 0.6 for
            Amazon, and this for others.
        b: Likewise; 0.4 for Wikipedia, 2.6 for Amazon.

    Returns:
        float64 `[units]`, in (0, 1).

    Source: Jain, Prabhu & Varma 2016, "Extreme Multi-label Loss Functions for
    Recommendation, Tagging, Ranking & Other Missing Label Applications" (KDD).
    """
    check_argument(
        "samples",
        samples,
        is_integer(samples) and samples >= 3,
        "an integer of at least 3",
    )
    check_argument("a", a, is_finite(a) and a > 0, "a positive number")
    check_argument("b", b, is_finite(b) and b > 0, "a positive number")
    counts = np.asarray(label_counts, np.float64)
    check_argument(
        "label_counts",
        label_counts,
        counts.ndim == 1 and bool(np.all((counts >= 0) & (counts <= samples))),
        f"an array [units] of numbers from 0 to {samples}, the number of samples",
    )
    c = (np.log(samples) - 1) * (b + 1) ** a
    return 1 / (1 + c * (counts + b) ** -a)
