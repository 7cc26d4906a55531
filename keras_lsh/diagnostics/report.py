"""How well a model's LSH layers select, and what it costs them."""

from __future__ import annotations

import collections
import dataclasses
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lsh._arguments import check_argument, is_integer
from keras_lsh.diagnostics import ranking
from keras_lsh.diagnostics.measuring import (
    LayerMeasurement,
    count_samples,
    measure,
)
from keras_lsh.selection import ExactSelector, Selector

_BYTES = 4  # of a float32 and of an entry of a table


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a sample costs a layer, in multiplications or in bytes read of its weights.

    Attributes:
        selection: to choose the candidates: hashing and looking into tables, with LSH.
        products: the inner products of the candidates.
        gradients: the gradients of inputs and kernel; reads the kernel for the former.
        observe: the statistics of the inputs that a hash family gathers in training;
            not known in bytes, and 0 there.
        rebuilds: hashing all neurons again, spread over the samples between rebuilds.
        dense: what Dense takes for the same.
    """

    selection: float
    products: float
    dense: float
    gradients: float = 0.0
    observe: float = 0.0
    rebuilds: float = 0.0

    @property
    def total(self) -> float:
        """All that the layer takes: all but `dense`."""
        upkeep = self.observe + self.rebuilds
        return self.selection + self.products + self.gradients + upkeep

    @property
    def share(self) -> float:
        """`total / dense`."""
        return self.total / self.dense


@dataclasses.dataclass(frozen=True)
class BucketLoads:
    """How many neurons the buckets of hash tables hold.

    Attributes:
        loads: int `[tables, buckets]`, neurons in each bucket.
    """

    loads: np.ndarray

    @property
    def least(self) -> np.ndarray:
        """Neurons in the emptiest bucket of each table, `[tables]`."""
        return self.loads.min(axis=1)

    @property
    def median(self) -> np.ndarray:
        """Median over the buckets of each table, `[tables]`."""
        return np.median(self.loads, axis=1)

    @property
    def most(self) -> np.ndarray:
        """Neurons in the fullest bucket of each table, `[tables]`."""
        return self.loads.max(axis=1)

    @property
    def empty(self) -> np.ndarray:
        """Buckets of each table that hold no neuron, as a fraction, `[tables]`."""
        return (self.loads == 0).mean(axis=1)

    @property
    def fullest_share(self) -> np.ndarray:
        """Fraction of the neurons that the fullest bucket holds, `[tables]`."""
        return self.most / self.loads.sum(axis=1)


@dataclasses.dataclass(frozen=True, eq=False)
class LayerReport:
    """What one layer selected, averaged over the samples it saw.

    The *true* neurons of a sample are those with the `active` largest values of
    `dot(input, kernel) + bias`. One that equals the last of them up to float32 rounding
    counts as true as well. The *score* of a neuron is what the hash tables say: the
    summed weights of the probed buckets that hold it, 0 if it was not met. Scores of
    selection `"exact"` are the values themselves, and all 0 with `"random"`. Equal
    scores count as if their order were drawn at random.

    A figure that a sample does not have is left out of the mean, which is NaN if none
    has it.

    Attributes:
        name: of the layer; its path, or with a number, where a name occurs twice.
        units: number of neurons.
        active: size of an active set, in neurons.
        candidates: neurons whose products are computed to find the active set.
        samples: vectors that the layer got.
        active_fraction: neurons selected, as a fraction of `units`. Less than
            `active / units` where the tables retrieved less than `active` neurons.
        recall: fraction of the true neurons that were selected. Equal to the recall of
            the candidates, as the largest of these stay.
        precision: fraction of the selected neurons that are true; NaN if none was
            selected.
        auc: area under the ROC curve of the scores, for telling true neurons from the
            others: the probability that a true one scores higher. 0.5 is guessing. NaN
            if all are true, e.g. if `active` is `units`.
        correlation: Spearman's rank correlation of the scores with the true values,
            over all neurons; NaN if all scores are equal.
        mass: share of the positive outputs that the active set has: the sum of
            `max(activation(value), 0)` over the selected neurons, divided by that over
            all neurons (so for softmax, the share of the full softmax).
        attainable_mass: the same of the true neurons: no active set has more, if the
            activation is monotonic.
        dead: fraction of the neurons that no sample selected.
        gini: Gini's coefficient of how often neurons are selected: 0 if all are equally
            often, `1 - active / units` if the same are always.
        inference: multiplications of a sample, forward.
        training: multiplications of a training sample, forward and backward. Its
            `rebuilds` are 0 if `rebuild_every` was not given.
        inference_bytes: bytes read of weights, tables and hash functions for a sample
            that comes alone.
        batch_bytes: the same for a sample in a batch of the report's size: what several
            need is read once.
        training_bytes: the same forward and backward, in batches; what the optimizer
            reads and writes is not included.
        multiplications: `inference.total`, and, if `rebuild_every` was given, the
            upkeep in training, `training.observe + training.rebuilds`.
        true_positive_rate: float64 `[101]`, the ROC curve at the false positive rates
            `diagnostics.FALSE_POSITIVE_RATES`, mean over samples; its area is `auc`.
        candidate_recall: float64 `[units]`, the recall if 1, 2, ... candidates were
            retrieved; the last is 1.
        selected: int `[units]`, the samples that selected each neuron.
        bucket_loads: of the tables; None without.
        active_ids: int32 `[samples, active]`, the active set of each sample, -1 for
            none. For comparing reports, see `Report.jaccard`.
    """

    name: str
    units: int
    active: int
    candidates: int
    samples: int
    active_fraction: float
    recall: float
    precision: float
    auc: float
    correlation: float
    mass: float
    attainable_mass: float
    dead: float
    gini: float
    inference: Cost
    training: Cost
    inference_bytes: Cost
    batch_bytes: Cost
    training_bytes: Cost
    multiplications: float
    true_positive_rate: np.ndarray = dataclasses.field(repr=False)
    candidate_recall: np.ndarray = dataclasses.field(repr=False)
    selected: np.ndarray = dataclasses.field(repr=False)
    bucket_loads: BucketLoads | None = dataclasses.field(repr=False)
    active_ids: np.ndarray = dataclasses.field(repr=False)

    @property
    def dense_multiplications(self) -> float:
        """`units * input_dim`, what Dense takes for a sample, forward."""
        return self.inference.dense

    def candidates_for(self, recall: float) -> int:
        """How many candidates are needed for a recall.

        Divided by `active`, it is the `oversample` to set.

        Args:
            recall: from 0 to 1.
        """
        check_argument(
            "recall",
            recall,
            isinstance(recall, (int, float)) and 0 <= recall <= 1,
            "a number from 0 to 1",
        )
        # The last recalls are 1 but for the rounding of their sum.
        return 1 + int(np.argmax(self.candidate_recall >= min(recall, 1 - 1e-9)))

    def as_dict(self) -> dict[str, Any]:
        """All figures but the arrays, for JSON: NaN is None, costs are nested."""
        result: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Cost):
                result[field.name] = {**vars(value), "total": value.total}
            elif isinstance(value, BucketLoads):
                result["buckets"] = {
                    "tables": len(value.loads),
                    "buckets": value.loads.shape[1],
                    "least": value.least.tolist(),
                    "median": value.median.tolist(),
                    "most": value.most.tolist(),
                    "empty": value.empty.tolist(),
                    "fullest_share": value.fullest_share.tolist(),
                }
            elif isinstance(value, (str, int, float)):
                unknown = isinstance(value, float) and math.isnan(value)
                result[field.name] = None if unknown else value
        return result


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """The layers of a model in the order of their first call; `str()` is a table.

    Attributes:
        layers: one `LayerReport` each.
        samples: number of samples that the model was run on.
        batch_size: samples of a batch.
    """

    layers: list[LayerReport]
    samples: int
    batch_size: int

    @property
    def active_fraction(self) -> float:
        """Neurons selected in all layers, as a fraction of their units."""
        selected = sum(layer.active_fraction * layer.units for layer in self.layers)
        return selected / sum(layer.units for layer in self.layers)

    @property
    def recall(self) -> float:
        """Mean of the layers' recall."""
        return self.mean("recall")

    @property
    def multiplications(self) -> float:
        """Multiplications per sample in all layers."""
        return sum(layer.multiplications for layer in self.layers)

    @property
    def dense_multiplications(self) -> float:
        """Multiplications per sample that Dense layers of these sizes take."""
        return sum(layer.dense_multiplications for layer in self.layers)

    def mean(self, figure: str) -> float:
        """Mean over the layers that have the figure, e.g. `"auc"`; NaN if none has."""
        figures = np.array([getattr(layer, figure) for layer in self.layers], float)
        known = figures[~np.isnan(figures)]
        return float(known.mean()) if known.size else float("nan")

    def jaccard(self, before: Report) -> dict[str, float]:
        """How stable the active sets are: what they share with those of a report.

        Example:

        ```python
        before = keras_lsh.diagnostics.report(model, x)
        model.fit(...)
        after = keras_lsh.diagnostics.report(model, x)
        print(after.jaccard(before))
        ```

        Args:
            before: a report on the same inputs, of the same model at another time.

        Returns:
            By layer, the mean over the samples of the size of the intersection of both
            active sets over the size of their union, from 0 to 1.
        """
        layers = {layer.name: layer for layer in before.layers}
        result = {}
        for layer in self.layers:
            other = layers.get(layer.name)
            if other is None or len(layer.active_ids) != len(other.active_ids):
                raise ValueError(
                    "Received an invalid value for `before`, expected a report of the "
                    "same model on the same inputs. Received: a report of "
                    f"{before.samples} samples on the layers {list(layers)}"
                )
            shared = ranking.jaccard(layer.active_ids, other.active_ids)
            result[layer.name] = float(shared.mean())
        return result

    def as_dict(self) -> dict[str, Any]:
        """All figures but the arrays, for JSON; `"layers"` is a list of rows."""
        return {
            "samples": self.samples,
            "batch_size": self.batch_size,
            "layers": [layer.as_dict() for layer in self.layers],
        }

    def __str__(self) -> str:
        headings = (
            "layer|units|active|active %|recall|precision|AUC|corr.|mass %|dead %|"
            "% of Dense"
        )
        rows = [tuple(headings.split("|"))]
        for layer in self.layers:
            rows.append(
                (
                    layer.name,
                    f"{layer.units:,}",
                    f"{layer.active:,}",
                    f"{100 * layer.active_fraction:.1f}",
                    f"{layer.recall:.3f}",
                    f"{layer.precision:.3f}",
                    f"{layer.auc:.3f}",
                    f"{layer.correlation:.3f}",
                    f"{100 * layer.mass:.1f}",
                    f"{100 * layer.dead:.1f}",
                    f"{100 * layer.multiplications / layer.dense_multiplications:.1f}",
                )
            )
        return _aligned(rows)

    def details(self) -> str:
        """Tables of what `str()` leaves out: candidates, neurons, buckets, costs."""
        parts = [
            ("Candidates", self._candidates()),
            ("Neurons", self._neurons()),
            ("Buckets (neurons in each, over all tables)", self._buckets()),
            ("Multiplications per sample", self._costs("inference", "training")),
            (
                f"Bytes read per sample (alone, or in a batch of {self.batch_size})",
                self._costs("inference_bytes", "batch_bytes", "training_bytes"),
            ),
        ]
        return "\n\n".join(
            f"{title}\n{_aligned(rows)}" for title, rows in parts if len(rows) > 1
        )

    def _candidates(self) -> list[tuple[str, ...]]:
        times = 1, 2, 5
        wanted = 0.9, 0.99
        headings = [f"recall at {n} x active" for n in times]
        headings += [f"for recall {recall}" for recall in wanted]
        rows = [("layer", "candidates", *headings)]
        for layer in self.layers:
            figures = [f"{layer.candidates:,}"]
            for n in times:
                count = min(n * layer.active, layer.units)
                figures.append(f"{layer.candidate_recall[count - 1]:.3f}")
            figures += [f"{layer.candidates_for(recall):,}" for recall in wanted]
            rows.append((layer.name, *figures))
        return rows

    def _neurons(self) -> list[tuple[str, ...]]:
        headings = "dead %|Gini|selected by most %|mass %|attainable mass %"
        rows = [("layer", *headings.split("|"))]
        for layer in self.layers:
            rows.append(
                (
                    layer.name,
                    f"{100 * layer.dead:.1f}",
                    f"{layer.gini:.3f}",
                    f"{100 * layer.selected.max() / layer.samples:.1f}",
                    f"{100 * layer.mass:.1f}",
                    f"{100 * layer.attainable_mass:.1f}",
                )
            )
        return rows

    def _buckets(self) -> list[tuple[str, ...]]:
        headings = "tables|buckets|least|median|most|empty %|fullest holds %"
        rows = [("layer", *headings.split("|"))]
        for layer in self.layers:
            buckets = layer.bucket_loads
            if buckets is None:
                continue
            rows.append(
                (
                    layer.name,
                    *(f"{size:,}" for size in buckets.loads.shape),
                    f"{buckets.least.min():,}",
                    f"{np.median(buckets.loads):g}",
                    f"{buckets.most.max():,}",
                    f"{100 * buckets.empty.mean():.1f}",
                    f"{100 * buckets.fullest_share.max():.1f}",
                )
            )
        return rows

    def _costs(self, *kinds: str) -> list[tuple[str, ...]]:
        labels = {
            "inference_bytes": "inference, alone",
            "batch_bytes": "inference",
            "training_bytes": "training",
        }
        parts = "selection", "products", "gradients", "observe", "rebuilds"
        rows: list[tuple[str, ...]] = [
            ("layer", "", *parts, "total", "Dense", "% of Dense")
        ]
        for layer in self.layers:
            for kind in kinds:
                cost = getattr(layer, kind)
                figures = [getattr(cost, part) for part in parts]
                rows.append(
                    (
                        layer.name,
                        labels.get(kind, kind),
                        *(f"{figure:,.0f}" for figure in figures),
                        f"{cost.total:,.0f}",
                        f"{cost.dense:,.0f}",
                        f"{100 * cost.share:.1f}",
                    )
                )
        return rows


