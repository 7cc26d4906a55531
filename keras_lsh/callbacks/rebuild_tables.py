"""The callback that keeps hash tables fresh."""

import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lsh._arguments import check_argument, is_finite, is_integer
from keras_lsh.layers import LSHDense
from keras_lsh.layers.finding import lsh_layers

# At most so many neurons of a layer are hashed to tell how far its codes have drifted:
# a share of 5 % is then known to about 1.4 points.
_SAMPLE = 256

# One of so many rebuilds is of all neurons, and lets the hash functions learn; in very
# wide layers the others follow the neurons that have moved.
_FULL_EVERY = 8

# And the first after the steps have grown by this factor since the last such one: of
# hundreds of thousands of neurons it takes as long as many steps.
_FULL_GROWTH = 4


class RebuildTables(keras.callbacks.Callback):
    """Rebuilds the hash tables of a model's LSHDense layers as training goes on.

    Tables are rebuilt when training begins, then whenever `every` optimizer steps have
    passed, and when training ends. A new model moves fast, and its layers have yet to
    see inputs, so at first the tables are rebuilt whenever the number of steps has
    doubled: after steps 1, 2, 4, 8, ..., as long as that is sooner. Layers that are not
    trainable, and layers that have nothing to rebuild, are left alone.

    In a layer of 20,000 units or more, most of these rebuilds hash only the neurons
    whose weights have changed since the last one, by the hash functions as they are
    (`layer.rebuild_tables(moved_only=True)`). Every eighth, those at steps 1, 4, 16,
    64 and so on, and the last are of all neurons, and let the functions follow the
    inputs; with `drift` all are. A callback that is given to several calls of `fit`
    counts on from one to the next.

    With `inference="sketch"`, the sketch of all neurons is rebuilt with the tables.

    With `drift`, each layer is rebuilt when its own weights call for it: every `every`
    steps, a sample of a layer's neurons (others each time, at most 256, all if there
    are no more) is hashed as they are now, and if at least the share `drift` of their
    codes differs from what the tables hold, that layer is rebuilt. Such a look reads
    the rows of the sample alone, so it costs little however large the layer.

    A look uses the hash functions that the tables were built with, so it tells how far
    the weights have moved by the measure of what the tables can tell apart: with
    `KMeansCells`, a code changes when a neuron gets nearer to the centroid of another
    cell, as centroids were at the rebuild. It is blind to what the functions themselves
    would learn: cells, and the mean in `SimHash`, follow the inputs only when tables
    are rebuilt. For that, the rebuilds at each doubling of the number of steps stay, of
    each layer that has not been rebuilt since, however little it drifts. They let a new
    layer learn from its first inputs, and cost little later.

    Each epoch's `logs` get `lsh/rebuild_ms`, the mean time of its rebuilds in
    milliseconds, if any; `lsh/rebuilds`, their number since training began;
    `lsh/codes_changed`, the share of neurons that the last rebuild found under a new
    code in some table, both averaged over the layers; and with `drift` also
    `lsh/drift`, the share of codes that its looks, if any, found changed, averaged over
    looks and layers. So they appear in `History`, TensorBoard, CSVLogger.

    Source: deciding by how far the codes have moved is the idea of MONGOOSE, Chen et
    al. 2021, "MONGOOSE: A Learnable LSH Framework for Efficient Neural Network
    Training". How it is told here, by a sample of the neurons, is this package's.

    Args:
        every: Optimizer steps from one rebuild to the next, or, with `drift`, from one
            look to the next; positive integer. Fresh tables are worth more than rare
            rebuilds save: a rebuild costs about as much as a fraction of a step, and
            stale tables miss the neurons that matter.
        growth: Factor, at least 1, by which the interval grows at each rebuild, over
            all calls of `fit`: weights move less and less, so 1.05 saves work in a long
            training (SLIDE, Chen et al. 2020, section 3.1.2, lets it grow
            exponentially). Not with `drift`.
        drift: Share of codes, from 0 to 1, that have to change before a layer is
            rebuilt. 0 rebuilds at every look. None: rebuild whatever has changed.
    """

    def __init__(
        self, every: int = 10, growth: float = 1.0, drift: float | None = None
    ):
        super().__init__()
        check_argument(
            "every", every, is_integer(every) and every > 0, "a positive integer"
        )
        check_argument(
            "growth",
            growth,
            is_finite(growth) and growth >= 1,
            "a number of at least 1",
        )
        check_argument(
            "drift",
            drift,
            drift is None or (is_finite(drift) and 0 <= drift <= 1),
            "None or a number from 0 to 1",
        )
        check_argument(
            "growth",
            growth,
            drift is None or growth == 1,
            f"1 with `drift`={drift}, which decides instead",
        )
        self.every = int(every)
        self.growth = float(growth)
        self.drift = None if drift is None else float(drift)
        self._layers: list[LSHDense] = []
        self._rebuilds: list[int] = []  # of each layer
        self._begin()

    @property
    def rebuilds(self) -> float:
        """Rebuilds since training began, the mean over the layers."""
        return float(np.mean(self._rebuilds)) if self._rebuilds else 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        layers = [
            layer
            for layer in lsh_layers(self.model)
            if layer.built
            and layer.trainable
            and (layer.selection == "lsh" or layer.inference == "sketch")
        ]

        # Training that goes on, with this callback again, need not trace again.
        if layers != self._layers:
            self._layers = layers
            self._trace(layers)
            self._begin()
        if self._iterations() < self._last_full:  # a new optimizer
            self._begin()
        self._rebuilds = [0] * len(layers)
        self._codes_changed = np.zeros(len(layers))
        self._looks, self._last_look = 0, self._iterations()
        self._epoch_ms: list[float] = []
        self._epoch_drift: list[float] = []
        self._last_rebuild = [0] * len(layers)
        # Weights that were loaded or set since the tables were built have moved.
        self._rebuild([True] * len(layers), moved_only=True)

    def _begin(self) -> None:
        """As at the first of several calls of `fit`."""
        self._last_full = self._since_full = 0
        self._interval = float(self.every)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch_ms, self._epoch_drift = [], []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not self._rebuilds:
            return
        # Counted by the optimizer, not by calls: one call may be many steps
        # (`steps_per_execution`).
        step = self._iterations()
        due = [step - last >= max(1, last) for last in self._last_rebuild]
        if self.drift is None:
            if step - self._last_rebuild[0] >= self._interval:
                self._interval *= self.growth
                due = [True] * len(due)
        elif step - self._last_look >= self.every:
            self._last_look = step
            due = [
                doubled or drift >= self.drift
                for doubled, drift in zip(due, self._look(), strict=True)
            ]
        self._rebuild(due, moved_only=any(due) and not self._is_full(step))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs is None or not self._rebuilds:
            return
        if self._epoch_ms:
            logs["lsh/rebuild_ms"] = float(np.mean(self._epoch_ms))
        logs["lsh/rebuilds"] = self.rebuilds
        logs["lsh/codes_changed"] = float(np.mean(self._codes_changed))
        if self._epoch_drift:
            logs["lsh/drift"] = float(np.mean(self._epoch_drift))

    def on_train_end(self, logs: Any = None) -> None:
        step = self._iterations()
        due = [step > last for last in self._last_rebuild]
        self._rebuild(due)
        if any(due):
            self._last_full, self._since_full = step, 0

    def __deepcopy__(self, memo: Any) -> "RebuildTables":
        """A callback of the same settings, without the training in progress."""
        return type(self)(self.every, self.growth, self.drift)

    def _trace(self, layers: list[LSHDense]) -> None:
        """Makes the functions that rebuild layers and look at them."""

        @tf.function(autograph=False)
        def rebuild_layers(due: tf.Tensor, moved_only: tf.Tensor) -> tf.Tensor:
            return tf.stack(
                [
                    tf.cond(
                        due[i],
                        lambda layer=layer: layer.rebuild_tables(moved_only)[
                            "codes_changed"
                        ],
                        lambda: 0.0,
                    )
                    for i, layer in enumerate(layers)
                ]
            )

        @tf.function(autograph=False)
        def drift_of_layers(look: tf.Tensor) -> tf.Tensor:
            return tf.stack(
                [layer.codes_drift(_sample(layer.units, look)) for layer in layers]
            )

        # One call for all layers: calls cost more than small layers do.
        self._rebuild_layers, self._drift_of_layers = rebuild_layers, drift_of_layers

    def _iterations(self) -> int:
        return int(self.model.optimizer.iterations.numpy())

    def _look(self) -> list[float]:
        """How far the codes of each layer have drifted."""
        drift = self._drift_of_layers(tf.constant(self._looks)).numpy()
        self._looks += 1
        self._epoch_drift.append(float(np.mean(drift)))
        return list(drift)

    def _is_full(self, step: int) -> bool:
        """Whether a rebuild at this step, which there is to be, is of all neurons."""
        self._since_full += 1
        full = (
            self.drift is not None
            or step >= _FULL_GROWTH * self._last_full
            or self._since_full == _FULL_EVERY
        )
        if full:
            self._last_full, self._since_full = step, 0
        return full

    def _rebuild(self, due: list[bool], moved_only: bool = False) -> None:
        """Rebuilds the layers that are due."""
        if not any(due):
            return
        step = self._iterations()
        start = time.perf_counter()
        changed = self._rebuild_layers(
            tf.constant(due), tf.constant(moved_only)
        ).numpy()
        if any(self._rebuilds):  # the first one is mostly tracing
            self._epoch_ms.append(1000 * (time.perf_counter() - start))
        for layer in np.flatnonzero(due):
            self._last_rebuild[layer] = step
            self._rebuilds[layer] += 1
            self._codes_changed[layer] = changed[layer]


def _sample(units: int, look: tf.Tensor) -> tf.Tensor:
    """Neurons evenly spaced among `units`, the ones next to them at the next look."""
    stride = -(-units // _SAMPLE)
    return tf.range(look % stride, units, stride)
