"""The same bits from any number of threads and any SIMD level.

Thread pools and the SIMD level are fixed when a process starts, so each combination is
a process of its own. It prints a hash of everything it has computed, under a name.
"""

import json
import os
import subprocess
import sys

import pytest

from keras_lsh.ops import simd_level

SIMD_LEVELS = ("scalar", "avx2", "avx512")

PROGRAM = r"""
import hashlib
import json
import sys

import keras
import numpy as np
import tensorflow as tf

threads = int(sys.argv[1])
tf.config.threading.set_intra_op_parallelism_threads(threads)
tf.config.threading.set_inter_op_parallelism_threads(threads)

import keras_lsh
from keras_lsh import ops

hashes = {"simd_level": ops.simd_level()}


def record(name, *arrays):
    digest = hashlib.sha256()
    for array in arrays:
        array = np.asarray(tf.convert_to_tensor(array))
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    hashes[name] = digest.hexdigest()[:16]


# Large enough to be split among threads, and no multiple of any vector's width.
rng = np.random.default_rng(0)
batch, units, input_dim, tables, bits, active = 200, 1500, 131, 6, 6, 70
inputs = rng.standard_normal([batch, input_dim]).astype(np.float32)
inputs[3, 5] = 1e-42  # subnormal: flushed by some threads, left to itself
inputs[4] *= 1e-20
kernel = rng.standard_normal([units, input_dim]).astype(np.float32)
bias = rng.standard_normal([units]).astype(np.float32)
margins, unit_margins = (
    rng.standard_normal([n, tables * bits]).astype(np.float32) for n in (batch, units)
)

codes = ops.hash_codes(unit_margins, tables, bits)
offsets, table_ids = ops.build_tables(codes, 2**bits)
buckets, weights = ops.probe_sequence(margins, tables, bits, 12)
forced = rng.integers(-1, units, [batch, 2], np.int32)
seeds = rng.integers(0, 2**31, batch).astype(np.int32)
ids = ops.select_active(buckets, weights, offsets, table_ids, forced, seeds, active)
record("row_digests", ops.row_digests(kernel))
record("hash_codes", codes)
record("build_tables", offsets, table_ids)
record("probe_sequence", buckets, weights)
record("select_active", ids)
offsets, table_ids = ops.build_tables(codes[:, :1], 2**bits)
record("select_from_cells", ops.select_from_cells(
    inputs, inputs[0], kernel[:40].T, np.abs(kernel[0, :40]),
    kernel[40 : 40 + 2**bits, :41], offsets, table_ids, forced, active))
digit_scores = margins.reshape([batch, tables, 2, bits // 2])
record("probe_digits", *ops.probe_digits(digit_scores, 12, negatives=True))

kernel, bias = tf.Variable(kernel), tf.Variable(bias)
x = tf.Variable(inputs)
for keep in (None, active // 3):
    with tf.GradientTape() as tape:
        values, kept = ops.active_matmul(x, kernel, bias, ids, keep)
        loss = tf.reduce_sum(ops.scatter_active(values, kept, units) ** 2)
    record(f"active_matmul keep={keep}", values, kept)
    by_x, by_kernel, by_bias = tape.gradient(loss, [x, kernel, bias])
    record(f"gradients keep={keep}", by_x, by_kernel.indices, by_kernel.values,
           by_bias.indices, by_bias.values)

state = [kernel, *(tf.Variable(tf.zeros_like(kernel)) for _ in range(2)),
         tf.Variable(tf.zeros([units], tf.int32))]
for step in range(1, 6):
    rows = np.sort(rng.choice(units, 900, replace=False)).astype(np.int32)
    gradient = rng.standard_normal([900, input_dim]).astype(np.float32)
    gradient[:, 0] *= 1e-22  # its square is subnormal
    ops.row_adam(*state, rows, gradient, 0.01, 0.9, 0.999, 1e-7, step)
record("row_adam", *state)

keras.utils.set_random_seed(1)
model = keras.Sequential(
    [
        keras.Input((100,)),
        keras_lsh.LSHDense(600, activation="relu", active=0.05),
        keras_lsh.LSHDense(400, activation="relu", active=30, oversample=1,
                           hashing=keras_lsh.SimHash(bits=4)),
        keras.layers.Dense(10, activation="softmax"),
    ]
)
model.compile(keras_lsh.LazyAdam(1e-2), "sparse_categorical_crossentropy")
x = rng.standard_normal([640, 100]).astype(np.float32)
y = np.argmax(x[:, :10], axis=1)
history = model.fit(x, y, batch_size=64, verbose=0,
                    callbacks=[keras_lsh.RebuildTables(every=4)])
record("model's active sets", model.layers[0].active_ids(x))
record("model's weights", *model.weights)
record("model's optimizer", *model.optimizer.variables)
hashes["loss"] = history.history["loss"][0]
print(json.dumps(hashes))
"""


@pytest.fixture(scope="module")
def levels():
    """Those of this processor, or of KERAS_LSH_SIMD; the widest is the last."""
    return SIMD_LEVELS[: SIMD_LEVELS.index(simd_level()) + 1]


@pytest.fixture(scope="module")
def results(levels):
    """What the program printed, by (SIMD level, threads)."""
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith("KERAS_LSH_")
    }
    processes = {
        (level, threads): subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(threads)],
            env=environment | {"KERAS_LSH_SIMD": level, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for level, threads in [(levels[-1], 1), *((level, 2) for level in levels)]
    }
    outputs = {}
    try:
        for combination, process in processes.items():
            stdout, stderr = process.communicate(timeout=200)
            assert process.returncode == 0, stderr
            outputs[combination] = json.loads(stdout.splitlines()[-1])
            assert outputs[combination].pop("simd_level") == combination[0]
    finally:
        for process in processes.values():
            process.kill()
    return outputs


def test_threads_change_nothing(results, levels):
    assert results[levels[-1], 1] == results[levels[-1], 2]


def test_simd_levels_change_nothing(results, levels):
    for level in levels:
        assert results[level, 2] == results[levels[-1], 2], level


def test_the_model_learns(results):
    # So that equal hashes are not those of NaN.
    for result in results.values():
        assert 0 < result["loss"] < 3
