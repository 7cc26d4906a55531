"""Models for serving: of stock TensorFlow ops only, or frozen.

`model.export(path)` writes a SavedModel that needs the op library (`import keras_lsh`,
or `tf.load_op_library(keras_lsh.ops.library_path())`, before it is loaded). What is
written here runs in any TensorFlow.
"""

import os
from typing import Any

import keras
import tensorflow as tf

from keras_lsh import ops
from keras_lsh.layers.finding import lsh_layers
from keras_lsh.selection.override import override_selection


def export_portable(
    model: keras.Model,
    path: str | os.PathLike[str],
    selection: str = "lsh",
    **export_arguments: Any,
) -> None:
    """Writes a SavedModel of stock TensorFlow ops.

    A process that never heard of keras_lsh can load and run it. It gives the model's
    own answers (floats up to rounding) but is slower: it is for serving where no custom
    op can be loaded, not for speed.

    Args:
        model: A built model.
        path: Folder to write.
        selection: `"lsh"` selects with the model's hash tables. `"exact"` takes the
            truly largest neurons instead, by computing all products: no tables, plain
            matrix products, convertible to TFLite. Layers with `inference="exact"`
            compute all their units in either case.
        **export_arguments: Passed on to `model.export`, e.g. `input_signature`.
    """
    if selection not in ("lsh", "exact"):
        raise ValueError(
            "Received an invalid value for `selection`, expected 'lsh' or 'exact'. "
            f"Received: selection={selection}"
        )
    _require_built(model)
    with (
        ops.reference_ops(),
        ops.tensor_form(),
        ops.data_checks(False),
        override_selection(selection),
    ):
        model.export(str(path), **{"verbose": False, **export_arguments})


def freeze(model: keras.Model, path: str | os.PathLike[str] | None = None) -> Any:
    """The model's inference function with its weights as constants.

    Args:
        model: A built model.
        path: File for the binary GraphDef, or None to write none. A process that
            imports it needs the op library.

    Returns:
        A `tf.types.experimental.ConcreteFunction` without variables, from the model's
        inputs to its outputs.
    """
    _require_built(model)
    signature = tf.nest.map_structure(
        lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype, tensor.name),
        model.inputs if len(model.inputs) > 1 else model.inputs[0],
    )
    constants = [(variable, tf.constant(variable.numpy())) for variable in model.variables]

    @tf.function(input_signature=[signature])
    def predict(inputs: Any) -> Any:
        # In this scope Keras takes a variable's value from the mapping.
        with keras.StatelessScope(state_mapping=constants), ops.tensor_form():
            return model(inputs, training=False)

    frozen = predict.get_concrete_function()
    if frozen.captured_inputs:
        raise ValueError(
            f"Model {model.name!r} cannot be frozen: it reads "
            f"{len(frozen.captured_inputs)} resources that are no Keras variables."
        )
    if path is not None:
        with open(path, "wb") as file:
            file.write(frozen.graph.as_graph_def().SerializeToString())
    return frozen


def _require_built(model: keras.Model) -> None:
    if not model.built:
        raise ValueError(
            f"Model {model.name!r} is not built: give it a `keras.Input`, or call it "
            "on data, before it is exported."
        )
    for layer in lsh_layers(model):
        if not layer.built:
            raise ValueError(f"Layer {layer.name!r} is not built.")
