"""The mathematics of rankings, against scikit-learn, SciPy and brute force."""

import itertools

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from keras_lsh.diagnostics import ranking

SAMPLES, UNITS, WANTED = 6, 40, 7


def drawn(levels, seed=0):
    """Scores with ties unless `levels` is None, values that go with them, the true."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(SAMPLES, UNITS)).astype("float32")
    scores = values + rng.normal(size=values.shape).astype("float32")
    if levels is not None:
        scores = np.clip(np.round(scores * levels / 4), 0, levels).astype("int32")
    true = values >= np.sort(values, axis=1)[:, -WANTED, np.newaxis]
    return scores, values, true


@pytest.mark.parametrize("levels", [None, 30, 3, 1])
class TestRank:
    def test_auc_and_roc(self, levels):
        scores, values, true = drawn(levels)
        result = ranking.rank(scores, values, true, WANTED)
        for row in range(SAMPLES):
            expected = sklearn.metrics.roc_auc_score(true[row], scores[row])
            assert result.auc[row] == pytest.approx(expected, abs=1e-12)
            false_rate, true_rate, _ = sklearn.metrics.roc_curve(
                true[row], scores[row], drop_intermediate=False
            )
            np.testing.assert_allclose(
                result.true_positive_rate[row],
                np.interp(ranking.FALSE_POSITIVE_RATES, false_rate, true_rate),
                atol=1e-12,
            )

    def test_correlation(self, levels):
        scores, values, true = drawn(levels)
        values[:, :5] = values[:, 5:10]  # ties among the values, too
        result = ranking.rank(scores, values, true, WANTED)
        for row in range(SAMPLES):
            expected = scipy.stats.spearmanr(scores[row], values[row]).statistic
            assert result.correlation[row] == pytest.approx(expected, abs=1e-12)

    def test_true_neurons_found(self, levels):
        scores, values, true = drawn(levels)
        found = ranking.rank(scores, values, true, WANTED).found
        # The mean over many orders of the ties.
        rng = np.random.default_rng(1)
        total = np.zeros_like(found)
        trials = 4000
        for _ in range(trials):
            order = np.lexsort([rng.random(scores.shape), -scores], axis=1)
            total += np.cumsum(np.take_along_axis(true, order, axis=1), axis=1)
        np.testing.assert_allclose(found, total / trials / WANTED, atol=0.02)
        np.testing.assert_allclose(found[:, -1], 1)


class TestCornerCases:
    def test_ties_in_expectation_exactly(self):
        scores = np.array([[3, 1, 1, 1, 0]])
        true = np.array([[False, True, False, True, False]])
        orders = [[0, *middle, 4] for middle in itertools.permutations([1, 2, 3])]
        expected = np.mean([np.cumsum(true[0, order]) for order in orders], axis=0)
        found = ranking.rank(scores, scores, true, 2).found
        np.testing.assert_allclose(found[0], expected / 2)

    def test_nothing_is_known(self):
        values = np.arange(10.0)[np.newaxis]
        result = ranking.rank(np.zeros((1, 10)), values, values >= 8, 2)
        assert result.auc[0] == 0.5
        assert np.isnan(result.correlation[0])
        np.testing.assert_allclose(result.found[0], np.arange(1, 11) / 10)
        np.testing.assert_allclose(
            result.true_positive_rate[0], ranking.FALSE_POSITIVE_RATES
        )

    def test_all_are_true(self):
        result = ranking.rank(np.eye(3), np.eye(3), np.ones((3, 3), bool), 1)
        assert np.isnan(result.auc).all()
        assert np.isnan(result.true_positive_rate).all()
        np.testing.assert_allclose(result.found, 1)

    def test_infinite_values_and_scores(self):
        values = np.array([[np.inf, 1, 0, -np.inf]])
        result = ranking.rank(values, values, values >= 1, 2)
        assert (result.auc[0], result.correlation[0]) == (1, pytest.approx(1))

    def test_one_neuron(self):
        one = np.ones((2, 1))
        assert ranking.rank(one, one, one > 0, 1).found.tolist() == [[1], [1]]


class TestJaccard:
    def test_against_sets(self):
        rng = np.random.default_rng(0)
        rows = []
        for width in 8, 5:
            ids = np.stack([rng.permutation(20)[:width] for _ in range(50)])
            ids[rng.random(ids.shape) < 0.3] = -1
            rows.append(ids)
        expected = []
        for one, other in zip(*rows, strict=True):
            a, b = set(one) - {-1}, set(other) - {-1}
            expected.append(len(a & b) / len(a | b) if a | b else 1)
        np.testing.assert_allclose(ranking.jaccard(*rows), expected)

    def test_empty(self):
        nobody = np.full((1, 3), -1)
        assert ranking.jaccard(nobody, nobody) == [1]
        assert ranking.jaccard(nobody, np.array([[0, -1, -1]])) == [0]


class TestGini:
    def test_against_its_definition(self):
        counts = np.random.default_rng(0).integers(0, 9, 30)
        differences = np.abs(counts[:, np.newaxis] - counts).mean()
        expected = differences / (2 * counts.mean())
        assert ranking.gini(counts) == pytest.approx(expected)

    def test_extremes(self):
        assert ranking.gini(np.full(10, 7)) == pytest.approx(0)
        assert ranking.gini(np.eye(20, dtype=int)[3]) == pytest.approx(0.95)
        assert np.isnan(ranking.gini(np.zeros(4, int)))
