"""How well a model's LSH layers select, and what it costs them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lsh.layers import LSHDense
from keras_lsh.layers.finding import lsh_layers


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """What one layer selected, averaged over the samples it saw.

    Attributes:
        name: of the layer.
        units: number of neurons.
        active: size of an active set, in neurons.
        active_fraction: neurons selected, as a fraction of `units`. Less than
            `active / units` where the tables retrieved less than `active` neurons.
        recall: fraction of the true top `active` neurons that were selected.
        precision: fraction of the selected neurons that are among the true top
            `active` ones; NaN if none was selected.
        selection: multiplications per sample to choose candidates: hashing, with LSH.
        products: multiplications per sample in the products of the candidates.
        rebuilds: multiplications per training sample to hash the neurons again, 0 if
            `rebuild_every` was not given.
        multiplications: `selection + products + rebuilds`, per sample, forward only.
        dense_multiplications: `units * input_dim`, what Dense takes.
    """

    name: str
    units: int
    active: int
    active_fraction: float
    recall: float
    precision: float
    selection: float
    products: float
    rebuilds: float
    multiplications: float
    dense_multiplications: float


@dataclasses.dataclass(frozen=True)
class Report:
    """The layers of a model in the order of their first call; `str()` is a table.

    Attributes:
        layers: one `LayerReport` each.
        samples: number of samples that the model was run on.
    """

    layers: list[LayerReport]
    samples: int

    @property
    def active_fraction(self) -> float:
        """Neurons selected in all layers, as a fraction of their units."""
        selected = sum(layer.active_fraction * layer.units for layer in self.layers)
        return selected / sum(layer.units for layer in self.layers)

    @property
    def recall(self) -> float:
        """Mean of the layers' recall."""
        return float(np.mean([layer.recall for layer in self.layers]))

    @property
    def multiplications(self) -> float:
        """Multiplications per sample in all layers."""
        return sum(layer.multiplications for layer in self.layers)

    @property
    def dense_multiplications(self) -> float:
        """Multiplications per sample that Dense layers of these sizes take."""
        return sum(layer.dense_multiplications for layer in self.layers)

    def __str__(self) -> str:
        headings = "layer|units|active|active %|recall|precision|multiplications"
        rows = [tuple(f"{headings}|% of Dense".split("|"))]
        for layer in self.layers:
            share = layer.multiplications / layer.dense_multiplications
            rows.append(
                (
                    layer.name,
                    f"{layer.units:,}",
                    f"{layer.active:,}",
                    f"{100 * layer.active_fraction:.1f}",
                    f"{layer.recall:.3f}",
                    f"{layer.precision:.3f}",
                    f"{layer.multiplications:,.0f}",
                    f"{100 * share:.1f}",
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for name, *figures in rows:
            cells = [name.ljust(widths[0])]
            cells += [
                figure.rjust(width)
                for figure, width in zip(figures, widths[1:], strict=True)
            ]
            lines.append("  ".join(cells))
        lines.insert(1, "-" * len(lines[0]))
        return "\n".join(lines)


def report(
    model: keras.Model,
    x: Any,
    *,
    batch_size: int = 128,
    rebuild_every: int | None = None,
) -> Report:
    """Measures the selection of every `LSHDense` in a model, nested models included.

    The model is run on `x` as in `predict`, and each layer is judged on the inputs
    that reach it: its active sets are compared with the neurons whose inner products
    with the input are truly the largest. A neuron whose product is that of the last
    true one up to float32 rounding counts as true.

    Multiplications are those of the forward pass: hashing the input, the products of
    the candidates and, with `rebuild_every`, hashing the neurons again every so many
    steps, spread over the samples of those steps.

    Example:

    ```python
    print(keras_lsh.diagnostics.report(model, x_test[:1000], rebuild_every=10))
    ```

    Args:
        model: a built model, Sequential, functional or subclassed.
        x: inputs of the model, an array or a structure of arrays.
        batch_size: samples at a time, here and in training.
        rebuild_every: training steps from one rebuild of the tables to the next;
            None leaves the rebuilds out of the multiplications.

    Returns:
        A `Report`.

    Raises:
        ValueError: if the model calls no `LSHDense`, or `x`, `batch_size` or
            `rebuild_every` is unusable.
    """
    for name, value in (("batch_size", batch_size), ("rebuild_every", rebuild_every)):
        optional = name == "rebuild_every" and value is None
        if not optional and (not isinstance(value, int) or value < 1):
            raise ValueError(
                f"Received an invalid value for `{name}`, expected a positive "
                f"integer. Received: {name}={value}"
            )
    samples = _samples(x)
    counts: dict[LSHDense, _Counts] = {}
    for start in range(0, samples, batch_size):
        rows = slice(start, min(start + batch_size, samples))
        batch = keras.tree.map_structure(lambda array, rows=rows: array[rows], x)
        with _captured_inputs(model) as captured:
            model(batch, training=False)
        for layer, inputs in captured:
            if layer not in counts:
                counts[layer] = _Counts(layer)
            counts[layer].add(inputs)
    if not counts:
        raise ValueError(
            "Received an invalid value for `model`, expected one that calls an "
            f"`LSHDense` layer. Received: model={model}"
        )
    steps = None if rebuild_every is None else rebuild_every * batch_size
    return Report([count.report(steps) for count in counts.values()], samples)


def _samples(x: Any) -> int:
    lengths = {
        len(array) if getattr(array, "shape", ()) else None
        for array in keras.tree.flatten(x)
    }
    samples = lengths.pop() if len(lengths) == 1 else None
    if not samples:
        raise ValueError(
            "Received an invalid value for `x`, expected an array or a structure of "
            f"arrays of the same length, at least 1. Received: x={type(x).__name__}"
            f" of {[getattr(array, 'shape', None) for array in keras.tree.flatten(x)]}"
        )
    return samples


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


class _Counts:
    """Counts of the neurons that one layer selected, batch by batch."""

    def __init__(self, layer: LSHDense) -> None:
        self.layer = layer
        self.kernel = _to_float32(layer.kernel)
        self.bias = None if layer.bias is None else _to_float32(layer.bias)
        self.longest_row = float(np.linalg.norm(self.kernel, axis=1).max())
        self.samples = 0
        self.active = 0
        self.selected = 0
        self.hits = 0

    def add(self, inputs: Any) -> None:
        """Selects for `inputs`, of shape `(..., input_dim)`, and counts."""
        ids = np.asarray(self.layer.active_ids(inputs))
        samples, active = ids.shape
        x = _to_float32(inputs).reshape(samples, -1)
        products = x @ self.kernel.T
        if self.bias is not None:
            products += self.bias
        # NaN counts as the largest value, as it does in the layer.
        products = np.where(np.isnan(products), np.inf, products)
        rank = self.kernel.shape[0] - active
        last_true = np.partition(products, rank, axis=1)[:, rank]
        rounding = 4 * np.finfo(np.float32).eps * np.linalg.norm(x, axis=1)
        rounding = np.nan_to_num(rounding * self.longest_row, posinf=0, neginf=0)
        found = np.take_along_axis(products, np.maximum(ids, 0), axis=1)
        selected = ids >= 0
        hits = selected & (found >= (last_true - rounding)[:, None])
        self.samples += samples
        self.active = active
        self.selected += int(selected.sum())
        self.hits += int(hits.sum())

    def report(self, samples_per_rebuild: int | None) -> LayerReport:
        units = self.kernel.shape[0]
        cost = self.layer.multiplications()
        rebuilds = (
            0.0
            if samples_per_rebuild is None
            else cost["rebuild"] / samples_per_rebuild
        )
        return LayerReport(
            name=self.layer.name,
            units=units,
            active=self.active,
            active_fraction=self.selected / (self.samples * units),
            recall=self.hits / (self.samples * self.active),
            precision=self.hits / self.selected if self.selected else float("nan"),
            selection=float(cost["selection"]),
            products=float(cost["products"]),
            rebuilds=rebuilds,
            multiplications=cost["total"] + rebuilds,
            dense_multiplications=float(cost["dense"]),
        )


def _to_float32(value: Any) -> np.ndarray:
    return tf.convert_to_tensor(value).numpy().astype(np.float32)