def report(
    model: keras.Model,
    x: Any,
    *,
    batch_size: int = 128,
    rebuild_every: int | None = None,
) -> Report:
    """Measures the selection of every `LSHDense` in a model, nested models included.

    The model is run on `x` as in `predict`, and each layer is judged on the inputs
    that reach it: its active sets, and the ranking by the hash tables that is behind
    them, are compared with the neurons whose values are truly the largest. Layers with
    `inference="exact"` are judged by the active sets that they would have in training,
    those with `inference="sketch"` by what the sketch finds, in training's costs, too.
    The model is left as it was, and no random numbers are drawn.

    Computing all products, it takes as long as some passes through Dense layers.

    Example:

    ```python
    report = keras_lsh.diagnostics.report(model, x_test[:1000], rebuild_every=10)
    print(report)
    print(report.details())
    keras_lsh.diagnostics.plot(report, "selection.png")
    ```

    Args:
        model: a built model, Sequential, functional or subclassed.
        x: inputs of the model, an array or a structure of arrays.
        batch_size: samples at a time, here and in training.
        rebuild_every: training steps from one rebuild of the tables to the next;
            None leaves the rebuilds out of the costs.

    Returns:
        A `Report`.

    Raises:
        ValueError: if the model calls no `LSHDense`, or `x`, `batch_size` or
            `rebuild_every` is unusable.
    """
    valid = is_integer(batch_size) and batch_size > 0
    check_argument("batch_size", batch_size, valid, "a positive integer")
    valid = rebuild_every is None or (is_integer(rebuild_every) and rebuild_every > 0)
    expected = "None or a positive integer"
    check_argument("rebuild_every", rebuild_every, valid, expected)
    samples = count_samples(x)
    measurements = measure(model, x, batch_size)
    names = _unique_names([measurement.layer for measurement in measurements])
    layers = [
        _layer_report(name, measurement, samples, batch_size, rebuild_every)
        for name, measurement in zip(names, measurements, strict=True)
    ]
    return Report(layers, samples, batch_size)


