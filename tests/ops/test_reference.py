import brute_force
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lsh.ops import reference


def eagerly(function, *arrays):
    return function(*arrays)


def in_graph(function, *arrays):
    """Runs it in a tf.function that knows no batch size."""
    specs = [tf.TensorSpec((None, *a.shape[1:]), a.dtype) for a in arrays]
    return tf.function(function, input_signature=specs)(*arrays)


@pytest.fixture(params=[eagerly, in_graph])
def run(request):
    return request.param


def assert_identical(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype
        np.testing.assert_array_equal(a, e)


# Margins with every kind of trouble: ties of squares, zeros of both signs, subnormal
# squares and numbers, squares that overflow, and what is not finite.
ODD_MARGINS = np.float32(
    [0, -0.0, 1, -1, 1, 0.5, -0.5, 1e-20, 1e-40, 1e25, -1e25, np.nan, np.inf, -np.inf]
)


def random_margins(rng, shape, kind):
    if kind == "normal":
        return rng.standard_normal(shape).astype(np.float32)
    if kind == "ties":
        return rng.integers(-2, 3, shape).astype(np.float32)
    return rng.choice(ODD_MARGINS, shape)


@pytest.mark.parametrize("kind", ["normal", "odd"])
@pytest.mark.parametrize(("n", "tables", "bits"), [(5, 3, 4), (0, 2, 3), (3, 1, 20)])
def test_hash_codes(run, n, tables, bits, kind):
    margins = random_margins(np.random.default_rng(0), [n, tables * bits], kind)
    codes = run(lambda m: reference.hash_codes(m, tables, bits), margins)
    assert_identical([codes], [brute_force.hash_codes(margins, tables, bits)])


@pytest.mark.parametrize(
    ("units", "tables", "buckets"), [(50, 3, 8), (4, 2, 64), (7, 1, 1), (1, 1, 2)]
)
def test_build_tables(run, units, tables, buckets):
    codes = np.random.default_rng(1).integers(0, buckets, [units, tables], np.int32)
    actual = run(lambda c: reference.build_tables(c, buckets), codes)
    assert_identical(actual, brute_force.build_tables(codes, buckets))


@pytest.mark.parametrize("code", [-1, 8])
def test_build_tables_refuses_codes_out_of_range(run, code):
    codes = np.int32([[0], [code]])
    with pytest.raises(tf.errors.InvalidArgumentError, match="codes"):
        run(lambda c: reference.build_tables(c, 8), codes)


@pytest.mark.parametrize("kind", ["normal", "ties", "odd"])
@pytest.mark.parametrize(
    ("batch", "tables", "bits", "probes"),
    [
        (6, 3, 4, 5),
        (4, 5, 6, 10),
        (4, 2, 3, 8),
        (2, 1, 9, 300),
        (3, 3, 2, 1),
        (3, 4, 1, 2),
    ],
)
def test_probe_sequence(run, batch, tables, bits, probes, kind):
    margins = random_margins(np.random.default_rng(2), [batch, tables * bits], kind)
    actual = run(lambda m: reference.probe_sequence(m, tables, bits, probes), margins)
    expected = brute_force.probe_sequence(margins, tables, bits, probes)
    assert_identical(actual, expected)


@pytest.mark.parametrize("kind", ["normal", "ties", "odd"])
@pytest.mark.parametrize(
    ("batch", "tables", "functions", "n", "probes", "negatives"),
    [
        (4, 3, 1, 5, 3, False),
        (3, 2, 3, 4, 7, False),
        (3, 4, 2, 3, 9, False),  # every bucket
        (3, 3, 2, 4, 1, True),  # each table's own
        (3, 5, 2, 4, 20, True),
        (2, 1, 4, 2, 30, True),
        (2, 2, 1, 1, 2, True),
        (2, 3, 2, 1, 1, False),
        (0, 2, 2, 3, 4, False),
    ],
)
def test_probe_digits(run, batch, tables, functions, n, probes, negatives, kind):
    shape = batch, tables, functions, n
    scores = random_margins(np.random.default_rng(4), shape, kind)
    actual = run(lambda s: reference.probe_digits(s, probes, negatives), scores)
    assert_identical(actual, brute_force.probe_digits(scores, probes, negatives))


def test_probe_sequence_of_an_empty_batch(run):
    margins = np.zeros([0, 6], np.float32)
    buckets, weights = run(lambda m: reference.probe_sequence(m, 2, 3, 4), margins)
    assert buckets.shape == weights.shape == (0, 8)


def test_all_probes_are_all_buckets():
    margins = random_margins(np.random.default_rng(3), [3, 8], "normal")
    buckets, _ = reference.probe_sequence(margins, 2, 4, 16)
    np.testing.assert_array_equal(np.sort(buckets), np.tile(np.arange(32), [3, 1]))


def test_twenty_bits_are_searched_without_all_masks():
    margins = random_margins(np.random.default_rng(4), [2, 40], "normal")
    buckets, weights = reference.probe_sequence(margins, 2, 20, 20)
    # The 16 smallest of 20 positions suffice to find 40 buckets, by brute force.
    keep = np.sort(np.argsort(margins.reshape(2, 2, 20) ** 2, -1)[..., :12], -1)
    small = np.take_along_axis(margins.reshape(2, 2, 20), keep, -1).reshape(2, 24)
    _, expected = brute_force.probe_sequence(small, 2, 12, 20)
    np.testing.assert_array_equal(weights, expected)
    assert len(set(buckets[0].numpy())) == 40


class SelectCase:
    """Random arguments of select_active."""

    def __init__(self, seed, units=40, tables=3, buckets=8, batch=5, probed=6, forced=4,
                 fill=True, active=12):  # fmt: skip
        rng = np.random.default_rng(seed)
        codes = rng.integers(0, buckets, [units, tables], np.int32)
        self.offsets, self.table_ids = brute_force.build_tables(codes, buckets)
        self.buckets = rng.integers(0, tables * buckets, [batch, probed], np.int32)
        # Few different weights, so that scores tie.
        self.weights = rng.choice(np.int32([1, 300, 65536]), [batch, probed])
        self.forced = rng.integers(-1, units, [batch, forced], np.int32)
        seeds = rng.integers(-(2**31), 2**31, [batch if fill else 0])
        self.fill_seeds = seeds.astype(np.int32)
        self.active = active

    def run(self, run=eagerly):
        def select(buckets, weights, forced, fill_seeds):
            return reference.select_active(
                buckets, weights, self.offsets, self.table_ids, forced, fill_seeds,
                self.active,
            )  # fmt: skip

        return run(select, self.buckets, self.weights, self.forced, self.fill_seeds)

    def expected(self):
        return brute_force.select_active(
            self.buckets, self.weights, self.offsets, self.table_ids, self.forced,
            self.fill_seeds, self.active,
        )  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fill": False},
        {"active": 40},  # all units
        {"active": 40, "fill": False},
        {"active": 4},  # the forced ones and little more
        {"probed": 0},
        {"probed": 0, "forced": 0, "fill": False},  # nothing at all
        {"forced": 0},
        {"buckets": 1},  # every neuron in one bucket
        {"units": 1, "active": 1, "forced": 1},
        {"units": 2, "active": 2, "buckets": 1, "forced": 0},
        {"batch": 0},
        {"probed": 300, "units": 97, "active": 60},
    ],
    ids=str,
)
def test_select_active(run, options):
    for seed in range(3 if run is eagerly else 1):
        case = SelectCase(seed, **options)
        assert_identical([case.run(run)], [case.expected()])


