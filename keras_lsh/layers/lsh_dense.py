"""A Dense layer that asks a selector which neurons to compute."""

import math
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lsh import ops, sparse_logits
from keras_lsh._arguments import check_argument, check_choice, is_integer
from keras_lsh.hashing import HashFamily, choose, get_family
from keras_lsh.labels import in_label_scope, labels_for
from keras_lsh.layers import row_local
from keras_lsh.ops._checks import checked
from keras_lsh.ops.active_labels import contained
from keras_lsh.selection import (
    ExactSelector,
    LSHSelector,
    RandomSelector,
    Selector,
    SketchSelector,
)
from keras_lsh.selection.exact import largest
from keras_lsh.selection.override import selection_in_force

SELECTIONS = ("lsh", "exact", "random")
INFERENCE_MODES = ("sparse", "exact", "sketch")
OUTPUTS = ("dense", "sparse")
STORAGES = ("float32", "bfloat16")


@keras.saving.register_keras_serializable(package="keras_lsh")
class LSHDense(keras.layers.Layer):
    """A densely-connected layer that computes only the neurons that matter.

    `LSHDense` implements `output = activation(dot(input, kernel) + bias)` for the
    `active` neurons of each sample; the outputs of the others are 0. The active neurons
    are those with the largest `dot(input, kernel) + bias`, as far as hash tables find
    them: every neuron is put into a bucket of each table, an input looks into the
    buckets that are right for it, and the neurons there are likely to be the ones.
    Forward pass, gradients and (with `keras_lsh.LazyAdam` or plain SGD) the update
    touch the active neurons only. Each sample of a batch has its own.

    Weights move while the tables stand still: train with the callback
    `keras_lsh.RebuildTables`, or call `rebuild_tables()` now and then.

    It helps where a layer is wide (thousands of units) or the batch small. A layer of
    some hundred units is faster as `keras.layers.Dense`, and accuracy falls with the
    number of stacked sparse layers.

    Source: Spring & Shrivastava 2017, "Scalable and Sustainable Deep Learning via
    Randomized Hashing" (KDD), sections 4 and 5.

    Args:
        units: Positive integer, number of neurons.
        activation: Activation function, applied to the outputs of a sample's active
            neurons (so a softmax is one over these). None: linear.
        use_bias: Whether the layer has a bias.
        kernel_initializer: Initializer of the kernel, called with Dense's shape
            `(input_dim, units)`; the same seed gives Dense's weights.
        bias_initializer: Initializer of the bias.
        kernel_regularizer: L1, L2 or L1L2, applied to the neurons that are active for
            some sample of the batch.
        bias_regularizer: Likewise.
        activity_regularizer: Regularizer of the output.
        kernel_constraint: NonNeg, or MaxNorm, MinMaxNorm or UnitNorm with axis=0;
            applied to active neurons just before they are used, and to all when the
            tables are rebuilt.
        bias_constraint: NonNeg; likewise.
        active: How many neurons a sample may use: a float in (0, 1] is a fraction of
            `units`, an integer is a count.
        hashing: The hash family: an object such as `keras_lsh.SimHash(bits=8)`, a name
            (`"kmeans"`, `"simhash"`, `"cross_polytope"`, `"wta"`, `"dwta"`, `"random"`;
            see `keras_lsh.hashing`), or `"auto"`: cells of neurons that activate alike,
            as many as suits the layer (see `keras_lsh.hashing.choose`). The paper uses
            `SimHash(bits=6, tables=5, probes=10)`, which finds far less.
            `keras_lsh.tune` compares families on your own data.
        oversample: Candidates retrieved per active neuron, at least 1: the exact
            products of the candidates decide which stay. 1 trusts the tables' ranking.
            None: with `hashing="auto"` 2.5, more where few of very many are active;
            with a family of your own 3.
        selection: `"lsh"`; or, for comparison, `"exact"` (the truly largest, at the
            cost of all products) or `"random"`.
        inference: For `evaluate`, `predict` and export: `"sparse"` (the selection of
            training), `"exact"` (all units; with `output="sparse"` the `active` truly
            largest, found block by block), or `"sketch"`: all neurons are ranked by the
            signs of their weights, a bit each, and the exact products of the best
            decide. That takes longer than tables do, but finds most of the largest
            where tables find few of them. The sketch is as fresh as the tables, and
            rebuilt with them, always whole; to train without it, see
            `keras_lsh.with_inference`.
        output: `"dense"`, or `"sparse"`: a `tf.SparseTensor` of the active neurons'
            outputs, for layers so wide that `[batch, units]` is too much. For losses
            and metrics see `keras_lsh.losses` and `keras_lsh.metrics`.
        force_labels: Whether the true classes of a sample are always active while
            training, as the output layer of a classifier needs. The layer has to be in
            a `keras_lsh.LSHSequential` or `LSHModel`, or be called in a
            `keras_lsh.label_scope`.
        shared: Whether, while training, a sample computes the active neurons of all
            samples of its batch, not its own alone: of each the `active` that the
            tables find, and all labels. That is one small dense product, so with few
            active neurons a sample it costs little, and the classes that one sample
            takes for likely are what the others learn to tell apart. With
            `output="sparse"` only.
        explore: Neurons that are drawn at random while training, anew at each step; all
            samples of a batch get the same ones. A share, in [0, 1), of the active
            neurons, in place of the tables' last; with `shared=True` an integer, so
            many for a batch in addition. With a wide softmax they stand for all the
            classes that are not active, which the loss can account for
            (`log_q="uniform"` in `keras_lsh.losses`). Where very many classes have
            little to learn from each, a model learns sooner with them.
        storage: How the kernel is stored: `"float32"`, or `"bfloat16"`, in half the
            memory, for inference alone. Single samples take as long as their rows take
            to come from memory. All sums are in float32: the outputs are, bit for bit,
            those of a float32 kernel of the rounded values. A layer stored in bfloat16
            has no trainable weights; regularizers and constraints do nothing. Train in
            float32 and convert the model with `keras_lsh.with_storage`.

    Input shape:
        N-D tensor of shape `(batch_size, ..., input_dim)`; each vector along the last
        axis has its own active neurons. 2-D with `output="sparse"` and `force_labels`.

    Output shape:
        N-D tensor of shape `(batch_size, ..., units)`, zeros where inactive; a
        SparseTensor `(batch_size, units)` with `output="sparse"`, its rows having
        `active` entries each (those of the batch, while training with `shared`).

    Example:

    >>> layer = keras_lsh.LSHDense(1000, activation="relu", active=0.05)
    >>> outputs = layer(np.random.normal(size=(2, 784)).astype("float32"))
    >>> outputs.shape
    TensorShape([2, 1000])

    The kernel is stored `(units, input_dim)`, transposed with respect to Dense, so that
    a neuron's weights lie together (`keras_lsh.from_dense` and `to_dense` convert), and
    as `storage` says under every dtype policy.
    """

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        *,
        active: float | int = 0.05,
        hashing: HashFamily | str = "auto",
        oversample: float | None = None,
        selection: str = "lsh",
        inference: str = "sparse",
        output: str = "dense",
        force_labels: bool = False,
        shared: bool = False,
        explore: float | int = 0,
        storage: str = "float32",
        **kwargs: Any,
    ):
        check_argument(
            "units", units, is_integer(units) and units > 0, "a positive integer"
        )
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        if self.compute_dtype == "float64":
            raise ValueError(
                "LSHDense computes in float32. Received: "
                f"dtype={self.dtype_policy.name!r}. Use dtype='float32', or "
                "`keras.layers.Dense` where float64 is needed."
            )
        self.units = int(units)
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = row_local.check_regularizer(
            "kernel_regularizer", keras.regularizers.get(kernel_regularizer)
        )
        self.bias_regularizer = row_local.check_regularizer(
            "bias_regularizer", keras.regularizers.get(bias_regularizer)
        )
        self.kernel_constraint = row_local.check_constraint(
            "kernel_constraint", keras.constraints.get(kernel_constraint)
        )
        self.bias_constraint = row_local.check_constraint(
            "bias_constraint", keras.constraints.get(bias_constraint), rank=1
        )
        self.active = active
        self.num_active = _count_active(active, self.units)
        family, candidates = choose(self.units, self.num_active)
        if hashing != "auto":
            family, candidates = get_family(hashing), 3.0
        self.hashing = hashing if isinstance(hashing, str) else family
        check_argument(
            "oversample",
            oversample,
            oversample is None
            or (isinstance(oversample, (int, float)) and 1 <= oversample < math.inf),
            "a number of at least 1, or None",
        )
        self.oversample = oversample
        self._family = family
        self._candidates_per_active = candidates if oversample is None else oversample
        check_choice("selection", selection, SELECTIONS)
        self.selection = selection
        check_choice("inference", inference, INFERENCE_MODES)
        self.inference = inference
        check_choice("output", output, OUTPUTS)
        check_argument(
            "activity_regularizer",
            activity_regularizer,
            activity_regularizer is None or output == "dense",
            "None with output='sparse'",
        )
        self.output_form = output
        self.force_labels = bool(force_labels)
        self.shared = bool(shared)
        check_argument(
            "shared",
            shared,
            not shared or output == "sparse",
            "False with output='dense'",
        )
        self.explore = explore
        self.num_explored = _count_explored(
            explore, self.num_active, self.units, self.shared, selection
        )
        check_choice("storage", storage, STORAGES)
        self.storage = storage

        self.input_spec = self._make_input_spec()
        self.supports_masking = True
        self.supports_jit = False  # XLA cannot compile the op library's ops
        self._selector: Selector
        self._sketch: SketchSelector | None = None
        self._tables_are_kept_fresh = False

    def build(self, input_shape: Any) -> None:
        input_dim = input_shape[-1]
        if input_dim is None:
            raise ValueError(
                "The last axis of the inputs of LSHDense must be defined. Received: "
                f"input_shape={tuple(input_shape)}"
            )
        constrained = self.kernel_constraint or self.bias_constraint
        if constrained and tf.distribute.get_strategy().num_replicas_in_sync > 1:
            raise ValueError(
                "LSHDense cannot keep `kernel_constraint` and `bias_constraint` equal "
                "on several replicas, which activate different neurons. Received: "
                f"{constrained} under "
                f"{type(tf.distribute.get_strategy()).__name__}. Leave the constraint "
                "out, or use `keras.layers.Dense`."
            )
        # Regularizers and constraints act on the active rows, in `call`: given to
        # Keras, they would read and write the whole kernel at every step.
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.units, input_dim),
            initializer=_transposed(self.kernel_initializer),
            dtype=self.storage,
            trainable=not self._is_for_inference,
            autocast=False,
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(self.units,),
                initializer=self.bias_initializer,
                dtype="float32",
                trainable=not self._is_for_inference,
                autocast=False,
            )
        for weight in (self.kernel, self.bias):
            if weight is not None:
                ops.subtract_by_rows(weight)
        self._selector = self._make_selector()
        self._selector.build(self._add_selector_weight, self.units, input_dim)
        self._explorer = RandomSelector(shared=True)
        if self.num_explored:
            self._explorer.build(self._add_selector_weight, self.units, input_dim)
        if self.inference == "sketch":
            self._sketch = SketchSelector()
            self._sketch.build(self._add_selector_weight, self.units, input_dim)
        self.input_spec = self._make_input_spec({-1: input_dim})
        self.built = True
        with tf.init_scope():
            self._refresh()

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        x = self._as_rows(inputs)
        if training is None and self.force_labels:
            # As Keras calls the layers of a model whose `call` has no such argument.
            training = in_label_scope()
        if training:
            self._check_is_for_training()
            self._warn_if_never_rebuilt()
            self._selector.observe(x)
        exact = self.inference == "exact" and not training
        if self.output_form == "sparse":
            exact = exact or selection_in_force() == "exact"
            if exact:
                (values, ids), drawn = self._truly_largest(x), None
            elif training and self.shared:
                values, ids, drawn = self._active_of_batch(x)
            else:
                values, ids, drawn = self._active(x, training)
            values = self._activate(values)
            return sparse_logits.from_active(values, ids, self.units, drawn)
        if exact:
            outputs = self._activate(self._all_products(x))
        elif selection_in_force() == "exact":
            outputs = self._largest_of_all_outputs(x)
        else:
            values, ids, _ = self._active(x, training)
            outputs = ops.scatter_active(self._activate(values), ids, self.units)
        shape = tf.concat([tf.shape(inputs)[:-1], [self.units]], axis=0)
        outputs = tf.reshape(outputs, shape)
        outputs.set_shape([*inputs.shape[:-1], self.units])
        return outputs

    def active_ids(self, inputs: Any) -> tf.Tensor:
        """The neurons that each sample uses, as at inference if that is not exact.

        Args:
            inputs: `[batch, ..., input_dim]`.

        Returns:
            int32 `[samples, num_active]`, ascending; the leading axes of the inputs
            are flattened to one.
        """
        if not self.built:
            self.build(inputs.shape)
        return self._active_values(self._as_rows(inputs))[1]

    def rebuild_tables(self, moved_only: Any = False) -> dict[str, tf.Tensor]:
        """Hashes the neurons as they are now and builds the tables anew.

        For custom training loops; in `fit` the callback `RebuildTables` calls it. May
        be called in a `tf.function`.

        Args:
            moved_only: A boolean, or a boolean scalar. In a layer of 20,000 units or
                more, True hashes only the neurons whose weights have changed since the
                last rebuild, with hash functions as they are: a training step reaches
                few of very many neurons, so that costs a fraction. What the hash
                functions learn from inputs and weights, they learn in a rebuild
                without it. In other layers it makes no difference.

        Returns:
            Scalars that describe the rebuild: with hash tables `codes_changed`, the
            share of neurons that have a new code in some table; with a sketch alone,
            of neurons that have another sign.
        """
        self._check_has_weights()
        self._tables_are_kept_fresh = True
        return self._refresh(moved_only)

    def codes_drift(self, ids: Any) -> tf.Tensor:
        """The share of codes in the hash tables that the weights have left behind.

        Hashes some neurons as they are now, with the hash functions that the tables
        were built with, and compares. It reads the rows of these neurons and no others,
        so it costs little beside `rebuild_tables`, however large the layer; the
        callback `RebuildTables(drift=...)` decides by it. May be called in a
        `tf.function`.

        Args:
            ids: int32 `[n]`, the neurons to look at, in `[0, units)`.

        Returns:
            float32 scalar from 0 to 1, over these neurons and all tables. 0 just after
            a rebuild, without neurons to look at, and where `selection` is not
            `"lsh"`.
        """
        self._check_has_weights()
        return self._selector.drift(
            self.kernel, self.bias, tf.convert_to_tensor(ids, tf.int32)
        )

    def multiplications(self) -> dict[str, int]:
        """Multiplications for one sample at inference, and for one rebuild.

        With `inference="sketch"`, a look-up of four signs counts as one, as does an
        addition of the rotation.

        Returns:
            `selection` (hashing, or whatever chooses the neurons), `products` (of the
            candidates), `total` of both, `rebuild` (once per rebuild, not per sample),
            and `dense`, what Dense would need for a sample.
        """
        input_dim = self.kernel.shape[1]
        selection = self.inference_selector.multiplications(input_dim)
        rebuild = self._selector.refresh_multiplications(input_dim)
        if self._sketch is not None:
            rebuild += self._sketch.refresh_multiplications(input_dim)
        products = self.num_candidates * input_dim
        return {
            "selection": selection,
            "products": products,
            "total": selection + products,
            "rebuild": rebuild,
            "dense": self.units * input_dim,
        }

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.units)

    def compute_output_spec(
        self, inputs: Any, training: bool | None = None
    ) -> keras.KerasTensor:
        return keras.KerasTensor(
            self.compute_output_shape(inputs.shape),
            dtype=self.compute_dtype,
            sparse=self.output_form == "sparse",
        )

    def get_config(self) -> dict[str, Any]:
        serialized = {
            "activation": keras.activations.serialize(self.activation),
            "hashing": self.hashing
            if isinstance(self.hashing, str)
            else keras.saving.serialize_keras_object(self.hashing),
        }
        for name in ("kernel_initializer", "bias_initializer"):
            serialized[name] = keras.initializers.serialize(getattr(self, name))
        for name in ("kernel_regularizer", "bias_regularizer", "activity_regularizer"):
            serialized[name] = keras.regularizers.serialize(getattr(self, name))
        for name in ("kernel_constraint", "bias_constraint"):
            serialized[name] = keras.constraints.serialize(getattr(self, name))
        return {
            **super().get_config(),
            "units": self.units,
            "use_bias": self.use_bias,
            "active": self.active,
            "oversample": self.oversample,
            "selection": self.selection,
            "inference": self.inference,
            "output": self.output_form,
            "force_labels": self.force_labels,
            "shared": self.shared,
            "explore": self.explore,
            "storage": self.storage,
            **serialized,
        }

    @property
    def selector(self) -> Selector:
        """Who chooses the candidates; for looking into, as diagnostics do."""
        self._check_has_weights()
        return self._selector

    @property
    def inference_selector(self) -> Selector:
        """Who chooses them where not training: `selector`, or who has the sketch."""
        self._check_has_weights()
        return self._selector if self._sketch is None else self._sketch

    @property
    def num_candidates(self) -> int:
        """Neurons per sample whose products are computed, to keep `num_active`."""
        if self.inference != "sketch":
            return self._num_training_candidates
        return min(self.units, math.ceil(self.num_active * self._candidates_per_active))

    @property
    def _num_training_candidates(self) -> int:
        if self.selection != "lsh":
            return self.num_active
        return min(self.units, math.ceil(self.num_active * self._candidates_per_active))

    def _make_selector(self) -> Selector:
        if self.selection == "exact":
            return ExactSelector()
        if self.selection == "random":
            return RandomSelector()
        return LSHSelector(self._family)

    def _add_selector_weight(self, name: str, value: np.ndarray) -> keras.Variable:
        return self.add_weight(
            name=name,
            shape=value.shape,
            initializer=lambda shape, dtype=None: tf.constant(value),
            dtype=value.dtype.name,
            trainable=False,
            autocast=False,
        )

    def _make_input_spec(self, axes: Any = None) -> keras.layers.InputSpec:
        if self.output_form == "sparse" or self.force_labels:
            return keras.layers.InputSpec(ndim=2, axes=axes)
        return keras.layers.InputSpec(min_ndim=2, axes=axes)

    def _as_rows(self, inputs: Any) -> tf.Tensor:
        """The inputs as float32 `[samples, input_dim]`."""
        if isinstance(inputs, (tf.SparseTensor, tf.RaggedTensor)):
            raise ValueError(
                "LSHDense takes dense inputs. Received: "
                f"inputs of type {type(inputs).__name__}. Let the first layer of a "
                "model of sparse inputs be a `keras_lsh.SparseInputDense`, or convert "
                "them, e.g. with `tf.sparse.to_dense`."
            )
        inputs = tf.convert_to_tensor(inputs)
        if not (inputs.dtype.is_floating or inputs.dtype.is_integer):
            raise ValueError(
                "LSHDense takes numeric inputs. Received: "
                f"inputs of dtype {inputs.dtype.name}"
            )
        return tf.reshape(tf.cast(inputs, tf.float32), [-1, self.kernel.shape[1]])

    def _all_products(self, x: tf.Tensor) -> tf.Tensor:
        products = tf.matmul(x, ops.as_float32(self.kernel), transpose_b=True)
        return products if self.bias is None else products + self.bias

    def _largest_of_all_outputs(self, x: tf.Tensor) -> tf.Tensor:
        values, ids = tf.math.top_k(self._all_products(x), self.num_active)
        return ops.scatter_active(self._activate(values), ids, self.units)

    def _truly_largest(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """As `_active_values`, without the gradient and whatever the tables hold."""
        values, ids = largest(x, self.kernel, self.bias, self.num_active)
        order = tf.argsort(ids, axis=-1)
        return (
            tf.gather(values, order, batch_dims=1),
            tf.gather(ids, order, batch_dims=1),
        )

    def _active(
        self, x: tf.Tensor, training: bool | None
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
        """Pre-activations of the active neurons, which these are, and which were drawn.

        The last is None or bool `[samples, num_active]`. A drawn neuron whose product
        is as large as those of neurons that were found is not counted as drawn: it
        would have been among these.
        """
        forced = self._labels() if training and self.force_labels else None
        drawn = None
        if training and self.num_explored:
            drawn = self._explorer.select(x, None, None, self.num_explored)
            forced = drawn if forced is None else tf.concat([forced, drawn], axis=-1)
        if training and self._acts_on_rows:
            values, ids = self._active_values_of_rows(x, forced)
        else:
            values, ids = self._active_values(x, forced, training)
        if drawn is None:
            return values, ids, None
        by_chance = contained(ids, drawn)
        found = tf.logical_not(contained(ids, forced))
        least = tf.reduce_min(
            tf.where(found, values, values.dtype.max), axis=-1, keepdims=True
        )
        return values, ids, tf.logical_and(by_chance, values < least)

    def _active_of_batch(
        self, x: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
        """As `_active` in training, of all the neurons that some sample uses.

        Pre-activations `[samples, any]`, the neurons `[1, any]`, and of these, bool or
        None, the ones that are there by chance alone.
        """
        _, found = self._active_values(tf.stop_gradient(x), training=True)
        parts = [tf.reshape(found, [-1])]
        if self.force_labels:
            parts.append(tf.reshape(labels_for(self.name, self.units), [-1]))
        drawn = None
        if self.num_explored:
            drawn = self._explorer.select(x[:1], None, None, self.num_explored)
            parts.append(tf.reshape(drawn, [-1]))
        ids = tf.concat(parts, axis=0)
        ids, _ = tf.unique(tf.sort(tf.boolean_mask(ids, ids >= 0)))
        kernel, bias = self._used_rows(ids)
        values = ops.shared_matmul(x, kernel)
        ids = ids[tf.newaxis]
        if drawn is not None:
            others = tf.concat(parts[:-1], axis=0)[tf.newaxis]
            drawn = tf.logical_and(
                contained(ids, drawn),
                tf.logical_not(contained(ids, others)),
            )
        return values if bias is None else values + bias, ids, drawn

    def _labels(self) -> tf.Tensor:
        """The true classes, int32 `[batch, any]`, no more than there is room for."""
        labels = labels_for(self.name, self.units)
        counts = tf.reduce_sum(tf.cast(labels >= 0, tf.int32), axis=-1)
        room = self.num_active - self.num_explored

        def fit() -> Any:
            explored = f" less {self.num_explored} drawn at random"
            message = (
                f"A sample has more labels than layer {self.name!r} has active "
                f"neurons, active={self.num_active}"
                f"{explored if self.num_explored else ''}. Increase `active`."
            )
            return tf.debugging.assert_less_equal(counts, room, message)

        return checked(labels, fit)

    def _activate(self, values: tf.Tensor) -> tf.Tensor:
        return self.activation(tf.cast(values, self.compute_dtype))

    def _active_values(
        self,
        x: tf.Tensor,
        forced: tf.Tensor | None = None,
        training: bool | None = False,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Pre-activations `[samples, num_active]` and the neurons they belong to."""
        selector, count = self.inference_selector, self.num_candidates
        if training:
            selector, count = self._selector, self._num_training_candidates
        candidates = selector.select(
            tf.stop_gradient(x), self.kernel, self.bias, count, forced
        )
        keep = self.num_active if self.num_active < count else None
        return ops.active_matmul(
            *(x, self.kernel, self.bias, candidates, keep),
            neuron_keys=self._selector.neuron_keys,
            forced=forced,
        )

    @property
    def _acts_on_rows(self) -> bool:
        """Whether there is a regularizer or constraint."""
        return any(
            part is not None
            for part in (
                self.kernel_regularizer,
                self.bias_regularizer,
                self.kernel_constraint,
                self.bias_constraint,
            )
        )

    def _active_values_of_rows(
        self, x: tf.Tensor, forced: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """As `_active_values`, by way of the rows that some sample uses.

        Reading each of these rows once, as a tensor, lets regularizers and constraints
        see them, and makes the gradients of products and penalties one and row-sparse.
        """
        _, ids = self._active_values(tf.stop_gradient(x), forced, training=True)
        ids = tf.stop_gradient(ids)
        rows, _ = tf.unique(tf.sort(tf.reshape(ids, [-1])))
        places = tf.cast(tf.searchsorted(rows, tf.reshape(ids, [-1])), tf.int32)
        places = tf.reshape(places, tf.shape(ids))
        values, _ = ops.active_matmul(x, *self._used_rows(rows), places)
        return values, ids

    def _used_rows(self, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Rows of the kernel and of the bias, constrained; their penalties are added.

        Args:
            rows: int32 `[n]`, different ones.
        """
        weights: list[tf.Tensor | None] = []
        for weight, constraint, regularizer in (
            (self.kernel, self.kernel_constraint, self.kernel_regularizer),
            (self.bias, self.bias_constraint, self.bias_regularizer),
        ):
            if weight is None:
                weights.append(None)
                continue
            if constraint is not None:
                allowed = row_local.constrain(constraint, tf.gather(weight.value, rows))
                weight.value.scatter_update(tf.IndexedSlices(allowed, rows))
            used = _gather_rows(weight, rows)
            if regularizer is not None:
                self.add_loss(regularizer(used))
            weights.append(used)
        kernel, bias = weights
        return kernel, bias

    def _check_has_weights(self) -> None:
        if not self.built:
            raise ValueError(
                f"Layer {self.name!r} has no weights to hash yet. Build it first, by "
                "calling it on data or with `layer.build(input_shape)`."
            )

    @property
    def _is_for_inference(self) -> bool:
        """Whether the kernel is stored too coarsely for training."""
        return self.storage != "float32"

    def _check_is_for_training(self) -> None:
        if self._is_for_inference:
            raise ValueError(
                f"Layer {self.name!r} stores its kernel in {self.storage}, for "
                "inference alone: small updates would be lost. Train with "
                "storage='float32', and convert the trained model with "
                f"`keras_lsh.with_storage(model, {self.storage!r})`. Received: "
                "training=True"
            )

    def _refresh(self, moved_only: Any = False) -> dict[str, tf.Tensor]:
        for weight, constraint in (
            (self.kernel, self.kernel_constraint),
            (self.bias, self.bias_constraint),
        ):
            if self._is_for_inference or weight is None or constraint is None:
                continue
            weight.assign(row_local.constrain(constraint, weight.value))
        return self._follow_weights(moved_only)

    def _follow_weights(self, moved_only: Any = False) -> dict[str, tf.Tensor]:
        """Builds tables and sketch from the weights as they are."""
        found = {}
        if self._sketch is not None:
            found = self._sketch.refresh(self.kernel, self.bias)
        return found | self._selector.refresh(self.kernel, self.bias, moved_only)

    def _take_weights(self, other: "LSHDense") -> None:
        """Copies the weights of a layer that differs in storage or inference."""
        theirs = {weight.name: weight for weight in other.weights}
        for weight in self.weights:
            if weight.name in theirs:
                source = theirs[weight.name].value
                weight.assign(tf.cast(source, weight.dtype))
        if self._sketch is not None and other._sketch is None:
            self._sketch.refresh(self.kernel, self.bias)

    def _warn_if_never_rebuilt(self) -> None:
        has_tables = self.selection == "lsh" or self.inference == "sketch"
        if self._tables_are_kept_fresh or not has_tables or not self.trainable:
            return
        warnings.warn(
            "Training LSHDense layers whose hash tables nobody refreshes: they will "
            "find fewer and fewer of the right neurons as the weights move. Pass "
            "`callbacks=[keras_lsh.RebuildTables()]` to `fit`, or call "
            "`layer.rebuild_tables()` in your training loop.",
            stacklevel=2,
        )


def _transposed(initializer: Any) -> Any:
    """An initializer for `(units, input_dim)` that fills as Dense's kernel is filled.

    Fan-in and fan-out, and the order of the random numbers, are those of Dense, of
    float32: other dtypes get these values, rounded.
    """

    def initialize(shape: Any, dtype: Any = None) -> Any:
        values = initializer(tuple(shape)[::-1], dtype="float32")
        return keras.ops.cast(keras.ops.transpose(values), dtype)

    return initialize


def _gather_rows(weight: keras.Variable, rows: tf.Tensor) -> tf.Tensor:
    """Some rows of a weight."""
    if len(weight.shape) == 1:
        return tf.gather(weight.value, rows)
    # After `tf.gather`, TensorFlow copies a variable whole whenever it is read whole,
    # as it is by a rebuild of the tables.
    ones = tf.ones([tf.shape(rows)[0], 1])
    return ops.sparse_matmul(ones, rows[:, tf.newaxis], weight)


def _count_active(active: Any, units: int) -> int:
    expected = f"a fraction in (0, 1] or a count from 1 to units={units}"
    if is_integer(active):
        check_argument("active", active, 1 <= active <= units, expected)
        return int(active)
    is_fraction = isinstance(active, (float, np.floating)) and 0 < float(active) <= 1
    check_argument("active", active, is_fraction, expected)
    return max(1, round(float(active) * units))


def _count_explored(
    explore: Any, active: int, units: int, shared: bool, selection: str
) -> int:
    if shared:
        expected = f"an integer from 0 to units={units} with shared=True"
        allowed = is_integer(explore) and 0 <= explore <= units
    else:
        expected = "a number in [0, 1)"
        allowed = isinstance(explore, (int, float)) and 0 <= explore < 1
    allowed = allowed and (explore == 0 or selection != "random")
    check_argument(
        "explore", explore, allowed, f"{expected}, 0 with selection='random'"
    )
    return int(explore) if shared else round(explore * active)