def _layer_report(
    name: str,
    measurement: LayerMeasurement,
    samples: int,
    batch_size: int,
    rebuild_every: int | None,
) -> LayerReport:
    selected = measurement.selected
    units, chosen = selected.size, int(selected.sum())
    places = measurement.samples * measurement.active
    # Vectors that the layer gets in a training step, in all of its calls, and in one.
    per_step = batch_size * measurement.samples / samples
    calls = measurement.calls / math.ceil(samples / batch_size)
    inference, training = _multiplications(
        measurement, per_step, round(per_step / calls), rebuild_every
    )
    upkeep = 0.0 if rebuild_every is None else training.observe + training.rebuilds
    alone, batch, backward = _bytes(measurement, per_step, rebuild_every)
    loads = measurement.bucket_loads()
    return LayerReport(
        name=name,
        units=units,
        active=measurement.active,
        candidates=measurement.candidates,
        samples=measurement.samples,
        active_fraction=chosen / (measurement.samples * units),
        recall=measurement.hits / places,
        precision=measurement.hits / chosen if chosen else float("nan"),
        auc=measurement.mean("auc"),
        correlation=measurement.mean("correlation"),
        mass=measurement.mean("mass"),
        attainable_mass=measurement.mean("attainable_mass"),
        dead=float((selected == 0).mean()),
        gini=ranking.gini(selected),
        inference=inference,
        training=training,
        inference_bytes=alone,
        batch_bytes=batch,
        training_bytes=backward,
        multiplications=inference.total + upkeep,
        true_positive_rate=measurement.true_positive_rate,
        candidate_recall=measurement.candidate_recall,
        selected=selected,
        bucket_loads=None if loads is None else BucketLoads(loads),
        active_ids=measurement.active_ids,
    )


