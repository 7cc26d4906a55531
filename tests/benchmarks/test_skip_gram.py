"""Full softmax and LSHDense are judged by the same loss of held-out pairs."""

import importlib
import pathlib
import sys

import numpy as np
import pytest

ACCURACY = pathlib.Path(__file__).resolve().parents[2] / "benchmarks" / "accuracy"


@pytest.fixture
def skip_gram(monkeypatch):
    monkeypatch.syspath_prepend(str(ACCURACY))
    yield importlib.import_module("skip_gram")
    for name in ("skip_gram", "figures", "sweep", "machine"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("method", ["full", "lsh"])
def test_held_out_loss_is_of_all_outputs(skip_gram, method):
    words, dimensions = 30, 4
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal([words, dimensions]).astype(np.float32)
    kernel = rng.standard_normal([dimensions, words]).astype(np.float32)
    bias = rng.standard_normal(words).astype(np.float32)
    run = skip_gram.Run("quick", method, active=5, dimensions=dimensions)
    model = skip_gram.make_model(run, words)
    model.layers[0].embeddings.assign(vectors)
    output = model.layers[1]
    output.kernel.assign(kernel if method == "full" else kernel.T)
    output.bias.assign(bias)

    pairs = rng.integers(0, words, [2, 1203]).astype(np.int32)  # not whole batches
    logits = vectors[pairs[0]] @ kernel + bias
    of_labels = logits[np.arange(1203), pairs[1]]
    expected = np.mean(np.log(np.exp(logits).sum(axis=1)) - of_labels)
    np.testing.assert_allclose(
        skip_gram.held_out_loss(model, tuple(pairs)), expected, atol=1e-4
    )
