"""Outputs of a very wide layer as `tf.SparseTensor`: only what is active is there."""

from typing import Any, NamedTuple

import tensorflow as tf

from keras_lsh.labels import NO_LABEL


class _Entries(NamedTuple):
    """What a SparseTensor was made from, so that nobody need find it out again."""

    indices: tf.Tensor  # of the SparseTensor
    values: tf.Tensor  # [batch, active]
    ids: tf.Tensor  # int32 [batch or 1, active]
    drawn: tf.Tensor | None  # bool [batch or 1, active]


def _entries_of(logits: tf.SparseTensor) -> _Entries | None:
    entries = getattr(logits.values, "_keras_lsh_entries", None)
    # The values might have been given other places since.
    return entries if entries and entries.indices is logits.indices else None


def from_active(
    values: tf.Tensor, ids: tf.Tensor, units: int, drawn: tf.Tensor | None = None
) -> tf.SparseTensor:
    """A SparseTensor `[batch, units]` of equally many entries a row.

    Args:
        values: `[batch, active]`.
        ids: int32 `[batch, active]`, strictly ascending in a row; or `[1, active]`, the
            same for all rows.
        units: the number of columns.
        drawn: bool, of the shape of `ids`, entries that are there by chance, for
            `drawn_of`.
    """
    batch, active = tf.shape(values)[0], tf.shape(values)[1]
    rows = tf.repeat(tf.range(batch, dtype=tf.int64), active)
    columns = tf.cast(tf.broadcast_to(ids, tf.shape(values)), tf.int64)
    columns = tf.reshape(columns, [-1])
    outputs = tf.SparseTensor(
        tf.stack([rows, columns], axis=-1),
        tf.reshape(values, [-1]),
        tf.stack([tf.cast(batch, tf.int64), units]),
    )
    outputs.indices.set_shape([None, 2])
    # Tensors carry Keras' masks in the same way.
    outputs.values._keras_lsh_entries = _Entries(outputs.indices, values, ids, drawn)
    return outputs


def drawn_of(logits: tf.SparseTensor) -> tf.Tensor | None:
    """Which entries are there by chance, of the shape of their ids; None: unknown."""
    entries = _entries_of(logits)
    return entries.drawn if entries else None


def to_active(
    logits: tf.SparseTensor, repeated: bool = True
) -> tuple[tf.Tensor, tf.Tensor]:
    """The entries of each row, side by side.

    Args:
        logits: `[batch, units]`, entries in the usual order of rows and columns.
        repeated: Whether columns that are known to be the same for all rows are given
            for each of these.

    Returns:
        The values `[batch, most]` and their columns, int32, ascending; in rows of fewer
        entries than the longest one, `-inf` and -1 at the end. With `repeated=False`
        the columns may be `[1, most]`.
    """
    entries = _entries_of(logits)
    if entries:
        if repeated and entries.ids.shape[0] == 1 != entries.values.shape[0]:
            ids = tf.broadcast_to(entries.ids, tf.shape(entries.values))
            return entries.values, ids
        return entries.values, entries.ids
    batch = logits.dense_shape[0]
    columns = tf.cast(logits.indices[:, 1], tf.int32)

    def alike() -> tuple[tf.Tensor, tf.Tensor]:
        shape = tf.stack([batch, -1])
        return tf.reshape(logits.values, shape), tf.reshape(columns, shape)

    def different() -> tuple[tf.Tensor, tf.Tensor]:
        def padded(x: tf.Tensor, default: Any) -> tf.Tensor:
            rows = logits.indices[:, 0]
            return tf.RaggedTensor.from_value_rowids(x, rows, batch).to_tensor(default)

        minus_infinity = tf.constant(-float("inf"), logits.values.dtype)
        return padded(logits.values, minus_infinity), padded(columns, NO_LABEL)

    # As LSHDense makes them, entry n stands in row n // (entries a row).
    entries = tf.shape(logits.indices, out_type=tf.int64)[0]
    a_row = entries // tf.maximum(batch, 1)
    expected = tf.range(entries) // tf.maximum(a_row, 1)
    regular = tf.logical_and(
        entries > 0, tf.reduce_all(logits.indices[:, 0] == expected)
    )
    regular = tf.logical_and(regular, a_row * batch == entries)
    return tf.cond(regular, alike, different)


def top_k(scores: Any, k: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The columns of the largest entries of each row, and these.

    Args:
        scores: `[batch, units]`: a SparseTensor, of which only the entries count, or a
            tensor.
        k: how many; at most the number of entries that a row can have, where that is
            known.

    Returns:
        int32 and float `[batch, k]`, the largest first, of equal ones the smaller
        column. NaN counts as the smallest; where a row has fewer entries, -1 and
        `-inf`.
    """
    values, ids = scores, None
    if isinstance(scores, tf.SparseTensor):
        values, ids = to_active(scores)
    missing = tf.constant(-float("inf"), values.dtype)
    # `tf.where` takes many times as long with a scalar.
    ranked = tf.fill(tf.shape(values), missing)
    ranked = tf.where(tf.math.is_nan(values), ranked, values)
    if values.shape[1] is None or values.shape[1] < k:
        # Room for k, also if there are fewer columns.
        short = [[0, 0], [0, tf.maximum(k - tf.shape(values)[1], 0)]]
        ranked = tf.pad(ranked, short, constant_values=missing)
        if ids is not None:
            ids = tf.pad(ids, short, constant_values=NO_LABEL)
    best, places = tf.math.top_k(ranked, k)
    if ids is not None:
        return tf.gather(ids, places, batch_dims=1), best
    return tf.where(places < tf.shape(values)[1], places, NO_LABEL), best
