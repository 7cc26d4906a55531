"""Losses and metrics of Keras, none of which takes sparse logits."""

import functools
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import keras

_SOFTMAX = "keras_lsh.losses.ActiveSoftmaxCrossentropy"
_SIGMOID = "keras_lsh.losses.ActiveSigmoidCrossentropy"
_PRECISION = "keras_lsh.metrics.PrecisionAtK"

# By Keras' names, in lower case and without underscores.
_LOSSES = {
    **dict.fromkeys(
        (
            "ce",
            "crossentropy",
            "categoricalcrossentropy",
            "categoricalfocalcrossentropy",
            "sparsecategoricalcrossentropy",
        ),
        _SOFTMAX,
    ),
    **dict.fromkeys(("bce", "binarycrossentropy", "binaryfocalcrossentropy"), _SIGMOID),
}
_METRICS = {
    **dict.fromkeys(
        ("acc", "accuracy", "categoricalaccuracy", "sparsecategoricalaccuracy"),
        "keras_lsh.metrics.Accuracy()",
    ),
    **dict.fromkeys(
        ("topkcategoricalaccuracy", "sparsetopkcategoricalaccuracy"),
        "keras_lsh.metrics.TopKAccuracy(k)",
    ),
    "precision": f"{_PRECISION}(k)",
}


def check_compile(
    loss: Any = None,
    metrics: Any = None,
    weighted_metrics: Any = None,
    outputs: Mapping[str, bool] | None = None,
) -> None:
    """Raises if a loss or metric of Keras is meant for sparse logits.

    Keras would convert the sparse logits to dense ones of `[batch, units]`, or stop
    with an error of its insides. Objects, classes and functions that are not Keras'
    own pass, and so does `keras.metrics.MeanMetricWrapper`, which is around one.

    Args:
        loss: What `compile` takes: a name, function, class, object or configuration,
            or a list or dictionary of such.
        metrics: Likewise.
        weighted_metrics: Likewise.
        outputs: The model's outputs in their order, and whether each is sparse logits;
            what is meant for the others is not looked at. None: the only output is.

    Raises:
        ValueError: It names what to use in its place.
    """
    for identifier, name in _stock(loss, outputs):
        instead = _LOSSES.get(name)
        use = f"`{instead}()`" if instead else f"`{_SOFTMAX}()` or `{_SIGMOID}()`"
        raise ValueError(_message("loss", "a loss", identifier, use))
    arguments = {"metrics": metrics, "weighted_metrics": weighted_metrics}
    for argument, given in arguments.items():
        for identifier, name in _stock(given, outputs):
            if name in _METRICS:
                use = f"`{_METRICS[name]}`"
            elif name in _LOSSES:
                use = f"`{_LOSSES[name]}(reduction=None)`"
            else:
                use = f"`{_PRECISION}(k)` or its like"
            raise ValueError(_message(argument, "metrics", identifier, use))


def _message(argument: str, what: str, identifier: Any, use: str) -> str:
    return (
        f"Received an invalid value for `{argument}`, expected {what} that can take "
        f"sparse logits (a `tf.SparseTensor`). Received: {argument}={identifier!r}. "
        f"Use {use}, or one of your own."
    )


def _stock(given: Any, outputs: Mapping[str, bool] | None) -> Iterator[tuple[Any, str]]:
    """What is Keras' own among all for sparse logits, and its name as in the tables."""
    for identifier in _meant_for_sparse(given, outputs):
        name = _keras_name(identifier)
        if name is not None:
            yield identifier, name.lower().replace("_", "")


def _meant_for_sparse(given: Any, outputs: Mapping[str, bool] | None) -> Iterator[Any]:
    """The losses or metrics of the outputs that are sparse logits, one by one."""
    if outputs is not None:
        if _is_dictionary(given):
            given = [value for name, value in given.items() if outputs.get(name)]
        elif isinstance(given, (list, tuple)) and len(given) == len(outputs):
            given = list(itertools.compress(given, outputs.values()))
        elif not any(outputs.values()):
            return
    if _is_dictionary(given):
        given = list(given.values())
    if isinstance(given, (list, tuple)):
        for value in given:
            yield from _meant_for_sparse(value, None)
    elif given is not None:
        yield given


def _is_dictionary(given: Any) -> bool:
    """Whether it maps outputs to something, and is not a Keras configuration."""
    return isinstance(given, Mapping) and "class_name" not in given


def _keras_name(identifier: Any) -> str | None:
    """Keras' name of what is Keras' own, None for everything else."""
    if isinstance(identifier, str):
        return identifier  # Keras looks up names among its own only
    if isinstance(identifier, Mapping):
        is_keras = str(identifier.get("module", "keras")).split(".")[0] == "keras"
        return str(identifier["class_name"]) if is_keras else None
    while isinstance(identifier, functools.partial):
        identifier = identifier.func
    if type(identifier) is keras.metrics.MeanMetricWrapper:
        return None
    has_name = isinstance(identifier, type) or hasattr(identifier, "__name__")
    named = identifier if has_name else type(identifier)
    is_keras = str(named.__module__).split(".")[0] == "keras"
    return named.__name__ if is_keras else None
