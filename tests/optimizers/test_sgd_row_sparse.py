"""Keras' SGD updates only the rows of a row-sparse gradient: kept so by a test."""

import keras
import numpy as np
import pytest
import tensorflow as tf

ROWS = 200_000


def shapes_of(function):
    """Shapes of all tensors in a traced function and what it calls."""
    graph = function.graph.as_graph_def(add_shapes=True)
    nodes = list(graph.node)
    for called in graph.library.function:
        nodes.extend(called.node_def)
    for node in nodes:
        for shape in node.attr["_output_shapes"].list.shape:
            yield [d.size for d in shape.dim]


def step_function(optimizer, variable):
    optimizer.build([variable])
    shape = tuple(variable.shape)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([None, *shape[1:]], tf.float32),
        ]
    )
    def step(rows, values):
        optimizer.apply([tf.IndexedSlices(values, rows, shape)], [variable])

    return step


@pytest.mark.parametrize("shape", [(ROWS, 8), (ROWS,)], ids=str)
def test_step_is_row_sparse(shape):
    random = np.random.default_rng(0)
    start = random.normal(size=shape).astype(np.float32)
    variable = keras.Variable(start)
    step = step_function(keras.optimizers.SGD(0.5), variable)
    assert not any(ROWS in s for s in shapes_of(step.get_concrete_function()))
    rows = np.sort(random.choice(ROWS, 100, replace=False)).astype(np.int32)
    values = random.normal(size=(100, *shape[1:])).astype(np.float32)
    step(rows, values)
    expected = start.copy()
    expected[rows] -= np.float32(0.5) * values
    np.testing.assert_array_equal(variable, expected)


def test_momentum_is_not():
    variable = keras.Variable(np.zeros((ROWS, 8), np.float32))
    step = step_function(keras.optimizers.SGD(0.5, momentum=0.9), variable)
    assert any(ROWS in s for s in shapes_of(step.get_concrete_function()))


def test_repeated_rows_add_up():
    variable = keras.Variable(np.zeros((5, 2), np.float32))
    step = step_function(keras.optimizers.SGD(1.0), variable)
    step(np.array([3, 0, 3], np.int32), np.array([[1, 2], [3, 4], [5, 6]], np.float32))
    expected = np.zeros((5, 2))
    expected[3], expected[0] = [-6, -8], [-3, -4]
    np.testing.assert_array_equal(variable, expected)


def test_embedding_in_fit_leaves_other_rows_alone():
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            keras.layers.Embedding(40, 4),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )
    before = model.layers[0].get_weights()[0]
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x = np.random.default_rng(2).integers(0, 20, (32, 3))
    model.fit(x, np.ones(32), batch_size=8, verbose=0)
    after = model.layers[0].get_weights()[0]
    np.testing.assert_array_equal(after[20:], before[20:])
    assert (after[:20] != before[:20]).any(axis=1).all()
