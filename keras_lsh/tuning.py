"""Choosing hash functions by what they find in one's own data."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lsh import diagnostics
from keras_lsh._arguments import check_argument, is_integer
from keras_lsh.hashing import HashFamily, KMeansCells, SimHash
from keras_lsh.layers import LSHDense

# Inputs that hash functions learn from, at most, and rebuilds in between: cells have
# settled by then.
_LEARNED_FROM = 4096
_REBUILDS = 8

# Inputs that settings are judged on: at most, and so many that this many products are
# ranked.
_JUDGED = 1024
_RANKED = 2**24

_TIMED_CALLS = 15


@dataclasses.dataclass(frozen=True)
class Setting:
    """What one setting costs where it reaches the wanted recall.

    Attributes:
        hashing: the hash family.
        oversample: candidates per active neuron.
        candidates: the same as a count, per sample.
        recall: of the truly largest neurons among the candidates, measured.
        inference: multiplications per sample, hashing included, as a share of Dense's.
        training: the same of a training step: gradients, statistics of the inputs and
            rebuilds included.
        milliseconds: median time of the layer's forward pass for a batch.
    """

    hashing: HashFamily
    oversample: float
    candidates: int
    recall: float
    inference: float
    training: float
    milliseconds: float


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What `tune` found; `str()` is a table.

    Attributes:
        settings: all that were tried, the cheapest first.
        wanted_recall: the recall that each of them reaches.
        dense_milliseconds: median time of Dense's forward pass for a batch.
        batch_size: samples of that batch.
        layer: a new layer with the weights of the old one and the best setting, its
            tables built.
    """

    settings: list[Setting]
    wanted_recall: float
    dense_milliseconds: float
    batch_size: int
    layer: LSHDense

    @property
    def best(self) -> Setting:
        """The cheapest setting."""
        return self.settings[0]

    @property
    def arguments(self) -> dict[str, Any]:
        """The best setting as arguments: `LSHDense(units, ..., **tuning.arguments)`."""
        return {"hashing": self.best.hashing, "oversample": self.best.oversample}

    def __str__(self) -> str:
        rows = [("oversample", "recall", "inference", "training", "ms", "hashing")]
        for setting in self.settings:
            rows.append(
                (
                    f"{setting.oversample:.2f}",
                    f"{setting.recall:.3f}",
                    f"{100 * setting.inference:.1f} %",
                    f"{100 * setting.training:.1f} %",
                    f"{setting.milliseconds:.2f}",
                    repr(setting.hashing),
                )
            )
        dense = f"{self.dense_milliseconds:.2f}"
        rows.append(("-", "1.000", "100 %", "100 %", dense, "Dense"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for *figures, name in rows:
            cells = [
                figure.rjust(width)
                for figure, width in zip(figures, widths, strict=False)
            ]
            lines.append("  ".join([*cells, name]))
        lines.insert(1, "-" * len(lines[0]))
        lines.append(
            f"For a recall of {self.wanted_recall:g}: multiplications as shares of "
            f"Dense's; milliseconds of a forward pass for {self.batch_size} samples."
        )
        return "\n".join(lines)


def tune(
    layer: LSHDense,
    inputs: Any,
    recall: float = 0.9,
    *,
    hashing: Sequence[HashFamily] | None = None,
    rebuild_every: int | None = 10,
    batch_size: int = 128,
    verbose: int = 1,
) -> Tuning:
    """Finds the cheapest hash functions that reach a recall on one's own data.

    Every hash family is given the layer's neurons, sees one half of the inputs as it
    would in training, and is judged on the other half: how many candidates does it take
    for a share `recall` of the truly largest neurons to be among them, and how many
    multiplications is that? The layer stays as it is.

    Settings are compared by multiplications, which do not depend on what else the
    machine does; the times say what these are worth on this one.

    Example:

    ```python
    tuning = keras_lsh.tune(layer, x, recall=0.9)
    print(tuning)
    layer = keras_lsh.LSHDense(1000, active=0.05, **tuning.arguments)
    ```

    Args:
        layer: built, with selection by hashing. Trained weights tell most: neurons of a
            new layer have nothing in common with its inputs.
        inputs: what reaches the layer, `[samples, ..., input_dim]`: some hundred
            vectors at least. Of many, some thousand evenly spaced ones are used.
        recall: wanted, in (0, 1].
        hashing: families to try; None: `KMeansCells` of several sizes and ranks, and
            `SimHash` in the principal subspace.
        rebuild_every: training steps from one rebuild of the tables to the next, to be
            counted; None leaves rebuilds out (for a layer that is trained already).
        batch_size: samples of a training step.
        verbose: 1 shows a progress bar, 0 nothing.

    Returns:
        A `Tuning`: settings and costs, and a layer with the best ones.

    Raises:
        ValueError: if an argument is unusable.
    """
    _check_layer(layer)
    check_argument(
        "recall",
        recall,
        isinstance(recall, (int, float)) and 0 < recall <= 1,
        "a number in (0, 1]",
    )
    check_argument(
        "batch_size",
        batch_size,
        is_integer(batch_size) and batch_size > 0,
        "a positive integer",
    )
    learned_from, judged = _split(inputs, layer)
    units, input_dim = layer.kernel.shape
    families = _default_families(input_dim, units) if hashing is None else list(hashing)
    check_argument(
        "hashing",
        hashing,
        len(families) > 0 and all(isinstance(f, HashFamily) for f in families),
        "a sequence of hash families such as `keras_lsh.KMeansCells()`",
    )
    check_argument(
        "rebuild_every",
        rebuild_every,
        rebuild_every is None or (is_integer(rebuild_every) and rebuild_every > 0),
        "a positive integer or None",
    )
    families = list(dict.fromkeys(f.for_layer(input_dim, units) for f in families))
    bar = keras.utils.Progbar(len(families), verbose=verbose, unit_name="setting")
    settings, trials = [], []
    for number, family in enumerate(families, start=1):
        trial = _trained_copy(layer, family, learned_from)
        found = _report(trial, judged, batch_size, rebuild_every)
        candidates = max(layer.num_active, found.candidates_for(recall))
        # Where neurons score alike, the tables' order may be worse than drawing lots.
        while found.candidates != candidates or found.recall < recall:
            if found.candidates >= candidates:
                candidates = min(math.ceil(1.05 * candidates), units)
            trial = _copy(trial, oversample=candidates / layer.num_active)
            found = _report(trial, judged, batch_size, rebuild_every)
            if candidates == units:
                break
        trials.append(trial)
        settings.append(
            Setting(
                hashing=family,
                oversample=max(1.0, candidates / layer.num_active),
                candidates=found.candidates,
                recall=found.recall,
                inference=found.inference.share,
                training=found.training.share,
                milliseconds=_milliseconds(trial, judged, batch_size),
            )
        )
        bar.update(number)
    order = sorted(
        range(len(settings)),
        key=lambda i: (settings[i].training, settings[i].inference),
    )
    dense = keras.layers.Dense(units)
    return Tuning(
        [settings[i] for i in order],
        float(recall),
        _milliseconds(dense, judged, batch_size),
        batch_size,
        _copy(trials[order[0]], inference=layer.inference),
    )


def _check_layer(layer: Any) -> None:
    usable = isinstance(layer, LSHDense) and layer.built and layer.selection == "lsh"
    check_argument("layer", layer, usable, "a built `LSHDense` with selection='lsh'")


def _split(inputs: Any, layer: LSHDense) -> tuple[np.ndarray, np.ndarray]:
    """Inputs to learn from and inputs to judge on, float32 `[n, input_dim]` each."""
    units, input_dim = layer.kernel.shape
    x = np.asarray(inputs)
    usable = (
        x.ndim >= 2
        and x.shape[-1] == input_dim
        and x.size >= 2 * input_dim
        and x.dtype.kind in "fiu"
    )
    if not usable:
        raise ValueError(
            "Received an invalid value for `inputs`, expected numbers of shape "
            f"(samples, ..., {input_dim}), at least 2 samples. Received: "
            f"{type(inputs).__name__} of shape {x.shape} and dtype {x.dtype}"
        )
    x = x.reshape(-1, input_dim).astype(np.float32)
    if not np.isfinite(x).all():
        raise ValueError(
            "Received an invalid value for `inputs`, expected finite numbers. "
            f"Received: {int((~np.isfinite(x)).any(axis=1).sum())} samples with NaN or "
            "infinity"
        )
    judged = min(_JUDGED, max(64, _RANKED // units))
    return _spaced(x[::2], _LEARNED_FROM), _spaced(x[1::2], judged)


def _spaced(x: np.ndarray, count: int) -> np.ndarray:
    """`count` rows of `x`, evenly spaced, or all."""
    places = np.linspace(0, len(x) - 1, min(count, len(x))).astype(int)
    return x[places]


def _default_families(input_dim: int, units: int) -> list[HashFamily]:
    ranks = sorted({min(rank, input_dim) for rank in (4, 8, 16, 32)})
    sizes = (round(factor * math.sqrt(units)) for factor in (3, 6, 12))
    cells = sorted({max(1, min(size, units, 4096)) for size in sizes})
    families: list[HashFamily] = [
        KMeansCells(count, rank=rank) for rank in ranks for count in cells
    ]
    rank = min(16, input_dim)
    families.append(SimHash(bits=1, tables=128, probes=1, rank=rank))
    families.append(SimHash(bits=6, tables=20, probes=10, rank=rank))
    return families


def _trained_copy(layer: LSHDense, family: HashFamily, inputs: np.ndarray) -> LSHDense:
    """A layer of the same neurons whose hash functions have seen inputs."""
    config = layer.get_config()
    # Sparse, so that what is timed is the selection.
    settings = {"hashing": family, "oversample": 1.0, "inference": "sparse"}
    copy = LSHDense.from_config(config | settings)
    copy.build((None, inputs.shape[1]))
    copy.kernel.assign(layer.kernel)
    if copy.bias is not None:
        copy.bias.assign(layer.bias)
    for part in np.array_split(inputs, min(_REBUILDS, len(inputs))):
        for batch in np.array_split(part, -(-len(part) // 128)):
            copy.selector.observe(tf.constant(batch))
        copy.rebuild_tables()
    return copy


def _copy(layer: LSHDense, **changes: Any) -> LSHDense:
    """The layer with other settings, of the same weights."""
    copy = LSHDense.from_config(layer.get_config() | changes)
    copy.build((None, layer.kernel.shape[1]))
    copy._take_weights(layer)
    return copy


def _report(
    layer: LSHDense, x: np.ndarray, batch_size: int, rebuild_every: int | None
) -> diagnostics.LayerReport:
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    report = diagnostics.report(
        model, x, batch_size=batch_size, rebuild_every=rebuild_every
    )
    return report.layers[0]


def _milliseconds(layer: Any, x: np.ndarray, batch_size: int) -> float:
    """Median time of a forward pass for a batch."""
    function = tf.function(lambda batch: layer(batch, training=False))
    batch = tf.constant(np.resize(x, (batch_size, x.shape[1])))
    times = []
    for _ in range(_TIMED_CALLS):
        start = time.perf_counter()
        function(batch).numpy()
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times[1:]))