def _multiplications(
    measurement: LayerMeasurement,
    per_step: float,
    per_call: int,
    rebuild_every: int | None,
) -> tuple[Cost, Cost]:
    """Those of inference and of training, per vector."""
    layer = measurement.layer
    cost = {name: float(value) for name, value in layer.multiplications().items()}
    input_dim = layer.kernel.shape[1]
    inference = Cost(cost["selection"], cost["products"], cost["dense"])
    observe = layer.selector.observe_multiplications(input_dim, per_call) / per_call
    rebuilds = 0.0
    if rebuild_every is not None:
        rebuilds = cost["rebuild"] / (rebuild_every * per_step)
    training = dataclasses.replace(
        inference,
        selection=float(layer.selector.multiplications(input_dim)),
        dense=3 * cost["dense"],
        gradients=2.0 * measurement.active * input_dim,
        observe=observe,
        rebuilds=rebuilds,
    )
    return inference, training


def _bytes(
    measurement: LayerMeasurement, per_step: float, rebuild_every: int | None
) -> tuple[Cost, Cost, Cost]:
    """Bytes read per vector: alone, in a batch, and in a training step."""
    layer = measurement.layer
    units, input_dim = layer.kernel.shape
    of_weight = tf.as_dtype(layer.kernel.dtype).size
    row = of_weight * input_dim + _BYTES * layer.use_bias
    dense = float(units * _BYTES * (input_dim + layer.use_bias))
    # Hashing is a product with the hash functions, so it reads a number for each of the
    # multiplications of a vector; so does exact selection, of the kernel.
    # A sketch is another matter.
    per_call = measurement.samples / measurement.calls

    def functions_of(selector: Selector) -> float:
        is_exact = isinstance(selector, ExactSelector)
        return selector.numbers_read(input_dim) * (of_weight if is_exact else _BYTES)

    def selection(selector: Selector, samples: float) -> float:
        entries = _BYTES * measurement.entries[selector] / measurement.samples
        return functions_of(selector) / samples + entries

    alone = Cost(
        selection(layer.inference_selector, 1), measurement.candidates * row, dense
    )
    batch = Cost(
        selection(layer.inference_selector, per_call),
        measurement.candidate_rows * row / measurement.samples,
        dense / per_call,
    )
    rebuilds = 0.0
    if rebuild_every is not None:
        functions = functions_of(layer.selector)
        rebuilds = (functions + units * row) / (rebuild_every * per_step)
    weights = _BYTES * input_dim  # of a neuron; the gradient does not need its bias
    training = dataclasses.replace(
        batch,
        selection=selection(layer.selector, per_call),
        dense=batch.dense + units * weights / per_call,
        gradients=measurement.active_rows * weights / measurement.samples,
        rebuilds=rebuilds,
    )
    return alone, batch, training


def _unique_names(layers: list[keras.layers.Layer]) -> list[str]:
    """The layers' names, or paths if several have that name, or paths with a number."""
    names = [layer.name for layer in layers]
    often = collections.Counter(names)
    names = [
        layer.path if often[layer.name] > 1 and layer.path else layer.name
        for layer in layers
    ]
    seen: collections.Counter[str] = collections.Counter()
    result = []
    for name in names:
        seen[name] += 1
        result.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return result


def _aligned(rows: list[tuple[str, ...]]) -> str:
    """A table of text: names to the left, figures to the right."""
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
