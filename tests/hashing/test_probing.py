"""cheapest_buckets and packed against enumeration."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_lsh.hashing.probing import cheapest_buckets, packed, squared_gaps


def random_costs(batch, tables, functions, values):
    scores = np.random.default_rng(0).standard_normal(
        (batch, tables, functions, values), np.float32
    )
    return squared_gaps(tf.constant(scores)).numpy()


@pytest.mark.parametrize(
    ("tables", "functions", "values", "probes"),
    [
        (1, 1, 5, 5),
        (3, 1, 5, 1),
        (3, 1, 5, 2),
        (2, 3, 4, 7),
        (4, 2, 3, 9),
        (2, 3, 2, 8),
    ],
)
def test_against_enumeration(tables, functions, values, probes):
    costs = random_costs(6, tables, functions, values)
    buckets, weights = cheapest_buckets(tf.constant(costs), probes)
    assert buckets.dtype == weights.dtype == tf.int32
    for row in range(6):
        everything = []
        for table in range(tables):
            for code, digits in enumerate(
                itertools.product(range(values), repeat=functions)
            ):
                cost = sum(
                    np.float64(costs[row, table, function, digit])
                    for function, digit in enumerate(digits)
                )
                everything.append((cost, table * values**functions + code))
        everything.sort(key=lambda item: (item[0] > 0, item))
        expected = everything[: tables * probes]
        np.testing.assert_array_equal(buckets[row], [code for _, code in expected])
        worth = [max(1, 65536 / (1 + cost)) for cost, _ in expected]
        np.testing.assert_allclose(weights[row], worth, rtol=1e-4, atol=1)


def test_equal_costs_are_taken_in_order():
    buckets, weights = cheapest_buckets(tf.zeros([2, 2, 2, 3]), 2)
    # Each table's own, and then two more of the first table.
    np.testing.assert_array_equal(buckets, [[0, 9, 1, 2]] * 2)
    assert np.all(weights == 65536)


def test_packed_puts_the_first_function_first():
    digits = np.int32([[[1, 0, 2], [0, 0, 1]]])
    np.testing.assert_array_equal(packed(tf.constant(digits), 3), [[11, 1]])


def test_squared_gaps():
    scores = tf.constant([[3.0, 1.0, -1e9], [0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(squared_gaps(scores), [[0, 4, 1e9], [0, 0, 0]])
