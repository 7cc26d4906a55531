"""The callback that keeps hash tables fresh."""

import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lsh._arguments import check_argument, is_finite, is_integer
from keras_lsh.layers.finding import lsh_layers


class RebuildTables(keras.callbacks.Callback):
    """Rebuilds the hash tables of a model's LSHDense layers as training goes on.

    Tables are rebuilt when training begins, then whenever `every` optimizer steps have
    passed, and when training ends. A new model moves fast, and its layers have yet to
    see inputs, so at first the tables are rebuilt whenever the number of steps has
    doubled: after steps 1, 2, 4, 8, ..., as long as that is sooner. Layers that are not
    trainable, and layers that have nothing to rebuild, are left alone.

    Each epoch's `logs` get `lsh/rebuild_ms`, the mean time of its rebuilds in
    milliseconds, `lsh/rebuilds`, their number since training began, and
    `lsh/codes_changed`, the share of neurons that the last rebuild found under a new
    code, averaged over the layers; so they appear in `History`, TensorBoard, CSVLogger.

    Args:
        every: Optimizer steps from one rebuild to the next; positive integer. Fresh
            tables are worth more than rare rebuilds save: a rebuild costs about as much
            as a fraction of a step, and stale tables miss the neurons that matter.
        growth: Factor, at least 1, by which the interval grows at each rebuild: weights
            move less and less, so 1.05 saves work in a long training (SLIDE, Chen et
            al. 2020, section 3.1.2, lets it grow exponentially).
    """

    def __init__(self, every: int = 10, growth: float = 1.0):
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
        self.every = int(every)
        self.growth = float(growth)
        self.rebuilds = 0  # since training began

    def on_train_begin(self, logs: Any = None) -> None:
        self._interval = float(self.every)
        self.rebuilds = 0
        self._epoch_ms: list[float] = []
        self._codes_changed: float | None = None
        layers = [
            layer
            for layer in lsh_layers(self.model)
            if layer.built and layer.trainable and layer.selection == "lsh"
        ]

        @tf.function
        def rebuild_layers() -> tf.Tensor:
            shares = [layer.rebuild_tables()["codes_changed"] for layer in layers]
            return tf.reduce_mean(tf.stack(shares))

        self._rebuild_layers = rebuild_layers if layers else None
        self._rebuild()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch_ms = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # Counted by the optimizer, not by calls: one call may be many steps
        # (`steps_per_execution`).
        doubled = max(1, self._last_rebuild)
        if self._iterations() - self._last_rebuild >= min(self._interval, doubled):
            if doubled >= self._interval:
                self._interval *= self.growth
            self._rebuild()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs is None or self._codes_changed is None:
            return
        if self._epoch_ms:
            logs["lsh/rebuild_ms"] = float(np.mean(self._epoch_ms))
        logs["lsh/rebuilds"] = self.rebuilds
        logs["lsh/codes_changed"] = self._codes_changed

    def on_train_end(self, logs: Any = None) -> None:
        if self._iterations() > self._last_rebuild:
            self._rebuild()
        self._rebuild_layers = None

    def __deepcopy__(self, memo: Any) -> "RebuildTables":
        """A callback of the same settings, without the training in progress."""
        return type(self)(self.every, self.growth)

    def _iterations(self) -> int:
        return int(self.model.optimizer.iterations.numpy())

    def _rebuild(self) -> None:
        self._last_rebuild = self._iterations()
        if self._rebuild_layers is None:
            return
        start = time.perf_counter()
        self._codes_changed = float(self._rebuild_layers())
        if self.rebuilds > 0:  # the first one is mostly tracing
            self._epoch_ms.append(1000 * (time.perf_counter() - start))
        self.rebuilds += 1
