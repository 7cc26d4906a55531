"""Models for very wide outputs: Keras' own, whose layers get to see the labels."""

import os
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lsh import sparse_logits
from keras_lsh._arguments import check_argument, is_integer
from keras_lsh.export import input_signature_of
from keras_lsh.labels import label_scope
from keras_lsh.layers import LSHDense
from keras_lsh.losses import check_compile
from keras_lsh.selection.override import override_selection


class _Labelled:
    """What `LSHSequential` and `LSHModel` add to Keras' models.

    No model by itself: Keras makes functional models by changing the bases of a class,
    and of the models among its bases.
    """

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        *args: Any,
        metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """As in Keras; stock losses and metrics of sparse logits are refused.

        Raises:
            ValueError: If the model's output is sparse logits, and a loss or metric is
                one of Keras' that does not know them. The message names what to use.
        """
        check_compile(
            loss, metrics, kwargs.get("weighted_metrics"), self._sparse_outputs()
        )
        super().compile(  # type: ignore[misc]
            optimizer, loss, *args, metrics=metrics, **kwargs
        )

    def compile_from_config(self, config: Any) -> None:
        """Compiles the model as a saved one was."""
        # Keras' own refuses wherever `compile` is overridden.
        self.compile(**keras.saving.deserialize_keras_object(config))
        model: Any = self
        if model.built and model.optimizer is not None:
            model.optimizer.build(model.trainable_variables)

    def train_step(self, data: Any) -> Any:
        """One step of `fit`, in the `label_scope` of its labels."""
        _, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        with label_scope(self._by_layer(y)):
            return super().train_step(data)  # type: ignore[misc]

    def make_train_function(self, force: bool = False) -> Any:
        """As in Keras; the optimizer's slots are made before.

        If the first tracing of a step makes them, TensorFlow traces it twice.
        """
        model: Any = self
        optimizer = model.optimizer
        if model.built and optimizer is not None and not optimizer.built:
            with model.distribute_strategy.scope():
                optimizer.build(model.trainable_variables)
        return super().make_train_function(force)  # type: ignore[misc]

    def predict_top_k(
        self,
        x: Any,
        k: int = 5,
        *,
        exact: bool = False,
        batch_size: int = 32,
        verbose: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The classes with the largest scores.

        The model must have one output, of shape `[batch, classes]`, dense or sparse.

        Args:
            x: Inputs: an array, a tensor (also sparse), a scipy sparse matrix, a list
                or dictionary of these, or a `tf.data.Dataset` of batches of inputs, or
                of tuples whose first element is the inputs.
            k: How many.
            exact: Compute all products, block by block, instead of hashing.
            batch_size: Samples at a time, where `x` is not a dataset.
            verbose: 1 shows a progress bar.

        Returns:
            `(ids, scores)`: int32 and float `[samples, k]`, the largest scores first,
            of equal ones the smaller id. The scores are the model's outputs. Where a
            sample has fewer than `k` active classes, -1 and `-inf`.
        """
        expected = "a positive integer"
        check_argument("k", k, is_integer(k) and k > 0, expected)
        check_argument(
            "batch_size",
            batch_size,
            is_integer(batch_size) and batch_size > 0,
            expected,
        )
        batches, count = _batches(x, batch_size)
        bar = keras.utils.Progbar(count) if verbose else None
        function = self._top_k_function(int(k), bool(exact))
        found = []
        for number, batch in enumerate(batches, start=1):
            found.append([tensor.numpy() for tensor in function(batch)])
            if bar is not None:
                bar.update(number, finalize=number == count)
        if not found:
            return np.zeros([0, k], np.int32), np.zeros([0, k], np.float32)
        ids, scores = (np.concatenate(part) for part in zip(*found, strict=True))
        return ids, scores

    def export(
        self,
        filepath: str | os.PathLike[str],
        format: str = "tf_saved_model",
        *args: Any,
        top_k: int | None = None,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> None:
        """As in Keras, with the best classes as a second endpoint.

        A model of sparse logits has a SavedModel whose `serve` gives, as a dictionary,
        the `ids` of the active classes, int32 `[batch, active]`, and their `logits`.

        Args:
            filepath: Folder to write.
            format: `"tf_saved_model"`; others are Keras'.
            top_k: Adds an endpoint `predict_top_k` that gives, as a dictionary, the
                `ids` and `scores` of so many classes (see `predict_top_k`).
            input_signature: As in Keras.
            *args: Passed on to Keras.
            **kwargs: Passed on to Keras.
        """
        sparse = any(self._sparse_outputs().values())
        if format != "tf_saved_model" or not (sparse or top_k):
            super().export(  # type: ignore[misc]
                str(filepath), format, *args, input_signature=input_signature, **kwargs
            )
            return
        if top_k is not None:
            check_argument(
                "top_k", top_k, is_integer(top_k) and top_k > 0, "a positive integer"
            )
        signature = input_signature_of(self, input_signature)
        archive = keras.export.ExportArchive()
        archive.track(self)

        def add_endpoint(name: str, function: Any) -> None:
            # Keras makes no signature of sparse inputs; of a function it takes its own.
            traced = tf.function(function, signature, autograph=False)
            traced.get_concrete_function()
            archive.add_endpoint(name, traced)

        add_endpoint("serve", self._serve)
        if top_k:

            def predict_top_k(*inputs: Any) -> dict[str, tf.Tensor]:
                scores = self._infer(*inputs)
                return dict(
                    zip(
                        ("ids", "scores"),
                        sparse_logits.top_k(scores, top_k),
                        strict=True,
                    )
                )

            add_endpoint("predict_top_k", predict_top_k)
        archive.write_out(str(filepath), verbose=kwargs.get("verbose", True))

    def _infer(self, *inputs: Any) -> Any:
        model: Any = self
        return model(*inputs, training=False)

    def _serve(self, *inputs: Any) -> Any:
        outputs = self._infer(*inputs)
        if not isinstance(outputs, tf.SparseTensor):
            return outputs
        logits, ids = sparse_logits.to_active(outputs)
        return {"ids": ids, "logits": logits}

    def _by_layer(self, y: Any) -> Any:
        """Labels of several outputs by the names of the layers that make these."""
        if isinstance(y, (list, tuple)):
            names = getattr(self, "output_names", [])
            if len(y) == 1:
                return y[0]
            return dict(zip(names, y, strict=True)) if len(names) == len(y) else None
        return y

    def _sparse_outputs(self) -> dict[str, bool]:
        """The outputs by name, and which are SparseTensors; none if not known yet."""
        if isinstance(self, keras.Sequential):
            last = self.layers[-1] if self.layers else None
            sparse = isinstance(last, LSHDense) and last.output_form == "sparse"
            return {"output": sparse}
        outputs = keras.tree.flatten(getattr(self, "outputs", None) or [])
        names = getattr(self, "output_names", None) or range(len(outputs))
        return {
            str(name): bool(getattr(output, "sparse", False))
            for name, output in zip(names, outputs, strict=True)
        }

    def _top_k_function(self, k: int, exact: bool) -> Any:
        # Not among the attributes that Keras tracks and saves.
        functions = self.__dict__.setdefault("_top_k_functions", _Untracked())
        if (k, exact) not in functions.made:

            @tf.function(autograph=False, reduce_retracing=True)
            def top_k(x: Any) -> tuple[tf.Tensor, tf.Tensor]:
                with override_selection("exact" if exact else "lsh"):
                    return sparse_logits.top_k(self._infer(x), k)

            functions.made[k, exact] = top_k
        return functions.made[k, exact]


@keras.saving.register_keras_serializable(package="keras_lsh")
class LSHSequential(_Labelled, keras.Sequential):
    """`keras.Sequential` whose layers with `force_labels` see the labels in `fit`.

    Everything else is as in Keras, and `predict_top_k` is new.

    Example:

    ```python
    model = keras_lsh.LSHSequential([
        keras.Input((135_909,), sparse=True),
        keras_lsh.SparseInputDense(128, activation="relu"),
        keras_lsh.LSHDense(50_000, active=500, output="sparse", force_labels=True),
    ])
    model.compile(
        keras_lsh.LazyAdam(1e-3),
        keras_lsh.losses.ActiveSoftmaxCrossentropy(),
        metrics=[keras_lsh.metrics.PrecisionAtK(5)],
    )
    model.fit(dataset, callbacks=[keras_lsh.RebuildTables(every=5)])
    ids, scores = model.predict_top_k(inputs, k=5)
    ```
    """


@keras.saving.register_keras_serializable(package="keras_lsh")
class LSHModel(_Labelled, keras.Model):
    """`keras.Model` whose layers with `force_labels` see the labels in `fit`.

    To be used as `keras.Model` is: `LSHModel(inputs, outputs)`, or by subclassing.
    Labels of several outputs go to the layers that make these, by name. Everything else
    is as in Keras, and `predict_top_k` is new.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        # As keras.Model does: what is given inputs and outputs is another class.
        if cls is LSHModel and (len(args) >= 2 or "outputs" in kwargs):
            return LSHFunctional(*args, **kwargs)
        return super().__new__(cls)


@keras.saving.register_keras_serializable(package="keras_lsh")
class LSHFunctional(_Labelled, keras.Model):
    """What `LSHModel(inputs, outputs)` makes."""


class _Untracked:
    """A holder that Keras looks into for neither weights nor layers."""

    def __init__(self) -> None:
        self.made: dict[Any, Any] = {}


def _batches(x: Any, batch_size: int) -> tuple[Iterator[Any], int | None]:
    """Batches of inputs, and how many there are, if that is known."""
    if isinstance(x, tf.data.Dataset):
        count = int(x.cardinality())
        inputs = (item[0] if isinstance(item, tuple) else item for item in x)
        return inputs, count if count >= 0 else None
    tensors = keras.tree.map_structure(_as_tensor, x)
    sizes = {
        # Of NumPy: to slice an eager tensor takes a tenth of a millisecond and more.
        int(t.dense_shape.numpy()[0]) if isinstance(t, tf.SparseTensor) else t.shape[0]
        for t in keras.tree.flatten(tensors)
    }
    if len(sizes) != 1:
        raise ValueError(
            "All inputs must have equally many samples. Received: inputs of "
            f"{sorted(sizes)} samples"
        )
    size = sizes.pop()
    begins = range(0, size, batch_size)

    def cut(tensor: Any, begin: int) -> Any:
        if isinstance(tensor, tf.SparseTensor):
            end = min(size, begin + batch_size)
            return tf.sparse.slice(tensor, [begin, 0], [end - begin, tensor.shape[1]])
        return tensor[begin : begin + batch_size]

    if size <= batch_size and size > 0:
        return iter([tensors]), 1
    parts = (
        keras.tree.map_structure(lambda t, b=begin: cut(t, b), tensors)
        for begin in begins
    )
    return parts, len(begins)


def _as_tensor(x: Any) -> Any:
    if isinstance(x, tf.SparseTensor):
        return x
    if hasattr(x, "tocsr"):  # a scipy sparse matrix
        entries = x.tocsr().sorted_indices().tocoo()
        places = np.stack([entries.row, entries.col], axis=-1).astype(np.int64)
        return tf.SparseTensor(places, entries.data, entries.shape)
    tensor = tf.convert_to_tensor(x)
    return tf.cast(tensor, tf.float32) if tensor.dtype == tf.float64 else tensor
