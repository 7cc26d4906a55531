"""What the ops do not take: an error that names it, never a crash, no traces left."""

import os
import re
import subprocess
import sys

import brute_force
import numpy as np
import pytest
import tensorflow as tf

from keras_lsh.ops import compiled, library, library_path, reference

ERRORS = ValueError, tf.errors.InvalidArgumentError

RNG = np.random.default_rng(0)
CODES = RNG.integers(0, 8, [10, 3], np.int32)
OFFSETS, TABLE_IDS = brute_force.build_tables(CODES, 8)
INPUTS, KERNEL = (RNG.standard_normal([n, 5]).astype(np.float32) for n in (4, 10))
IDS = np.int32([[0, 3, 9], [1, 2, -1], [-1, -1, -1], [4, 5, 6]])
VALUES = RNG.standard_normal(IDS.shape).astype(np.float32)
SIGNS = RNG.choice(np.float32([-1, 1]), [3, 16])
SKETCH = RNG.integers(0, 256, [2, 4, 16], np.uint8)
SCALES = RNG.random(40, np.float32)

# Arguments of each op that are good.
GOOD = {
    "matmul": {"a": INPUTS, "b": KERNEL[:5, :3]},
    "row_digests": {"rows": INPUTS},
    "hash_codes": {
        "margins": RNG.standard_normal([4, 6]).astype(np.float32),
        "tables": 2,
        "bits": 3,
    },
    "build_tables": {"codes": CODES, "buckets": 8},
    "probe_sequence": {
        "margins": RNG.standard_normal([4, 6]).astype(np.float32),
        "tables": 2,
        "bits": 3,
        "probes": 4,
    },
    "probe_digits": {
        "scores": RNG.standard_normal([4, 2, 2, 3]).astype(np.float32),
        "probes": 4,
    },
    "select_active": {
        "buckets": RNG.integers(0, 24, [4, 6], np.int32),
        "weights": RNG.integers(1, 65537, [4, 6], np.int32),
        "offsets": OFFSETS,
        "table_ids": TABLE_IDS,
        "forced": np.int32([[0, 0, 1], [-1, -1, -1], [9, -1, 3], [7, 8, 9]]),
        "fill_seeds": np.int32([1, 2, -3, 4]),
        "active": 5,
    },
    "active_matmul": {
        "inputs": INPUTS,
        "kernel": KERNEL,
        "bias": KERNEL[:, 0],
        "ids": IDS,
        "keep": 2,
    },
    "scatter_active": {"values": VALUES, "ids": IDS, "units": 10},
    "rotate": {"vectors": INPUTS, "signs": SIGNS},
    "sign_sketch": {"kernel": KERNEL, "signs": SIGNS},
    "select_by_sketch": {
        "rotated": RNG.standard_normal([4, 16]).astype(np.float32),
        "codes": SKETCH,
        "scales": SCALES,
        "bias": SCALES,
        "count": 5,
    },
}

# Arguments that are tensors of one op and numbers of another.
TENSORS = {op: set() for op in GOOD} | {"select_active": {"buckets"}}


def changed(array, place, value):
    array = array.copy()
    array[place] = value
    return array


WEIGHTS = GOOD["select_active"]["weights"]
BUCKETS = GOOD["select_active"]["buckets"]
FORCED = GOOD["select_active"]["forced"]
FLOATS = np.ones([4, 3], np.float32)
INTEGERS = np.ones([4, 6], np.int32)
MANY = np.ones([4, 32768], np.int32)
BEYOND_32_BITS = np.int64(IDS) + 2**32  # wrapped around, they would be good