def test_select_active_sums_the_largest_weights(run):
    case = SelectCase(0, probed=32767, buckets=1, units=3, active=2, batch=2, forced=0)
    case.weights[:] = 65536
    assert_identical([case.run(run)], [case.expected()])


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("buckets", (1, 2), 24),
        ("buckets", (1, 2), -1),
        ("weights", (0, 0), 0),
        ("weights", (0, 0), 65537),
        ("forced", (0, 1), 40),
        ("forced", (0, 1), -2),
        ("offsets", (slice(None), slice(1, None)), 41),
        ("offsets", (slice(None), slice(None, -1)), -1),
        ("offsets", (slice(None), slice(None, None, 2)), 40),  # descending
        ("table_ids", slice(None), 40),
        ("table_ids", slice(None), -1),
    ],
)
def test_select_active_refuses_values_out_of_range(run, name, place, value):
    case = SelectCase(5)
    getattr(case, name)[place] = value
    with pytest.raises(tf.errors.InvalidArgumentError, match=name):
        case.run(run)


def test_select_active_refuses_more_forced_than_active(run):
    case = SelectCase(6, active=3)
    case.forced[:] = [7, 7, 8, 9]
    assert_identical([case.run(run)], [np.tile(np.int32([7, 8, 9]), [5, 1])])
    case.forced[3] = [7, 8, 9, 10]
    with pytest.raises(tf.errors.InvalidArgumentError, match="active"):
        case.run(run)


