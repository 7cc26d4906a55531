"""Cross-entropies of sparse logits, against NumPy and Keras' dense losses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lsh.losses import ActiveSigmoidCrossentropy, ActiveSoftmaxCrossentropy

UNITS = 12
LOSSES = [ActiveSoftmaxCrossentropy, ActiveSigmoidCrossentropy]
OPTIONS = [
    {},
    {"label_smoothing": 0.3},
    {"log_q": "uniform"},
    {"log_q": "uniform", "label_smoothing": 0.3},
]


def sparse(rows, units=UNITS, dtype="float64"):
    """A SparseTensor of rows given as `{class: value}`."""
    indices = [(n, i) for n, row in enumerate(rows) for i in sorted(row)]
    values = np.array([rows[n][i] for n, i in indices], dtype)
    indices = np.array(indices, "int64").reshape(-1, 2)
    return tf.SparseTensor(indices, values, [len(rows), units])


def padded(labels):
    width = max(map(len, labels), default=0)
    return np.array([[*row, *[-1] * (width - len(row))] for row in labels], "int64")


def batch(seed, samples=6, same_length=False, min_labels=0):
    """Logits of some classes of each sample, and labels, active or not."""
    rng = np.random.default_rng(seed)
    rows, labels = [], []
    for _ in range(samples):
        active = 5 if same_length else rng.integers(1, UNITS + 1)
        ids = rng.choice(UNITS, active, replace=False)
        rows.append({int(i): 3 * rng.normal() for i in ids})
        number = rng.integers(min_labels, 5)
        labels.append([int(i) for i in rng.choice(UNITS, number, replace=False)])
    return rows, labels


def reference(kind, row, labels, label_smoothing=0.0, log_q=None, units=UNITS):
    """The loss of one sample, class by class."""
    labels, lowest = set(labels), min(row.values(), default=0.0)
    negatives = [i for i in row if i not in labels]
    stands_for = dict.fromkeys(negatives, 1.0)
    if log_q:
        stands_for = dict.fromkeys(
            negatives, (units - len(labels)) / max(len(negatives), 1)
        )
    stands_for |= dict.fromkeys(labels, 1.0)
    z = {i: row.get(i, lowest) for i in stands_for}
    if kind is ActiveSigmoidCrossentropy:
        loss = 0.0
        for i in z:
            target = (i in labels) * (1 - label_smoothing) + label_smoothing / 2
            yes, no = np.logaddexp(0, -z[i]), np.logaddexp(0, z[i])
            loss += stands_for[i] * (target * yes + (1 - target) * no)
        return loss
    raised = [z[i] + np.log(stands_for[i]) for i in z]
    total = np.logaddexp.reduce(raised) if row else np.log(units)
    spread = sum(stands_for.values())
    loss = total
    for i in z:
        target = (i in labels) * (1 - label_smoothing) / len(labels)
        loss -= (target + label_smoothing * stands_for[i] / spread) * z[i]
    return loss


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("same_length", [True, False])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_equals_the_reference(kind, options, same_length, dtype):
    tolerance = {"float64": 1e-12, "float32": 2e-6}[dtype]
    for seed in range(2):
        at_least = 1 if kind is ActiveSoftmaxCrossentropy else 0
        rows, labels = batch(seed, same_length=same_length, min_labels=at_least)
        loss = kind(**options, reduction=None, dtype=dtype)
        expected = [
            reference(kind, *sample, **options)
            for sample in zip(rows, labels, strict=True)
        ]
        result = loss(padded(labels), sparse(rows))
        np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_in_a_graph_of_unknown_shapes(kind, dtype):
    loss = kind(log_q="uniform", label_smoothing=0.1, dtype=dtype)
    labels = tf.RaggedTensorSpec([None, None], tf.int32)
    logits = tf.SparseTensorSpec([None, None], tf.float64)
    in_graph = tf.function(loss, input_signature=[labels, logits], autograph=False)
    for seed, same_length in ((0, True), (1, False)):
        rows, some = batch(seed, seed + 2, same_length, min_labels=1)
        some, y_pred = tf.ragged.constant(some, dtype=tf.int32), sparse(rows)
        expected = float(loss(some, y_pred))
        tolerance = {"float64": 1e-12, "float32": 1e-6}[dtype]
        assert float(in_graph(some, y_pred)) == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_gradient(kind, options, dtype):
    """Of the reference by finite differences, with a missing label's logit as fixed."""
    rows, labels = batch(7, min_labels=1)
    # What stands in for missing labels gives no gradient: no label is missing here...
    for row, some in zip(rows, labels, strict=True):
        row |= {i: 0.1 * i for i in some if i not in row}
    y_pred, step = sparse(rows), 1e-6
    with tf.GradientTape() as tape:
        tape.watch(y_pred.values)
        loss = kind(**options, reduction="sum", dtype=dtype)(padded(labels), y_pred)
    tolerance = {"float64": 1e-7, "float32": 1e-5}[dtype]
    gradient = tf.convert_to_tensor(tape.gradient(loss, y_pred.values))
    for (n, i), found in zip(y_pred.indices.numpy(), gradient.numpy(), strict=True):
        up, down = ({**rows[n], i: rows[n][i] + s} for s in (step, -step))
        difference = reference(kind, up, labels[n], **options)
        difference -= reference(kind, down, labels[n], **options)
        assert found == pytest.approx(difference / (2 * step), abs=tolerance)


