"""The ops that sketch neurons by signs and select by the sketch."""

import numpy as np
import pytest
import tensorflow as tf

from keras_lsh import ops
from keras_lsh.hashing.cross_polytope import walsh_hadamard
from keras_lsh.ops import compiled, reference

SHAPES = [(1, 1, 16), (33, 16, 16), (70, 21, 32), (500, 100, 128)]


def in_graph(function, *arrays):
    """Traced for any number of rows of the first one."""
    specs = [tf.TensorSpec(a.shape, a.dtype) for a in map(tf.constant, arrays)]
    specs[0] = tf.TensorSpec([None, *arrays[0].shape[1:]], arrays[0].dtype)
    return tf.function(function, input_signature=specs)(*arrays)


def signs_of(features, seed=0):
    both = np.float32([-1, 1])
    return np.random.default_rng(seed).choice(both, [3, features])


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype("float32")


def unpacked(codes, units):
    """The signs, -1 or 1, `[units, features]`."""
    blocks, groups, _ = codes.shape
    result = np.zeros([blocks * 32, groups * 4], np.float32)
    for neuron in range(blocks * 32):
        block, place = divmod(neuron, 32)
        nibbles = codes[block, :, place % 16] >> (4 * (place // 16))
        for j in range(4):
            result[neuron, j::4] = 2.0 * (nibbles >> j & 1) - 1
    return result[:units]


def expected_ids(rotated, codes, scales, bias, count):
    """By NumPy, from the definition."""
    signs = unpacked(codes, len(scales)).astype(np.int64)
    ids = []
    for x in rotated:
        most = np.abs(x).max()
        used = np.isfinite(x).all() and most >= np.float32(1e-30)
        levels = np.zeros(len(x), np.int64)
        step = np.float32(0)
        if used:
            levels = np.rint(x * (np.float32(31) / most)).astype(np.int64)
            step = most / np.float32(31)
        with np.errstate(invalid="ignore", over="ignore"):
            scores = scales * (step * (signs @ levels).astype(np.float32))
            scores = scores + (np.float32(0) if bias is None else bias)
        keys = np.where(np.isnan(scores), np.inf, scores)
        order = np.lexsort([np.arange(len(keys)), -keys, ~np.isnan(scores)])
        ids.append(np.sort(order[:count]))
    return np.array(ids, np.int32).reshape(len(rotated), count)


@pytest.mark.parametrize(("rows", "dim", "features"), SHAPES)
def test_rotate_is_the_reference(rows, dim, features):
    x, signs = normal(rows, dim), signs_of(features)
    expected = reference.rotate(x, signs)
    for run in (lambda f, *a: f(*a), in_graph):
        for op in (compiled.rotate, reference.rotate):
            actual = run(op, x, signs)
            assert actual.dtype == tf.float32 and actual.shape == (rows, features)
            np.testing.assert_array_equal(actual, expected)
    y = np.pad(x, [(0, 0), (0, features - dim)])
    for diagonal in range(3):
        y = walsh_hadamard(tf.constant(y * signs[diagonal]))
    np.testing.assert_allclose(expected, y / features, rtol=0, atol=1e-4)
    # A rotation: products stay, but for a factor.
    products = tf.matmul(expected, expected, transpose_b=True) / features
    np.testing.assert_allclose(products, x @ x.T, rtol=0, atol=1e-3)
    assert compiled.rotate(x[:0], signs).shape == (0, features)


@pytest.mark.parametrize(("units", "dim", "features"), SHAPES)
@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_sign_sketch_is_the_reference(units, dim, features, dtype):
    kernel = normal(units, dim)
    if units > 40:
        kernel[3, 0], kernel[38, -1] = np.nan, -np.inf
        kernel[20] *= 1e-33
    kernel = tf.cast(kernel, dtype)
    signs = signs_of(features)
    expected = reference.sign_sketch(kernel, signs)
    for actual in (
        compiled.sign_sketch(kernel, signs),
        compiled.sign_sketch(tf.Variable(kernel), signs),
        in_graph(compiled.sign_sketch, kernel.numpy(), signs),
    ):
        assert [a.dtype for a in actual] == [tf.uint8, tf.float32]
        for a, e in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(a, e)
    kernel = tf.cast(kernel, tf.float32).numpy()
    usable = np.isfinite(kernel).all(axis=1)
    rest = kernel - kernel[usable].mean(axis=0, dtype=np.float64).astype(np.float32)
    rotated = reference.rotate(rest, signs).numpy()
    codes, scales = (e.numpy() for e in expected)
    assert np.isnan(scales[~usable]).all()
    np.testing.assert_allclose(
        scales[usable], np.abs(rotated[usable]).mean(axis=1) / features, 1e-5
    )
    np.testing.assert_array_equal(
        unpacked(codes, units) > 0, (rotated > 0) & usable[:, np.newaxis]
    )


@pytest.mark.parametrize("batch", [0, 1, 40])
@pytest.mark.parametrize(("units", "dim", "features"), SHAPES)
def test_select_by_sketch_is_the_reference(units, dim, features, batch):
    codes, scales = reference.sign_sketch(normal(units, dim), signs_of(features))
    rotated = normal(batch, features, seed=1)
    rotated[:1] = np.nan
    rotated[2:3] = 0
    rotated[3:4] = 1e-31
    scales = scales.numpy()
    scales[::17] = [np.nan if units > 40 else 1.0]
    codes = codes.numpy()
    for bias in (None, 0.01 * normal(units, seed=2)):
        for count in {1, (units + 1) // 2, units}:
            arrays = [rotated, codes, scales] + ([] if bias is None else [bias])
            expected = expected_ids(rotated, codes, scales, bias, count)
            for op in (compiled.select_by_sketch, reference.select_by_sketch):

                def select(x, c, s, b=None, op=op, count=count):
                    return op(x, c, s, b, count)

                for run in (lambda f, *a: f(*a), in_graph):
                    actual = run(select, *arrays)
                    assert actual.dtype == tf.int32
                    assert actual.shape == (batch, count)
                    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("module", [compiled, reference])
def test_ties_go_to_the_smaller_id(module):
    codes = np.zeros([4, 4, 16], np.uint8)
    scales = np.zeros(100, np.float32)
    bias = np.zeros(100, np.float32)
    bias[[70, 5, 99]] = 1, -0.0, -1
    ids = module.select_by_sketch(normal(2, 16), codes, scales, bias, 6)
    np.testing.assert_array_equal(ids, [[0, 1, 2, 3, 4, 70]] * 2)


def test_scores_are_near_the_products():
    kernel, x, features = normal(300, 100), normal(20, 100, seed=1), 128
    signs = signs_of(features)
    codes, scales = ops.sign_sketch(kernel, signs)
    scores = reference.sketch_scores(ops.rotate(x, signs), codes, scales, None)
    products = x @ (kernel - kernel.mean(axis=0)).T
    assert np.corrcoef(np.ravel(scores), np.ravel(products))[0, 1] > 0.75
    slope = np.sum(scores * products) / np.sum(products * products)
    assert 0.6 < slope < 0.7  # 2 / pi: what signs leave of a length, squared


@pytest.mark.parametrize("module", [compiled, reference])
def test_what_a_graph_learns_only_when_it_runs(module):
    def function(*arguments):
        return module.select_by_sketch(*arguments, 4)

    codes, scales = np.zeros([2, 4, 16], "uint8"), np.zeros([40], "float32")
    good = [normal(3, 16), codes, scales, scales]
    specs = [tf.TensorSpec([None] * a.ndim, a.dtype) for a in good]
    specs[0] = tf.TensorSpec([None, 16 if module is reference else None])
    traced = tf.function(function, input_signature=specs)
    assert traced(*good).shape == (3, 4)
    for bad in (
        [good[0], codes[:1], scales, scales],
        [good[0], codes[:, :, :15], scales, scales],
        [good[0], np.zeros([2, 8, 16], "uint8"), scales, scales],
        [good[0], codes, scales[:20], scales],
        [good[0], codes, scales, scales[:7]],
        [good[0], codes[:1], scales[:3], scales[:3]],
    ):
        with pytest.raises(tf.errors.InvalidArgumentError):
            traced(*bad)