@pytest.mark.parametrize("name", ["weights", "forced", "fill_seeds"])
def test_select_active_refuses_another_batch_size(run, name):
    case = SelectCase(7)
    setattr(case, name, getattr(case, name)[:-1])
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        case.run(run)


def matmul_case(
    seed, batch=6, units=30, input_dim=7, active=8, bias=True, padding=True
):
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal([batch, input_dim]).astype(np.float32)
    kernel = rng.standard_normal([units, input_dim]).astype(np.float32)
    bias = rng.standard_normal(units).astype(np.float32) if bias else None
    ids = np.full([batch, active], -1, np.int32)
    for row in ids:
        n = rng.integers(0, active + 1) if padding else active
        row[:n] = np.sort(rng.choice(units, n, replace=False))
    return inputs, kernel, bias, ids


MATMUL_CASES = [
    {},
    {"bias": False},
    {"batch": 0},
    {"units": 8, "padding": False},  # every unit is active
    {"active": 1, "batch": 1},
    {"input_dim": 1},
]


@pytest.mark.parametrize("keep", [None, 1])
@pytest.mark.parametrize("options", MATMUL_CASES, ids=str)
def test_active_matmul(run, options, keep):
    inputs, kernel, bias, ids = matmul_case(0, **options)
    wrappers = (tf.constant, tf.Variable, keras.Variable)
    for rows in [wrap(kernel) for wrap in wrappers[: 3 if run is eagerly else 2]]:
        values, kept = run(
            lambda x, i, rows=rows: reference.active_matmul(x, rows, bias, i, keep),
            inputs,
            ids,
        )
        expected, expected_ids = brute_force.active_matmul(
            inputs, kernel, bias, ids, keep
        )
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)
        assert_identical([kept], [expected_ids])


@pytest.mark.parametrize("keep", [1, 3, 9])
def test_active_matmul_keeps_the_largest(run, keep):
    # With one input the values are the kernel: ties, zeros of both signs, not finite.
    kernel = np.float32([2, 1, 2, 0, -0.0, -1, np.nan, np.inf, -np.inf, -np.nan, 1e-45])
    ids = np.int32([[0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 1, 2, 4, 5, 8, -1, -1, -1],
                    [3, 4, 5, 8, -1, -1, -1, -1, -1], [-1] * 9,
                    [0, 1, 2, 3, 5, 6, 7, 8, 9]])  # fmt: skip
    inputs = np.ones([5, 1], np.float32)
    values, kept = run(
        lambda x, i: reference.active_matmul(x, kernel[:, None], None, i, keep),
        inputs,
        ids,
    )
    expected = brute_force.keep_largest(
        np.where(ids >= 0, kernel[ids], np.float32(0)), ids, keep
    )
    assert_identical([values, kept], expected)


def gradients(run, inputs, kernel, bias, ids, weights, keep=None):
    """Gradients of the sum of weights * values, by inputs, kernel and bias."""

    def function(inputs, ids, weights):
        sources = [s for s in (inputs, kernel, bias) if s is not None]
        with tf.GradientTape() as tape:
            tape.watch(sources)
            values, kept = reference.active_matmul(inputs, kernel, bias, ids, keep)
            loss = tf.reduce_sum(values * weights)
        return tape.gradient(loss, sources), kept

    return run(function, inputs, ids, weights)


