"""The compiled ops against brute force, and against the reference ops."""

import concurrent.futures

import brute_force
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lsh.ops import compiled, reference


def eagerly(function, *arrays):
    return function(*arrays)


def in_graph(function, *arrays):
    """Runs it in a tf.function that knows no batch size."""
    specs = [tf.TensorSpec((None, *a.shape[1:]), a.dtype) for a in arrays]
    return tf.function(function, input_signature=specs)(*arrays)


@pytest.fixture(params=[eagerly, in_graph])
def run(request):
    return request.param


def assert_identical(actual, *expectations):
    for expected in expectations:
        for a, e in zip(actual, expected, strict=True):
            assert a.dtype == e.dtype
            np.testing.assert_array_equal(a, e)


def assert_as_precise(actual, exact, plain):
    """The error against float64 is at most twice that of a plain computation.

    Or half a unit in the last place of the largest number, which is what the result's
    own rounding costs. What is not finite must be the same.
    """
    actual, plain = np.asarray(actual, np.float64), np.asarray(plain, np.float64)
    assert actual.shape == exact.shape
    finite = np.isfinite(exact)
    np.testing.assert_array_equal(actual[~finite], exact[~finite])
    if finite.any():
        exact = exact[finite]
        error, allowed = (np.abs(x[finite] - exact).max() for x in (actual, plain))
        half_ulp = np.abs(exact).max() * np.finfo(np.float32).eps / 2
        assert error <= 2 * allowed + half_ulp


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


@pytest.mark.parametrize(
    ("n", "inner", "m"),
    [(50, 30, 16), (0, 3, 4), (3, 0, 4), (3, 4, 0), (1, 1, 1), (129, 784, 17)],
)
def test_matmul(run, n, inner, m):
    rng = np.random.default_rng(0)
    a = rng.standard_normal([n, inner]).astype(np.float32)
    b = rng.standard_normal([inner, m]).astype(np.float32)
    product = run(compiled.matmul, a, b)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    plain = np.zeros([n, m], np.float32)  # one after the other, as documented
    for i in range(inner):
        plain += a[:, i : i + 1] * b[i]
    assert_as_precise(product, exact, plain)
    np.testing.assert_allclose(reference.matmul(a, b), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["normal", "odd"])
@pytest.mark.parametrize(("n", "inner"), [(50, 33), (0, 3), (3, 0), (1, 1)])
def test_row_digests(run, n, inner, kind):
    rows = random_margins(np.random.default_rng(0), [n, inner], kind)
    expected = [
        sum(
            int(bits) * (2 * j + 1) * 0x9E3779B1
            for j, bits in enumerate(row.view(np.uint32))
        )
        % 2**32
        for row in rows
    ]
    digests = run(compiled.row_digests, rows)
    expected = np.array(expected, np.uint32).astype(np.int32)
    assert_identical([digests], [expected], [run(reference.row_digests, rows)])


@pytest.mark.parametrize("kind", ["normal", "ties", "odd"])
@pytest.mark.parametrize(
    ("n", "tables", "bits"), [(50, 3, 4), (0, 2, 3), (3, 1, 20), (7, 9, 1)]
)
def test_hash_codes(run, n, tables, bits, kind):
    margins = random_margins(np.random.default_rng(0), [n, tables * bits], kind)
    codes = run(lambda m: compiled.hash_codes(m, tables, bits), margins)
    assert_identical(
        [codes],
        [brute_force.hash_codes(margins, tables, bits)],
        [reference.hash_codes(margins, tables, bits)],
    )


@pytest.mark.parametrize(
    ("units", "tables", "buckets"),
    [(50, 3, 8), (4, 2, 64), (7, 1, 1), (1, 1, 2), (0, 2, 4), (300, 5, 300)],
)
def test_build_tables(run, units, tables, buckets):
    codes = np.random.default_rng(1).integers(0, buckets, [units, tables], np.int32)
    actual = run(lambda c: compiled.build_tables(c, buckets), codes)
    assert_identical(
        actual,
        brute_force.build_tables(codes, buckets),
        reference.build_tables(codes, buckets),
    )


