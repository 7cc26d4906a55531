import sys

import keras
import numpy as np
import pytest

from keras_lsh import LSHDense, SimHash
from keras_lsh.diagnostics import plot, report


def make_report(*layers):
    model = keras.Sequential([keras.Input((12,)), *layers])
    x = np.random.default_rng(0).normal(size=(20, 12)).astype("float32")
    return report(model, x, rebuild_every=10)


def test_shows_every_layer(tmp_path):
    pytest.importorskip("matplotlib")
    result = make_report(
        LSHDense(60, "relu", active=6, name="first"),
        LSHDense(40, "relu", active=40, name="second", hashing=SimHash(3, 2, 2)),
        LSHDense(40, active=4, name="third", selection="random"),
    )
    path = tmp_path / "figure.png"
    figure = plot(result, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    roc, candidates, buckets, neurons, *costs = figure.axes
    for axes in roc, candidates, neurons:
        labels = " ".join(text.get_text() for text in axes.get_legend().get_texts())
        assert all(name in labels for name in ("first", "second", "third"))
    np.testing.assert_array_equal(
        roc.lines[0].get_ydata(), result.layers[0].true_positive_rate
    )
    np.testing.assert_array_equal(
        candidates.lines[0].get_ydata(), result.layers[0].candidate_recall
    )
    assert "third" not in str([line.get_label() for line in buckets.lines])
    for axes, kinds in zip(costs, (2, 3), strict=True):
        assert len(axes.get_yticklabels()) == 3 * kinds
    widths = [bars[0].get_width() for bars in costs[0].containers]
    assert sum(widths) == pytest.approx(100 * result.layers[0].inference.share)


def test_no_tables_and_no_file():
    pytest.importorskip("matplotlib")
    figure = plot(make_report(LSHDense(40, selection="exact")))
    assert not figure.axes[2].axison


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "keras_lsh\[plot\]"'):
        plot(make_report(LSHDense(40)))
