"""The product of a sparse matrix and a kernel, against dense products in float64."""

import re

import numpy as np
import pytest
import tensorflow as tf

from keras_lsh import ops
from keras_lsh.ops import compiled, reference, tensor_form


def random_case(seed, batch=6, rows=30, units=7, most=8):
    """Values, ids and a kernel; unused places anywhere, and repeated ids."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(-1, rows, [batch, most], np.int32)
    values = rng.standard_normal([batch, most]).astype(np.float32)
    values[ids < 0] = np.nan  # must not matter
    kernel = rng.standard_normal([rows, units]).astype(np.float32)
    return values, ids, kernel


CASES = {
    "random": {},
    "empty_batch": {"batch": 0},
    "no_places": {"most": 0},
    "one_row": {"rows": 1},
    "one_unit": {"units": 1},
    "wide": {"units": 700},
    # So much of the kernel in use that the compiled op goes by slabs.
    "large": {"batch": 4, "rows": 5000, "units": 1500, "most": 400},
}


def dense_of(values, ids, rows):
    """`[batch, rows]`, float64."""
    dense = np.zeros([len(ids), rows])
    samples, slots = np.nonzero(ids >= 0)
    np.add.at(dense, (samples, ids[samples, slots]), values[samples, slots])
    return dense


@pytest.fixture(params=["compiled", "reference"])
def sparse_matmul(request):
    return {"compiled": compiled, "reference": reference}[request.param].sparse_matmul


@pytest.mark.parametrize(
    ("case", "form", "graph"),
    [(case, "variable", False) for case in CASES]
    + [("random", form, True) for form in ("variable", "tensor_form", "tensor")],
)
def test_values_and_gradients(sparse_matmul, case, form, graph):
    values, ids, kernel = random_case(1, **CASES[case])
    rng = np.random.default_rng(2)
    by_outputs = rng.standard_normal([len(ids), kernel.shape[1]]).astype(np.float32)
    weight = tf.constant(kernel) if form == "tensor" else tf.Variable(kernel)

    def run(values, ids):
        with tf.GradientTape() as tape:
            tape.watch([values, weight])
            outputs = sparse_matmul(values, ids, weight)
            loss = tf.reduce_sum(outputs * by_outputs)
        return outputs, tape.gradient(loss, [values, weight])

    if graph:
        specs = tf.TensorSpec([None, None]), tf.TensorSpec([None, None], tf.int32)
        run = tf.function(run, input_signature=specs)
    if form == "tensor_form":
        with tensor_form():
            outputs, (by_values, by_kernel) = run(tf.constant(values), tf.constant(ids))
    else:
        outputs, (by_values, by_kernel) = run(tf.constant(values), tf.constant(ids))

    matrix = dense_of(values, ids, len(kernel))
    np.testing.assert_allclose(outputs, matrix @ kernel, rtol=1e-4, atol=1e-4)
    expected = np.einsum("bu,bmu->bm", by_outputs.astype(np.float64), kernel[ids])
    expected[ids < 0] = 0
    np.testing.assert_allclose(by_values, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(by_kernel.indices, np.unique(ids[ids >= 0]))
    np.testing.assert_allclose(
        by_kernel.values,
        (matrix.T @ by_outputs)[by_kernel.indices],
        rtol=1e-4,
        atol=1e-4,
    )


def test_the_gradient_of_a_gradient(sparse_matmul):
    values, ids, kernel = random_case(3)
    values[ids < 0] = 0
    matrix, weight = tf.constant(values), tf.Variable(kernel)

    def penalty(product, values, weight):
        """By the values: their gradient's square, which depends on the kernel twice."""
        with tf.GradientTape() as tape:
            tape.watch(values)
            loss = tf.reduce_sum(tf.sin(product(values, weight)))
        return tf.reduce_sum(tape.gradient(loss, values) ** 2)

    def dense_product(values, weight):
        selected = tf.gather(weight, np.maximum(ids, 0)) * (ids >= 0)[..., None]
        return tf.einsum("bm,bmu->bu", values, selected)

    def gradients(product, values, weight):
        with tf.GradientTape() as tape:
            tape.watch(values)
            loss = penalty(product, values, weight)
        by_values, by_weight = tape.gradient(loss, [values, weight])
        return by_values, tf.convert_to_tensor(by_weight)

    ours = gradients(lambda v, w: sparse_matmul(v, ids, w), matrix, weight)
    exact = gradients(
        dense_product, tf.cast(matrix, tf.float64), tf.Variable(np.float64(kernel))
    )
    for our, their in zip(ours, exact, strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-4, atol=1e-4)


def test_the_gradient_by_values_is_computed_only_if_wanted():
    """That of a model's inputs is not."""
    values, ids, kernel = random_case(4)
    weight = tf.Variable(kernel)

    def kinds(watch):
        def step(values):
            with tf.GradientTape() as tape:
                if watch:
                    tape.watch(values)
                loss = tf.reduce_sum(compiled.sparse_matmul(values, ids, weight) ** 2)
            return tape.gradient(loss, [weight, values] if watch else [weight])

        function = tf.function(step).get_concrete_function(tf.constant(values))
        return {operation.type for operation in function.graph.get_operations()}

    assert kinds(watch=True) - kinds(watch=False) == {"LshResourceActiveMatmul"}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"ids": [[30]], "values": [[1.0]]}, "ids"),
        ({"ids": [[-2]], "values": [[1.0]]}, "ids"),
        ({"ids": [[0.5]], "values": [[1.0]]}, "ids"),
        ({"ids": np.int64([[2**32]]), "values": [[1.0]]}, "ids"),
        ({"ids": [0], "values": [1.0]}, "values"),
        ({"values": np.ones([6, 7], np.float32)}, "values"),
        ({"values": np.ones([5, 8], np.float32)}, "values"),
        ({"values": tf.ones([6, 8], tf.float64)}, "values"),
        ({"kernel": np.ones(30, np.float32)}, "kernel"),
        ({"kernel": [["a"]]}, "kernel"),
    ],
)
def test_bad_input(sparse_matmul, changes, name):
    arguments = dict(
        zip(("values", "ids", "kernel"), random_case(5), strict=True), **changes
    )
    errors = ValueError, tf.errors.InvalidArgumentError
    with pytest.raises(errors, match=f"`{re.escape(name)}`"):
        sparse_matmul(**arguments)


def test_one_function_for_both():
    case = random_case(6)
    expected = compiled.sparse_matmul(*case)
    np.testing.assert_array_equal(ops.sparse_matmul(*case), expected)
    with ops.reference_ops():
        outputs = ops.sparse_matmul(*case)
    np.testing.assert_array_equal(outputs, reference.sparse_matmul(*case))