@pytest.mark.parametrize("kind", ["normal", "ties", "odd"])
@pytest.mark.parametrize(
    ("batch", "tables", "bits", "probes"),
    [
        (6, 3, 4, 5),
        (4, 5, 6, 10),
        (4, 2, 3, 8),  # every bucket
        (2, 1, 9, 300),
        (3, 3, 2, 1),  # the initial buckets
        (3, 4, 1, 2),
        (0, 2, 3, 4),
    ],
)
def test_probe_sequence(run, batch, tables, bits, probes, kind):
    margins = random_margins(np.random.default_rng(2), [batch, tables * bits], kind)
    actual = run(lambda m: compiled.probe_sequence(m, tables, bits, probes), margins)
    assert_identical(
        actual,
        brute_force.probe_sequence(margins, tables, bits, probes),
        reference.probe_sequence(margins, tables, bits, probes),
    )


@pytest.mark.parametrize("kind", ["normal", "ties", "odd"])
def test_probe_sequence_of_twenty_bits(kind):
    # Too many perturbations for brute force; the reference finds them another way.
    margins = random_margins(np.random.default_rng(3), [4, 60], kind)
    assert_identical(
        compiled.probe_sequence(margins, 3, 20, 40),
        reference.probe_sequence(margins, 3, 20, 40),
    )


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
    actual = run(lambda s: compiled.probe_digits(s, probes, negatives), scores)
    assert_identical(
        actual,
        brute_force.probe_digits(scores, probes, negatives),
        reference.probe_digits(scores, probes, negatives),
    )


def test_probe_digits_of_many_values():
    # Too many codes for brute force.
    rng = np.random.default_rng(5)
    scores = rng.standard_normal([5, 3, 2, 100]).astype(np.float32)
    assert_identical(
        compiled.probe_digits(scores, 200, True),
        reference.probe_digits(scores, 200, True),
    )
    ties = np.zeros([2, 3, 3, 40], np.float32)  # all codes cost the same
    assert_identical(compiled.probe_digits(ties, 50), reference.probe_digits(ties, 50))


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

    def by(self, module, run=eagerly):
        def select(buckets, weights, forced, fill_seeds):
            return module.select_active(
                buckets, weights, self.offsets, self.table_ids, forced, fill_seeds,
                self.active,
            )  # fmt: skip

        return run(select, self.buckets, self.weights, self.forced, self.fill_seeds)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fill": False},
        {"active": 40},  # all units
        {"active": 40, "fill": False},
        {"active": 4},  # the forced ones and little more
        {"probed": 0},
        {"probed": 0, "forced": 0},  # the fill alone
        {"probed": 0, "forced": 0, "fill": False},  # nothing at all
        {"forced": 0},
        {"buckets": 1},  # every neuron in one bucket
        {"units": 1, "active": 1, "forced": 1},
        {"units": 2, "active": 2, "buckets": 1, "forced": 0},
        {"batch": 0},
        {"batch": 0, "fill": False, "probed": 0},
        {"probed": 300, "units": 97, "active": 60},
        {"batch": 64, "units": 200, "active": 30},
        {
            "units": 3,
            "buckets": 1,
            "active": 2,
            "forced": 0,
            "batch": 1,
            "probed": 32767,
        },
    ],
    ids=str,
)
def test_select_active(run, options):
    for seed in range(3 if run is eagerly else 1):
        case = SelectCase(seed, **options)
        expected = case.by(reference) if run is eagerly else case.by(compiled)
        assert_identical([case.by(compiled, run)], [case.by(brute_force)], [expected])


def test_select_active_of_a_sample_alone_is_as_in_a_batch():
    case = SelectCase(8, batch=30)
    together = case.by(compiled)
    for i in range(30):
        alone = SelectCase(8, batch=30)
        for name in ("buckets", "weights", "forced", "fill_seeds"):
            setattr(alone, name, getattr(case, name)[i : i + 1])
        assert_identical([alone.by(compiled)], [together[i : i + 1]])


