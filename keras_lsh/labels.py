"""The true classes of a batch, in one form, and their way to the layers that need them.

Losses and metrics get labels from Keras. A layer does not: a model opens a
`label_scope` around a training step, and layers with `force_labels` ask for their
`labels_for`.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from keras_lsh.ops._checks import MAX_INT32, checked

_local = threading.local()

# Marks an unused place among the labels of a sample.
NO_LABEL = -1


def as_ids(labels: Any, classes: int | None = None) -> tf.Tensor:
    """The true classes of each sample as integers.

    Args:
        labels: Integers (or floats of integer value, as Keras makes of them): `[batch]`
            or `[batch, 1]`, one class a sample; `[batch, any]`, several classes, -1 in
            unused places; a `tf.RaggedTensor` `[batch, None]` of classes; or a
            `tf.SparseTensor` `[batch, classes]` with an entry that is not 0 for each
            class of a sample.
        classes: The number of classes, or None if it is not known.

    Returns:
        int32 `[batch, any]`: the different classes of each sample, descending; -1 in
        unused places, which may lie between them.

    Raises:
        ValueError: If `labels` is of another form.
        tf.errors.InvalidArgumentError: If a class is negative, not in
            `[0, classes)`, or no integer.
    """
    found = _found_in_scope(labels, classes)
    if found is not None:
        return found
    ids = _as_ids(labels, classes)
    made = _local.__dict__.get("made")
    if made is not None:
        made.append((labels, classes, ids))
    return ids


def _found_in_scope(labels: Any, classes: int | None) -> tf.Tensor | None:
    """What `as_ids` has made of the same labels before in this `label_scope`.

    A layer and a loss ask for the same.
    """
    eager, graph = tf.executing_eagerly(), tf.compat.v1.get_default_graph()
    for known, of_classes, ids in _local.__dict__.get("made") or ():
        # Tensors of a graph within this one are out of reach.
        reachable = eager or getattr(ids, "graph", graph) is graph
        if known is labels and of_classes == classes and reachable:
            return ids
    return None


def _as_ids(labels: Any, classes: int | None) -> tf.Tensor:
    if isinstance(labels, tf.SparseTensor):
        return _of_multi_hot(labels, classes)
    if not isinstance(labels, tf.RaggedTensor):
        labels = tf.convert_to_tensor(labels)
    if labels.shape.rank not in (1, 2):
        raise ValueError(
            "Received invalid labels, expected classes of shape [batch] or "
            "[batch, any], a RaggedTensor [batch, None] or a SparseTensor "
            f"[batch, classes]. Received: shape={labels.shape}"
        )
    if isinstance(labels, tf.RaggedTensor):
        ids = _integers(labels.values, 0, classes)
        labels = labels.with_values(ids).to_tensor(NO_LABEL)
    elif labels.shape.rank == 1 or labels.shape[1] == 1:
        return tf.reshape(_integers(labels, 0, classes), [-1, 1])
    else:
        labels = _integers(labels, NO_LABEL, classes)
    # Equal ones lie side by side then.
    ids = tf.sort(labels, direction="DESCENDING")
    repeated = tf.pad(tf.equal(ids[:, 1:], ids[:, :-1]), [[0, 0], [1, 0]])
    return tf.where(repeated, NO_LABEL, ids)


@contextlib.contextmanager
def label_scope(labels: Any) -> Iterator[None]:
    """In this scope, layers with `force_labels` find the true classes of the batch.

    `LSHSequential` and `LSHModel` open it around their training steps; open it yourself
    around the forward pass of a training loop of your own. The scope belongs to the
    thread.

    Args:
        labels: What `as_ids` takes; or, for several outputs, a dictionary from the
            names of layers to the labels of each.
    """
    previous = _local.__dict__.get("labels"), _local.__dict__.get("made")
    _local.labels, _local.made = labels, []
    try:
        yield
    finally:
        _local.labels, _local.made = previous


def in_label_scope() -> bool:
    """Whether labels are in force: this is a training step."""
    return _local.__dict__.get("labels") is not None


def labels_for(layer_name: str, classes: int) -> tf.Tensor:
    """The labels in force for a layer, as `as_ids` gives them.

    Raises:
        ValueError: Outside of a `label_scope`, and if it has no labels for the layer.
    """
    labels = _local.__dict__.get("labels")
    if isinstance(labels, dict):
        if layer_name not in labels:
            raise ValueError(
                f"There are no labels for layer {layer_name!r}, which has "
                "`force_labels=True`. Labels of several outputs go by the names of the "
                f"layers. Received: labels for {sorted(labels)}"
            )
        labels = labels[layer_name]
    if labels is None:
        raise ValueError(
            f"Layer {layer_name!r} has `force_labels=True` and needs the labels while "
            "it is trained. Use `keras_lsh.LSHSequential` or `keras_lsh.LSHModel` in "
            "place of `keras.Sequential` or `keras.Model`, and give `fit` the labels "
            "`y`; in a training loop of your own call the model in "
            "`with keras_lsh.label_scope(y):`."
        )
    return as_ids(labels, classes)


def _integers(labels: tf.Tensor, least: int, classes: int | None) -> tf.Tensor:
    """The labels as int32, checked to lie in `[least, classes)`."""
    if not (labels.dtype.is_integer or labels.dtype.is_floating):
        raise ValueError(
            "Received invalid labels, expected integers, the numbers of the true "
            f"classes. Received: dtype={labels.dtype.name}"
        )
    end = MAX_INT32 if classes is None else classes
    ids = tf.cast(labels, tf.int64)

    def in_range() -> Any:
        right = tf.logical_and(ids >= least, ids < end)
        right = tf.logical_and(right, tf.cast(ids, labels.dtype) == labels)
        unused = ", or -1 in unused places" if least == NO_LABEL else ""
        wrong = tf.boolean_mask(labels, tf.logical_not(right))
        return tf.debugging.Assert(
            tf.reduce_all(right),
            [f"Labels must be integers in [0, {end}){unused}. Received:", wrong],
        )

    return tf.cast(checked(ids, in_range), tf.int32)


def _of_multi_hot(labels: tf.SparseTensor, classes: int | None) -> tf.Tensor:
    if labels.shape.rank != 2 or (
        classes is not None and labels.shape[1] not in (None, classes)
    ):
        raise ValueError(
            "Received invalid labels, expected a SparseTensor of shape "
            f"[batch, {'classes' if classes is None else classes}]. "
            f"Received: shape={labels.shape}"
        )
    present = tf.sparse.retain(labels, labels.values != 0)
    rows, ids = present.indices[:, 0], present.indices[:, 1]
    ids = _integers(ids, 0, classes)
    ragged = tf.RaggedTensor.from_value_rowids(ids, rows, present.dense_shape[0])
    # Entries of a SparseTensor are in order, and different, by definition.
    return tf.reverse(ragged.to_tensor(NO_LABEL), axis=[-1])