# Op, changed arguments, and the argument that the message must name.
ARGUMENTS = [
    ("hash_codes", {"tables": 0}, "tables"),
    ("hash_codes", {"bits": 0}, "bits"),
    ("hash_codes", {"bits": -1}, "bits"),
    ("hash_codes", {"bits": 21, "tables": 1}, "bits"),
    ("hash_codes", {"bits": 1.5, "tables": 4}, "bits"),
    ("build_tables", {"buckets": 0}, "buckets"),
    ("build_tables", {"buckets": 2**31}, "buckets"),
    ("build_tables", {"buckets": 2**70}, "buckets"),
    ("probe_digits", {"probes": 0}, "probes"),
    ("probe_digits", {"probes": 10}, "probes"),
    ("probe_digits", {"probes": 2.5}, "probes"),
    ("probe_digits", {"scores": FLOATS}, "scores"),
    ("probe_digits", {"scores": np.zeros([4, 2, 0, 3], np.float32)}, "scores"),
    ("probe_digits", {"scores": np.zeros([4, 2, 40, 3], np.float32)}, "scores"),
    ("probe_sequence", {"tables": -1}, "tables"),
    ("probe_sequence", {"bits": 21}, "bits"),
    ("probe_sequence", {"probes": 0}, "probes"),
    ("probe_sequence", {"probes": 9}, "probes"),
    ("probe_sequence", {"probes": 2.5}, "probes"),
    ("select_active", {"active": 0}, "active"),
    ("select_active", {"active": 11}, "active"),
    ("select_active", {"active": 2.5}, "active"),
    ("active_matmul", {"keep": 0}, "keep"),
    ("active_matmul", {"keep": 4}, "keep"),
    ("active_matmul", {"keep": -1}, "keep"),
    ("active_matmul", {"keep": 1.5}, "keep"),
    ("scatter_active", {"units": 0}, "units"),
    ("scatter_active", {"units": -1}, "units"),
    ("scatter_active", {"units": 9.5}, "units"),
    ("select_by_sketch", {"count": 0}, "count"),
    ("select_by_sketch", {"count": -1}, "count"),
    ("select_by_sketch", {"count": 2.5}, "count"),
    ("select_by_sketch", {"count": 2**31}, "count"),
]
DTYPES = [
    ("row_digests", {"rows": tf.constant(INTEGERS)}, "rows"),
    ("hash_codes", {"margins": tf.constant(INTEGERS)}, "margins"),
    ("hash_codes", {"margins": tf.ones([4, 6], tf.float64)}, "margins"),
    ("hash_codes", {"margins": [["a"] * 6]}, "margins"),
    ("hash_codes", {"margins": None}, "margins"),
    ("build_tables", {"codes": FLOATS}, "codes"),
    ("build_tables", {"codes": tf.constant(CODES, tf.int64)}, "codes"),
    ("build_tables", {"codes": np.int64(CODES) + 2**32}, "codes"),
    ("probe_sequence", {"margins": tf.constant(INTEGERS)}, "margins"),
    ("select_active", {"buckets": np.float32(BUCKETS)}, "buckets"),
    ("select_active", {"buckets": np.int64(BUCKETS) - 2**32}, "buckets"),
    ("select_active", {"weights": np.float32(BUCKETS)}, "weights"),
    ("select_active", {"offsets": tf.constant(OFFSETS, tf.int64)}, "offsets"),
    ("select_active", {"table_ids": tf.constant(TABLE_IDS, tf.int64)}, "table_ids"),
    ("select_active", {"forced": [[0.5]] * 4}, "forced"),
    ("select_active", {"fill_seeds": [0.5] * 4}, "fill_seeds"),
    ("active_matmul", {"inputs": tf.constant(INPUTS, tf.float64)}, "inputs"),
    ("active_matmul", {"ids": FLOATS}, "ids"),
    ("active_matmul", {"ids": BEYOND_32_BITS}, "ids"),
    ("active_matmul", {"ids": np.uint32([[2**32 - 1] * 3] * 4)}, "ids"),
    ("active_matmul", {"ids": tf.constant(IDS, tf.int64)}, "ids"),
    ("active_matmul", {"kernel": [["a"] * 5]}, "kernel"),
    ("active_matmul", {"bias": ["a"] * 10}, "bias"),
    ("scatter_active", {"ids": FLOATS}, "ids"),
    ("scatter_active", {"ids": BEYOND_32_BITS}, "ids"),
    ("rotate", {"vectors": tf.constant(INPUTS, tf.float64)}, "vectors"),
    ("rotate", {"signs": tf.constant(SIGNS, tf.int32)}, "signs"),
    ("sign_sketch", {"kernel": tf.constant(KERNEL, tf.float64)}, "kernel"),
    ("sign_sketch", {"kernel": [["a"] * 5]}, "kernel"),
    ("sign_sketch", {"signs": None}, "signs"),
    ("select_by_sketch", {"rotated": tf.ones([4, 16], tf.float64)}, "rotated"),
    ("select_by_sketch", {"codes": tf.constant(SKETCH, tf.int32)}, "codes"),
    ("select_by_sketch", {"codes": np.int32(SKETCH) + 256}, "codes"),
    ("select_by_sketch", {"scales": tf.constant(SCALES, tf.float64)}, "scales"),
    ("select_by_sketch", {"bias": tf.constant(SCALES, tf.bfloat16)}, "bias"),
]
# These the compiled ops know for themselves, even where no shape is known.
SHAPES = [
    ("matmul", {"a": INPUTS[0]}, "a"),
    ("matmul", {"b": KERNEL[None]}, "b"),
    ("matmul", {"b": KERNEL}, "b"),
    ("row_digests", {"rows": INPUTS[0]}, "rows"),
    ("hash_codes", {"margins": FLOATS[0]}, "margins"),
    ("hash_codes", {"margins": FLOATS[None]}, "margins"),
    ("hash_codes", {"margins": FLOATS}, "margins"),
    ("hash_codes", {"margins": np.float32(1)}, "margins"),
    ("build_tables", {"codes": CODES[0]}, "codes"),
    ("build_tables", {"codes": CODES[None]}, "codes"),
    ("probe_sequence", {"margins": FLOATS}, "margins"),
    ("probe_sequence", {"margins": FLOATS[0]}, "margins"),
    ("select_active", {"buckets": BUCKETS[0]}, "buckets"),
    ("select_active", {"weights": WEIGHTS[:, 1:]}, "weights"),
    ("select_active", {"weights": WEIGHTS[1:]}, "weights"),
    ("select_active", {"weights": WEIGHTS[0]}, "weights"),
    ("select_active", {"offsets": OFFSETS[0]}, "offsets"),
    ("select_active", {"offsets": OFFSETS[1:]}, "offsets"),
    ("select_active", {"offsets": OFFSETS[:, :1]}, "offsets"),
    ("select_active", {"offsets": OFFSETS[:, :0]}, "offsets"),
    ("select_active", {"table_ids": TABLE_IDS[0]}, "table_ids"),
    ("select_active", {"table_ids": TABLE_IDS[:0], "offsets": OFFSETS[:0]},
     "table_ids"),
    ("select_active", {"forced": FORCED[1:]}, "forced"),
    ("select_active", {"forced": FORCED[0]}, "forced"),
    ("select_active", {"fill_seeds": np.int32([1, 2])}, "fill_seeds"),
    ("select_active", {"fill_seeds": np.int32([1, 2, 3, 4, 5])}, "fill_seeds"),
    ("select_active", {"fill_seeds": np.int32([[1, 2, 3, 4]])}, "fill_seeds"),
    ("select_active", {"buckets": MANY, "weights": MANY}, "buckets"),
    ("active_matmul", {"inputs": INPUTS[0]}, "inputs"),
    ("active_matmul", {"inputs": INPUTS[:, 1:]}, "inputs"),
    ("active_matmul", {"inputs": INPUTS[None]}, "inputs"),
    ("active_matmul", {"kernel": KERNEL[0]}, "kernel"),
    ("active_matmul", {"kernel": KERNEL[None]}, "kernel"),
    ("active_matmul", {"bias": KERNEL[1:, 0]}, "bias"),
    ("active_matmul", {"bias": KERNEL}, "bias"),
    ("active_matmul", {"bias": np.float32(1)}, "bias"),
    ("active_matmul", {"ids": IDS[1:]}, "ids"),
    ("active_matmul", {"ids": IDS[0]}, "ids"),
    ("active_matmul", {"ids": IDS[:, :1]}, "keep"),
    ("scatter_active", {"values": VALUES[1:]}, "values"),
    ("scatter_active", {"values": VALUES[:, 1:]}, "values"),
    ("scatter_active", {"values": VALUES[0]}, "values"),
    ("scatter_active", {"ids": IDS[0], "values": VALUES[0]}, "ids"),
    ("rotate", {"vectors": INPUTS[0]}, "vectors"),
    ("rotate", {"vectors": np.ones([4, 17], np.float32)}, "signs"),
    ("rotate", {"signs": SIGNS[0]}, "signs"),
    ("rotate", {"signs": SIGNS[:2]}, "signs"),
    ("rotate", {"signs": SIGNS[:, :12]}, "signs"),
    ("rotate", {"signs": SIGNS[:, :8]}, "signs"),
    ("rotate", {"signs": SIGNS[:, :0]}, "signs"),
    ("sign_sketch", {"kernel": KERNEL[0]}, "kernel"),
    ("sign_sketch", {"kernel": np.ones([4, 17], np.float32)}, "signs"),
    ("sign_sketch", {"signs": SIGNS[None]}, "signs"),
    ("sign_sketch", {"signs": np.ones([3, 24], np.float32)}, "signs"),
    ("select_by_sketch", {"rotated": INPUTS}, "rotated"),
    ("select_by_sketch", {"rotated": np.ones([4, 32], np.float32)}, "rotated"),
    ("select_by_sketch", {"rotated": SIGNS[0]}, "rotated"),
    ("select_by_sketch", {"codes": SKETCH[0]}, "codes"),
    ("select_by_sketch", {"codes": SKETCH[:1]}, "codes"),
    ("select_by_sketch", {"codes": SKETCH[:, :, 1:]}, "codes"),
    ("select_by_sketch", {"codes": SKETCH[:, :3]}, "codes"),
    ("select_by_sketch", {"codes": SKETCH[:, :0]}, "codes"),
    ("select_by_sketch", {"codes": np.repeat(SKETCH, 2, axis=0)}, "codes"),
    ("select_by_sketch", {"scales": KERNEL}, "scales"),
    ("select_by_sketch", {"scales": np.ones(65, np.float32)}, "codes"),
    ("select_by_sketch", {"scales": np.ones(32, np.float32)}, "codes"),
    ("select_by_sketch", {"bias": SCALES[1:]}, "bias"),
    ("select_by_sketch", {"bias": KERNEL}, "bias"),
    ("select_by_sketch", {"count": 41}, "count"),
]  # fmt: skip
DATA = [
    ("build_tables", {"codes": changed(CODES, (3, 1), 8)}, "codes"),
    ("build_tables", {"codes": changed(CODES, (9, 2), -1)}, "codes"),
    ("build_tables", {"codes": changed(CODES, (0, 0), 2**31 - 1)}, "codes"),
    ("select_active", {"buckets": changed(BUCKETS, (1, 2), 24)}, "buckets"),
    ("select_active", {"buckets": changed(BUCKETS, (3, 5), -1)}, "buckets"),
    ("select_active", {"buckets": changed(BUCKETS, (3, 5), -(2**31))}, "buckets"),
    ("select_active", {"weights": changed(WEIGHTS, (1, 2), 0)}, "weights"),
    ("select_active", {"weights": changed(WEIGHTS, (1, 2), -5)}, "weights"),
    ("select_active", {"weights": changed(WEIGHTS, (1, 2), 65537)}, "weights"),
    ("select_active", {"forced": changed(FORCED, (3, 2), 10)}, "forced"),
    ("select_active", {"forced": changed(FORCED, (3, 2), -2)}, "forced"),
    ("select_active", {"active": 2}, "forced"),  # fewer than are forced
    # Corrupt tables.
    ("select_active", {"offsets": OFFSETS + 1}, "offsets"),
    ("select_active", {"offsets": OFFSETS - 1}, "offsets"),
    ("select_active", {"offsets": OFFSETS[:, ::-1].copy()}, "offsets"),
    ("select_active", {"offsets": np.full_like(OFFSETS, 2**31 - 1)}, "offsets"),
    ("select_active", {"table_ids": TABLE_IDS + 10}, "table_ids"),
    ("select_active", {"table_ids": np.full_like(TABLE_IDS, -1)}, "table_ids"),
    ("select_active", {"table_ids": np.full_like(TABLE_IDS, 2**31 - 1)}, "table_ids"),
    ("active_matmul", {"ids": changed(IDS, (0, 0), 10)}, "ids"),
    ("active_matmul", {"ids": changed(IDS, (3, 2), -2)}, "ids"),
    ("active_matmul", {"ids": changed(IDS, (3, 2), -(2**31))}, "ids"),
    ("scatter_active", {"ids": changed(IDS, (2, 2), 10)}, "ids"),
    ("scatter_active", {"ids": changed(IDS, (2, 2), -2)}, "ids"),
    ("scatter_active", {"ids": changed(IDS, (2, 2), 2**31 - 1)}, "ids"),
]


