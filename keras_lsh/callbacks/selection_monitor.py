"""The callback that measures what the LSH layers select while a model trains."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_lsh._arguments import check_argument, is_integer
from keras_lsh.diagnostics import Report, report
from keras_lsh.diagnostics.measuring import count_samples

FIGURES = (
    *("recall", "precision", "auc", "correlation", "mass", "attainable_mass"),
    *("active_fraction", "dead", "gini", "jaccard"),
)


class SelectionMonitor(keras.callbacks.Callback):
    """Measures, while a model trains, what its LSHDense layers select.

    At the end of each epoch, or also every so many steps, it takes the figures of
    `keras_lsh.diagnostics.report` on some inputs and puts them into `logs`:
    `lsh/recall`, the mean over the layers, `lsh/hidden_1/recall`, that of the layer
    `hidden_1`, and so on. So they appear in the progress bar, in `History`, and in
    whatever callback comes *after* this one in the list that `fit` gets: callbacks are
    called in the order of the list, and the progress bar and `History` after all of
    them.

    It leaves training alone: no weight is changed and no random number is drawn. A
    measurement takes as long as some steps with all neurons.

    Example:

    ```python
    model.fit(
        x,
        y,
        callbacks=[
            keras_lsh.RebuildTables(),
            keras_lsh.SelectionMonitor(x_val),
            keras.callbacks.CSVLogger("log.csv"),
            keras.callbacks.EarlyStopping("lsh/recall", mode="max", patience=3),
        ],
    )
    ```

    (EarlyStopping and ReduceLROnPlateau cannot know that more recall is better: they
    need `mode="max"`.)

    Args:
        x: Inputs of the model to measure on, an array or a structure of arrays, e.g.
            of the validation data.
        samples: How many of them are used, evenly spaced; positive integer. The
            standard error of a recall from a few hundred samples is below 0.01.
        every: Optimizer steps from one measurement to the next, besides those at the
            end of epochs; None: only these. The logs of the step that was measured get
            the figures (for TensorBoard, with an integer `update_freq`).
        figures: Which figures: attributes of `diagnostics.LayerReport`, and
            `"jaccard"`, what the active sets share with those of the measurement
            before (the first is made when training begins).
        per_layer: Whether to put in the figures of each layer, too.
        batch_size: Samples at a time.

    Attributes:
        report: The `diagnostics.Report` of the last measurement; None before.
        history: A dict for each measurement, with its `step` and the figures.
    """

    def __init__(
        self,
        x: Any,
        *,
        samples: int = 256,
        every: int | None = None,
        figures: Sequence[str] = (
            *("recall", "auc", "correlation", "mass", "dead", "jaccard"),
        ),
        per_layer: bool = True,
        batch_size: int = 128,
    ):
        super().__init__()
        for name, value in (("samples", samples), ("batch_size", batch_size)):
            valid = is_integer(value) and value > 0
            check_argument(name, value, valid, "a positive integer")
        check_argument(
            "every",
            every,
            every is None or (is_integer(every) and every > 0),
            "None or a positive integer",
        )
        check_argument(
            "figures",
            figures,
            not isinstance(figures, str) and set(figures) <= set(FIGURES),
            f"some of {', '.join(map(repr, FIGURES))}",
        )
        step = max(1, count_samples(x) // samples)
        self.x = keras.tree.map_structure(lambda array: array[::step][:samples], x)
        self.every = every
        self.figures = tuple(figures)
        self.per_layer = per_layer
        self.batch_size = batch_size
        self.report: Report | None = None
        self.history: list[dict[str, float]] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self.report, self.history = None, []
        self._figures: dict[str, float] = {}
        self._measure()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # Counted by the optimizer, not by calls: one call may be many steps
        # (`steps_per_execution`).
        if self.every is None or self._iterations() - self._measured < self.every:
            return
        self._measure()
        if logs is not None:
            logs.update(self._figures)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._iterations() > self._measured:
            self._measure()
        if logs is not None:
            logs.update(self._figures)

    def _iterations(self) -> int:
        return int(self.model.optimizer.iterations.numpy())

    def _measure(self) -> None:
        self._measured = self._iterations()
        before, self.report = (
            self.report,
            report(self.model, self.x, batch_size=self.batch_size),
        )
        stability = self.report.jaccard(before) if before else {}
        figures = {}
        for name in self.figures:
            if name == "jaccard":
                if not before:
                    continue
                by_layer = stability
                mean = sum(stability.values()) / len(stability)
            else:
                by_layer = {
                    layer.name: getattr(layer, name) for layer in self.report.layers
                }
                mean = self.report.mean(name)
            figures[f"lsh/{name}"] = mean
            if self.per_layer:
                for layer, value in by_layer.items():
                    figures[f"lsh/{layer}/{name}"] = value
        self._figures = figures
        self.history.append({"step": self._measured, **figures})
