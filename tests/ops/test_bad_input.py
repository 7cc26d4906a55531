"""What the ops do not take: an error that names it, never a crash, no traces left."""

import os
import re
import subprocess
import sys

import brute_force
import numpy as np
import pytest
import tensorflow as tf

from keras_lsh.ops import compiled, library_path, reference

ERRORS = ValueError, tf.errors.InvalidArgumentError

RNG = np.random.default_rng(0)
CODES = RNG.integers(0, 8, [10, 3], np.int32)
OFFSETS, TABLE_IDS = brute_force.build_tables(CODES, 8)
INPUTS, KERNEL = (RNG.standard_normal([n, 5]).astype(np.float32) for n in (4, 10))
IDS = np.int32([[0, 3, 9], [1, 2, -1], [-1, -1, -1], [4, 5, 6]])
VALUES = RNG.standard_normal(IDS.shape).astype(np.float32)

# Arguments of each op that are good.
GOOD = {
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
}


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
]
DTYPES = [
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
]
# These the compiled ops know for themselves, even where no shape is known.
SHAPES = [
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
    ("select_active", {"buckets": MANY - 1, "weights": MANY}, "buckets"),
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


def call_in_graph(module, op, **changes):
    """The same in a tf.function that knows no shapes, not even ranks."""
    arguments = GOOD[op] | changes
    arrays = {k: tf.constant(a) for k, a in arguments.items() if np.ndim(a) or k in
              ("bias", "margins")}  # fmt: skip
    others = {k: a for k, a in arguments.items() if k not in arrays}

    @tf.function(
        input_signature=[tf.TensorSpec(None, a.dtype) for a in arrays.values()]
    )
    def function(*tensors):
        return getattr(module, op)(**dict(zip(arrays, tensors, strict=True)), **others)

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
        return ",".join(f"{k}={np.shape(v) or v}" for k, v in value.items())
    return None


@pytest.mark.parametrize("module", [compiled, reference], ids=["compiled", "reference"])
@pytest.mark.parametrize(
    ("op", "changes", "name"), ARGUMENTS + DTYPES + SHAPES + DATA, ids=label
)
def test_refused(module, op, changes, name, right_results):
    if module is reference and name == "keep" and np.ndim(changes.get("keep", ())):
        pytest.skip()
    assert_refused(call, module, op, changes, name, right_results)


@pytest.mark.parametrize(("op", "changes", "name"), SHAPES + DATA, ids=label)
def test_refused_in_a_graph_that_knows_no_shapes(op, changes, name, right_results):
    assert_refused(call_in_graph, compiled, op, changes, name, right_results)


class TestVariables:
    """The handle form of active_matmul."""

    def refused(self, name, **changes):
        with pytest.raises(ERRORS) as caught:
            call(compiled, "active_matmul", **changes)
        assert_says(str(caught.value), name)

    def test_deleted(self):
        kernel, bias = tf.Variable(KERNEL), tf.Variable(KERNEL[:, 0])
        tf.raw_ops.DestroyResourceOp(resource=bias.handle)
        self.refused("bias", kernel=kernel, bias=bias)
        tf.raw_ops.DestroyResourceOp(resource=kernel.handle)
        self.refused("kernel", kernel=kernel, bias=None)

    @pytest.mark.parametrize("dtype", [tf.float64, tf.float16, tf.bfloat16])
    def test_dtype(self, dtype):
        kernel = tf.Variable(tf.cast(KERNEL, dtype))
        self.refused("kernel", kernel=kernel, bias=None)
        self.refused("bias", kernel=tf.Variable(KERNEL), bias=kernel[:, 0])

    def test_shape(self):
        kernel = tf.Variable(KERNEL, shape=tf.TensorShape(None))
        bias = tf.Variable(KERNEL[:, 0], shape=tf.TensorShape(None))
        good = call(compiled, "active_matmul")
        arguments = {"kernel": kernel, "bias": bias}
        for variable, name, bad in (
            (kernel, "kernel", KERNEL[0]),
            (kernel, "inputs", KERNEL[:, 1:]),
            (kernel, "ids", KERNEL[:9]),
            (bias, "bias", KERNEL[1:, 0]),
            (bias, "bias", KERNEL),
        ):
            before = variable.numpy()
            variable.assign(bad)
            if name == "ids":
                arguments = {"kernel": kernel, "bias": None}
            self.refused(name, **arguments)
            variable.assign(before)
            arguments = {"kernel": kernel, "bias": bias}
            for a, g in zip(
                call(compiled, "active_matmul", **arguments), good, strict=True
            ):
                np.testing.assert_array_equal(a, g)

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

    @pytest.fixture(params=[compiled, reference], ids=["compiled", "reference"])
    def module(self, request):
        return request.param

    @pytest.fixture
    def state(self):
        return [
            tf.Variable(np.full([5, 3], n + 1, np.float32), shape=tf.TensorShape(None))
            if n < 3
            else tf.Variable(tf.zeros([5], tf.int32), shape=tf.TensorShape(None))
            for n in range(4)
        ]

    @staticmethod
    def step(module, state, rows=ROWS, gradient=GRADIENT, alpha=0.1, step=1):
        # A variable of unknown shape cannot say what gradient goes with it.
        tensors = [tf.Variable(s) for s in state] if module is reference else state
        module.row_adam(*tensors, rows, gradient, alpha, 0.9, 0.99, 1e-7, step)

    def refused(self, module, state, name, **changes):
        before = [s.numpy() for s in state]
        with pytest.raises(ERRORS) as caught:
            self.step(module, state, **changes)
        assert_says(str(caught.value), name)
        for s, b in zip(state, before, strict=True):
            np.testing.assert_array_equal(s, b)

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
        ids=str,
    )
    def test_arguments(self, module, state, name, bad):
        self.refused(module, state, name, **{name: bad})
        self.step(module, state)

    @pytest.mark.parametrize(
        ("n", "name", "bad"),
        [
            (1, "momentum", tf.ones([5, 2])),
            (1, "momentum", tf.ones([4, 3])),
            (2, "velocity", tf.ones([5])),
            (2, "velocity", tf.ones([6, 3])),
            (3, "last_step", tf.ones([4], tf.int32)),
            (3, "last_step", tf.ones([6], tf.int32)),
            (3, "last_step", tf.ones([5, 1], tf.int32)),
            (0, "variable", tf.ones([])),
        ],
    )
    def test_shapes_of_variables(self, state, n, name, bad):
        state[n].assign(bad)
        changes = {} if n else {"gradient": tf.raw_ops.PlaceholderWithDefault(
            input=self.GRADIENT, shape=None)}  # fmt: skip
        self.refused(compiled, state, name, **changes)

    @pytest.mark.parametrize(
        ("n", "name", "dtype"),
        [
            (1, "momentum", tf.float64),
            (2, "velocity", tf.bfloat16),
            (3, "last_step", tf.int64),
            (3, "last_step", tf.float32),
        ],
    )
    def test_dtypes_of_variables(self, state, n, name, dtype):
        state[n] = tf.Variable(tf.cast(state[n], dtype))
        self.refused(compiled, state, name)

    @pytest.mark.parametrize("n", range(4))
    def test_deleted_variables(self, state, n):
        tf.raw_ops.DestroyResourceOp(resource=state[n].handle)
        with pytest.raises(ERRORS) as caught:
            self.step(compiled, state)
        assert_says(
            str(caught.value), ("variable", "momentum", "velocity", "last_step")[n]
        )

    def test_one_variable_twice(self, state):
        self.refused(compiled, [state[0], state[1], state[1], state[3]], "velocity")

    def test_what_is_not_finite_is_as_in_adam(self, module):
        state = [tf.Variable(tf.ones([5, 3])) for _ in range(3)]
        state.append(tf.Variable(tf.zeros([5], tf.int32)))
        gradient = np.float32([[np.nan, np.inf, 1], [1, 1, 1]])
        self.step(module, state, gradient=gradient)
        np.testing.assert_array_equal(
            np.isfinite(state[0]), changed(np.ones([5, 3], bool), (1, slice(2)), False)
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
    "lsh_active_matmul_grad_input": """
        gradient=tf.zeros([2**40, 0]), ids=tf.zeros([2**40, 0], tf.int32),
        kernel=tf.zeros([0, 2**40])""",
    "lsh_probe_sequence": "margins=tf.zeros([2, 3]), tables=2**31, bits=3, probes=1",
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