def call(module, op, **changes):
    """The results of an op, as a list of arrays."""
    results = getattr(module, op)(**GOOD[op] | changes)
    return [r.numpy() for r in (results if isinstance(results, tuple) else [results])]


def call_kernel(_, op, **changes):
    """The same by the op itself, in a graph that knows no shapes, not even ranks.

    A SavedModel in a server has nothing else to check its inputs.
    """
    arguments = GOOD[op] | changes
    numbers = {
        "tables",
        "bits",
        "buckets",
        "probes",
        "active",
        "keep",
        "units",
        "count",
    }
    attributes = {k: a for k, a in arguments.items() if k in numbers - TENSORS[op]}
    arrays = {k: tf.constant(a) for k, a in arguments.items() if k not in attributes}

    @tf.function(
        input_signature=[tf.TensorSpec(None, a.dtype) for a in arrays.values()]
    )
    def function(*tensors):
        inputs = dict(zip(arrays, tensors, strict=True))
        if op == "active_matmul":
            inputs["bias"] = [inputs["bias"]]
            for name in ("neuron_keys", "forced"):
                inputs.setdefault(name, tf.zeros([0, 0], tf.int32))
        return getattr(library(), f"lsh_{op}")(**inputs, **attributes)

    results = function(*arrays.values())
    return [r.numpy() for r in (results if isinstance(results, tuple) else [results])]


