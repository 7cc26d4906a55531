"""From Dense to LSHDense and back: layers and whole models."""

from collections.abc import Collection
from typing import Any

import keras

from keras_lsh.layers import LSHDense

_SHARED_ARGUMENTS = (
    "units",
    "activation",
    "use_bias",
    "kernel_initializer",
    "bias_initializer",
    "kernel_regularizer",
    "bias_regularizer",
    "activity_regularizer",
    "kernel_constraint",
    "bias_constraint",
)


def from_dense(dense: keras.layers.Dense, **arguments: Any) -> LSHDense:
    """An LSHDense layer with the name, settings and weights of a Dense layer.

    Args:
        dense: The layer; where it is built, its weights are copied, not shared.
        **arguments: LSHDense's own, e.g. `active=0.05`, or others to replace.

    Returns:
        The layer, its hash tables built if it has weights.
    """
    layer = LSHDense(**{**_arguments_of(dense), **arguments})
    if dense.built:
        layer.build((None, dense.kernel.shape[0]))
        _copy_weights(dense, layer)
    return layer


def to_dense(layer: LSHDense) -> keras.layers.Dense:
    """A Dense layer with the name, settings and weights of an LSHDense layer.

    It computes all units; with the weights of a layer that was trained with few of them
    active the outputs differ.
    """
    dense = keras.layers.Dense(**_arguments_of(layer))
    if layer.built:
        dense.build((None, layer.kernel.shape[1]))
        _copy_weights(layer, dense)
    return dense


def convert_model(
    model: keras.Model,
    *,
    to: str = "lsh",
    layers: Collection[str] | None = None,
    min_units: int = 256,
    **arguments: Any,
) -> keras.Model:
    """A copy of a Sequential or functional model with its Dense layers converted.

    Args:
        model: The model, built; it stays as it is. The copy has its weights, and is
            not compiled.
        to: `"lsh"` replaces Dense layers by LSHDense, `"dense"` the other way round.
        layers: Names of the layers to convert, those of nested models included. None:
            with `to="lsh"` every Dense layer of at least `min_units` units except
            those that give the model's outputs, with `to="dense"` every LSHDense.
        min_units: See `layers`; narrower layers gain nothing.
        **arguments: LSHDense's own, e.g. `active=0.05`, for `to="lsh"`.

    Returns:
        The converted copy.

    Raises:
        ValueError: If a name in `layers` is not that of a layer that can be converted,
            or the model is neither Sequential nor functional.
    """
    if to not in ("lsh", "dense"):
        raise ValueError(
            "Received an invalid value for `to`, expected 'lsh' or 'dense'. "
            f"Received: to={to}"
        )
    if not isinstance(model, (keras.Sequential, keras.models.Model)) or not hasattr(
        model, "output_names"
    ):
        raise ValueError(
            "Only Sequential and functional models can be converted. In a subclassed "
            "model, replace its Dense layers with `keras_lsh.from_dense`. Received: "
            f"model={model}"
        )
    if not model.built:
        raise ValueError(
            f"Model {model.name!r} is not built: give it a `keras.Input`, or call it "
            "on data, before it is converted."
        )
    wanted_type = keras.layers.Dense if to == "lsh" else LSHDense
    outputs = set(model.output_names)
    converted: set[str] = set()

    def is_wanted(layer: keras.layers.Layer) -> bool:
        if type(layer) is not wanted_type:
            return False
        if layers is not None:
            return layer.name in layers
        if to == "dense":
            return True
        return layer.units >= min_units and layer.name not in outputs

    def convert(layer: keras.layers.Layer) -> keras.layers.Layer:
        if not is_wanted(layer):
            return layer.__class__.from_config(layer.get_config())
        converted.add(layer.name)
        if to == "dense":
            return keras.layers.Dense(**_arguments_of(layer))
        return LSHDense(**{**_arguments_of(layer), **arguments})

    copy = keras.models.clone_model(model, clone_function=convert, recursive=True)
    unknown = set(layers or ()) - converted
    if unknown:
        raise ValueError(
            f"Received an invalid value for `layers`, expected names of "
            f"{wanted_type.__name__} layers of the model. Received: "
            f"{sorted(unknown)}"
        )
    _copy_model_weights(model, copy)
    return copy


def _arguments_of(layer: Any) -> dict[str, Any]:
    config = layer.get_config()
    arguments = {name: config[name] for name in _SHARED_ARGUMENTS}
    arguments["name"] = layer.name
    arguments["dtype"] = layer.dtype_policy
    arguments["trainable"] = layer.trainable
    return arguments


def _copy_weights(source: Any, target: Any) -> None:
    kernel = keras.ops.convert_to_numpy(source.kernel)
    target.kernel.assign(kernel.T)
    if source.use_bias:
        target.bias.assign(source.bias)
    if isinstance(target, LSHDense):
        target._refresh()


def _copy_model_weights(source: Any, target: Any) -> None:
    for old, new in zip(source.layers, target.layers, strict=True):
        if type(old) is type(new):
            if hasattr(old, "layers"):
                _copy_model_weights(old, new)
            else:
                new.set_weights(old.get_weights())
        else:
            _copy_weights(old, new)