def test_select_active_in_many_threads_at_once():
    cases = [SelectCase(n, batch=20, units=100 + n) for n in range(4)]
    expected = [case.by(compiled).numpy() for case in cases]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            actual = pool.map(lambda case: case.by(compiled), cases)
            assert_identical(list(actual), expected)


def test_select_active_serves_tables_of_other_sizes_in_turn():
    # The kernel keeps its scratch memory from one call to the next.
    cases = [SelectCase(n, units=n, active=5) for n in (10, 500, 20, 500, 7)]
    for case in cases:
        assert_identical([case.by(compiled)], [case.by(brute_force)])


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


def plain_matmul(inputs, kernel, bias, ids):
    """In float32, as NumPy adds up."""
    products = np.einsum("bi,bsi->bs", inputs, kernel[ids], optimize=False)
    values = products if bias is None else products + bias[ids]
    return np.where(ids >= 0, values, np.float32(0))


MATMUL_CASES = [
    {},
    {"bias": False},
    {"batch": 0},
    {"units": 8, "padding": False},  # every unit is active
    {"active": 1, "batch": 1},
    {"active": 0},
    {"input_dim": 1},
    {"input_dim": 0},
    {"input_dim": 16},
    {"input_dim": 131},
    {"batch": 70, "units": 9, "active": 9, "input_dim": 300},  # long runs per neuron
    {"units": 5000, "active": 100, "batch": 3},
]