@pytest.fixture(scope="module")
def right_results():
    return {op: call(reference, op) for op in GOOD}


def assert_refused(run, module, op, changes, name, right_results):
    with pytest.raises(ERRORS) as caught:
        run(module, op, **changes)
    assert_says(str(caught.value), name)
    for actual, expected in zip(run(module, op), right_results[op], strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def assert_says(message, name):
    """The message names the argument, and what came."""
    assert re.search(rf"`{name}`", message), message
    assert re.search(r"Received: |elements of x", message), message


def label(value):
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return ",".join(f"{k}={label(v)}" for k, v in value.items())
    if hasattr(value, "shape"):
        return f"{tf.as_dtype(value.dtype).name}{list(value.shape)}"
    return str(value)


@pytest.mark.parametrize("module", [compiled, reference], ids=["compiled", "reference"])
@pytest.mark.parametrize(
    ("op", "changes", "name"), ARGUMENTS + DTYPES + SHAPES + DATA, ids=label
)
def test_refused(module, op, changes, name, right_results):
    assert_refused(call, module, op, changes, name, right_results)


@pytest.mark.parametrize(("op", "changes", "name"), SHAPES + DATA, ids=label)
def test_refused_by_the_kernel(op, changes, name, right_results):
    assert_refused(call_kernel, None, op, changes, name, right_results)


@pytest.mark.parametrize("module", [compiled, reference], ids=["compiled", "reference"])
def test_a_rank_that_comes_to_light_when_the_graph_runs(module):
    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32)])
    def function(margins):
        return module.hash_codes(margins, 2, 3)

    with pytest.raises(ERRORS):
        function(FLOATS[0])


