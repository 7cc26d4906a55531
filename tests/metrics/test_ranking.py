"""Metrics of ranked classes, against NumPy and scikit-learn."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lsh import metrics
from keras_lsh.metrics import (
    Accuracy,
    NDCGAtK,
    PrecisionAtK,
    PropensityScoredPrecisionAtK,
    TopKAccuracy,
)

UNITS = 11
PROPENSITIES = np.linspace(0.05, 1, UNITS)


def propensity_scored(k):
    return PropensityScoredPrecisionAtK(k, PROPENSITIES)


KINDS = [TopKAccuracy, PrecisionAtK, NDCGAtK, propensity_scored]


def batch(seed, samples=30):
    """Scores with ties and NaN, `{class: score}` of some classes; and labels."""
    rng = np.random.default_rng(seed)
    rows, labels = [], []
    for n in range(samples):
        ids = rng.choice(UNITS, rng.integers(0, UNITS + 1), replace=False)
        scores = np.round(rng.normal(size=len(ids)), 1 if n % 2 else 6)
        if len(ids) and n % 3 == 0:
            scores[0] = np.nan
        rows.append(dict(zip(ids.tolist(), scores.tolist(), strict=True)))
        number = rng.integers(0, 5)
        labels.append(rng.choice(UNITS, number, replace=False).tolist())
    return rows, labels


def sparse(rows):
    indices = [(n, i) for n, row in enumerate(rows) for i in sorted(row)]
    values = np.array([rows[n][i] for n, i in indices], "float32")
    indices = np.array(indices, "int64").reshape(-1, 2)
    return tf.SparseTensor(indices, values, [len(rows), UNITS])


def multi_hot(labels):
    result = np.zeros((len(labels), UNITS), "float32")
    for row, some in zip(result, labels, strict=True):
        row[some] = 1
    return result


def reference(kind, k, rows, labels, weights):
    total = divisor = 0.0
    for row, some, weight in zip(rows, labels, weights, strict=True):

        def score(i, row=row):
            return -np.inf if np.isnan(row[i]) else row[i]

        first = sorted(row, key=lambda i: (-score(i), i))[:k]
        hits = [i in some for i in first]
        best = 1.0
        if kind is TopKAccuracy:
            figure = any(hits)
        elif kind is PrecisionAtK:
            figure = sum(hits) / k
        elif kind is NDCGAtK:
            figure = sum(h / np.log2(n + 2) for n, h in enumerate(hits))
            ideal = sum(1 / np.log2(n + 2) for n in range(min(k, len(some))))
            figure = figure / ideal if ideal else 0.0
        else:
            gains = sorted((1 / PROPENSITIES[i] for i in some), reverse=True)
            figure, best = sum(1 / PROPENSITIES[i] for i in first if i in some), 0.0
            best = sum(gains[:k])
        total += weight * figure
        divisor += weight * best
    return total / divisor


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 3, UNITS, 20])
def test_equals_the_reference(kind, k):
    """Over several batches; sparse logits, and dense ones that rank alike."""
    batches = [batch(seed) for seed in range(2)]
    weights = np.random.default_rng(0).uniform(size=(2, 30)).astype("float32")
    of_sparse, of_dense, weighted = kind(k), kind(k), kind(k)
    full = []
    for (rows, labels), some_weights in zip(batches, weights, strict=True):
        y_true, y_pred = tf.ragged.constant(labels, dtype=tf.int32), sparse(rows)
        of_sparse.update_state(y_true, y_pred)
        weighted.update_state(y_true, y_pred, some_weights)
        full.append([{i: r.get(i, -9.0) for i in range(UNITS)} for r in rows])
        scores = np.array([[r[i] for i in range(UNITS)] for r in full[-1]])
        of_dense.update_state(tf.sparse.from_dense(multi_hot(labels)), scores)
    rows = list(itertools.chain(*(b[0] for b in batches)))
    labels = list(itertools.chain(*(b[1] for b in batches)))
    full = list(itertools.chain(*full))
    equal = np.ones(60)
    expected = reference(kind, k, rows, labels, equal)
    assert float(of_sparse.result()) == pytest.approx(expected, rel=1e-5)
    expected = reference(kind, k, rows, labels, weights.ravel())
    assert float(weighted.result()) == pytest.approx(expected, rel=1e-5)
    expected = reference(kind, k, full, labels, equal)
    assert float(of_dense.result()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_equals_scikit_learn(k):
    ranking = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(k)
    scores = rng.normal(size=(50, UNITS))
    labels = [rng.choice(UNITS, rng.integers(1, 6), replace=False) for _ in range(50)]
    first = np.array([some[0] for some in labels])
    weights, relevant = rng.uniform(size=50), multi_hot(labels)
    several = tf.sparse.from_dense(relevant)

    def result(metric, y_true):
        metric.update_state(y_true, scores, weights)
        return float(metric.result())

    expected = ranking.ndcg_score(relevant, scores, k=k, sample_weight=weights)
    assert result(NDCGAtK(k), several) == pytest.approx(expected, rel=1e-5)
    expected = ranking.top_k_accuracy_score(
        first, scores, k=k, sample_weight=weights, labels=np.arange(UNITS)
    )
    assert result(TopKAccuracy(k), first) == pytest.approx(expected, rel=1e-5)
    predicted = scores.argmax(axis=1)
    expected = ranking.accuracy_score(first, predicted, sample_weight=weights)
    assert result(Accuracy(), first) == pytest.approx(expected, rel=1e-5)
    # Of as many predictions as labels, in all samples alike, micro precision is P@k.
    top = np.eye(UNITS)[np.argsort(-scores)[:, :k]].sum(axis=1)
    expected = ranking.precision_score(
        relevant, top, average="micro", sample_weight=weights
    )
    assert result(PrecisionAtK(k), several) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", [*KINDS, lambda k: Accuracy()])
def test_corner_cases(kind):
    def result(y_true, y_pred):
        metric = kind(2)
        metric.update_state(y_true, y_pred)
        return float(metric.result())

    nothing = tf.sparse.from_dense(np.zeros((2, UNITS), "float32"))
    assert result([1, 2], nothing) == 0
    assert result(nothing, np.ones((2, UNITS))) == 0
    assert result(nothing, nothing) == 0
    assert result(np.zeros([0], "int64"), sparse([])) == 0
    only_nan = np.full((1, UNITS), np.nan)
    assert result([3], only_nan) == 0  # all equal, so classes 0 and 1 come first
    only_nan[0, 3] = -np.inf
    assert result([0], only_nan) > 0
    only_nan[0, 3] = -1e30
    assert result([3], only_nan) > 0
    metric = kind(2)
    in_graph = tf.function(metric.update_state, autograph=False)
    metric.update_state([4], tf.constant(np.eye(UNITS)[4:5], tf.bfloat16))
    metric.update_state([4], np.eye(UNITS, dtype="int32")[5:6])
    in_graph(tf.constant([[4]], tf.int64), sparse([{4: 0.5}]))
    assert 0 < float(metric.result()) < 1


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input(kind):
    for k in (0, -1, 2.0, True, "two"):
        with pytest.raises(ValueError, match="invalid value for `k`"):
            kind(k)
    metric, scores = kind(2), np.ones((2, UNITS), "float32")
    with pytest.raises(ValueError, match=r"`y_pred`.*\[batch, units\]"):
        metric.update_state([1, 2], scores[0])
    for y_pred in (scores, tf.sparse.from_dense(scores)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="Labels must be"):
            metric.update_state([1, UNITS], y_pred)
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
            metric.update_state([1, 2, 3], y_pred)
    assert float(metric.result()) == 0


@pytest.mark.parametrize("metric", [*(kind(3) for kind in KINDS), Accuracy()])
def test_configuration(metric):
    config = keras.saving.serialize_keras_object(metric)
    assert config["registered_name"] == f"keras_lsh>{type(metric).__name__}"
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.get_config() == metric.get_config()
    for m in (metric, copy):
        m.reset_state()
        m.update_state([[0, 2], [3, -1]], np.eye(UNITS)[[2, 4]])
    assert float(copy.result()) == float(metric.result()) > 0


def test_names():
    names = [kind(5).name for kind in KINDS]
    assert names == ["top_5_accuracy", "precision_at_5", "ndcg_at_5", "psp_at_5"]
    assert Accuracy().name == "accuracy"
    assert PrecisionAtK(5, name="p5").name == "p5"


def test_propensities():
    # By hand: c = (log 100 - 1) * 2.5**0.55 = 5.9678..., and count 0: 1.5**-0.55.
    result = metrics.propensities([0, 1, 100], 100)
    c = (np.log(100) - 1) * 2.5**0.55
    inverse = 1 + c * np.exp(-0.55 * np.log([1.5, 2.5, 101.5]))
    np.testing.assert_allclose(1 / result, inverse, rtol=1e-12)
    # A label of one sample: the constants cancel, and log(samples) is left.
    assert 1 / result[1] == pytest.approx(np.log(100))
    other = metrics.propensities(np.array([1]), 100, a=0.6, b=2.6)
    assert 1 / other[0] == pytest.approx(np.log(100))
    for name, arguments in (
        ("samples", ([1], 2)),
        ("samples", ([1], 2.5)),
        ("label_counts", ([[1]], 9)),
        ("label_counts", ([-1], 9)),
        ("label_counts", ([10], 9)),
        ("label_counts", ([np.nan], 9)),
        ("a", ([1], 9, 0)),
        ("b", ([1], 9, 0.5, -1)),
    ):
        with pytest.raises(ValueError, match=f"invalid value for `{name}`"):
            metrics.propensities(*arguments)
    for wrong in ([0.5, 0], [0.5, 1.1], [np.nan], [[0.5]]):
        with pytest.raises(ValueError, match="invalid value for `propensities`"):
            PropensityScoredPrecisionAtK(1, wrong)
    with pytest.raises(ValueError, match="propensity for each of the 2 units"):
        PropensityScoredPrecisionAtK(1, [0.5, 1]).update_state([0], [[1.0, 2, 3]])