FORMS = {
    "tensor": tf.constant,
    "tf.Variable": tf.Variable,
    "keras.Variable": keras.Variable,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", MATMUL_CASES, ids=str)
def test_active_matmul(run, options, form):
    inputs, kernel, bias, ids = matmul_case(0, **options)
    weights = [None if w is None else FORMS[form](w) for w in (kernel, bias)]
    values, returned = run(
        lambda x, i: compiled.active_matmul(x, *weights, i), inputs, ids
    )
    assert_identical([returned], [ids])
    exact, _ = brute_force.active_matmul(inputs, kernel, bias, ids)
    assert_as_precise(values, exact, plain_matmul(inputs, kernel, bias, ids))
    by_reference, _ = reference.active_matmul(inputs, kernel, bias, ids)
    assert_as_precise(values, exact, by_reference)


@pytest.mark.parametrize("bias_form", [*FORMS, "array"])
@pytest.mark.parametrize("kernel_form", [*FORMS, "array"])
def test_active_matmul_of_mixed_forms(kernel_form, bias_form):
    forms = FORMS | {"array": np.asarray}
    inputs, kernel, bias, ids = matmul_case(1)
    mixed = compiled.active_matmul(
        inputs, forms[kernel_form](kernel), forms[bias_form](bias), ids
    )
    assert_identical(mixed, compiled.active_matmul(inputs, kernel, bias, ids))


def test_active_matmul_takes_ids_in_any_order_and_more_than_once():
    inputs, kernel, bias, _ = matmul_case(2)
    ids = np.random.default_rng(3).integers(-1, 30, [6, 8], np.int32)
    values, returned = compiled.active_matmul(inputs, kernel, bias, ids)
    assert_identical([returned], [ids])
    exact, _ = brute_force.active_matmul(inputs, kernel, bias, ids)
    assert_as_precise(values, exact, plain_matmul(inputs, kernel, bias, ids))


@pytest.mark.parametrize("keep", [None, 5])
@pytest.mark.parametrize("kinds", [1, 4, 1000])
def test_neuron_keys_change_nothing(run, kinds, keep):
    rng = np.random.default_rng(11)
    keys = rng.integers(-2, kinds, [400, 2], np.int32)
    inputs, kernel, bias, ids = matmul_case(12, 60, 400, 37, 50)
    # Half of the samples use whole groups of neurons of equal key: these are multiplied
    # together.
    for row in ids[::2]:
        members = np.flatnonzero(keys[:, 0] == keys[rng.integers(400), 0])[:50]
        row[:] = -1
        row[: len(members)] = members
    actual = run(
        lambda x, i: compiled.active_matmul(x, kernel, bias, i, keep, keys), inputs, ids
    )
    assert_identical(actual, compiled.active_matmul(inputs, kernel, bias, ids, keep))


def test_a_sample_alone_is_as_in_a_batch():
    inputs, kernel, bias, ids = matmul_case(13, 40, 60, 37, 30)
    values, _ = compiled.active_matmul(inputs, kernel, bias, ids)
    dense = compiled.scatter_active(values, ids, 60)
    for i in range(len(ids)):
        sample = slice(i, i + 1)
        alone, _ = compiled.active_matmul(inputs[sample], kernel, bias, ids[sample])
        assert_identical([alone], [values[sample]])
        alone = compiled.scatter_active(alone, ids[sample], 60)
        assert_identical([alone], [dense[sample]])


@pytest.mark.parametrize("keep", [1, 3, 7, 8])
@pytest.mark.parametrize("options", [{}, {"batch": 0}, {"padding": False}], ids=str)
def test_active_matmul_keeps_the_largest(run, options, keep):
    inputs, kernel, bias, ids = matmul_case(4, **options)
    actual = run(
        lambda x, i: compiled.active_matmul(x, kernel, bias, i, keep), inputs, ids
    )
    # The choice is that among the op's own values: others may round to another order.
    values, _ = compiled.active_matmul(inputs, kernel, bias, ids)
    assert_identical(actual, brute_force.keep_largest(values.numpy(), ids, keep))


@pytest.mark.parametrize("op", [compiled.active_matmul, reference.active_matmul])
@pytest.mark.parametrize("keep", [1, 3, 7])
def test_forced_ids_are_kept(run, op, keep):
    inputs, kernel, bias, ids = matmul_case(5)
    rng = np.random.default_rng(keep)
    forced = rng.permuted(ids, axis=1)[:, :2]  # -1 among them
    forced[::2, 1] = len(kernel) - 1  # as a rule none of the sample's
    actual = run(
        lambda x, i, f: op(x, kernel, bias, i, keep, forced=f), inputs, ids, forced
    )
    values, _ = op(inputs, kernel, bias, ids)
    expected = brute_force.keep_largest(values.numpy(), ids, keep, forced)
    assert_identical(actual, expected)
    unforced = op(inputs, kernel, bias, ids, keep)
    assert not np.array_equal(unforced[1], actual[1])


@pytest.mark.parametrize("keep", [1, 3, 8, 9])
def test_active_matmul_keeps_the_largest_of_ties_and_what_is_not_finite(run, keep):
    # With one input the values are the kernel.
    kernel = np.float32([2, 1, 2, 0, -0.0, -1, np.nan, np.inf, -np.inf, -np.nan, 1])
    ids = np.int32([[0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 1, 2, 4, 5, 8, -1, -1, -1],
                    [3, 4, 5, 8, -1, -1, -1, -1, -1], [-1] * 9,
                    [1, 2, 4, 5, 6, 7, 8, 9, 10], [8, 10, 4, 3, 1, 2, 0, -1, -1],
                    [-1, 6, -1, 3, -1, 9, 2, -1, 0]])  # fmt: skip
    inputs = np.ones([len(ids), 1], np.float32)
    actual = run(
        lambda x, i: compiled.active_matmul(x, kernel[:, None], None, i, keep),
        inputs,
        ids,
    )
    values = np.where(ids >= 0, kernel[ids], np.float32(0))
    kept_in_order = (
        (values, ids)
        if keep == ids.shape[1]  # returned as they came
        else brute_force.keep_largest(values, ids, keep)
    )
    assert_identical(actual, kept_in_order)


def test_active_matmul_of_what_is_not_finite_is_what_dense_gives(run):
    inputs, kernel, bias, ids = matmul_case(5, units=8, padding=False)
    inputs[0, 1], inputs[1, 2], kernel[3, 0], bias[5] = np.nan, np.inf, np.nan, -np.inf
    values, _ = run(
        lambda x, i: compiled.active_matmul(x, kernel, bias, i), inputs, ids
    )
    with np.errstate(invalid="ignore"):
        plain = inputs @ kernel.T + bias
        exact = inputs.astype(np.float64) @ kernel.T.astype(np.float64) + bias
    assert_as_precise(values, exact, plain)


DTYPES = [tf.float32, tf.bfloat16, tf.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize(
    "options",
    [{}, {"batch": 0}, {"units": 8, "padding": False}, {"active": 0}, {"batch": 90}],
    ids=str,
)
def test_scatter_active(run, dtype, options):
    *_, bias, ids = matmul_case(6, **options)
    values = np.random.default_rng(7).standard_normal(ids.shape)
    values = tf.cast(values, dtype).numpy()
    values[ids < 0] = np.nan  # must not get through
    units = len(bias)

    def function(values, ids):
        with tf.GradientTape() as tape:
            tape.watch(values)
            dense = compiled.scatter_active(values, ids, units)
            weighted = dense * tf.cast(tf.range(1, units + 1), dtype)
        return dense, tape.gradient(weighted, values)

    dense, gradient = run(function, tf.constant(values), ids)
    assert_identical(
        [dense],
        [brute_force.scatter_active(values, ids, units)],
        [reference.scatter_active(values, ids, units)],
    )
    np.testing.assert_array_equal(gradient, (ids + 1).astype(values.dtype))


class AdamCase:
    """Random arguments of row_adam."""

    def __init__(self, shape, rows):
        rng = np.random.default_rng(8)
        variable, momentum, velocity = rng.standard_normal([3, *shape])
        last_step = rng.integers(0, 9, shape[0])  # some are later than `step`
        self.state = [
            x.astype(np.float32) for x in (variable, momentum, np.abs(velocity))
        ]
        self.state.append(last_step.astype(np.int32))
        self.rows = np.int32(rows)
        self.gradient = rng.standard_normal([len(rows), *shape[1:]]).astype(np.float32)

    def by(self, module, wrap, run=eagerly, form=tf.identity):
        state = [wrap(a) for a in self.state]
        options = {"beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-7, "step": form(7)}
        run(
            lambda rows, gradient: module.row_adam(
                *state, rows, gradient, form(0.01), **options
            ),
            self.rows,
            self.gradient,
        )
        return [s.numpy() for s in state]

    def by_brute_force(self, real):
        state = [a.astype(real) for a in self.state[:3]] + [self.state[3].copy()]
        options = {"beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-7, "alpha": 0.01}
        options = {name: real(value) for name, value in options.items()}
        brute_force.row_adam(
            *state, self.rows, self.gradient.astype(real), step=7, **options
        )
        return state


@pytest.mark.parametrize(
    ("shape", "rows", "wrap"),
    [
        ((9,), [0, 2, 3, 5, 8], keras.Variable),
        ((9, 4), [0, 2, 3, 5, 8], keras.Variable),
        ((9, 2, 3), [1], keras.Variable),
        ((9, 37), range(9), tf.Variable),
        ((9, 4), [], tf.Variable),
        ((9, 0), [1, 2], tf.Variable),
        ((0, 4), [], tf.Variable),
        ((500, 40), range(0, 500, 3), tf.Variable),
    ],
    ids=str,
)
def test_row_adam(run, shape, rows, wrap):
    case = AdamCase(shape, rows)
    actual = case.by(compiled, lambda a: wrap(a, dtype=a.dtype.name), run)
    exact, plain = case.by_brute_force(np.float64), case.by_brute_force(np.float32)
    for a, e, p in zip(actual[:3], exact[:3], plain[:3], strict=True):
        assert_as_precise(a, e, p)
    np.testing.assert_array_equal(actual[3], exact[3])
    others = np.setdiff1d(np.arange(shape[0]), case.rows)
    for a, before in zip(actual, case.state, strict=True):
        np.testing.assert_array_equal(a[others], before[others])


def test_row_adam_like_the_reference():
    case = AdamCase((30, 20), range(0, 30, 2))
    exact, plain = case.by_brute_force(np.float64), case.by(reference, tf.Variable)
    for form in (tf.identity, tf.constant, lambda x: x):
        actual = case.by(compiled, tf.Variable, form=form)
        for a, e, p in zip(actual[:3], exact[:3], plain[:3], strict=True):
            assert_as_precise(a, e, p)
        np.testing.assert_array_equal(actual[3], plain[3])


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_row_adam_leaves_other_dtypes_to_the_reference(dtype):
    case = AdamCase((9, 4), [0, 2, 3])
    case.gradient = tf.cast(case.gradient, dtype).numpy()

    def variable(array):
        return tf.Variable(array if array.dtype == np.int32 else tf.cast(array, dtype))

    assert_identical(case.by(compiled, variable), case.by(reference, variable))


def test_row_adam_and_active_matmul_in_many_threads_at_once():
    # Each locks several variables; none may wait for another for ever.
    inputs, kernel, bias, ids = matmul_case(14)
    weights = tf.Variable(kernel), tf.Variable(bias)
    states = [[w, *(tf.Variable(tf.zeros_like(w)) for _ in "mv")] for w in weights]
    for state in states:
        state.append(tf.Variable(tf.zeros([30], tf.int32)))
    rows = np.arange(30, dtype=np.int32)

    def work(n):
        if n % 3 == 2:
            return compiled.active_matmul(inputs, *weights, ids)[0].shape
        gradient = np.ones(weights[n % 3].shape, np.float32)
        compiled.row_adam(
            *states[n % 3], rows, gradient, 0.01, 0.9, 0.99, 1e-7, n // 3 + 1
        )
        return None

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(120), timeout=60))
    for weight, before in zip(weights, (kernel, bias), strict=True):
        assert np.isfinite(weight).all()
        assert (weight.numpy() < before).all()


def test_row_adam_leaves_what_was_read_before_alone():
    case = AdamCase((9, 4), [0, 2])
    state = [tf.Variable(a) for a in case.state]
    before = [s.read_value() for s in state]
    compiled.row_adam(*state, case.rows, case.gradient, 0.01, 0.9, 0.99, 1e-7, 7)
    assert_identical(before, case.state)
    assert not np.array_equal(state[0][0], before[0][0])


def test_integers_of_any_numpy_dtype_and_lists_are_ids():
    inputs, kernel, bias, _ = matmul_case(9, batch=2)
    ids = [[0, 3, 5], [1, 29, -1]]
    expected = compiled.active_matmul(inputs, kernel, bias, np.int32(ids))
    for form in (list, np.array, np.int64, np.int16, np.int8):
        actual = compiled.active_matmul(inputs, kernel, bias, form(ids))
        assert_identical(actual, expected)


def test_shapes_are_known_in_a_graph():
    def spec(*shape, dtype=tf.int32):
        return tf.TensorSpec(shape, dtype)

    variable = tf.Variable(tf.ones([40, 7]))

    @tf.function(
        input_signature=[
            spec(None, 12, dtype=tf.float32),
            spec(None, 7, dtype=tf.float32),
        ]
    )
    def function(margins, inputs):
        codes = compiled.hash_codes(margins, 3, 4)
        assert codes.shape.as_list() == [None, 3]
        offsets, table_ids = compiled.build_tables(codes, 16)
        assert offsets.shape == [3, 17]
        assert table_ids.shape.as_list() == [3, None]
        buckets, weights = compiled.probe_sequence(margins, 3, 4, 5)
        assert buckets.shape.as_list() == weights.shape.as_list() == [None, 15]
        ids = compiled.select_active(
            buckets, weights, offsets, table_ids, codes[:, :0], codes[:, 0], 2
        )
        assert ids.shape.as_list() == [None, 2]
        for kernel in (variable, tf.ones([40, 7])):
            values, same = compiled.active_matmul(inputs, kernel, None, ids)
            assert values.shape.as_list() == same.shape.as_list() == [None, 2]
            values, kept = compiled.active_matmul(inputs, kernel, None, ids, keep=1)
            assert values.shape.as_list() == kept.shape.as_list() == [None, 1]
            assert tf.gradients(values, inputs)[0].shape.as_list() == [None, 7]
        dense = compiled.scatter_active(values, kept, 40)
        assert dense.shape.as_list() == [None, 40]
        return dense

    rng = np.random.default_rng(10)
    for batch in (3, 5):
        margins = rng.standard_normal([batch, 12]).astype(np.float32)
        assert function(margins, margins[:, :7]).shape == [batch, 40]