@pytest.mark.parametrize("run", [call, call_kernel])
@pytest.mark.parametrize("keys", [CODES[1:], CODES[:, 0], CODES[None]], ids=np.shape)
def test_neuron_keys(run, keys, right_results):
    # The reference has no use for them.
    changes = {"neuron_keys": keys}
    assert_refused(
        run, compiled, "active_matmul", changes, "neuron_keys", right_results
    )


@pytest.mark.parametrize("run", [call, call_kernel])
@pytest.mark.parametrize("forced", [IDS[1:], IDS[0], IDS[None]], ids=np.shape)
def test_ids_to_keep(run, forced, right_results):
    changes = {"forced": forced}
    assert_refused(run, compiled, "active_matmul", changes, "forced", right_results)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *(("kernel", dtype) for dtype in (tf.float64, tf.float16, tf.int32)),
        *(("bias", dtype) for dtype in (tf.float64, tf.bfloat16, tf.int32)),
    ],
)
@pytest.mark.parametrize("form", [tf.constant, tf.Variable])
def test_weights_of_other_dtypes(name, dtype, form, right_results):
    weights = {"kernel": KERNEL, "bias": KERNEL[:, 0]}
    changes = {k: form(w) for k, w in weights.items()}
    changes[name] = form(tf.cast(weights[name], dtype))
    assert_refused(call, compiled, "active_matmul", changes, name, right_results)


