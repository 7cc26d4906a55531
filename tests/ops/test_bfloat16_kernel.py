"""Kernels stored in bfloat16: what the same numbers give that are stored in float32."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lsh.ops import compiled, library, reference, tensor_form

OPS = [compiled.active_matmul, reference.active_matmul]
FORMS = [tf.Variable, tf.identity, lambda x: keras.Variable(x, dtype=x.dtype.name)]
FORM_NAMES = ["variable", "tensor", "keras variable"]


def case_of(batch, units, input_dim, active, sparse=False):
    """Inputs, kernel in bfloat16, bias, and ids, some of them -1."""
    rng = np.random.default_rng([batch, units, input_dim])
    inputs = rng.standard_normal([batch, input_dim]).astype(np.float32)
    if sparse:
        inputs *= rng.random(inputs.shape) < 0.03
    ids = np.sort([rng.choice(units, active, replace=False) for _ in range(batch)])
    ids[rng.random(ids.shape) < 0.1] = -1
    kernel = tf.cast(rng.standard_normal([units, input_dim]), tf.bfloat16)
    bias = rng.standard_normal(units).astype(np.float32)
    return tf.constant(inputs), kernel, tf.constant(bias), tf.constant(ids, tf.int32)


def widened(kernel):
    """By bits: a bfloat16 is the upper half of a float32."""
    return (kernel.numpy().view(np.uint16).astype(np.uint32) << 16).view(np.float32)


# Multiplied sample by sample (short rows), place by place (few samples a neuron), and
# neuron by neuron (many); with ends that fill no vector.
SHAPES = [
    (4, 50, 33, 6),
    (1, 60, 200, 9),
    (40, 30, 150, 12),
    (9, 3000, 7, 20),
    (2, 5, 1, 3),
]


@pytest.mark.parametrize("op", OPS, ids=["compiled", "reference"])
@pytest.mark.parametrize("form", FORMS, ids=FORM_NAMES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_the_values_of_the_widened_kernel(op, form, shape, sparse):
    inputs, kernel, bias, ids = case_of(*shape, sparse)
    full = form(tf.constant(widened(kernel)))
    for keep, added in ((None, form(bias)), (2, None)):
        actual = op(inputs, form(kernel), added, ids, keep)
        expected = op(inputs, full, added, ids, keep)
        for a, e in zip(actual, expected, strict=True):
            assert a.dtype == e.dtype
            np.testing.assert_array_equal(a, e)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_like_brute_force(shape):
    inputs, kernel, bias, ids = case_of(*shape)
    values, _ = compiled.active_matmul(inputs, tf.Variable(kernel), bias, ids)
    exact = inputs.numpy().astype(np.float64) @ widened(kernel).T + bias.numpy()
    exact = np.take_along_axis(exact, np.maximum(ids, 0), axis=1)
    exact[ids.numpy() < 0] = 0
    np.testing.assert_allclose(values, exact, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("op", OPS, ids=["compiled", "reference"])
@pytest.mark.parametrize("form", FORMS[:2], ids=FORM_NAMES[:2])
@pytest.mark.parametrize("mode", [lambda f: f, tf.function], ids=["eager", "graph"])
def test_gradients(op, form, mode):
    inputs, kernel, bias, ids = case_of(7, 40, 19, 9)
    weights = [(form(kernel), form(bias)), (form(widened(kernel)), form(bias))]

    def gradients(x, kernel, bias):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel, bias])
            values, _ = op(x, kernel, bias, ids, 5)
            loss = tf.reduce_sum(tf.sin(values))
        return tape.gradient(loss, [x, kernel, bias])

    actual, expected = (mode(lambda x, w=w: gradients(x, *w))(inputs) for w in weights)
    np.testing.assert_array_equal(actual[0], expected[0])  # by the inputs
    assert np.abs(actual[0]).max() > 0
    by_kernel = (
        expected[1].values if op is OPS[0] else tf.convert_to_tensor(expected[1])
    )
    assert actual[1].dtype == tf.bfloat16
    rounded = actual[1].values if op is OPS[0] else tf.convert_to_tensor(actual[1])
    np.testing.assert_allclose(
        tf.cast(rounded, tf.float32), by_kernel, rtol=2**-6, atol=2**-6
    )
    np.testing.assert_array_equal(*map(tf.convert_to_tensor, (actual[2], expected[2])))


def test_variables_in_tensor_form():
    inputs, kernel, bias, ids = case_of(4, 50, 33, 6)
    variables = tf.Variable(kernel), tf.Variable(bias)
    expected, _ = compiled.active_matmul(inputs, *variables, ids)
    with tensor_form():
        actual, _ = compiled.active_matmul(inputs, *variables, ids)
    np.testing.assert_array_equal(actual, expected)


def test_what_is_not_finite():
    kernel = tf.constant([[np.inf], [-np.inf], [np.nan], [-0.0]], tf.bfloat16)
    ids = tf.range(4)[tf.newaxis]
    for op in OPS:
        values, _ = op(tf.ones([1, 1]), tf.Variable(kernel), None, ids)
        np.testing.assert_array_equal(values, [[np.inf, -np.inf, np.nan, 0]])


@pytest.mark.parametrize("variable", [tf.float32, tf.bfloat16])
@pytest.mark.parametrize("told", [tf.float32, tf.bfloat16])
def test_a_variable_of_another_type_than_the_op_was_told(variable, told):
    inputs, kernel, _, ids = case_of(4, 50, 33, 6)
    kernel = tf.Variable(tf.cast(kernel, variable))
    nothing = tf.zeros([0, 0], tf.int32)

    def run():
        return library().lsh_resource_active_matmul(
            *(inputs, ids, nothing, nothing, kernel.handle, []), T=told
        )

    if variable == told:
        assert run()[0].shape == ids.shape
        return
    names = {tf.float32: "float", tf.bfloat16: "bfloat16"}
    expected = rf"`kernel` must be.*type {names[told]}\. Received: {names[variable]}"
    with pytest.raises(tf.errors.InvalidArgumentError, match=expected):
        run()


@pytest.mark.parametrize("form", FORMS[:2], ids=FORM_NAMES[:2])
def test_ids_out_of_range(form):
    inputs, kernel, bias, ids = case_of(4, 50, 33, 6)
    for bad in (50, -2, 2**31 - 1):
        wrong = tf.tensor_scatter_nd_update(ids, [[3, 5]], [bad])
        with pytest.raises(tf.errors.InvalidArgumentError, match="`ids`"):
            compiled.active_matmul(inputs, form(kernel), form(bias), wrong)


@pytest.mark.parametrize("form", FORMS[:2], ids=FORM_NAMES[:2])
def test_other_ops_take_none(form):
    _, kernel, _, ids = case_of(4, 50, 33, 6)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="`kernel`"):
        compiled.sparse_matmul(tf.ones(ids.shape), ids, form(kernel))
