"""Products of all inputs with all rows."""

import numpy as np
import pytest
import tensorflow as tf

from keras_lsh import ops


def arrays(batch, rows, input_dim):
    random = np.random.default_rng(batch + rows)
    return (
        random.normal(size=(batch, input_dim)).astype(np.float32),
        random.normal(size=(rows, input_dim)).astype(np.float32),
    )


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 1, 1), (33, 100, 65), (0, 4, 2)])
def test_values_and_gradients(shape, reference):
    x, rows = arrays(*shape)
    upstream = np.random.default_rng(0).normal(size=shape[:2])
    with ops.reference_ops(reference), tf.GradientTape() as tape:
        inputs = [tf.constant(x), tf.constant(rows)]
        tape.watch(inputs)
        values = ops.shared_matmul(*inputs)
        loss = tf.reduce_sum(values * tf.constant(upstream, tf.float32))
    by_x, by_rows = tape.gradient(loss, inputs)
    x, rows = x.astype(np.float64), rows.astype(np.float64)
    np.testing.assert_allclose(values, x @ rows.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_x, upstream @ rows, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_rows, upstream.T @ x, rtol=1e-4, atol=1e-5)


def test_of_no_rows():
    x, _ = arrays(4, 1, 3)
    assert ops.shared_matmul(x, np.zeros([0, 3], np.float32)).shape == (4, 0)


@pytest.mark.parametrize("reference", [False, True])
def test_rows_of_another_length(reference):
    x, rows = arrays(4, 6, 3)
    with (
        ops.reference_ops(reference),
        pytest.raises(ValueError, match="`rows`, expected rows like the inputs"),
    ):
        ops.shared_matmul(x, rows[:, :2])