@pytest.mark.parametrize("dtype", [tf.float64, tf.int32])
def test_values_of_other_dtypes(dtype, right_results):
    changes = {"values": tf.cast(VALUES, dtype)}
    assert_refused(call, compiled, "scatter_active", changes, "values", right_results)


def run_uninitialised(names, initialised, op):
    """Runs an op on variables of a session (as of TensorFlow 1)."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        variables = [
            v1.get_variable(n, shape, dtype, v1.zeros_initializer(), use_resource=True)
            for n, (shape, dtype) in names.items()
        ]
        for variable in variables[:initialised]:
            session.run(variable.initializer)
        session.run(op(*variables))


class TestVariables:
    """The handle form of active_matmul."""

    NAMES = {"kernel": ([10, 5], tf.float32), "bias": ([10], tf.float32)}  # noqa: RUF012

    @staticmethod
    def op(*weights):
        return compiled.active_matmul(INPUTS, *weights, IDS)

    @pytest.mark.parametrize("initialised", [0, 1])
    def test_uninitialised(self, initialised):
        with pytest.raises(ERRORS) as caught:
            run_uninitialised(self.NAMES, initialised, self.op)
        assert_says(str(caught.value), list(self.NAMES)[initialised])
        run_uninitialised(self.NAMES, 2, self.op)

    @pytest.mark.parametrize(
        ("name", "of", "bad"),
        [
            ("kernel", "kernel", KERNEL[0]),
            ("inputs", "kernel", KERNEL[:, 1:]),
            ("bias", "kernel", KERNEL[1:]),
            ("bias", "bias", KERNEL[1:, 0]),
            ("bias", "bias", KERNEL),
        ],
    )
    def test_a_variable_that_has_changed_its_shape(self, name, of, bad, right_results):
        weights = {
            n: tf.Variable(w, shape=tf.TensorShape(None))
            for n, w in (("kernel", KERNEL), ("bias", KERNEL[:, 0]))
        }
        before = weights[of].numpy()
        weights[of].assign(bad)
        assert_refused(call, compiled, "active_matmul", weights, name, right_results)
        weights[of].assign(before)
        actual = call(compiled, "active_matmul", **weights)
        np.testing.assert_array_equal(actual[1], right_results["active_matmul"][1])

    def test_gradient_after_the_kernel_has_shrunk(self):
        kernel = tf.Variable(KERNEL, shape=tf.TensorShape(None))
        inputs = tf.Variable(INPUTS)
        with tf.GradientTape(persistent=True) as tape:
            values, _ = compiled.active_matmul(inputs, kernel, None, IDS)
        kernel.assign(KERNEL[:4])
        for source in (inputs, kernel):
            with pytest.raises(tf.errors.InvalidArgumentError, match="`ids`"):
                tape.gradient(values, source)


class TestRowAdam:
    ROWS = np.int32([1, 3])
    GRADIENT = np.ones([2, 3], np.float32)
    NAMES = {  # noqa: RUF012
        "variable": ([5, 3], tf.float32),
        "momentum": ([5, 3], tf.float32),
        "velocity": ([5, 3], tf.float32),
        "last_step": ([5], tf.int32),
    }

    @pytest.fixture(params=[compiled, reference], ids=["compiled", "reference"])
    def module(self, request):
        return request.param

    @pytest.fixture
    def state(self):
        return {n: tf.Variable(tf.ones(*spec)) for n, spec in self.NAMES.items()}

    def step(self, module, *state, rows=ROWS, gradient=GRADIENT, alpha=0.1, step=2):
        module.row_adam(*state, rows, gradient, alpha, 0.9, 0.99, 1e-7, step)

    def refused(self, module, state, name, **changes):
        with pytest.raises(ERRORS) as caught:
            self.step(module, *state.values(), **changes)
        assert_says(str(caught.value), name)
        for variable in state.values():
            np.testing.assert_array_equal(variable, tf.ones_like(variable))

    @pytest.mark.parametrize(
        ("name", "bad"),
        [
            ("rows", [-1, 2]),
            ("rows", [2, 5]),
            ("rows", [2, 2]),
            ("rows", [3, 1]),
            ("rows", [[1, 3]]),
            ("rows", 1),
            ("rows", [1.5, 3.5]),
            ("rows", np.int64([1, 3]) + 2**32),
            ("gradient", np.ones([3, 3], np.float32)),
            ("gradient", np.ones([2, 4], np.float32)),
            ("gradient", np.ones([2], np.float32)),
            ("gradient", np.ones([2, 3, 1], np.float32)),
            ("gradient", tf.ones([2, 3], tf.float64)),
            ("alpha", [0.1, 0.1]),
            ("step", [1, 1]),
        ],
        ids=label,
    )
    def test_arguments(self, module, state, name, bad):
        self.refused(module, state, name, **{name: bad})
        self.step(module, *state.values())
        changed_rows = np.any(state["variable"] != 1, axis=1)
        np.testing.assert_array_equal(np.flatnonzero(changed_rows), self.ROWS)

    @pytest.mark.parametrize(
        ("name", "bad"),
        [
            ("momentum", tf.ones([5, 2])),
            ("momentum", tf.ones([4, 3])),
            ("momentum", tf.ones([5, 3], tf.float64)),
            ("velocity", tf.ones([5])),
            ("velocity", tf.ones([6, 3])),
            ("velocity", tf.ones([5, 3], tf.bfloat16)),
            ("last_step", tf.ones([4], tf.int32)),
            ("last_step", tf.ones([6], tf.int32)),
            ("last_step", tf.ones([5, 1], tf.int32)),
            ("last_step", tf.ones([5], tf.int64)),
            ("last_step", tf.ones([5])),
        ],
        ids=label,
    )
    def test_variables(self, state, name, bad):
        state[name] = tf.Variable(bad)
        self.refused(compiled, state, name)

    def test_a_scalar_variable(self, state):
        state["variable"] = tf.Variable(1.0)
        self.refused(compiled, state, "variable", gradient=1.0)

    def test_one_variable_twice(self, state):
        state["velocity"] = state["momentum"]
        with pytest.raises(ERRORS, match="`velocity`.* different variables"):
            self.step(compiled, *state.values())

    @pytest.mark.parametrize("initialised", range(4))
    def test_uninitialised(self, initialised):
        def op(*state):
            with tf.control_dependencies([tf.constant(0)]):
                self.step(compiled, *state)
            (step,) = (
                op
                for op in state[0].graph.get_operations()
                if op.type == "LshResourceRowAdam"
            )
            return step

        with pytest.raises(ERRORS) as caught:
            run_uninitialised(self.NAMES, initialised, op)
        assert_says(str(caught.value), list(self.NAMES)[initialised])
        run_uninitialised(self.NAMES, 4, op)

    def test_what_is_not_finite_stays_where_it_is(self, module, state):
        gradient = np.float32([[np.nan, np.inf, 1], [1, 1, 1]])
        self.step(module, *state.values(), gradient=gradient)
        expected = changed(np.ones([5, 3], bool), (1, slice(2)), False)
        for name in ("variable", "momentum", "velocity"):
            np.testing.assert_array_equal(np.isfinite(state[name]), expected)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ([[0, 3], [0, 1]], "`columns` must be numbers in [0, 3)"),
        ([[-2, 0], [0, 1]], "columns[0, 0]=-2"),
        ([[0, 1]], "a row for each of the 2 samples"),
        ([0, 1], "columns"),
    ],
)
def test_bad_columns_of_a_gradient(columns, said):
    with pytest.raises(ERRORS) as caught:
        library().lsh_active_matmul_grad_input(
            gradient=tf.ones([2, 1]),
            ids=[[0], [1]],
            neurons=[0, 1],
            starts=[0, 1, 2],
            places=[0, 1],
            kernel=tf.ones([4, 3]),
            columns=columns,
        )
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["gradient", "largest", "totals"])
def test_bad_shapes_of_a_softmax_gradient(name):
    by_sample = {n: tf.ones([2]) for n in ("gradient", "largest", "totals")}
    with pytest.raises(ERRORS, match="each of the 2 samples"):
        library().lsh_active_softmax_crossentropy_grad(
            **by_sample | {name: tf.ones([3])},
            values=tf.ones([2, 1]),
            ids=[[0]],
            labels=[[0], [0]],
            drawn=tf.zeros([0, 0], tf.bool),
            units=tf.constant(9, tf.int64),
        )


# Sizes whose product is too large for a tensor: at worst these end the process.
TOO_LARGE = {
    "lsh_scatter_active": """
        values=tf.ones([4, 1]), ids=tf.zeros([4, 1], tf.int32), units=2**62""",
    "lsh_build_tables": "codes=tf.zeros([0, 2**40], tf.int32), buckets=2**30",
    "lsh_select_active": """
        buckets=tf.zeros([2**61, 0], tf.int32), weights=tf.zeros([2**61, 0], tf.int32),
        offsets=[[0, 8]], table_ids=[list(range(8))],
        forced=tf.zeros([2**61, 0], tf.int32), fill_seeds=tf.zeros([0], tf.int32),
        active=8""",
    "lsh_select_from_cells": """
        inputs=tf.zeros([2**61, 0]), center=tf.zeros([0]), basis=tf.zeros([0, 0]),
        scales=tf.zeros([0]), centroids=tf.zeros([1, 1]), offsets=[[0, 8]],
        table_ids=[list(range(8))], forced=tf.zeros([2**61, 0], tf.int32), active=8,
        largest=1.0""",
    "lsh_active_matmul_grad_input": """
        gradient=tf.zeros([2**40, 0]), ids=tf.zeros([2**40, 0], tf.int32),
        neurons=tf.zeros([0], tf.int32), starts=[0], places=tf.zeros([0], tf.int32),
        kernel=tf.zeros([0, 2**40]), columns=tf.zeros([0, 0], tf.int32)""",
    "lsh_active_softmax_crossentropy": """
        values=tf.zeros([2**61, 0]), ids=tf.zeros([1, 0], tf.int32),
        labels=tf.zeros([2**61, 0], tf.int32), drawn=tf.zeros([0, 0], tf.bool),
        units=tf.constant(1, tf.int64)""",
    "lsh_probe_sequence": "margins=tf.zeros([2, 3]), tables=2**31, bits=3, probes=1",
    "lsh_probe_digits": """
        scores=tf.zeros([0, 2**15, 1, 2**16]), probes=1, negatives=True""",
    "lsh_rotate": "vectors=tf.zeros([2**62, 0]), signs=tf.ones([3, 16])",
    "lsh_sign_sketch": "kernel=tf.zeros([2**62, 0]), signs=tf.ones([3, 16])",
    "lsh_matmul": "a=tf.zeros([2**40, 0]), b=tf.zeros([0, 2**40])",
    "lsh_hash_codes": "margins=tf.zeros([2, 64]), tables=1, bits=64",
}


def test_sizes_too_large_for_a_tensor():
    # In a process that depends on nothing but the library, and may crash.
    calls = "".join(
        f"""
try:
    ops.{op}({arguments.strip()})
except (tf.errors.InvalidArgumentError, tf.errors.ResourceExhaustedError):
    print({op!r}, flush=True)
"""
        for op, arguments in TOO_LARGE.items()
    )
    program = f"""
import tensorflow as tf
ops = tf.load_op_library({library_path()!r})
{calls}
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.stdout.split() == list(TOO_LARGE), result.stderr
    assert result.returncode == 0