def test_gradient_of_a_missing_label():
    # ... and here one is, which is no reason to raise the smallest of the others.
    y_pred = sparse([{1: 2.0, 4: -1.0}])
    for kind in LOSSES:
        with tf.GradientTape() as tape:
            tape.watch(y_pred.values)
            loss = kind(dtype="float64")([3], y_pred)
        gradient = tf.convert_to_tensor(tape.gradient(loss, y_pred.values))
        exp = np.exp([2.0, -1.0, -1.0])
        expected = {
            ActiveSoftmaxCrossentropy: exp[:2] / exp.sum(),
            ActiveSigmoidCrossentropy: 1 / (1 + np.exp([-2.0, 1.0])),
        }
        np.testing.assert_allclose(gradient, expected[kind], rtol=1e-12)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.2}])
@pytest.mark.parametrize("log_q", [None, "uniform"])
@pytest.mark.parametrize("from_logits", [True, False])
def test_all_classes_active_is_the_dense_loss_of_keras(options, log_q, from_logits):
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(9, UNITS))
    if not from_logits:
        scores = 1 / (1 + np.exp(-scores))
        scores[0, :2] = [0, 1]  # as Keras, less than epsilon and more than 1 - epsilon
    labels = rng.integers(0, UNITS, 9)
    weights = rng.uniform(size=9)
    one_hot = np.eye(UNITS)[labels]
    settings = {"from_logits": from_logits, "dtype": "float64", **options}
    ours = {**settings, "log_q": log_q}
    y_pred = tf.sparse.from_dense(scores + 10)
    y_pred = y_pred.with_values(y_pred.values - 10)

    dense = keras.losses.CategoricalCrossentropy(**settings)
    expected = dense(one_hot, scores, weights)
    result = ActiveSoftmaxCrossentropy(**ours)(labels, y_pred, weights)
    # A clipped probability moves the sum of all by epsilon.
    assert float(result) == pytest.approx(float(expected), rel=1e-6)

    dense = keras.losses.BinaryCrossentropy(**settings)
    expected = float(dense(one_hot, scores, weights)) * UNITS
    result = ActiveSigmoidCrossentropy(**ours)(labels, y_pred, weights)
    assert float(result) == pytest.approx(expected, rel=1e-9)


def test_probabilities_of_the_active_classes():
    rows, labels = batch(2, min_labels=1)
    softmax = []
    for row in rows:
        total = np.logaddexp.reduce(list(row.values()))
        softmax.append({i: np.exp(z - total) for i, z in row.items()})
    loss = ActiveSoftmaxCrossentropy(from_logits=False, dtype="float64")
    expected = ActiveSoftmaxCrossentropy(dtype="float64")(padded(labels), sparse(rows))
    result = loss(padded(labels), sparse(softmax))
    assert float(result) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("kind", LOSSES)
