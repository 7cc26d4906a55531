"""The scores of selectors: what the tables say of all neurons."""

import keras
import numpy as np
import pytest

from keras_lsh import KMeansCells, LSHDense, SimHash

INPUT_DIM, UNITS = 10, 60


def built(**arguments):
    keras.utils.set_random_seed(0)
    layer = LSHDense(UNITS, active=6, bias_initializer="random_normal", **arguments)
    layer.build((None, INPUT_DIM))
    return layer


def inputs(samples=9):
    return np.random.default_rng(0).normal(size=(samples, INPUT_DIM)).astype("float32")


def scores(layer, x):
    return layer.selector.scores(x, layer.kernel, layer.bias).numpy()


@pytest.mark.parametrize(
    "hashing",
    [
        KMeansCells(),
        KMeansCells(8, 3, 2),
        KMeansCells(1),
        SimHash(4, 3, 5),
        SimHash(12, 2, 3),
        SimHash(1, 1, 2),
    ],
    ids=repr,
)
class TestHashTables:
    def test_are_the_weights_of_the_buckets_where_a_neuron_is_met(self, hashing):
        layer, x = built(hashing=hashing), inputs()
        selector = layer.selector
        tables, per_table = selector.hashing.tables, selector.hashing.buckets
        offsets, table_ids = selector.offsets.numpy(), selector.table_ids.numpy()
        buckets, weights = selector.hashing.input_probes(x, selector.state)
        expected = np.zeros((len(x), UNITS), np.int64)
        read = np.zeros(len(x), np.int64)
        for sample in range(len(x)):
            probes = zip(buckets[sample].numpy(), weights[sample].numpy(), strict=True)
            for bucket, weight in probes:
                table, code = divmod(bucket, per_table)
                assert table < tables
                begin, end = offsets[table, code : code + 2]
                expected[sample, table_ids[table, begin:end]] += weight
                read[sample] += end - begin
        np.testing.assert_array_equal(scores(layer, x), expected)
        np.testing.assert_array_equal(selector.entries_read(x), read)

    def test_are_what_selection_goes_by(self, hashing):
        layer, x = built(hashing=hashing), inputs()
        ids = layer.selector.select(x, layer.kernel, layer.bias, 20).numpy()
        ranked = scores(layer, x)
        for row, chosen in zip(ranked, ids, strict=True):
            left = np.delete(row, chosen)
            assert row[chosen].min() >= left.max()

    def test_empty_batch(self, hashing):
        assert scores(built(hashing=hashing), inputs(0)).shape == (0, UNITS)


def test_exact_selection_goes_by_the_products():
    layer, x = built(selection="exact"), inputs()
    expected = x @ layer.kernel.numpy().T + layer.bias.numpy()
    np.testing.assert_allclose(scores(layer, x), expected, rtol=1e-5, atol=1e-5)
    assert layer.selector.entries_read(x).numpy().tolist() == [0] * 9


def test_random_selection_goes_by_nothing():
    layer = built(selection="random")
    assert not scores(layer, inputs()).any()
    assert layer.selector.observe_multiplications(INPUT_DIM, 8) == 0


def test_a_layer_without_weights_has_no_selector():
    with pytest.raises(ValueError, match="no weights"):
        _ = LSHDense(4).selector


@pytest.mark.parametrize(("batch", "rows"), [(1, 1), (32, 32), (33, 17), (128, 32)])
def test_observing_counts_the_rows_that_are_looked_at(batch, rows):
    hashing = KMeansCells(rank=4)
    expected = (2 * rows + 1) * INPUT_DIM * 4
    assert hashing.observe_multiplications(INPUT_DIM, batch) == expected