@pytest.mark.parametrize("keep", [None, 1])
@pytest.mark.parametrize("options", MATMUL_CASES, ids=str)
@pytest.mark.parametrize("variables", [True, False])
def test_active_matmul_gradients(run, options, keep, variables):
    inputs, kernel, bias, ids = matmul_case(1, **options)
    weights = np.random.default_rng(2).standard_normal([len(ids), keep or ids.shape[1]])
    weights = weights.astype(np.float32)
    wrap = tf.Variable if variables else tf.constant
    sources = wrap(kernel), None if bias is None else wrap(bias)
    actual, kept = gradients(run, tf.constant(inputs), *sources, ids, weights, keep)
    expected = brute_force.active_matmul_gradients(
        weights, inputs, kernel, kept.numpy()
    )
    for a, e in zip(actual, expected, strict=False):
        np.testing.assert_allclose(tf.convert_to_tensor(a), e, rtol=1e-5, atol=1e-5)
    if variables:
        rows = np.unique(kept[kept >= 0])
        for gradient in actual[1:]:
            assert isinstance(gradient, tf.IndexedSlices)
            np.testing.assert_array_equal(gradient.indices, rows)


def test_gradients_keep_what_is_not_finite_to_its_own_rows(run):
    inputs, kernel, bias, ids = matmul_case(3, batch=2, padding=False)
    ids[0, 3:] = ids[1, 5:] = -1
    inputs[0, 0] = np.inf
    kernel[ids[1, 0], 2] = np.nan
    weights = np.ones(ids.shape, np.float32)
    variables = tf.Variable(kernel), tf.Variable(bias)
    actual, _ = gradients(run, tf.constant(inputs), *variables, ids, weights)
    with np.errstate(invalid="ignore"):
        expected = brute_force.active_matmul_gradients(weights, inputs, kernel, ids)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(tf.convert_to_tensor(a), e, rtol=1e-5, atol=1e-5)


def test_active_matmul_of_what_is_not_finite_is_what_dense_gives(run):
    inputs, kernel, bias, ids = matmul_case(4, units=8, padding=False)
    inputs[0, 1], inputs[1, 2], kernel[3, 0], bias[5] = np.nan, np.inf, np.nan, -np.inf
    values, _ = run(
        lambda x, i: reference.active_matmul(x, kernel, bias, i), inputs, ids
    )
    with np.errstate(invalid="ignore"):
        dense = inputs @ kernel.T + bias
    np.testing.assert_allclose(values, dense, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [-2, 30])
def test_active_matmul_refuses_ids_out_of_range(run, bad):
    inputs, kernel, bias, ids = matmul_case(5)
    ids[2, 3] = bad
    with pytest.raises(tf.errors.InvalidArgumentError, match="ids"):
        run(lambda x, i: reference.active_matmul(x, kernel, bias, i), inputs, ids)


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16, tf.float16])
@pytest.mark.parametrize("options", [{}, {"batch": 0}, {"units": 8, "padding": False}])
def test_scatter_active(run, dtype, options):
    *_, bias, ids = matmul_case(6, **options)
    values = np.random.default_rng(7).standard_normal(ids.shape)
    values = tf.cast(values, dtype).numpy()
    values[ids < 0] = np.nan  # must not get through
    units = len(bias)

    def function(values, ids):
        with tf.GradientTape() as tape:
            tape.watch(values)
            dense = reference.scatter_active(values, ids, units)
            weighted = dense * tf.cast(tf.range(1, units + 1), dtype)
        return dense, tape.gradient(weighted, values)

    dense, gradient = run(function, tf.constant(values), ids)
    assert_identical([dense], [brute_force.scatter_active(values, ids, units)])
    np.testing.assert_array_equal(gradient, (ids + 1).astype(values.dtype))


def test_scatter_active_refuses_ids_out_of_range(run):
    values = np.ones([1, 2], np.float32)
    for ids in ([[0, 3]], [[-2, 0]]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="ids"):
            run(lambda v, i: reference.scatter_active(v, i, 3), values, np.int32(ids))


