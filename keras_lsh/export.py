"""Models for serving: of stock TensorFlow ops only, or frozen.

`model.export(path)` writes a SavedModel that needs the op library: before a process
loads it, `tf.load_op_library` has to be called on the file that
`keras_lsh.ops.library_path()` names, or `keras_lsh` imported where it is installed.
What `export_portable` writes runs in any TensorFlow.
"""

import os
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from keras_lsh import ops
from keras_lsh.layers.finding import lsh_layers
from keras_lsh.selection.override import override_selection

# What a GraphDef holds: the limit of protocol buffers.
_MAX_GRAPH_BYTES = 2**31 - 1


def export_portable(
    model: keras.Model,
    path: str | os.PathLike[str],
    selection: str = "lsh",
    **export_arguments: Any,
) -> None:
    """Writes a SavedModel of stock TensorFlow ops.

    A process that never heard of keras_lsh can load and run it. It gives the model's
    own answers (floats up to rounding) but is slower: it is for serving where no custom
    op can be loaded, not for speed. Nor does it check its data: a model with corrupt
    hash tables gives undefined results.

    Args:
        model: A built model.
        path: Folder to write.
        selection: `"lsh"` selects as the model does, by its hash tables. `"exact"`
            takes the truly largest neurons instead, by computing all products: no
            tables, plain matrix products, convertible to TFLite. Layers with
            `inference="exact"` compute all their units in either case.
        **export_arguments: Passed on to `model.export`, e.g. `input_signature`.

    Raises:
        ValueError: If the model is not built, or if some other layer of it brings an
            op that is not TensorFlow's own; no SavedModel is left then.
    """
    if selection not in ("lsh", "exact"):
        raise ValueError(
            "Received an invalid value for `selection`, expected 'lsh' or 'exact'. "
            f"Received: selection={selection}"
        )
    _require_built(model)
    with (
        ops.reference_ops(),
        ops.data_checks(False),
        override_selection(selection),
    ):
        model.export(str(path), **{"verbose": False, **export_arguments})
    file = Path(path) / "saved_model.pb"
    foreign = _foreign_ops(file)
    if foreign:
        file.unlink()
        nodes = ", ".join(f"{op} (node {node!r})" for op, node in foreign.items())
        raise ValueError(
            f"Model {model.name!r} cannot be exported as stock TensorFlow ops, because "
            f"these ops are not TensorFlow's own: {nodes}. Replace the layers that use "
            "them, or use `model.export` and load their op libraries where it is "
            "served."
        )


def freeze(
    model: keras.Model,
    path: str | os.PathLike[str] | None = None,
    input_signature: Any = None,
) -> Any:
    """The model's inference function with its weights as constants.

    LSHDense layers answer bit for bit as in the model. Where TensorFlow computes (other
    layers, `inference="exact"`) it may fuse more operations than it can with variables,
    which rounds differently.

    Args:
        model: A built model of less than 2 GiB.
        path: File for the binary GraphDef, or None to write none. A process that
            imports it needs the op library. The names of its tensors are those of
            `inputs` and `outputs` of the result.
        input_signature: The arguments of `model` as a list of `tf.TensorSpec` or
            `keras.InputSpec`, or structures of these. None: the inputs of a Sequential
            or functional model, with any batch size; other models need to be told.

    Returns:
        A `tf.types.experimental.ConcreteFunction` without variables, from the model's
        inputs to its outputs.

    Raises:
        ValueError: If the model is not built, is too large, or reads something that is
            no variable of Keras, such as the table of a `StringLookup`.
    """
    signature = input_signature_of(model, input_signature)
    values = [(variable, variable.numpy()) for variable in model.variables]
    size = sum(value.nbytes for _, value in values)
    if size > _MAX_GRAPH_BYTES:
        raise ValueError(
            f"Model {model.name!r} cannot be frozen: a graph holds at most "
            f"{_MAX_GRAPH_BYTES} bytes, its weights are {size}. Use `model.export`."
        )

    @tf.function(input_signature=signature, autograph=False)
    def predict(*inputs: Any) -> Any:
        # In this scope Keras takes a variable's value from the mapping; made in the
        # function, the values are constants of its graph.
        with keras.StatelessScope(state_mapping=values):
            return model(*inputs, training=False)

    frozen = predict.get_concrete_function()
    if frozen.captured_inputs:
        raise ValueError(
            f"Model {model.name!r} cannot be frozen: it reads "
            f"{len(frozen.captured_inputs)} tensors or resources that are no Keras "
            "variables. Use `model.export`."
        )
    if path is not None:
        Path(path).write_bytes(frozen.graph.as_graph_def().SerializeToString())
    return frozen


def _foreign_ops(file: Path) -> dict[str, str]:
    """The ops in a SavedModel that are not TensorFlow's own, with a node of each."""
    saved_model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    foreign: dict[str, str] = {}
    for meta_graph in saved_model.meta_graphs:
        graph = meta_graph.graph_def
        functions = {function.signature.name for function in graph.library.function}
        nodes = list(graph.node)
        for function in graph.library.function:
            nodes.extend(function.node_def)
        for node in nodes:
            # tf.raw_ops holds what TensorFlow itself registers, whatever is loaded.
            if node.op not in functions and not hasattr(tf.raw_ops, node.op):
                foreign.setdefault(node.op, node.name)
    return foreign


def input_signature_of(model: keras.Model, given: Any = None) -> list[Any]:
    """The arguments of a built model as `tf.TensorSpec`s and `tf.SparseTensorSpec`s.

    Args:
        model: The model.
        given: As `freeze` takes it. None: the model's own inputs, of any batch size.

    Raises:
        ValueError: If the model is not built, or does not know its inputs.
    """
    _require_built(model)
    given = [_inputs_of(model)] if given is None else list(given)
    return keras.tree.map_structure(_tensor_spec, given)


def _inputs_of(model: keras.Model) -> Any:
    if isinstance(model, keras.Sequential) and model.inputs:
        return model.inputs[0]
    if hasattr(model, "output_names"):  # functional: its inputs in their structure
        return model.input
    raise ValueError(
        f"Model {model.name!r} does not know its inputs, not being Sequential or "
        "functional. Pass `input_signature`, e.g. "
        "`[tf.TensorSpec([None, 784], tf.float32)]`."
    )


def _tensor_spec(x: Any) -> tf.TensorSpec | tf.SparseTensorSpec:
    if isinstance(x, (tf.TensorSpec, tf.SparseTensorSpec)):
        return x
    if isinstance(x, keras.KerasTensor) and x.sparse:
        return tf.SparseTensorSpec([None, *x.shape[1:]], x.dtype)
    if isinstance(x, keras.KerasTensor):
        return tf.TensorSpec([None, *x.shape[1:]], x.dtype, x.name)
    return tf.TensorSpec(x.shape, x.dtype or "float32", getattr(x, "name", None))


def _require_built(model: keras.Model) -> None:
    if not model.built:
        raise ValueError(
            f"Model {model.name!r} is not built: give it a `keras.Input`, or call it "
            "on data, before it is exported."
        )
    for layer in lsh_layers(model):
        if not layer.built:
            raise ValueError(
                f"Layer {layer.name!r} of model {model.name!r} is not built: call the "
                "model on data before it is exported."
            )
