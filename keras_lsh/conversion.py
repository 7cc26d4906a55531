"""From Dense to LSHDense and back, to other storage, to another inference."""

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_lsh import ops
from keras_lsh._arguments import check_choice
from keras_lsh.layers import LSHDense
from keras_lsh.layers.finding import lsh_layers
from keras_lsh.layers.lsh_dense import INFERENCE_MODES, STORAGES

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

    Raises:
        ValueError: If `dense` is no Dense layer, is quantized, or has a setting that
            LSHDense cannot take over, such as a constraint that is not row-local.
    """
    layer = _new_lsh_dense(dense, arguments)
    if dense.built:
        layer.build((None, dense.kernel.shape[0]))
        _copy_kernel_and_bias(dense, layer)
    return layer


def to_dense(layer: LSHDense) -> keras.layers.Dense:
    """A Dense layer with the name, settings and weights of an LSHDense layer.

    It computes all units; with the weights of a layer that was trained with few of them
    active the outputs differ.

    Args:
        layer: The layer; where it is built, its weights are copied, not shared.
    """
    dense = _new_dense(layer)
    if layer.built:
        dense.build((None, layer.kernel.shape[1]))
        _copy_kernel_and_bias(layer, dense)
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
            with `to="lsh"` every Dense layer of at least `min_units` units except the
            last ones, which give the model's outputs with no other weights between;
            with `to="dense"` every LSHDense.
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
    if to == "dense" and arguments:
        raise ValueError(
            "With `to='dense'` there are no arguments of LSHDense to set. Received: "
            f"{', '.join(arguments)}"
        )
    if isinstance(layers, str):
        raise ValueError(
            "Received an invalid value for `layers`, expected a list of names. "
            f"Received: layers={layers!r}"
        )
    _check_can_be_copied(model, "replace its Dense layers with `keras_lsh.from_dense`")
    wanted_type = keras.layers.Dense if to == "lsh" else LSHDense
    last = _last_layers(model)
    convertible, converted = set(), set()

    def is_wanted(layer: Any) -> bool:
        if layers is not None:
            return layer.name in layers
        return to == "dense" or (layer.units >= min_units and id(layer) not in last)

    def replace(layer: Any) -> Any:
        # A subclass of Dense may compute something else.
        if type(layer) is not wanted_type:
            return None
        convertible.add(layer.name)
        if not is_wanted(layer):
            return None
        converted.add(layer.name)
        return _new_lsh_dense(layer, arguments) if to == "lsh" else _new_dense(layer)

    copy, pairs = _copy_model(model, replace)
    unknown = set(layers or ()) - converted
    if unknown:
        raise ValueError(
            "Received an invalid value for `layers`, expected names of "
            f"{wanted_type.__name__} layers of the model: {sorted(convertible)}. "
            f"Received: {sorted(unknown)}"
        )
    for old, new in pairs:
        if isinstance(old, LSHDense) != isinstance(new, LSHDense):
            _copy_kernel_and_bias(old, new)
        else:
            new.set_weights(old.get_weights())
    return copy


def with_storage(model: keras.Model, storage: str) -> keras.Model:
    """A copy of a model whose LSHDense layers store their kernels in another way.

    For serving: in bfloat16 the kernels take half the memory, and single samples, whose
    time goes into reading them, less time. The weights are rounded to the nearest, ties
    to even. Hash tables and all else are copied as they are, so a layer finds the same
    candidates for the same inputs, and its outputs are, bit for bit, those of a float32
    kernel of the rounded values. What is stored in bfloat16 cannot be trained.

    Example:

    ```python
    model.fit(x, y, callbacks=[keras_lsh.RebuildTables()])
    keras_lsh.with_storage(model, "bfloat16").export("served")
    ```

    Args:
        model: A Sequential or functional model, built; it stays as it is.
        storage: `"bfloat16"`, or `"float32"`, which makes the layers trainable again,
            with the weights they have.

    Returns:
        The copy, not compiled.

    Raises:
        ValueError: If the model is not built, is neither Sequential nor functional, or
            has an LSHDense inside of another layer, where it cannot be replaced.
    """
    check_choice("storage", storage, STORAGES)
    otherwise = (
        f"make its layers with `storage={storage!r}`, and load the saved weights"
    )
    return _with_setting(model, "storage", storage, otherwise)


def with_inference(model: keras.Model, inference: str) -> keras.Model:
    """A copy of a model whose LSHDense layers choose otherwise where not training.

    All weights are copied. With `"sketch"`, layers that had no sketch get one of the
    weights as they are; without, a sketch is left out of the copy. So a model can be
    trained without one and served with it.

    Example:

    ```python
    model.fit(x, y, callbacks=[keras_lsh.RebuildTables()])
    served = keras_lsh.with_inference(model, "sketch")
    ids, scores = served.predict_top_k(x, k=5)
    ```

    Args:
        model: A Sequential or functional model, built; it stays as it is.
        inference: `"sparse"`, `"exact"` or `"sketch"`; see `keras_lsh.LSHDense`.

    Returns:
        The copy, not compiled.

    Raises:
        ValueError: If the model is not built, is neither Sequential nor functional, or
            has an LSHDense inside of another layer, where it cannot be replaced.
    """
    check_choice("inference", inference, INFERENCE_MODES)
    otherwise = (
        f"make its layers with `inference={inference!r}`, assign kernels and biases, "
        "and call `rebuild_tables()`"
    )
    return _with_setting(model, "inference", inference, otherwise)


def _with_setting(
    model: keras.Model, name: str, value: str, otherwise: str
) -> keras.Model:
    """A copy of a model with an argument of all its LSHDense layers replaced.

    Args:
        model: The model.
        name: Of the argument.
        value: Of the argument.
        otherwise: What to do with a model that cannot be copied.
    """
    _check_can_be_copied(model, otherwise)

    def replace(layer: Any) -> Any:
        if not isinstance(layer, LSHDense):
            return None
        return type(layer).from_config(layer.get_config() | {name: value})

    copy, pairs = _copy_model(model, replace)
    others = [layer.name for layer in lsh_layers(copy) if getattr(layer, name) != value]
    if others:
        raise ValueError(
            f"These LSHDense layers are parts of other layers of model {model.name!r} "
            f"and cannot be replaced: {others}. Instead, {otherwise}."
        )
    for old, new in pairs:
        if isinstance(old, LSHDense):
            new._take_weights(old)
        else:
            new.set_weights(old.get_weights())
    return copy


def _check_can_be_copied(model: Any, otherwise: str) -> None:
    """Raises unless the layers of a copy can be replaced.

    Args:
        model: The model.
        otherwise: What to do with a subclassed model.
    """
    is_sequential = isinstance(model, keras.Sequential)
    if not is_sequential and not hasattr(model, "output_names"):
        raise ValueError(
            "Received an invalid value for `model`, expected a Sequential or a "
            f"functional model. In a subclassed model, {otherwise}. Received: "
            f"model={model}"
        )
    if not model.built:
        raise ValueError(
            f"Model {model.name!r} is not built: give it a `keras.Input`, or call it "
            "on data, before it is converted."
        )


def _copy_model(
    model: keras.Model, replace: Callable[[Any], Any]
) -> tuple[keras.Model, list[tuple[Any, Any]]]:
    """A copy, not compiled, with fresh weights, some of its layers replaced.

    Args:
        model: The model.
        replace: Is given each layer, those of nested models included; returns what
            takes its place, or None for a layer like it.

    Returns:
        The copy, and pairs of the layers of the model with those of the copy.
    """
    pairs: list[tuple[Any, Any]] = []
    copies: dict[int, Any] = {}  # what is used in several places is copied once

    def copied(layer: Any) -> Any:
        if id(layer) not in copies:
            copies[id(layer)] = copy_of(layer)
        return copies[id(layer)]

    def copy_of(layer: Any) -> Any:
        if isinstance(layer, keras.Sequential):
            inputs = keras.tree.map_structure(_fresh_input, layer.inputs or [])
            layers = [*inputs, *map(copied, layer.layers)]
            # A constructor of its own may want something else.
            own = type(layer).__init__ is keras.Sequential.__init__
            cls = type(layer) if own else keras.Sequential
            return cls(layers, name=layer.name, trainable=layer.trainable)
        if isinstance(layer, keras.Model) and hasattr(layer, "output_names"):
            inputs = keras.tree.map_structure(_fresh_input, layer.input)
            return keras.models.clone_model(layer, inputs, clone_function=copied)
        new = replace(layer)
        if new is None:
            new = layer.__class__.from_config(layer.get_config())
        if isinstance(layer, keras.layers.Layer):  # not a mere operation
            pairs.append((layer, new))
        return new

    with _uncompiled(model):
        return copied(model), pairs


def _fresh_input(tensor: keras.KerasTensor) -> keras.KerasTensor:
    """An input of a model that is as another's; clone_model makes all of them dense."""
    layer = tensor._keras_history.operation
    return layer.__class__.from_config(layer.get_config()).output


