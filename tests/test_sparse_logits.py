"""Sparse outputs: there, back, and the best of them."""

import numpy as np
import pytest
import tensorflow as tf

from keras_lsh import sparse_logits


def test_there_and_back():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(6, 4)).astype(np.float32)
    ids = np.sort(rng.permuted(np.tile(np.arange(9), (6, 1)), axis=1)[:, :4], axis=1)
    logits = sparse_logits.from_active(tf.constant(values), tf.constant(ids), 9)
    dense = np.zeros([6, 9], np.float32)
    np.put_along_axis(dense, ids, values, axis=1)
    np.testing.assert_array_equal(tf.sparse.to_dense(logits), dense)
    # As from_active gives it, and without what it remembers.
    plain = tf.SparseTensor(logits.indices, 2 * logits.values, logits.dense_shape)
    for form, factor in ((logits, 1), (plain, 2)):
        back_values, back_ids = sparse_logits.to_active(form)
        np.testing.assert_array_equal(back_values, factor * values)
        np.testing.assert_array_equal(back_ids, ids)


def test_values_given_other_places_are_found_there():
    logits = sparse_logits.from_active(
        tf.constant([[5.0, 6.0]]), tf.constant([[1, 3]]), 9
    )
    moved = tf.SparseTensor(tf.add(logits.indices, [0, 2]), logits.values, [1, 9])
    values, ids = sparse_logits.to_active(moved)
    np.testing.assert_array_equal(values, [[5, 6]])
    np.testing.assert_array_equal(ids, [[3, 5]])


@pytest.mark.parametrize("traced", [False, True])
def test_rows_of_different_lengths(traced):
    # As many entries as three rows of two.
    logits = tf.sparse.from_dense(
        [[0, 1.0, 2.0, 3.0], [0, 0, 0, 0], [4.0, 0, 5.0, 6.0]]
    )
    function = (
        tf.function(sparse_logits.to_active) if traced else sparse_logits.to_active
    )
    values, ids = function(logits)
    nothing = -np.inf
    np.testing.assert_array_equal(values, [[1, 2, 3], [nothing] * 3, [4, 5, 6]])
    np.testing.assert_array_equal(ids, [[1, 2, 3], [-1] * 3, [0, 2, 3]])


def test_no_rows_and_no_entries():
    for rows in (0, 2):
        empty = tf.SparseTensor(
            tf.zeros([0, 2], tf.int64), tf.zeros([0]), tf.constant([rows, 5], tf.int64)
        )
        values, ids = sparse_logits.to_active(empty)
        assert values.shape[0] == ids.shape[0] == rows
        best, scores = sparse_logits.top_k(empty, 2)
        np.testing.assert_array_equal(best, np.full([rows, 2], -1))
        np.testing.assert_array_equal(scores, np.full([rows, 2], -np.inf))


def test_top_k():
    dense = np.array([[1, 3, 3, -2], [np.nan, -1, np.inf, 0]], np.float32)
    places = tf.constant([[i, j] for i in range(2) for j in range(4)], tf.int64)
    for scores in (dense, tf.SparseTensor(places, dense.ravel(), [2, 4])):
        ids, best = sparse_logits.top_k(scores, 3)
        np.testing.assert_array_equal(ids, [[1, 2, 0], [2, 3, 1]])
        np.testing.assert_array_equal(best, [[3, 3, 1], [np.inf, 0, -1]])
        ids, best = sparse_logits.top_k(scores, 6)
        assert list(ids[0].numpy()) == [1, 2, 0, 3, -1, -1]
        np.testing.assert_array_equal(best[0, 4:], [-np.inf, -np.inf])


def test_gradient():
    values = tf.Variable([[1.0, 2.0], [3.0, 4.0]])
    with tf.GradientTape() as tape:
        logits = sparse_logits.from_active(values, tf.constant([[0, 2], [1, 2]]), 3)
        loss = tf.reduce_sum(sparse_logits.to_active(logits)[0] ** 2)
    np.testing.assert_allclose(tape.gradient(loss, values), 2 * values)
