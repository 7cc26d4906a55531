"""Tries an installed keras_lsh: `python -I smoke_test.py`, outside of a checkout."""

import importlib.metadata
import sys
from pathlib import Path

import numpy as np

import keras_lsh
from keras_lsh import ops

package = Path(keras_lsh.__file__).parent
assert package.is_relative_to(sys.prefix), f"{package} is not in {sys.prefix}"
assert importlib.metadata.version("keras_lsh") == keras_lsh.__version__

margins = np.random.default_rng(0).normal(size=(7, 3 * 5)).astype("float32")
codes = ops.hash_codes(margins, tables=3, bits=5)
with ops.reference_ops():
    expected = ops.hash_codes(margins, tables=3, bits=5)
np.testing.assert_array_equal(codes, expected)
print(f"keras_lsh {keras_lsh.__version__} in {package}: {ops.simd_level()} ops, right")
