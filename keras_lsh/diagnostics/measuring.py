"""Running a model and listening to its LSH layers."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lsh.diagnostics import ranking
from keras_lsh.layers import LSHDense
from keras_lsh.layers.finding import lsh_layers
from keras_lsh.selection import LSHSelector

# Products of so many neurons and samples are looked at together: some arrays of this
# size in float64 take little memory, and NumPy's own costs are small beside the work.
_CHUNK = 2**20


def measure(model: keras.Model, x: Any, batch_size: int) -> list[LayerMeasurement]:
    """Runs a model on `x`, batch by batch, and measures each call of an LSH layer.

    The model is left as it was, and no random numbers are drawn.

    Raises:
        ValueError: if the model calls no `LSHDense`, or `x` is unusable.
    """
    samples = count_samples(x)
    measurements: dict[LSHDense, LayerMeasurement] = {}
    for start in range(0, samples, batch_size):
        rows = slice(start, min(start + batch_size, samples))
        batch = keras.tree.map_structure(lambda array, rows=rows: array[rows], x)
        with _draws_undone(model):
            with _captured_inputs(model) as captured:
                model(batch, training=False)
            for layer, inputs in captured:
                if layer not in measurements:
                    measurements[layer] = LayerMeasurement(layer)
                measurements[layer].add(inputs)
    if not measurements:
        raise ValueError(
            "Received an invalid value for `model`, expected one that calls an "
            f"`LSHDense` layer. Received: model={model}"
        )
    return list(measurements.values())


def count_samples(x: Any) -> int:
    """The length of all arrays of a structure; a ValueError if there is none."""
    arrays = keras.tree.flatten(x)
    lengths = {len(array) if getattr(array, "shape", ()) else None for array in arrays}
    samples = lengths.pop() if len(lengths) == 1 else None
    if not samples:
        raise ValueError(
            "Received an invalid value for `x`, expected an array or a structure of "
            f"arrays of the same length, at least 1. Received: x={type(x).__name__}"
            f" of {[getattr(array, 'shape', None) for array in arrays]}"
        )
    return samples


class LayerMeasurement:
    """Sums of what one layer selected, over all samples that it has been shown.

    Attributes:
        samples: vectors that the layer got: more than those of the model if these have
            more than one axis, or if the model calls the layer more than once.
        calls: of the layer.
        active: neurons of an active set.
        candidates: neurons whose products are computed to find it.
        selected: int64 `[units]`, the samples that selected a neuron.
        hits: selected neurons that are true ones.
        active_rows: neurons that some sample of a call selected, summed over calls.
        candidate_rows: the same of candidates.
        entries: entries of tables that are read, summed over samples, by the selectors
            of training and inference.
        active_ids: int32 `[samples, active]`, those of every sample; -1: none.
    """

    def __init__(self, layer: LSHDense) -> None:
        self.layer = layer
        self.candidates = layer.num_candidates
        self.samples = self.calls = self.active = 0
        self.hits = self.active_rows = self.candidate_rows = 0
        self.entries = {layer.selector: 0, layer.inference_selector: 0}
        self.selected = np.zeros(layer.units, np.int64)
        self._kernel = _as_float32(layer.kernel)
        self._bias = None if layer.bias is None else _as_float32(layer.bias)
        self._longest_row = float(np.linalg.norm(self._kernel, axis=1).max())
        self._found = np.zeros(layer.units)
        self._means = {
            name: _Mean()
            for name in (
                *("mass", "attainable_mass", "auc", "correlation"),
                "true_positive_rate",
            )
        }
        self._active_ids: list[np.ndarray] = []

    def add(self, inputs: Any) -> None:
        """Takes in what the layer selects for `inputs`, `(..., input_dim)`."""
        layer = self.layer
        ids = np.asarray(layer.active_ids(inputs))
        x = _as_float32(inputs).reshape(-1, self._kernel.shape[1])
        rows = tf.constant(x)
        candidates = ids
        if self.candidates > ids.shape[1]:
            candidates = layer.inference_selector.select(
                rows, layer.kernel, layer.bias, self.candidates
            ).numpy()
        self.samples += len(ids)
        self.calls += 1
        self.active = ids.shape[1]
        self.active_rows += len(np.unique(ids[ids >= 0]))
        self.candidate_rows += len(np.unique(candidates[candidates >= 0]))
        for selector in {layer.selector, layer.inference_selector}:
            self.entries[selector] += int(selector.entries_read(rows).numpy().sum())
        self.selected += np.bincount(ids[ids >= 0], minlength=layer.units)
        self._active_ids.append(ids)
        step = max(1, _CHUNK // layer.units)
        for start in range(0, len(x), step):
            part = slice(start, start + step)
            self._add_part(x[part], ids[part])

    def _add_part(self, x: np.ndarray, ids: np.ndarray) -> None:
        units, active = self._kernel.shape[0], ids.shape[1]
        products = x @ self._kernel.T
        if self._bias is not None:
            products += self._bias
        # NaN counts as the largest value, as it does in the layer.
        values = np.where(np.isnan(products), np.inf, products)
        top = np.argpartition(values, units - active, axis=1)[:, units - active :]
        last_true = np.take_along_axis(values, top[:, :1], axis=1)
        rounding = 4 * np.finfo(np.float32).eps * np.linalg.norm(x, axis=1)
        rounding = np.nan_to_num(rounding * self._longest_row, posinf=0, neginf=0)
        true = values >= last_true - rounding[:, np.newaxis]
        selected = ids >= 0
        places = np.maximum(ids, 0)
        self.hits += int((np.take_along_axis(true, places, axis=1) & selected).sum())

        outputs = np.asarray(self.layer.activation(tf.constant(products)))
        outputs = np.maximum(outputs, 0).astype(np.float64)
        mass = np.take_along_axis(outputs, places, axis=1) * selected
        with np.errstate(invalid="ignore", divide="ignore"):
            total = outputs.sum(axis=1)
            self._means["mass"].add(mass.sum(axis=1) / total)
            top_mass = np.take_along_axis(outputs, top, axis=1).sum(axis=1)
            self._means["attainable_mass"].add(top_mass / total)

        scores = self.layer.inference_selector.scores(
            tf.constant(x), self.layer.kernel, self.layer.bias
        ).numpy()
        scores = np.where(np.isnan(scores), np.inf, scores)
        ranked = ranking.rank(scores, values, true, active)
        self._found += ranked.found.sum(axis=0)
        for name in ("auc", "correlation", "true_positive_rate"):
            self._means[name].add(getattr(ranked, name))

    @property
    def active_ids(self) -> np.ndarray:
        return np.concatenate(self._active_ids)

    @property
    def candidate_recall(self) -> np.ndarray:
        """float64 `[units]`: the recall of 1, 2, ... candidates."""
        return self._found / self.samples

    def mean(self, name: str) -> float:
        """Of a figure that each sample has, over those that have it."""
        return float(self._means[name].value)

    @property
    def true_positive_rate(self) -> np.ndarray:
        """float64 `[101]`: the ROC curve, at `ranking.FALSE_POSITIVE_RATES`."""
        rates = self._means["true_positive_rate"].value
        return np.broadcast_to(rates, ranking.FALSE_POSITIVE_RATES.shape)

    def bucket_loads(self) -> np.ndarray | None:
        """int64 `[tables, buckets]`: neurons in each bucket; None without tables."""
        selector = self.layer.selector
        if not isinstance(selector, LSHSelector):
            return None
        return np.diff(np.asarray(selector.offsets), axis=1)


class _Mean:
    """The mean of the samples' figures that are not NaN."""

    def __init__(self) -> None:
        self._sum: Any = 0.0
        self._count = 0

    def add(self, figures: np.ndarray) -> None:
        """Takes in `[n]`, or `[n, points]` with rows that are all NaN or not at all."""
        known = figures[~np.isnan(figures.reshape(len(figures), -1)[:, 0])]
        self._sum = self._sum + known.sum(axis=0)
        self._count += len(known)

    @property
    def value(self) -> Any:
        return self._sum / self._count if self._count else np.nan


