"""The ops that rank cells, gather statistics of inputs and subtract rows."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lsh
from keras_lsh import ops
from keras_lsh.ops import compiled, reference


def in_graph(function, *arrays):
    specs = [tf.TensorSpec((None, *a.shape[1:]), a.dtype) for a in arrays]
    return tf.function(function, input_signature=specs)(*arrays)


@pytest.mark.parametrize("batch", [0, 1, 40])
@pytest.mark.parametrize("cells", [1, 7, 192])
def test_rank_cells_is_the_reference(batch, cells):
    worth = np.random.default_rng(0).normal(size=(batch, cells)).astype("float32")
    worth[batch // 2 :] *= np.float32(1e30)
    worth[:1] = 3  # all equal
    for run in (lambda f, x: f(x), in_graph):
        expected = run(reference.rank_cells, worth)
        for a, e in zip(run(compiled.rank_cells, worth), expected, strict=True):
            assert a.dtype == e.dtype == tf.int32
            np.testing.assert_array_equal(a, e)


@pytest.mark.parametrize(
    ("batch", "input_dim", "rank", "cells"),
    [(0, 3, 2, 4), (1, 1, 1, 1), (7, 40, 16, 33), (130, 17, 5, 700)],
)
def test_cell_worth_is_the_reference(batch, input_dim, rank, cells):
    rng = np.random.default_rng(1)

    def integers(*shape):  # small: exact in any order of summation
        return rng.integers(-3, 4, shape).astype("float32")

    inputs, center, basis = (
        integers(batch, input_dim),
        integers(input_dim),
        integers(input_dim, rank),
    )
    scales = 2.0 ** rng.integers(-2, 3, rank).astype("float32")
    scales[-1] = 0
    centroids = integers(cells, rank + 1)
    inputs[:1] = np.nan
    inputs[3:4] = np.inf
    arrays = (inputs, center, basis, scales, centroids)
    expected = reference.cell_worth(*arrays, 20.0)
    traced = tf.function(compiled.cell_worth)
    for actual in (compiled.cell_worth(*arrays, 20.0), traced(*arrays, 20.0)):
        assert actual.dtype == tf.float32 and actual.shape == (batch, cells)
        np.testing.assert_array_equal(actual, expected)
    with np.errstate(invalid="ignore"):
        z = (inputs - center) @ basis[:, :-1] / scales[:-1]
    z[np.isnan(z)] = 0
    z = np.pad(z.clip(-20, 20), [(0, 0), (0, 1)])
    worth = z @ centroids[:, :-1].T + centroids[:, -1]
    np.testing.assert_array_equal(expected, worth)


@pytest.mark.parametrize("module", [compiled, reference])
def test_cell_worth_refuses_what_does_not_fit(module):
    good = [np.zeros(s, "float32") for s in ((4, 3), (3,), (3, 2), (2,), (5, 3))]
    names = ["inputs|basis", "center", "basis", "scales", "centroids"]
    for i, name in enumerate(names):
        bad = list(good)
        bad[i] = np.zeros([n + 1 for n in good[i].shape], "float32")
        with pytest.raises(ValueError, match=name):
            module.cell_worth(*bad)
    # What a graph learns only when it runs.
    unknown = [tf.TensorSpec([None] * array.ndim) for array in good]
    if module is compiled:
        traced = tf.function(module.cell_worth, input_signature=unknown)
        traced(*good)
        with pytest.raises(tf.errors.InvalidArgumentError, match="centroids"):
            traced(*good[:4], np.zeros((5, 2), "float32"))
        with pytest.raises(tf.errors.InvalidArgumentError, match="center"):
            traced(good[0], np.zeros(2, "float32"), *good[2:])


def selection(batch, cells, units, forced, seed=4):
    """Random arguments of select_from_cells, but for `active`."""
    rng = np.random.default_rng(seed)

    def integers(*shape):  # small: exact in any order of summation
        return rng.integers(-3, 4, shape).astype("float32")

    input_dim, rank = 5, 3
    arrays = [
        integers(batch, input_dim),
        integers(input_dim),
        integers(input_dim, rank),
        2.0 ** rng.integers(-2, 3, rank).astype("float32"),
        integers(cells, rank + 1),
    ]
    arrays[0][:1] = np.nan
    arrays[0][3:4] = np.inf
    codes = rng.integers(0, cells, (units, 1)).astype("int32")
    tables = [t.numpy() for t in reference.build_tables(codes, cells)]
    return [*arrays, *tables, rng.integers(-1, units, (batch, forced)).astype("int32")]


@pytest.mark.parametrize(
    ("batch", "cells", "units", "forced", "active"),
    [
        (0, 4, 9, 1, 3),
        (1, 1, 1, 0, 1),
        (7, 33, 200, 2, 30),
        (130, 97, 3000, 1, 250),
        (20, 300, 400, 5, 400),
    ],
)
def test_select_from_cells_is_the_reference(batch, cells, units, forced, active):
    arrays = selection(batch, cells, units, forced)
    expected = reference.select_from_cells(*arrays, active, 20.0)
    assert expected.dtype == tf.int32 and expected.shape == (batch, active)
    worth = compiled.cell_worth(*arrays[:5], 20.0)
    buckets, weights = compiled.rank_cells(worth)
    seeds = tf.reduce_sum(buckets, axis=-1)
    chain = compiled.select_active(buckets, weights, *arrays[5:], seeds, active)
    np.testing.assert_array_equal(chain, expected)

    def select(*arrays):
        return compiled.select_from_cells(*arrays, active, 20.0)

    for actual in (select(*arrays), tf.function(select)(*arrays)):
        assert actual.dtype == tf.int32 and actual.shape == (batch, active)
        np.testing.assert_array_equal(actual, expected)
    # The batch alone need not be known, by the reference either.
    for module in (compiled, reference):
        traced = tf.function(
            lambda x, f, m=module: m.select_from_cells(
                *(x, *arrays[1:7], f, active, 20.0)
            ),
            input_signature=[
                tf.TensorSpec([None, 5]),
                tf.TensorSpec([None, forced], tf.int32),
            ],
        )
        np.testing.assert_array_equal(traced(arrays[0], arrays[7]), expected)


def test_select_from_cells_of_a_sample_alone_is_as_in_a_batch():
    arrays = selection(50, 60, 900, 1)
    whole = compiled.select_from_cells(*arrays, 40)
    for b in (0, 3, 8, 49):
        alone = [arrays[0][b : b + 1], *arrays[1:7], arrays[7][b : b + 1]]
        np.testing.assert_array_equal(
            compiled.select_from_cells(*alone, 40), whole[b : b + 1]
        )


@pytest.mark.parametrize("module", [compiled, reference])
def test_select_from_cells_refuses_what_does_not_fit(module):
    good = selection(4, 5, 30, 2)
    names = ["inputs|basis", "center", "basis", "scales", "centroids"]
    names += ["offsets", "table_ids|offsets", "forced"]
    for i, name in enumerate(names):
        bad = list(good)
        bad[i] = np.zeros([n + 1 for n in good[i].shape], good[i].dtype)
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=name):
            module.select_from_cells(*bad, 6)
    for active in (0, 2.5, 31):
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="activ"):
            module.select_from_cells(*good, active)
    # What a graph learns only when it runs.
    if module is compiled:
        unknown = [tf.TensorSpec([None] * a.ndim, a.dtype) for a in good]
        traced = tf.function(
            lambda *a: module.select_from_cells(*a, 6), input_signature=unknown
        )
        traced(*good)
        for i, name in enumerate(names[1:], 1):
            bad = list(good)
            bad[i] = np.zeros([n + 1 for n in good[i].shape], good[i].dtype)
            with pytest.raises(tf.errors.InvalidArgumentError, match=name):
                traced(*bad)


@pytest.mark.parametrize("module", [compiled, reference])
def test_select_from_cells_refuses_bad_data(module):
    good = selection(40, 5, 30, 2)
    for i, change, name in (
        (7, lambda a: a + 30, "forced"),
        (7, lambda a: a - 30, "forced"),
        (6, lambda a: a + 30, "table_ids"),
        (6, lambda a: a - 30, "table_ids"),
        (5, lambda a: a[:, ::-1].copy(), "offsets"),
        (5, lambda a: a + 1, "offsets"),
    ):
        bad = list(good)
        bad[i] = change(good[i])
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"`{name}`"):
            module.select_from_cells(*bad, 6)
    with pytest.raises(tf.errors.InvalidArgumentError, match="`active`=1"):
        module.select_from_cells(*good, 1)


@pytest.mark.parametrize("groups", [0, 1, 3, 100])
@pytest.mark.parametrize(
    ("points", "tables", "cells", "width"),
    [(0, 1, 5, 2), (50, 2, 7, 3), (9, 3, 1, 4), (200, 2, 300, 17), (70, 1, 129, 1)],
)
def test_nearest_cells_is_the_reference(points, tables, cells, width, groups):
    rng = np.random.default_rng(2)
    # Small integers: exact in any order of summation, with many ties.
    count = 2 + cells // 20
    arrays = [
        rng.integers(-3, 4, shape).astype("float32")
        for shape in ((points, width), (tables, cells, width), (tables, count, width))
    ]
    # The last group has no cells.
    arrays.append(rng.integers(0, count - 1, (tables, cells)).astype("int32"))
    expected = reference.nearest_cells(*arrays, groups)
    assert expected.dtype == tf.int32 and expected.shape == (points, tables)
    traced = tf.function(lambda *a: compiled.nearest_cells(*a, groups))
    np.testing.assert_array_equal(traced(*arrays), expected)
    np.testing.assert_array_equal(compiled.nearest_cells(*arrays, groups), expected)
    if groups in (0, 100):
        distances = np.linalg.norm(arrays[0][:, None, None] - arrays[1], axis=-1)
        np.testing.assert_array_equal(expected, distances.argmin(axis=-1))
    elif groups < count - 1 and points:
        far = np.linalg.norm(arrays[0][:, None, None] - arrays[2][:, :-1], axis=-1)
        limit = np.sort(far, axis=-1)[..., groups - 1]
        chosen = arrays[3][np.arange(tables), expected]
        chosen_far = np.take_along_axis(far, chosen[..., np.newaxis], axis=-1)[..., 0]
        assert (chosen_far <= limit + 1e-6).all()


@pytest.mark.parametrize("module", [compiled, reference])
def test_nearest_cells_refuses_what_does_not_fit(module):
    points, centroids = np.zeros((4, 3), "float32"), np.zeros((2, 5, 3), "float32")
    middles, group_of = np.zeros((2, 2, 3), "float32"), np.zeros((2, 5), "int32")
    errors = (ValueError, tf.errors.InvalidArgumentError)
    with pytest.raises(errors, match="`centroids`"):
        module.nearest_cells(points, centroids[:, :, :2])
    with pytest.raises(ValueError, match="`groups`"):
        module.nearest_cells(points, centroids, groups=-1)
    for bad in (middles[:1], middles[:, :, :2]):
        with pytest.raises(errors, match="`middles`"):
            module.nearest_cells(points, centroids, bad, group_of, 1)
    for bad in (group_of[:1], group_of[:, :4], group_of - 1, group_of + 2):
        with pytest.raises(errors, match="`group_of`"):
            module.nearest_cells(points, centroids, middles, bad, 1)


@pytest.mark.parametrize("module", [compiled, reference])
def test_nearest_cells_of_what_is_no_number(module):
    points = np.array([[np.nan], [1]], "float32")
    centroids = np.full((1, 100, 1), 7, "float32")
    centroids[0, 0], centroids[0, 99] = np.nan, 2
    middles = np.array([[[7], [1]]], "float32")
    group_of = (np.arange(100) == 50).astype("int32")[np.newaxis]
    nearest = module.nearest_cells(points, centroids, middles, group_of, 1)
    np.testing.assert_array_equal(nearest, [[0], [99]])


@pytest.mark.parametrize("raised", [False, True])
@pytest.mark.parametrize("shape", [(0, 3, 2), (1, 1, 1), (67, 5, 3), (1000, 20, 65)])
def test_coordinates_is_the_reference(shape, raised):
    rng = np.random.default_rng(3)
    # Small integers: exact in any order of summation.
    vectors = rng.integers(-3, 4, shape[:2]).astype("float32")
    directions = rng.integers(-3, 4, shape[1:]).astype("float32")
    vectors[:1] = np.nan
    vectors[3:4] = np.inf
    addend = rng.integers(-9, 9, shape[:1]).astype("float32") if raised else None
    largest = 11.5
    expected = reference.coordinates(vectors, directions, addend, largest)
    actual = compiled.coordinates(vectors, directions, addend, largest)
    assert actual.dtype == tf.float32
    np.testing.assert_array_equal(actual, expected)
    with np.errstate(invalid="ignore"):
        products = vectors @ directions
    products[:, -1] += 0 if addend is None else addend
    products[np.isnan(products)] = 0
    np.testing.assert_array_equal(actual, products.clip(-largest, largest))


@pytest.mark.parametrize("module", [compiled, reference])
def test_coordinates_refuses_what_does_not_fit(module):
    vectors, directions = np.zeros((4, 3), "float32"), np.zeros((3, 2), "float32")
    errors = (ValueError, tf.errors.InvalidArgumentError)
    with pytest.raises(errors, match="vectors|`b`"):
        module.coordinates(vectors, directions[:2])
    for bad in (np.zeros(3, "float32"), np.zeros((4, 1), "float32")):
        with pytest.raises(errors, match="`addend`"):
            module.coordinates(vectors, directions, bad)


@pytest.mark.parametrize(
    ("points", "tables", "cells", "width"),
    [(0, 1, 5, 2), (50, 2, 7, 3), (9, 3, 1, 4), (3000, 2, 300, 17)],
)
def test_cell_means_is_the_reference(points, tables, cells, width):
    rng = np.random.default_rng(2)
    arrays = (
        rng.normal(size=(points, width)).astype("float32"),
        rng.integers(-1, cells, (points, tables)).astype("int32"),
    )
    expected = reference.cell_means(*arrays, cells)
    traced = tf.function(lambda *a: compiled.cell_means(*a, cells))
    for actual in (compiled.cell_means(*arrays, cells), traced(*arrays)):
        for a, e in zip(actual, expected, strict=True):
            assert a.dtype == e.dtype and a.shape == e.shape
            np.testing.assert_array_equal(a, e)
    for table in range(tables):
        for cell in range(min(cells, 5)):
            of_cell = arrays[0][arrays[1][:, table] == cell]
            assert expected[1][table, cell] == len(of_cell)
            mean = of_cell.astype("float64").sum(0) / max(1, len(of_cell))
            np.testing.assert_allclose(expected[0][table, cell], mean, atol=1e-6)


@pytest.mark.parametrize("module", [compiled, reference])
def test_cell_means_refuses_what_does_not_fit(module):
    points, members = np.zeros((4, 3), "float32"), np.zeros((4, 2), "int32")
    errors = (ValueError, tf.errors.InvalidArgumentError)
    for bad in (members[:3], members[0], members - 2, members + 5):
        with pytest.raises(errors, match="`?members`?"):
            module.cell_means(points, bad, 5)
    with pytest.raises(ValueError, match="`cells`"):
        module.cell_means(points, members, 0)


def observation(batch, input_dim, rank, count):
    rng = np.random.default_rng(1)
    shapes = (batch, input_dim), input_dim, (input_dim, rank), input_dim
    arrays = [
        rng.normal(size=s).astype("float32") for s in (*shapes, (input_dim, rank))
    ]
    if batch > 2:
        arrays[0][1, 0], arrays[0][2, -1] = np.nan, -1e15
    return [*arrays, np.float32(count)]


@pytest.mark.parametrize("count", [0, 10, 2040])
@pytest.mark.parametrize("shape", [(0, 5, 2), (3, 1, 1), (31, 50, 16), (200, 33, 7)])
def test_observe_inputs_is_the_reference_up_to_rounding(shape, count):
    arrays = observation(*shape, count)
    options = {"rows": 32, "largest": 1e15, "window": 2048.0}
    expected = reference.observe_inputs(*arrays, **options)
    for actual in (
        compiled.observe_inputs(*arrays, **options),
        tf.function(lambda *a: compiled.observe_inputs(*a, **options))(*arrays),
    ):
        for a, e in zip(actual, expected, strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5)
            assert a.shape == e.shape


@pytest.mark.parametrize("module", [compiled, reference])
def test_observe_inputs_refuses_shapes_that_do_not_match(module):
    for index, name in ((1, "center"), (2, "basis"), (3, "mean"), (4, "moments")):
        arrays = observation(4, 5, 2, 0)
        arrays[index] = np.concatenate([arrays[index], arrays[index][:1]])
        with pytest.raises(ValueError, match=f"`{name}`"):
            module.observe_inputs(*arrays, rows=32, largest=1.0, window=1.0)


@pytest.mark.parametrize("module", [compiled, reference])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [[], [0, 3, 8], [8, 3, 3, 0]])
@pytest.mark.parametrize("shape", [(9, 20), (9,), (9, 2, 3)])
def test_subtract_rows(module, dtype, rows, shape):
    rng = np.random.default_rng(2)
    before = rng.normal(size=shape).astype(dtype)
    values = rng.normal(size=(len(rows), *shape[1:])).astype(dtype)
    variable = tf.Variable(before)
    module.subtract_rows(variable, np.array(rows, np.int32), values)
    np.subtract.at(before, np.array(rows, int), values)
    np.testing.assert_array_equal(variable, before)


@pytest.mark.parametrize("module", [compiled, reference])
@pytest.mark.parametrize("row", [-1, 9])
def test_subtract_rows_refuses_rows_out_of_range(module, row):
    variable = tf.Variable(tf.zeros([9, 2]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="rows"):
        module.subtract_rows(variable, [0, row], tf.ones([2, 2]))
    np.testing.assert_array_equal(variable, np.zeros([9, 2]))


def test_what_was_read_before_a_subtraction_stays():
    variable = tf.Variable(tf.zeros([3, 2]))
    before = variable.read_value()
    compiled.subtract_rows(variable, [1], tf.ones([1, 2]))
    np.testing.assert_array_equal(before, np.zeros([3, 2]))
    np.testing.assert_array_equal(variable, [[0, 0], [-1, -1], [0, 0]])


@pytest.mark.parametrize("reference_ops", [False, True])
def test_sgd_subtracts_rows(reference_ops):
    with ops.reference_ops(reference_ops):
        layer = keras_lsh.LSHDense(30, active=3)
        layer.build((None, 8))
        optimizer = keras.optimizers.SGD(0.5)
        optimizer.build([layer.kernel, layer.bias])

        @tf.function
        def step(inputs):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer(inputs) ** 2)
            gradients = tape.gradient(loss, [layer.kernel.value, layer.bias.value])
            optimizer.apply(gradients, [layer.kernel, layer.bias])
            return gradients

        inputs = tf.random.stateless_normal([5, 8], [0, 1])
        before = layer.kernel.numpy()
        by_kernel, _ = step(inputs)
        before[by_kernel.indices] -= np.float32(0.5) * by_kernel.values.numpy()
        np.testing.assert_array_equal(layer.kernel, before)
        names = {
            op.type for op in step.get_concrete_function(inputs).graph.get_operations()
        }
    assert ("LshResourceRowSubtract" in names) != reference_ops
    assert ("ResourceScatterSub" in names) == reference_ops
