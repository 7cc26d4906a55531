"""The softmax cross-entropy of active classes, against NumPy in float64."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_lsh import ops
from keras_lsh.ops import compiled, reference, simd_level

UNITS = 50
LEVELS = ("scalar", "avx2", "avx512")


def random_case(seed, batch=7, active=20, same_ids=False, drawn=None, spread=5.0):
    """Values, ids, labels, units and drawn: most labels active, most places used."""
    rng = np.random.default_rng(seed)
    ids = np.full([batch, active], -1, np.int32)
    for n, row in enumerate(ids):
        used = active if n % 2 or same_ids else rng.integers(0, active + 1)
        row[:used] = np.sort(rng.choice(UNITS, used, replace=False))
    ids = ids[:1] if same_ids and batch else ids
    values = (spread * rng.standard_normal([batch, active])).astype(np.float32)
    values[np.broadcast_to(ids < 0, values.shape)] = np.nan  # must not matter
    labels = np.full([batch, 4], -1, np.int32)
    for row, own in zip(labels, np.broadcast_to(ids, [batch, active]), strict=True):
        likely = own[own >= 0]
        pool = likely if len(likely) > 3 and rng.random() < 0.6 else np.arange(UNITS)
        number = rng.integers(1, 5)
        chosen = rng.choice(pool, number, replace=False)
        row[rng.choice(4, number, replace=False)] = chosen
    shapes = {None: None, "each": ids.shape, "all": (1, active)}
    if drawn is not None:
        drawn = rng.random(shapes[drawn]) < 0.5
    return values, ids, labels, UNITS, drawn


def exact(values, ids, labels, units, drawn=None, label_smoothing=0.0):
    """Losses and their gradients, sample by sample and class by class."""
    losses = np.zeros(len(values))
    gradients = np.zeros(values.shape)
    ids = np.broadcast_to(ids, values.shape)
    if drawn is not None:
        drawn = np.broadcast_to(drawn, values.shape)
    for n in range(len(values)):
        places = np.flatnonzero(ids[n] >= 0)
        own = labels[n][labels[n] >= 0]
        if len(places) == 0:
            losses[n] = np.log(units)
            continue
        used = values[n][places].astype(np.float64)
        missing = np.setdiff1d(own, ids[n])
        logits = np.concatenate([used, np.full(len(missing), used.min())])
        is_label = np.isin(np.concatenate([ids[n][places], missing]), own)
        counts = np.ones(len(logits))
        if drawn is not None:
            by_chance = np.concatenate([drawn[n][places], missing < 0]) & ~is_label
            rest = units - np.sum(~by_chance)
            counts[by_chance] = rest / max(by_chance.sum(), 1)
        target = (1 - label_smoothing) * is_label / len(own)
        target += label_smoothing * counts / counts.sum()
        with np.errstate(invalid="ignore"):  # infinity less infinity
            shifted = logits - logits.max()
        terms = counts * np.exp(shifted)
        share = np.where(target > 0, target * shifted, 0)
        losses[n] = np.log(terms.sum()) - share.sum()
        gradients[n][places] = (terms / terms.sum() - target)[: len(places)]
    return losses, gradients


@pytest.fixture(params=["compiled", "reference"])
def crossentropy(request):
    module = {"compiled": compiled, "reference": reference}[request.param]
    return module.active_softmax_crossentropy


CASES = {
    "random": {},
    "shared": {"same_ids": True},
    "drawn": {"drawn": "each"},
    "drawn_for_all": {"drawn": "all"},
    "shared_and_drawn": {"same_ids": True, "drawn": "each"},
    "one_sample": {"batch": 1},
    "one_active": {"active": 1},
    "one_vector": {"active": 16},
    "empty_batch": {"batch": 0},
    "empty_batch_drawn": {"batch": 0, "drawn": "each"},
    "nothing_active": {"active": 0},
    "nothing_active_drawn": {"active": 0, "drawn": "each"},
    "far_apart": {"spread": 300.0},
}


@pytest.mark.parametrize(
    ("case", "label_smoothing", "graph"),
    [(case, smoothing, False) for case in CASES for smoothing in (0.0, 0.25)]
    + [("drawn", 1.0, False)]
    + [(case, 0.25, True) for case in ("random", "shared_and_drawn", "empty_batch")],
)
def test_values_and_gradients(crossentropy, case, label_smoothing, graph):
    values, ids, labels, units, drawn = random_case(1, **CASES[case])
    upstream = np.random.default_rng(2).standard_normal(len(values))

    def run(values, ids, labels, units, drawn=None):
        with tf.GradientTape() as tape:
            tape.watch(values)
            losses = crossentropy(values, ids, labels, units, drawn, label_smoothing)
            loss = tf.reduce_sum(losses * tf.cast(upstream, tf.float32))
        return losses, tape.gradient(loss, values)

    arguments = [tf.constant(x) for x in (values, ids, labels, np.int64(units))]
    arguments.append(None if drawn is None else tf.constant(drawn))
    if graph:
        rows = 1 if CASES[case].get("same_ids") else None
        signature = [
            tf.TensorSpec([None, None]),
            tf.TensorSpec([rows, None], tf.int32),
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([], tf.int64),
        ]
        if drawn is None:
            arguments.pop()
        else:
            signature.append(tf.TensorSpec([None, None], tf.bool))
        run = tf.function(run, input_signature=signature, autograph=False)
    losses, gradient = run(*arguments)
    expected, by_values = exact(values, ids, labels, units, drawn, label_smoothing)
    largest = np.max(np.abs(expected), initial=1)
    np.testing.assert_allclose(losses, expected, rtol=1e-6, atol=1e-6 * largest)
    by_values *= upstream[:, np.newaxis]
    np.testing.assert_allclose(gradient, by_values, rtol=1e-5, atol=1e-6)


def test_as_exact_as_a_plain_loss():
    our_loss = compiled.active_softmax_crossentropy
    plain_loss = tf.nn.sparse_softmax_cross_entropy_with_logits
    rng = np.random.default_rng(0)
    for spread, offset in ((1, 0), (30, 0), (50, 3000)):
        values = (spread * rng.standard_normal([200, 1000]) + offset).astype(np.float32)
        labels = rng.integers(0, 1000, [200, 1], np.int32)
        ids = np.arange(1000, dtype=np.int32)[np.newaxis]
        expected, by_values = exact(values, ids, labels, 1000)
        errors = []
        for plain in (False, True):
            logits = tf.constant(values)
            with tf.GradientTape() as tape:
                tape.watch(logits)
                if plain:
                    losses = plain_loss(labels[:, 0], logits)
                else:
                    losses = our_loss(logits, ids, labels, 1000)
            gradient = tape.gradient(losses, logits)
            errors.append(
                [np.abs(losses - expected).max(), np.abs(gradient - by_values).max()]
            )
        for ours, others in zip(*errors, strict=True):
            assert ours <= 2 * others


def test_what_is_not_finite(crossentropy):
    ids = np.tile(np.int32([0, 1, 2, -1]), [6, 1])
    labels = np.int32([[1], [1], [1], [1], [1], [9]])
    values = np.float32(
        [
            [1, 2, -np.inf, 7],  # fine
            [1, -np.inf, 2, 7],  # the label's
            [1, np.nan, 2, 7],
            [np.nan, 1, 2, 7],
            [1, np.inf, 2, 7],
            [1, -np.inf, 2, 7],  # the one in place of a missing label
        ]
    )
    logits = tf.constant(values)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        losses = crossentropy(logits, ids, labels, UNITS)
    gradient = tape.gradient(losses, logits).numpy()
    log_sum = np.logaddexp(1, 2)
    expected = [log_sum - 2, np.inf, np.nan, np.nan, np.nan, np.inf]
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    softmax = np.exp([1, 2] - log_sum)
    expected = [*softmax - [0, 1], 0, 0]
    np.testing.assert_allclose(gradient[0], expected, rtol=1e-5)
    expected = [softmax[0], -1, softmax[1], 0]
    np.testing.assert_allclose(gradient[1], expected, rtol=1e-5)
    expected = [softmax[0], 0, softmax[1], 0]
    np.testing.assert_allclose(gradient[5], expected, rtol=1e-5)
    assert np.isnan(gradient[2:5, :3]).all()
    assert not gradient[:, 3].any()


@pytest.mark.parametrize(
    ("case", "label_smoothing", "graph"),
    [("random", 0.0, False), ("shared_and_drawn", 0.25, True)],
)
def test_higher_gradients(case, label_smoothing, graph):
    values, *rest = random_case(3, **CASES[case], spread=1.0)
    values = np.nan_to_num(values)
    weights = np.random.default_rng(4).standard_normal([2, *values.shape])

    def gradients(module, dtype):
        def run(x):
            first, second = (tf.cast(some, dtype) for some in weights)
            with tf.GradientTape() as outer:
                outer.watch(x)
                with tf.GradientTape() as middle:
                    middle.watch(x)
                    with tf.GradientTape() as inner:
                        inner.watch(x)
                        losses = module.active_softmax_crossentropy(
                            x, *rest, label_smoothing=label_smoothing
                        )
                        loss = tf.reduce_sum(tf.sin(losses))
                    by_x = inner.gradient(loss, x)
                    product = tf.reduce_sum(by_x * by_x * first)
                twice = middle.gradient(product, x)
                product = tf.reduce_sum(twice * second)
            return by_x, twice, outer.gradient(product, x)

        function = tf.function(run, autograph=False) if graph else run
        return function(tf.constant(values, dtype))

    ours, exact = gradients(compiled, tf.float32), gradients(reference, tf.float64)
    for our, their in zip(ours, exact, strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-4, atol=2e-5)


def test_float64(crossentropy):
    values, *rest = random_case(5, drawn="each")
    losses = crossentropy(tf.constant(values, tf.float64), *rest)
    assert losses.dtype == tf.float64
    np.testing.assert_allclose(losses, exact(values, *rest)[0], rtol=1e-12)


def test_one_function_for_both():
    case = random_case(6)
    expected = compiled.active_softmax_crossentropy(*case)
    np.testing.assert_array_equal(ops.active_softmax_crossentropy(*case), expected)
    with ops.reference_ops():
        losses = ops.active_softmax_crossentropy(*case)
    expected = reference.active_softmax_crossentropy(*case)
    np.testing.assert_array_equal(losses, expected)


@pytest.mark.parametrize("graph", [False, True])
def test_samples_without_labels(crossentropy, graph):
    values, ids, labels, units, _ = random_case(7)
    labels[[1, 4]] = -1

    def call(labels):
        return crossentropy(values, ids, labels, units)

    if graph:
        call = tf.function(call, autograph=False)
    for some, samples in ((labels, "1,? 4"), (labels[:, :0], "0,? 1,? 2")):
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            call(tf.constant(some))
        expected = rf"(?s)Drop samples without labels.* at.*{samples}"
        assert re.search(expected, str(caught.value))


IDS = random_case(8)[1]


def with_row(row):
    ids = IDS.copy()
    ids[3, : len(row)] = row
    return ids


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"ids": with_row([1, 1])}, "ids"),
        ({"ids": with_row([2, 1])}, "ids"),
        ({"ids": with_row([-1, 3])}, "ids"),
        ({"ids": with_row([-2])}, "ids"),
        ({"ids": IDS[:2]}, "ids"),
        ({"ids": IDS[:, 1:]}, "ids"),
        ({"ids": IDS[0]}, "ids"),
        ({"ids": np.float32(IDS)}, "ids"),
        ({"ids": np.int64(IDS) + 2**32}, "ids"),
        ({"values": np.zeros(20, np.float32)}, "values"),
        ({"values": [["a"]]}, "values"),
        ({"labels": np.zeros([6, 1], np.int32)}, "labels"),
        ({"labels": np.zeros(7, np.int32)}, "labels"),
        ({"labels": np.zeros([7, 1], np.float32)}, "labels"),
        ({"drawn": np.zeros([2, 20], bool)}, "drawn"),
        ({"drawn": np.zeros([7, 19], bool)}, "drawn"),
        ({"drawn": tf.zeros([7, 20], tf.int32)}, "drawn"),
        ({"units": [UNITS]}, "units"),
        ({"label_smoothing": -0.1}, "label_smoothing"),
        ({"label_smoothing": np.nan}, "label_smoothing"),
    ],
)
def test_bad_input(crossentropy, changes, name):
    names = "values", "ids", "labels", "units", "drawn"
    arguments = dict(zip(names, random_case(8), strict=True), **changes)
    errors = ValueError, tf.errors.InvalidArgumentError
    with pytest.raises(errors, match=f"`{name}`"):
        crossentropy(**arguments)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("ids", [2, 20]), ("ids", [7, 19]), ("labels", [6, 4]), ("drawn", [2, 20])],
)
def test_shapes_that_nobody_knew(name, shape):
    """The compiled op knows for itself."""
    arguments = dict(
        zip(("values", "ids", "labels", "units", "drawn"), random_case(9), strict=True)
    )
    dtype = tf.bool if name == "drawn" else tf.int32

    @tf.function(input_signature=[tf.TensorSpec([None, None], dtype)], autograph=False)
    def call(x):
        return compiled.active_softmax_crossentropy(**arguments | {name: x})

    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=f"`{name}`"):
        call(tf.zeros(shape, dtype))


PROGRAM = r"""
import hashlib
import sys