@contextlib.contextmanager
def _captured_inputs(
    model: keras.Model,
) -> Iterator[list[tuple[LSHDense, tf.Tensor]]]:
    """Lists `(layer, inputs)` of the calls of the model's LSH layers, in order.

    It replaces `call` on the layers themselves for as long as it lasts, which works
    for any kind of model, and gives the inputs as `call` gets them, cast to the
    layer's compute dtype.
    """
    captured: list[tuple[LSHDense, tf.Tensor]] = []

    def listening(layer: LSHDense, call: Any) -> Any:
        @functools.wraps(call)
        def wrapper(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if not tf.executing_eagerly():
                raise ValueError(
                    f"The layer {layer.name!r} is called inside a `tf.function`, "
                    "where a report cannot see its inputs. Call it within "
                    "`tf.config.run_functions_eagerly(True)`."
                )
            captured.append((layer, inputs))
            return call(inputs, *args, **kwargs)

        return wrapper

    layers = lsh_layers(model)
    for layer in layers:
        layer.call = listening(layer, layer.call)  # type: ignore[method-assign]
    try:
        yield captured
    finally:
        for layer in layers:
            del layer.call  # The method of the class shows again.


@contextlib.contextmanager
def _draws_undone(model: keras.Model) -> Iterator[None]:
    """Puts back the count of draws of the layers that select at random."""
    counts = [
        (variable, variable.numpy())
        for layer in lsh_layers(model)
        if layer.selection == "random"
        for variable in layer.non_trainable_variables
    ]
    try:
        yield
    finally:
        for variable, value in counts:
            variable.assign(value)


def _as_float32(value: Any) -> np.ndarray:
    return tf.convert_to_tensor(value).numpy().astype(np.float32)