def test_forms_of_labels_are_one(kind):
    rows, _ = batch(3, samples=4)
    labels = [[1, 5], [2], [0, 3, 11], [7]]
    loss = kind(label_smoothing=0.1, log_q="uniform", reduction="none")
    expected = loss(padded(labels), sparse(rows))
    several = tf.constant([[5, 1, 1], [2, 2, -1], [11, 0, 3], [-1, 7, -1]], tf.int32)
    multi_hot = np.zeros((4, UNITS), "float32")
    for n, some in enumerate(labels):
        multi_hot[n, some] = 1
    for form in (
        several,
        tf.cast(several, "float32"),
        several.numpy().tolist(),
        tf.ragged.constant(labels),
        tf.sparse.from_dense(multi_hot),
    ):
        np.testing.assert_allclose(loss(form, sparse(rows)), expected, rtol=1e-6)
    single = [1, 2, 3, 7]
    expected = loss(np.array(single)[:, np.newaxis], sparse(rows))
    for form in (single, np.array(single, "uint8"), np.array(single, "float64")):
        np.testing.assert_array_equal(loss(form, sparse(rows)), expected)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_labels_never_become_floats(kind, dtype):
    """16777217 is no float32, and nothing of the size of batch x units is made."""
    units, labels = 2**31 - 2, [16777217, 2**31 - 3, 2001]
    rows = [{16777216: 0.0, 16777217: 3.0}, {2**31 - 3: 2.0}, {2000: 1.0, 2001: 0.5}]
    expected = [reference(kind, row, [y]) for row, y in zip(rows, labels, strict=True)]
    loss = kind(reduction=None, dtype=dtype)
    for form in (labels, tf.RaggedTensor.from_row_lengths(labels, [1, 1, 1])):
        result = loss(form, sparse(rows, units, "float32"))
        assert result.dtype == dtype
        np.testing.assert_allclose(tf.cast(result, "float64"), expected, rtol=1e-2)


@pytest.mark.parametrize("kind", LOSSES)
def test_extreme_logits(kind):
    """As exact as a dense loss: large logits are no reason for a large error."""
    rng = np.random.default_rng(0)
    scores = (rng.normal(size=(20, 30)) * 50 + 3000).astype("float32")
    labels = rng.integers(0, 30, 20)
    rows = [dict(enumerate(row)) for row in scores.astype("float64")]
    y_pred = tf.sparse.from_dense(scores)
    result = kind(reduction=None)(labels, y_pred)
    exact = [
        reference(kind, row, [y], units=30) for row, y in zip(rows, labels, strict=True)
    ]
    if kind is ActiveSoftmaxCrossentropy:
        plain = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, scores)
    else:
        plain = tf.reduce_sum(
            tf.nn.sigmoid_cross_entropy_with_logits(
                np.eye(30, dtype="float32")[labels], scores
            ),
            axis=-1,
        )
    error, plain_error = (np.abs(x - exact).max() for x in (result, plain))
    assert error <= 2 * plain_error + 1e-6
    for value in (1e30, -1e30):
        y_pred = sparse([{0: value, 1: 0.0, 2: value}], dtype="float32")
        for label in (0, 5):
            assert np.isfinite(kind(reduction="sum")([label], y_pred))


def test_uniform_correction_is_right_on_average():
    """Over many draws, the sums over active classes have the mean of those of all."""
    rng = np.random.default_rng(0)
    units, draws, label = 40, 4000, 7
    z = rng.normal(size=units)
    others = np.delete(np.arange(units), label)
    rows = []
    for _ in range(draws):
        ids = rng.choice(others, 6, replace=False)
        rows.append({int(i): z[i] for i in [*ids, label]})
    y_pred, y_true = sparse(rows, units), [label] * draws
    options = {"log_q": "uniform", "reduction": None, "dtype": "float64"}
    loss = ActiveSoftmaxCrossentropy(**options)(y_true, y_pred)
    assert np.exp(loss + z[label]).mean() == pytest.approx(np.exp(z).sum(), rel=0.02)
    loss = ActiveSigmoidCrossentropy(**options)(y_true, y_pred)
    expected = np.logaddexp(0, z).sum() - z[label]
    assert loss.numpy().mean() == pytest.approx(expected, rel=0.02)