import numpy as np
import tensorflow as tf

threads = int(sys.argv[1])
tf.config.threading.set_intra_op_parallelism_threads(threads)
tf.config.threading.set_inter_op_parallelism_threads(threads)
from keras_lsh import ops

digest = hashlib.sha256()
rng = np.random.default_rng(0)
ids = np.sort(rng.choice(5000, [150, 1], replace=True) + np.arange(997) * 5005, axis=1)
labels = np.stack([ids[:, 500], ids[:, 0] + 1, ids[:, 3]], axis=1).astype(np.int32)
for spread in (1, 100, 1e-39):
    values = (spread * rng.standard_normal([150, 997])).astype(np.float32)
    for drawn in (None, rng.random(ids.shape) < 0.3):
        x = tf.Variable(values)
        with tf.GradientTape() as tape:
            losses = ops.active_softmax_crossentropy(
                x, ids.astype(np.int32), labels, 2**31 - 1, drawn, 0.1)
        for array in (losses, tape.gradient(losses, x)):
            assert np.isfinite(array).all() and np.any(array)
            digest.update(array.numpy().tobytes())
print(digest.hexdigest())
"""


def test_threads_and_simd_levels_change_nothing():
    levels = LEVELS[: LEVELS.index(simd_level()) + 1]
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith("KERAS_LSH_")
    }
    hashes = set()
    for level, threads in [(levels[-1], 1), *((level, 2) for level in levels)]:
        result = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(threads)],
            env=environment | {"KERAS_LSH_SIMD": level, "TF_CPP_MIN_LOG_LEVEL": "3"},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert result.returncode == 0, result.stderr
        hashes.add(result.stdout.splitlines()[-1])
    assert len(hashes) == 1
