"""Query-directed multi-probe for hash functions of more than two values."""

import numpy as np
import tensorflow as tf

# Sorting two lists, and looking their elements up, costs as much as so many additions
# for each pair.
_PER_PAIR = 8


def cheapest_buckets(costs: tf.Tensor, probes: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Which buckets to look into, most promising first.

    A code has a value for each function: the first one is its most significant digit.
    Its cost is the sum of the costs of its values. First comes each table's own bucket,
    in table order; then all tables compete, by (cost, table, code), as in
    `keras_lsh.ops.probe_sequence`, which does the same for bits.

    Args:
        costs: float32 `[batch, tables, functions, values]`, finite and not negative,
            0 for the first of the values that an input may have.
        probes: Buckets per table, on average; from 1 to `values**functions`.

    Returns:
        `(buckets, weights)`, int32 `[batch, tables * probes]` each, as of
        `HashFamily.input_probes`. Weights are `65536 / (1 + cost)`.
    """
    batch = tf.shape(costs)[0]
    _, tables, functions, values = costs.shape
    # Where each table has its own bucket, no table can have more than so many.
    most = tables * (probes - 1) + 1
    total, codes = costs[:, :, 0], None  # None: all codes, in order
    for function in range(functions):
        if function and _few(total.shape[2], values, most):
            total, codes = _promising(total, codes, costs[:, :, function], most)
        elif function:
            shape = [batch, tables, total.shape[2] * values]
            total = total[..., tf.newaxis] + costs[:, :, function, tf.newaxis]
            total = tf.reshape(total, shape)
            if codes is not None:
                codes = codes[..., tf.newaxis] * values + tf.range(values)
                codes = tf.reshape(codes, shape)
        if total.shape[2] > most:
            negative, order = tf.math.top_k(-total, most)
            total = -negative
            codes = order if codes is None else tf.gather(codes, order, batch_dims=2)
    own = tf.argmin(total, axis=-1, output_type=tf.int32)
    is_own = tf.range(total.shape[2]) == own[..., tf.newaxis]
    total = tf.where(is_own, -1.0, total)  # before all others
    shape = [batch, tables * total.shape[2]]
    negative, buckets = tf.math.top_k(-tf.reshape(total, shape), tables * probes)
    if codes is not None:
        codes += tf.range(tables)[:, tf.newaxis] * values**functions
        buckets = tf.gather(tf.reshape(codes, shape), buckets, batch_dims=1)
    weights = tf.cast(65536.0 / (1.0 + tf.maximum(-negative, 0.0)), tf.int32)
    return buckets, tf.maximum(weights, 1)


def _few(codes: int, values: int, most: int) -> bool:
    """Whether `_promising` is worth its sorting."""
    return _PER_PAIR * len(_pairs(codes, values, most)) < codes * values


def _pairs(first: int, second: int, most: int) -> np.ndarray:
    """int32 `[pairs, 2]`: places in two ascending lists whose sum may be needed.

    The sum at `(i, j)` has `(i + 1) * (j + 1)` before it, itself included: those of
    earlier places in both lists. Of equal sums these have the smaller codes, too.
    """
    rows = np.arange(min(first, most))
    ends = np.minimum(second, most // (rows + 1))
    columns = np.concatenate([np.arange(end) for end in ends])
    return np.stack([np.repeat(rows, ends), columns], axis=1).astype(np.int32)


def _promising(
    total: tf.Tensor, codes: tf.Tensor | None, costs: tf.Tensor, most: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sums, and codes, among which are the `most` smallest.

    Args:
        total: `[batch, tables, codes]`.
        codes: int32, the same shape, or None: all, in order.
        costs: `[batch, tables, values]`, of one more digit.
        most: Sums that may be needed.
    """
    values = costs.shape[2]
    pairs = _pairs(total.shape[2], values, most)
    negative, first = tf.math.top_k(-total, int(pairs[:, 0].max()) + 1)
    if codes is not None:
        first = tf.gather(codes, first, batch_dims=2)
    other, second = tf.math.top_k(-costs, int(pairs[:, 1].max()) + 1)
    total = -(
        tf.gather(negative, pairs[:, 0], axis=2) + tf.gather(other, pairs[:, 1], axis=2)
    )
    codes = tf.gather(first * values, pairs[:, 0], axis=2)
    return total, codes + tf.gather(second, pairs[:, 1], axis=2)


def packed(digits: tf.Tensor, values: int) -> tf.Tensor:
    """Codes int32 `[n, tables]` from `[n, tables, functions]`, each `< values`."""
    places = [values**place for place in reversed(range(digits.shape[-1]))]
    return tf.reduce_sum(digits * places, axis=-1)


def squared_gaps(scores: tf.Tensor, largest: float = 1e9) -> tf.Tensor:
    """Costs of values that an argmax might have had: how far each score is from it."""
    gaps = tf.reduce_max(scores, axis=-1, keepdims=True) - scores
    return tf.minimum(gaps * gaps, largest)