def _new_lsh_dense(dense: Any, arguments: dict[str, Any]) -> LSHDense:
    if not isinstance(dense, keras.layers.Dense):
        raise ValueError(
            "Received an invalid value for `dense`, expected a `keras.layers.Dense`. "
            f"Received: dense={dense}"
        )
    if dense.quantization_mode is not None:
        raise ValueError(
            f"Layer {dense.name!r} is quantized ({dense.quantization_mode!r}), and "
            "LSHDense cannot be. Convert the layer before it is quantized."
        )
    return LSHDense(**{**_shared_arguments(dense), **arguments})


def _new_dense(layer: Any) -> keras.layers.Dense:
    if not isinstance(layer, LSHDense):
        raise ValueError(
            "Received an invalid value for `layer`, expected a `keras_lsh.LSHDense`. "
            f"Received: layer={layer}"
        )
    return keras.layers.Dense(**_shared_arguments(layer))


def _shared_arguments(layer: Any) -> dict[str, Any]:
    # The objects themselves: not all can be made from their configuration, as those of
    # classes that are not registered.
    arguments = {name: getattr(layer, name) for name in _SHARED_ARGUMENTS}
    activation = layer.activation
    if isinstance(activation, keras.layers.Layer):  # which belongs to one layer
        activation = type(activation).from_config(activation.get_config())
    return {
        **arguments,
        "activation": activation,
        "name": layer.name,
        "dtype": layer.dtype_policy,
        "trainable": layer.trainable,
    }