@pytest.mark.parametrize("shape", [(9,), (9, 4), (9, 2, 3)])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("wrap", [tf.Variable, keras.Variable])
def test_row_adam(run, wrap, dtype, shape):
    rng = np.random.default_rng(8)
    dtype = tf.as_dtype(dtype)
    arrays = [tf.cast(rng.standard_normal(shape), dtype).numpy() for _ in range(3)]
    arrays[2] = np.abs(arrays[2])
    arrays.append(np.int32([0, 3, 4, 5, 0, 9, 6, 6, 6]))  # one is later than `step`
    state = [wrap(a, dtype=a.dtype.name) for a in arrays]
    rows = np.int32([0, 2, 3, 5, 8])
    gradient = tf.cast(rng.standard_normal([5, *shape[1:]]), dtype).numpy()
    options = {"beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-7, "alpha": 0.01}
    step = 7

    run(
        lambda r, g: reference.row_adam(*state, r, g, step=step, **options),
        rows,
        gradient,
    )
    expected = [a.astype(np.float64) for a in arrays[:3]] + [arrays[3].copy()]
    brute_force.row_adam(
        *expected, rows, gradient.astype(np.float64), step=step, **options
    )
    tolerance = {"float64": 1e-7, "float32": 1e-6, "bfloat16": 1e-2}[dtype.name]
    for s, e in zip(state, expected, strict=True):
        actual = tf.cast(s, tf.float64)
        np.testing.assert_allclose(actual, e, rtol=tolerance, atol=tolerance)
    others = np.setdiff1d(np.arange(9), rows)
    for s, a in zip(state, arrays, strict=True):
        np.testing.assert_array_equal(tf.gather(s, others), a[others])


def test_row_adam_catches_up_as_under_zero_gradients():
    rng = np.random.default_rng(9)
    options = {"alpha": 0.0, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}
    every, lazy = (
        [tf.Variable(tf.zeros([3, 4])) for _ in range(3)]
        + [tf.Variable(tf.zeros([3], tf.int32))]
        for _ in range(2)
    )
    for step in range(1, 30):
        rows = np.flatnonzero(rng.random(3) < 0.3).astype(np.int32)
        gradient = np.zeros([3, 4], np.float32)
        gradient[rows] = rng.standard_normal([len(rows), 4])
        reference.row_adam(*every, np.arange(3), gradient, step=step, **options)
        reference.row_adam(*lazy, rows, gradient[rows], step=step, **options)
        for a, b in zip(every[1:3], lazy[1:3], strict=True):
            np.testing.assert_allclose(
                tf.gather(a, rows), tf.gather(b, rows), rtol=1e-5
            )


@pytest.mark.parametrize("rows", [[1, 1], [2, 1], [-1, 0], [1, 3]])
def test_row_adam_refuses_bad_rows(run, rows):
    state = [tf.Variable(tf.zeros([3, 2])) for _ in range(3)]
    state.append(tf.Variable(tf.zeros([3], tf.int32)))
    with pytest.raises(tf.errors.InvalidArgumentError, match="rows"):
        run(
            lambda r, g: reference.row_adam(*state, r, g, 0.1, 0.9, 0.99, 1e-7, 1),
            np.int32(rows),
            np.ones([2, 2], np.float32),
        )
    np.testing.assert_array_equal(state[0], np.zeros([3, 2]))


ONES = np.ones([2, 6], np.float32)
IDS = np.zeros([2, 3], np.int32)
TABLES = np.int32([[0, 4]]), np.int32([[0, 1, 2, 3]])
SEEDS = np.int32([])


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (reference.hash_codes, (ONES, 2, 4), "margins"),
        (reference.hash_codes, (ONES[0], 2, 3), "margins"),
        (reference.hash_codes, (tf.constant(IDS), 1, 3), "margins"),
        (reference.hash_codes, (ONES, 6, 0), "bits"),
        (reference.hash_codes, (ONES, 1, 21), "bits"),
        (reference.hash_codes, (ONES, 0, 3), "tables"),
        (reference.build_tables, (ONES, 4), "codes"),
        (reference.build_tables, (IDS[0], 4), "codes"),
        (reference.build_tables, (IDS, 0), "buckets"),
        (reference.probe_sequence, (ONES, 2, 3, 0), "probes"),
        (reference.probe_sequence, (ONES, 2, 3, 9), "probes"),
        (reference.select_active, (IDS, IDS[:, 1:], *TABLES, IDS, SEEDS, 2), "weights"),
        (reference.select_active, (IDS, IDS, *TABLES, IDS[1:], SEEDS, 2), "forced"),
        (reference.select_active, (IDS, IDS, *TABLES, IDS, SEEDS, 5), "active"),
        (reference.select_active, (IDS, IDS, *TABLES, IDS, SEEDS, 0), "active"),
        (reference.select_active, (IDS, IDS, IDS, TABLES[1], IDS, SEEDS, 2), "offsets"),
        (reference.select_active, (IDS, IDS, TABLES[0], IDS[0], IDS, SEEDS, 2),
         "table_ids"),
        (reference.active_matmul, (ONES, ONES[:, 1:], None, IDS), "inputs"),
        (reference.active_matmul, (ONES, ONES[0], None, IDS), "kernel"),
        (reference.active_matmul, (ONES, ONES, ONES[0], IDS), "bias"),
        (reference.active_matmul, (ONES, ONES, None, ONES), "ids"),
        (reference.active_matmul, (ONES[1:], ONES, None, IDS), "ids"),
        (reference.active_matmul, (ONES, ONES, None, IDS, 4), "keep"),
        (reference.active_matmul, (ONES, ONES, None, IDS, 0), "keep"),
        (reference.scatter_active, (ONES, IDS, 4), "values"),
        (reference.scatter_active, (ONES[:, :3], IDS, 0), "units"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(function, arguments, name):
    with pytest.raises(ValueError, match=f"value for `{name}`.*Received: {name}"):
        function(*arguments)


def test_data_checks_can_be_left_out():
    def count_assertions():
        graph = tf.function(
            lambda ids: reference.scatter_active(tf.ones([2, 3]), ids, 4)
        ).get_concrete_function(tf.TensorSpec([2, 3], tf.int32))
        return sum("Assert" in op.type for op in graph.graph.get_operations())

    assert count_assertions() > 0
    with reference.data_checks(False):
        assert count_assertions() == 0
    assert count_assertions() > 0


def test_all_of_it_in_a_saved_model(tmp_path):
    rng = np.random.default_rng(10)
    units, input_dim, tables, bits = 40, 6, 3, 4
    inputs = rng.standard_normal([5, input_dim]).astype(np.float32)
    directions = rng.standard_normal([input_dim, tables * bits]).astype(np.float32)

    module = tf.Module()
    module.kernel = tf.Variable(
        rng.standard_normal([units, input_dim]), dtype=tf.float32
    )
    codes = reference.hash_codes(tf.matmul(module.kernel, directions), tables, bits)
    offsets, table_ids = reference.build_tables(codes, 2**bits)
    module.offsets, module.table_ids = tf.Variable(offsets), tf.Variable(table_ids)

    @tf.function(input_signature=[tf.TensorSpec([None, input_dim], tf.float32)])
    def call(x):
        margins = tf.matmul(x, directions)
        buckets, weights = reference.probe_sequence(margins, tables, bits, 4)
        batch = tf.shape(x)[0]
        ids = reference.select_active(
            buckets, weights, module.offsets, module.table_ids,
            tf.zeros([batch, 0], tf.int32), tf.range(batch), 12,
        )  # fmt: skip
        values, ids = reference.active_matmul(x, module.kernel, None, ids, keep=5)
        return reference.scatter_active(values, ids, units)

    module.call = call
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    np.testing.assert_array_equal(loaded.call(inputs), call(inputs))
    assert np.count_nonzero(loaded.call(inputs)) == 5 * 5
    assert loaded.call(inputs[:0]).shape == (0, units)
