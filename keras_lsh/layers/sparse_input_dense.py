"""A Dense layer for sparse inputs."""

from typing import Any

import keras
import tensorflow as tf

from keras_lsh import ops
from keras_lsh._arguments import check_argument, is_integer
from keras_lsh.layers import row_local
from keras_lsh.ops._checks import MAX_INT32, checked

_NO_ID = -1


@keras.saving.register_keras_serializable(package="keras_lsh")
class SparseInputDense(keras.layers.Layer):
    """A densely-connected layer for sparse inputs: the first of a model.

    `SparseInputDense` implements `output = activation(dot(input, kernel) + bias)`, as
    `keras.layers.Dense` does, whose weights it has. Of the kernel it reads only the
    rows of the features that occur in the batch, in place; the kernel's gradient is a
    `tf.IndexedSlices` of these rows, each once, ascending, so that `keras_lsh.LazyAdam`
    and plain SGD update them and no others. Neither the input nor the gradient is ever
    dense, and time does not grow with `input_dim`.

    It helps where there are many features and few of them in a sample: tens of
    thousands and hundreds. Dense inputs are taken too, and then it is a Dense layer.
    An optimizer that has no row-sparse update (Keras' Adam) takes more time than the
    layer saves.

    Args:
        units: Positive integer, dimensionality of the output space.
        activation: Activation function. None: linear.
        use_bias: Whether the layer has a bias.
        kernel_initializer: Initializer of the kernel, of shape `(input_dim, units)`.
        bias_initializer: Initializer of the bias.
        kernel_regularizer: L1, L2 or L1L2, applied to the rows of the features that
            occur in the batch, while training.
        bias_regularizer: Regularizer of the bias.
        activity_regularizer: Regularizer of the output.
        kernel_constraint: None; another one would write the whole kernel at every step.
        bias_constraint: Constraint of the bias.

    Input shape:
        `(batch_size, input_dim)`: a `tf.SparseTensor` with its indices in row-major
        order, each once, or a dense tensor. `fit`, `evaluate` and `predict` take
        matrices of SciPy too, and `tf.data.Dataset`s of sparse tensors. Give the model
        a `keras.Input((input_dim,), sparse=True)`: without, Keras makes a sparse batch
        dense; in a graph the layer undoes that, but not with `run_eagerly=True` or in
        an eager call `model(x)`.

    Output shape:
        `(batch_size, units)`, dense.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((135_909,), sparse=True),
    ...     keras_lsh.SparseInputDense(128, activation="relu"),
    ...     keras.layers.Dense(10),
    ... ])
    >>> model.compile(keras_lsh.LazyAdam(1e-3), "mse")
    >>> model.fit(scipy_csr_matrix, targets)

    Raises:
        tf.errors.InvalidArgumentError: When it runs, if the indices of a sparse input
            are unsorted, repeated or out of range, or if its width is not `input_dim`.

    The weights are kept in float32 under every dtype policy.
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
        **kwargs: Any,
    ):
        check_argument(
            "units", units, is_integer(units) and units > 0, "a positive integer"
        )
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        if self.compute_dtype == "float64":
            raise ValueError(
                "SparseInputDense computes in float32. Received: "
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
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        check_argument(
            "kernel_constraint",
            kernel_constraint,
            kernel_constraint is None,
            "None, because only the rows of the features in a batch are seen in a "
            "step; use `keras.layers.Dense` for a constraint",
        )
        self.bias_constraint = keras.constraints.get(bias_constraint)

        self.input_spec = keras.layers.InputSpec(ndim=2)
        self.supports_jit = False  # XLA cannot compile the op library's ops

    def build(self, input_shape: Any) -> None:
        input_dim = input_shape[-1]
        if input_dim is None:
            raise ValueError(
                "The last axis of the inputs of SparseInputDense must be defined. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        check_argument(
            "input_dim", input_dim, input_dim <= MAX_INT32, f"at most {MAX_INT32}"
        )
        # The regularizer acts on rows, in `call`: given to Keras, it would read the
        # whole kernel at every step, and make its gradient dense.
        self.kernel = self.add_weight(
            name="kernel",
            shape=(input_dim, self.units),
            initializer=self.kernel_initializer,
            dtype="float32",
            autocast=False,
        )
        ops.subtract_by_rows(self.kernel)
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(self.units,),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
                dtype="float32",
                autocast=False,
            )
        self.input_spec = keras.layers.InputSpec(ndim=2, axes={-1: input_dim})
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        x = _as_it_was(_numeric(inputs))
        if isinstance(x, tf.SparseTensor):
            outputs = self._sparse_product(x, training)
        else:
            outputs = self._dense_product(x, training)
        if self.bias is not None:
            outputs += self.bias
        outputs.set_shape([inputs.shape[0], self.units])
        return self.activation(tf.cast(outputs, self.compute_dtype))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.units)

    def compute_output_spec(
        self, inputs: Any, training: bool | None = None
    ) -> keras.KerasTensor:
        return keras.KerasTensor(
            self.compute_output_shape(inputs.shape), dtype=self.compute_dtype
        )

    def get_config(self) -> dict[str, Any]:
        serialized = {"activation": keras.activations.serialize(self.activation)}
        for name in ("kernel_initializer", "bias_initializer"):
            serialized[name] = keras.initializers.serialize(getattr(self, name))
        for name in ("kernel_regularizer", "bias_regularizer", "activity_regularizer"):
            serialized[name] = keras.regularizers.serialize(getattr(self, name))
        return {
            **super().get_config(),
            "units": self.units,
            "use_bias": self.use_bias,
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
            **serialized,
        }

    def _dense_product(self, x: tf.Tensor, training: bool | None) -> tf.Tensor:
        kernel = tf.convert_to_tensor(self.kernel)
        if training and self.kernel_regularizer is not None:
            self.add_loss(self.kernel_regularizer(kernel))
        return tf.matmul(tf.cast(x, tf.float32), kernel)

    def _sparse_product(self, x: tf.SparseTensor, training: bool | None) -> tf.Tensor:
        x = _well_formed(x, self.kernel.shape[0])
        values, ids = _side_by_side(tf.cast(x, tf.float32))
        if not training or self.kernel_regularizer is None:
            return ops.sparse_matmul(values, ids, self.kernel)
        # By way of the rows in use, each read once as a tensor: the gradients of
        # products and penalty are added up there, and are row-sparse outside of it.
        rows, _ = tf.unique(tf.sort(tf.cast(x.indices[:, 1], tf.int32)))
        used = tf.gather(self.kernel.value, rows)
        self.add_loss(self.kernel_regularizer(used))
        places = tf.searchsorted(rows, tf.reshape(ids, [-1]))
        places = tf.where(ids >= 0, tf.reshape(places, tf.shape(ids)), ids)
        return ops.sparse_matmul(values, places, used)


def _numeric(inputs: Any) -> Any:
    """The inputs as a tensor or SparseTensor of numbers, or a ValueError."""
    if isinstance(inputs, tf.RaggedTensor):
        raise ValueError(
            "SparseInputDense takes sparse or dense inputs. Received: inputs of type "
            "RaggedTensor. Give the features as the indices of a `tf.SparseTensor`."
        )
    if not isinstance(inputs, tf.SparseTensor):
        inputs = tf.convert_to_tensor(inputs)
    if not (inputs.dtype.is_floating or inputs.dtype.is_integer):
        raise ValueError(
            "SparseInputDense takes numeric inputs. Received: "
            f"inputs of dtype {inputs.dtype.name}"
        )
    return inputs


def _as_it_was(x: Any) -> Any:
    """The SparseTensor that a tensor of a graph was made from, or the tensor.

    Keras makes a sparse batch dense where a model has no `keras.Input(sparse=True)`, as
    a Sequential model without any Input never has. Nobody uses the dense tensor then,
    and the graph prunes it.
    """
    operation = getattr(x, "op", None)  # an eager tensor has none
    while operation is not None and operation.type == "Cast" and x.dtype.is_floating:
        if not operation.inputs[0].dtype.is_floating:
            return x
        operation = operation.inputs[0].op
    if operation is None or operation.type != "SparseToDense":
        return x
    indices, shape, values, default = operation.inputs
    if tf.get_static_value(default) != 0:
        return x
    shape, indices = tf.cast(shape, tf.int64), tf.cast(indices, tf.int64)
    return tf.SparseTensor(indices, tf.cast(values, x.dtype), shape)


def _well_formed(x: tf.SparseTensor, input_dim: int) -> tf.SparseTensor:
    """The sparse tensor, after checks of its width and its indices."""
    width = x.dense_shape[1]

    def check() -> Any:
        rows, columns = tf.unstack(x.indices, axis=1)
        number = rows * width + columns
        # As unsigned numbers, negative ones are large. A single sample is served by few
        # ops, and each counts: rows and columns are compared together.
        unsigned = tf.bitcast(x.indices, tf.uint64)
        valid = (
            (width == input_dim)
            & tf.reduce_all(unsigned < tf.cast(x.dense_shape, tf.uint64))
            & tf.reduce_all(number[1:] > number[:-1])
        )
        # As long as all is well, that is all.
        return tf.cond(valid, tf.no_op, lambda: _explain(x, input_dim))

    return tf.SparseTensor(checked(x.indices, check), x.values, x.dense_shape)


def _explain(x: tf.SparseTensor, input_dim: int) -> Any:
    """An assertion that fails and says what is wrong with a sparse input."""
    indices = x.indices
    outside = tf.reduce_any((indices < 0) | (indices >= x.dense_shape), axis=1)
    row_step, column_step = tf.unstack(indices[1:] - indices[:-1], axis=1)
    unsorted = (row_step < 0) | ((row_step == 0) & (column_step < 0))
    repeated = (row_step == 0) & (column_step == 0)

    def fault(where: tf.Tensor, what: tf.Tensor, message: str) -> tf.Tensor:
        first = tf.boolean_mask(what, where)[:1]
        message = tf.strings.format(message, tf.reshape(first, [-1]))
        return tf.where(tf.reduce_any(where), message, "")

    message = tf.strings.join(
        [
            "SparseInputDense received an invalid SparseTensor, expected "
            f"{input_dim} columns, and indices in row-major order, each once. "
            "Received:",
            fault(
                *(x.dense_shape[1:] != input_dim, x.dense_shape[tf.newaxis]),
                " dense_shape={}.",
            ),
            fault(outside, indices, " Index {} is out of range."),
            fault(
                *(unsorted, indices[1:]),
                " Index {} comes after a larger one: use `tf.sparse.reorder`, or "
                "`sort_indices` of a SciPy matrix.",
            ),
            fault(
                *(repeated, indices[1:]),
                " Index {} is repeated: add its values up, e.g. with `sum_duplicates` "
                "of a SciPy matrix.",
            ),
        ]
    )
    return tf.debugging.Assert(False, [message])


def _side_by_side(x: tf.SparseTensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The values of each sample, `[batch, most]`, and their columns, int32.

    Where a sample has fewer than the most, 0 and -1 at the end.
    """
    rows, columns = tf.unstack(x.indices, axis=1)

    def padded(flat: tf.Tensor, default: Any) -> tf.Tensor:
        # The indices are checked already, and that they ascend.
        ragged = tf.RaggedTensor.from_value_rowids(
            flat, rows, nrows=x.dense_shape[0], validate=False
        )
        return ragged.to_tensor(default)

    return padded(x.values, 0.0), padded(tf.cast(columns, tf.int32), _NO_ID)