def _copy_kernel_and_bias(source: Any, target: Any) -> None:
    kernel = tf.transpose(ops.as_float32(source.kernel))
    target.kernel.assign(tf.cast(kernel, target.kernel.dtype))
    if source.use_bias:
        target.bias.assign(source.bias)
    if isinstance(target, LSHDense):
        # Not rebuild_tables, which would apply constraints once more.
        target._follow_weights()


@contextlib.contextmanager
def _uncompiled(model: keras.Model) -> Iterator[None]:
    """Keeps clone_model from compiling the clone.

    It would by way of the configuration, which not every loss and metric has.
    """
    models = [
        layer
        for layer in model._flatten_layers(include_self=True, recursive=True)
        if isinstance(layer, keras.Model) and layer.compiled
    ]
    for compiled in models:
        compiled.compiled = False
    try:
        yield
    finally:
        for compiled in models:
            compiled.compiled = True


def _last_layers(model: keras.Model) -> set[int]:
    """The ids of the layers with weights that no others follow on the way out."""
    found: set[int] = set()
    tensors = list(model.outputs)
    while tensors:
        operation, node, _ = tensors.pop()._keras_history
        if not getattr(operation, "weights", None):
            tensors.extend(operation._inbound_nodes[node].input_tensors)
        elif isinstance(operation, keras.Model) and hasattr(operation, "outputs"):
            found |= _last_layers(operation)
        else:
            found.add(id(operation))
    return found
