"""Labels in all their forms, and the scope that brings them to layers."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from keras_lsh.labels import as_ids, label_scope, labels_for

# The same three samples in every form: classes {3}, {0, 2} and none of 5.
FORMS = {
    "padded": tf.constant([[3, -1], [0, 2], [-1, -1]]),
    "int64": tf.constant([[3, -1], [2, 0], [-1, -1]], tf.int64),
    "floats": tf.constant([[3.0, -1.0], [0.0, 2.0], [-1.0, -1.0]]),
    "repeated": tf.constant([[3, 3, 3], [2, 0, 2], [-1, -1, -1]]),
    "array": np.array([[-1, 3], [0, 2], [-1, -1]], np.int8),
    "ragged": tf.ragged.constant([[3], [2, 0], []], dtype=tf.int64),
    "multi-hot": tf.SparseTensor([[0, 3], [1, 0], [1, 2]], [1.0, 0.5, 1.0], [3, 5]),
    "zeros are none": tf.SparseTensor(
        [[0, 1], [0, 3], [1, 0], [1, 2]], [0, 1, 1, 1], [3, 5]
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("traced", [False, True])
def test_forms(form, traced):
    function = tf.function(as_ids) if traced else as_ids
    ids = function(FORMS[form], 5).numpy()
    assert ids.dtype == np.int32
    sets = [sorted(row[row >= 0]) for row in ids]
    assert sets == [[3], [0, 2], []]


@pytest.mark.parametrize("labels", [[4, 0, 2], [[4], [0], [2]]])
def test_one_label_a_sample(labels):
    np.testing.assert_array_equal(as_ids(labels, 5), [[4], [0], [2]])


def test_large_numbers_of_classes():
    labels = [2**24 + 1, 2**31 - 2]  # no floats of 32 bits
    np.testing.assert_array_equal(as_ids(labels), np.transpose([labels]))


def test_narrow_integers():
    labels = np.array([[100, -1]], np.int8)
    np.testing.assert_array_equal(as_ids(labels, 670_091), labels)


def test_empty_batches():
    for labels in (tf.zeros([0], tf.int32), tf.zeros([0, 3], tf.int32)):
        assert as_ids(labels, 5).shape[0] == 0
    assert (
        as_ids(tf.ragged.constant([], ragged_rank=1, dtype=tf.int32), 5).shape[0] == 0
    )


@pytest.mark.parametrize(
    "labels",
    [
        [5],
        [-1],
        [[-2, 1]],
        [[5, 1]],
        [1.5],
        [float("nan")],
        tf.ragged.constant([[1, -1]]),
        tf.ragged.constant([[5]]),
    ],
    ids=str,
)
def test_labels_out_of_range(labels):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"integers in \[0, 5\)"):
        as_ids(labels, 5)


@pytest.mark.parametrize(
    "labels",
    [
        tf.zeros([2, 3, 4], tf.int32),
        tf.constant(["a"]),
        tf.sparse.from_dense(tf.eye(4)),
        tf.constant(3),
    ],
    ids=lambda labels: str(labels.shape),
)
def test_other_forms(labels):
    with pytest.raises(ValueError, match="Received invalid labels"):
        as_ids(labels, 5)


def test_scope():
    with label_scope([1, 2]):
        np.testing.assert_array_equal(labels_for("any", 5), [[1], [2]])
        with label_scope({"a": [3], "b": [4]}):
            np.testing.assert_array_equal(labels_for("b", 5), [[4]])
            with pytest.raises(ValueError, match="no labels for layer 'c'.*'a', 'b'"):
                labels_for("c", 5)
        np.testing.assert_array_equal(labels_for("any", 5), [[1], [2]])
        failures = []

        def elsewhere():
            try:
                labels_for("any", 5)
            except ValueError as error:
                failures.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert len(failures) == 1
    with pytest.raises(ValueError, match="LSHSequential"):
        labels_for("any", 5)


def test_a_scope_asks_for_the_form_of_the_same_labels_once():
    ragged = tf.ragged.constant([[3, 1], [2]])
    same = tf.ragged.constant([[3, 1], [2]])
    outside = as_ids(ragged, 5)
    with label_scope(ragged):
        first = as_ids(ragged, 5)
        assert as_ids(ragged, 5) is first is not outside
        assert as_ids(same, 5) is not first
        assert as_ids(ragged) is not first
        with pytest.raises(tf.errors.InvalidArgumentError):
            as_ids(ragged, 3)
    with label_scope(ragged):
        assert as_ids(ragged, 5) is not first


def test_a_graph_within_a_graph_has_its_own():
    ragged = tf.ragged.constant([[3, 1], [2]])

    @tf.function
    def outer(condition):
        with label_scope(ragged):
            within = tf.cond(
                condition,
                lambda: as_ids(ragged, 5),
                lambda: as_ids(ragged, 6),
            )
            return within, as_ids(ragged, 5)

    for ids in outer(tf.constant(True)):
        np.testing.assert_array_equal(ids, [[3, 1], [2, -1]])
