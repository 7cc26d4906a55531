"""The sampled softmax that LSHDense is compared with is TensorFlow's."""

import importlib
import pathlib
import sys

import numpy as np
import pytest
import tensorflow as tf

ACCURACY = pathlib.Path(__file__).resolve().parents[2] / "benchmarks" / "accuracy"


@pytest.fixture
def extreme(monkeypatch):
    monkeypatch.syspath_prepend(str(ACCURACY))
    yield importlib.import_module("extreme")
    for name in ("extreme", "machine"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("log_q", ["none", "all"])
def test_one_label(extreme, log_q):
    run = extreme.Run("quick", "sampled", active=8, log_q=log_q, hidden=4)
    frequencies = np.random.default_rng(0).integers(0, 9, 20)
    model = extreme.SampledSoftmax(run, 5, frequencies)
    model.bias.assign(tf.random.normal([20]))
    hidden = tf.random.normal([6, 4])
    labels = np.array([3, 3, 0, 19, 7, 11])
    ranks = model.rank_of[labels][:, np.newaxis]
    drawn = tf.random.uniform_candidate_sampler(ranks, 1, 8, True, 20)
    # The expected counts are all the same here: they cancel out.
    expected = tf.nn.sampled_softmax_loss(
        *(model.kernel.value, model.bias.value, labels[:, np.newaxis], hidden, 8, 20),
        sampled_values=(tf.gather(model.class_of, drawn[0]), *drawn[1:]),
    )
    y = tf.RaggedTensor.from_uniform_row_length(labels, 1)
    np.testing.assert_allclose(model.losses_of(y, hidden, drawn), expected, rtol=1e-5)


def test_several_labels(extreme):
    run = extreme.Run("quick", "sampled", active=20, hidden=4)
    model = extreme.SampledSoftmax(run, 5, np.arange(20))
    hidden = tf.random.normal([2, 4])
    y = tf.ragged.constant([[3, 5], [0]], dtype=tf.int32)
    ranks = tf.constant(model.rank_of[[3, 5, 0]][:, np.newaxis])
    drawn = tf.random.uniform_candidate_sampler(ranks, 1, 20, True, 20)  # all
    logits = hidden.numpy() @ model.kernel.numpy().T
    totals = np.log(np.exp(logits).sum(1))
    expected = totals - [logits[0, [3, 5]].mean(), logits[1, 0]]
    np.testing.assert_allclose(model.losses_of(y, hidden, drawn), expected, rtol=1e-5)