def test_samples_without_active_classes_or_labels():
    empty = sparse([{}, {1: 2.0}])
    softmax = ActiveSoftmaxCrossentropy(reduction=None)([3, 1], empty)
    np.testing.assert_allclose(softmax, [np.log(UNITS), 0], atol=1e-6)
    sigmoid = ActiveSigmoidCrossentropy(reduction=None)([[3, -1], [-1, -1]], empty)
    np.testing.assert_allclose(sigmoid, [np.log(2), np.logaddexp(0, 2)], rtol=1e-6)
    nothing = tf.ragged.constant([[], []], dtype=tf.int32, ragged_rank=1)
    sigmoid = ActiveSigmoidCrossentropy(reduction=None)(nothing, sparse([{}, {}]))
    np.testing.assert_array_equal(sigmoid, [0, 0])
    for kind in LOSSES:
        no_samples = kind(reduction=None)(np.zeros([0], "int32"), sparse([]))
        assert no_samples.shape == (0,)

    @tf.function
    def in_graph(labels):
        return ActiveSoftmaxCrossentropy()(labels, sparse([{1: 0.0}] * 3))

    for call in (in_graph, in_graph.python_function):
        with pytest.raises(tf.errors.InvalidArgumentError, match="(?s)Drop.*0,? 2"):
            call(tf.constant([[-1, -1], [1, -1], [-1, -1]]))


@pytest.mark.parametrize("kind", LOSSES)
def test_bad_input(kind):
    dense = keras.losses.SparseCategoricalCrossentropy, keras.losses.BinaryCrossentropy
    dense = dense[kind is ActiveSigmoidCrossentropy].__name__
    with pytest.raises(ValueError, match=rf"keras.losses.{dense}\(from_logits=True\)"):
        kind()([1], tf.zeros([1, UNITS]))
    y_pred = sparse([{1: 0.0, 2: 1.0}, {3: 0.0}])
    for labels in ([1, UNITS], [-1, 2], [0.5, 1]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="Labels must be"):
            kind()(labels, y_pred)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="y_true"):
        kind()([1, 2, 3], y_pred)
    with pytest.raises(ValueError, match="SparseTensor of shape"):
        kind()(tf.sparse.from_dense(np.eye(2)), y_pred)
    for name, value in (
        ("label_smoothing", 1.5),
        ("label_smoothing", np.nan),
        ("from_logits", "yes"),
        ("log_q", "log_uniform"),
        ("log_q", np.ones(3)),
    ):
        with pytest.raises(ValueError, match=f"invalid value for `{name}`"):
            kind(**{name: value})
    with pytest.raises(ValueError, match="reduction"):
        kind(reduction="average")


@pytest.mark.parametrize("kind", LOSSES)
def test_configuration(kind):
    loss = kind(
        from_logits=False,
        label_smoothing=0.2,
        log_q="uniform",
        reduction="sum",
        name="own",
        dtype="float64",
    )
    config = keras.saving.serialize_keras_object(loss)
    assert config["registered_name"] == f"keras_lsh>{kind.__name__}"
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.get_config() == loss.get_config()
    assert (copy.name, copy.reduction, copy.dtype) == ("own", "sum", "float64")
    assert (copy.from_logits, copy.log_q, copy.label_smoothing) == (
        False,
        "uniform",
        0.2,
    )


@pytest.mark.parametrize("kind", LOSSES)
def test_reductions_are_those_of_keras(kind):
    rows, labels = batch(5, min_labels=1)
    weights = np.random.default_rng(0).uniform(size=(len(rows), 1))
    y_true, y_pred = padded(labels), sparse(rows)
    each = kind(reduction="none", dtype="float64")(y_true, y_pred).numpy()
    total = float(each @ weights[:, 0])
    for reduction, expected in (
        ("sum", total),
        ("sum_over_batch_size", total / len(rows)),
        ("mean_with_sample_weight", total / weights.sum()),
    ):
        loss = kind(reduction=reduction, dtype="float64")
        for sample_weight in (weights, weights[:, 0]):
            result = float(loss(y_true, y_pred, sample_weight))
            assert result == pytest.approx(expected)
