"""The compiled ops, with the signatures of `keras_lsh.ops.reference`, and gradients."""

import functools
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lsh.ops import reference
from keras_lsh.ops._checks import (
    MAX_INT32,
    active_logits,
    as_tensor,
    as_weight,
    cell_queries,
    digit_codes,
    observation,
    require,
    require_integer,
    require_shape,
    rotation,
    rows_of,
    sketch_queries,
)
from keras_lsh.ops.library import library
from keras_lsh.ops.origin import kernel_gradient, scaled, scattered_ids
from keras_lsh.ops.variables import as_float32, variable_of, watched_handle

SCATTER_DTYPES = (tf.float32, tf.bfloat16, tf.float16)
KERNEL_DTYPES = (tf.float32, tf.bfloat16)


def matmul(a: Any, b: Any) -> tf.Tensor:
    a, b = as_tensor("a", a, tf.float32, 2), as_tensor("b", b, tf.float32, 2)
    require_shape("b", b, [a.shape[1], None], f"a tensor of {a.shape[1]} rows")
    return _ops().lsh_matmul(a, b)


def shared_matmul(inputs: Any, rows: Any) -> tf.Tensor:
    inputs = as_tensor("inputs", inputs, tf.float32, 2)
    rows = as_tensor("rows", rows, tf.float32, 2)
    require_shape("rows", rows, [None, inputs.shape[1]], "rows like the inputs")

    @tf.custom_gradient
    def product(x: tf.Tensor, w: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            of_rows = _ops().lsh_matmul(tf.transpose(upstream), x)
            return _ops().lsh_matmul(upstream, w), of_rows

        return _ops().lsh_matmul(x, tf.transpose(w)), gradient

    return product(inputs, rows)


def coordinates(
    vectors: Any, directions: Any, addend: Any = None, largest: float = math.inf
) -> tf.Tensor:
    vectors = as_tensor("vectors", vectors, tf.float32, 2)
    addend = np.zeros([0], "float32") if addend is None else addend
    return _ops().lsh_coordinates(
        vectors,
        as_tensor("directions", directions, tf.float32, 2),
        as_tensor("addend", addend, tf.float32, 1),
        largest=largest,
    )


def hash_codes(margins: Any, tables: int, bits: int) -> tf.Tensor:
    margins = as_tensor("margins", margins, tf.float32, 2)
    _require_code_shape(tables, bits)
    return _ops().lsh_hash_codes(margins, tables=tables, bits=bits)


def row_digests(rows: Any) -> tf.Tensor:
    return _ops().lsh_row_digests(as_tensor("rows", rows, tf.float32, 2))


def build_tables(codes: Any, buckets: int) -> tuple[tf.Tensor, tf.Tensor]:
    codes = as_tensor("codes", codes, tf.int32, 2)
    require_integer("buckets", buckets, 1, MAX_INT32 - 1, "a positive int32")
    offsets, ids = _ops().lsh_build_tables(codes, buckets=buckets)
    return offsets, ids


def probe_sequence(
    margins: Any, tables: int, bits: int, probes: int
) -> tuple[tf.Tensor, tf.Tensor]:
    margins = as_tensor("margins", margins, tf.float32, 2)
    _require_code_shape(tables, bits)
    require_integer("probes", probes, 1, 2**bits, f"an integer from 1 to {2**bits}")
    buckets, weights = _ops().lsh_probe_sequence(
        margins, tables=tables, bits=bits, probes=probes
    )
    return buckets, weights


def probe_digits(
    scores: Any, probes: int, negatives: bool = False
) -> tuple[tf.Tensor, tf.Tensor]:
    scores = as_tensor("scores", scores, tf.float32, 4)
    digit_codes(scores, probes, negatives)
    buckets, weights = _ops().lsh_probe_digits(
        scores, probes=probes, negatives=negatives
    )
    return buckets, weights


def select_active(
    buckets: Any,
    weights: Any,
    offsets: Any,
    table_ids: Any,
    forced: Any,
    fill_seeds: Any,
    active: int,
) -> tf.Tensor:
    require_integer("active", active, 1, MAX_INT32, "a positive integer")
    return _ops().lsh_select_active(
        as_tensor("buckets", buckets, tf.int32, 2),
        as_tensor("weights", weights, tf.int32, 2),
        as_tensor("offsets", offsets, tf.int32, 2),
        as_tensor("table_ids", table_ids, tf.int32, 2),
        as_tensor("forced", forced, tf.int32, 2),
        as_tensor("fill_seeds", fill_seeds, tf.int32, 1),
        active=active,
    )


def nearest_cells(
    points: Any,
    centroids: Any,
    middles: Any = None,
    group_of: Any = None,
    groups: int = 0,
) -> tf.Tensor:
    require_integer("groups", groups, 0, MAX_INT32, "0 or more")
    if groups == 0:
        middles, group_of = np.zeros([0, 0, 0], "float32"), np.zeros([0, 0], "int32")
    return _ops().lsh_nearest_cells(
        as_tensor("points", points, tf.float32, 2),
        as_tensor("centroids", centroids, tf.float32, 3),
        as_tensor("middles", middles, tf.float32, 3),
        as_tensor("group_of", group_of, tf.int32, 2),
        groups=groups,
    )


def cell_means(points: Any, members: Any, cells: int) -> tuple[tf.Tensor, tf.Tensor]:
    require_integer("cells", cells, 1, MAX_INT32, "a positive integer")
    means, sizes = _ops().lsh_cell_means(
        as_tensor("points", points, tf.float32, 2),
        as_tensor("members", members, tf.int32, 2),
        cells=cells,
    )
    return means, sizes


def cell_worth(
    inputs: Any,
    center: Any,
    basis: Any,
    scales: Any,
    centroids: Any,
    largest: float = math.inf,
) -> tf.Tensor:
    tensors = cell_queries(inputs, center, basis, scales, centroids)
    return _ops().lsh_cell_worth(*tensors, largest=largest)


def rank_cells(worth: Any) -> tuple[tf.Tensor, tf.Tensor]:
    buckets, weights = _ops().lsh_rank_cells(as_tensor("worth", worth, tf.float32, 2))
    return buckets, weights


def select_from_cells(
    inputs: Any,
    center: Any,
    basis: Any,
    scales: Any,
    centroids: Any,
    offsets: Any,
    table_ids: Any,
    forced: Any,
    active: int,
    largest: float = math.inf,
) -> tf.Tensor:
    require_integer("active", active, 1, MAX_INT32, "a positive integer")
    return _ops().lsh_select_from_cells(
        *cell_queries(inputs, center, basis, scales, centroids),
        as_tensor("offsets", offsets, tf.int32, 2),
        as_tensor("table_ids", table_ids, tf.int32, 2),
        as_tensor("forced", forced, tf.int32, 2),
        active=active,
        largest=largest,
    )


def observe_inputs(
    inputs: Any,
    center: Any,
    basis: Any,
    mean: Any,
    moments: Any,
    count: Any,
    rows: int,
    largest: float,
    window: float,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    tensors = observation(inputs, center, basis, mean, moments, count, rows)
    options = {"rows": rows, "largest": largest, "window": window}
    new_mean, new_moments, new_count = _ops().lsh_observe_inputs(*tensors, **options)
    return new_mean, new_moments, new_count


def rotate(vectors: Any, signs: Any) -> tf.Tensor:
    vectors = as_tensor("vectors", vectors, tf.float32, 2)
    return _ops().lsh_rotate(vectors, rotation("vectors", vectors, signs))


def sign_sketch(kernel: Any, signs: Any) -> tuple[tf.Tensor, tf.Tensor]:
    kernel = as_weight("kernel", kernel, 2, *KERNEL_DTYPES)
    codes, scales = _ops().lsh_sign_sketch(kernel, rotation("kernel", kernel, signs))
    return codes, scales


def select_by_sketch(
    rotated: Any, codes: Any, scales: Any, bias: Any, count: int
) -> tf.Tensor:
    tensors = sketch_queries(rotated, codes, scales, bias, count)
    return _ops().lsh_select_by_sketch(*tensors, count=count)


def active_matmul(
    inputs: Any,
    kernel: Any,
    bias: Any,
    ids: Any,
    keep: int | None = None,
    neuron_keys: Any = None,
    forced: Any = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    inputs = as_tensor("inputs", inputs, tf.float32, 2)
    ids = as_tensor("ids", ids, tf.int32, 2)
    if keep is not None:
        most = MAX_INT32 if ids.shape[1] is None else ids.shape[1]
        expected = f"an integer from 1 to {most}, the ids of a sample"
        require_integer("keep", keep, 1, most, expected)
    weights = [kernel] if bias is None else [kernel, bias]
    variables = [variable_of(weight) for weight in weights]
    if all(variable is not None for variable in variables):
        dtype = variables[0].dtype
        expected = "a variable of dtype float32 or bfloat16"
        require(dtype in KERNEL_DTYPES, "kernel", expected, kernel)
        op = functools.partial(_ops().lsh_resource_active_matmul, T=dtype)
        weights = [watched_handle(variable) for variable in variables]
    else:
        op = _ops().lsh_active_matmul
        weights = [as_weight("kernel", kernel, 2, *KERNEL_DTYPES)]
        if bias is not None:
            weights.append(as_weight("bias", bias, 1))
    keys = always = tf.zeros([0, 0], tf.int32)
    if neuron_keys is not None:
        keys = as_tensor("neuron_keys", neuron_keys, tf.int32, 2)
    if forced is not None:
        always = as_tensor("forced", forced, tf.int32, 2)
    values, active_ids = op(
        *(inputs, ids, always, keys, weights[0], weights[1:]), keep=keep or 0
    )
    return values, active_ids


def scatter_active(values: Any, ids: Any, units: int) -> tf.Tensor:
    require_integer("units", units, 1, MAX_INT32, "a positive integer")
    ids = as_tensor("ids", ids, tf.int32, 2)
    values = tf.convert_to_tensor(values)
    names = [dtype.name for dtype in SCATTER_DTYPES]
    expected = f"a tensor of dtype {', '.join(names)}"
    require(values.dtype in SCATTER_DTYPES, "values", expected, values)
    require_shape("values", values, ids.shape, f"the shape of `ids`, {ids.shape}")
    return _ops().lsh_scatter_active(values, ids, units=units)


def active_softmax_crossentropy(
    values: Any,
    ids: Any,
    labels: Any,
    units: Any,
    drawn: Any = None,
    label_smoothing: float = 0.0,
) -> tf.Tensor:
    values, ids, labels, units, *by_chance = active_logits(
        values, ids, labels, units, drawn, label_smoothing
    )
    if values.dtype != tf.float32:
        return reference.active_softmax_crossentropy(
            values, ids, labels, units, drawn, label_smoothing
        )
    nothing = np.zeros([0, 0], bool)
    losses, _, _ = _ops().lsh_active_softmax_crossentropy(
        *(values, ids, labels, by_chance[0] if by_chance else nothing, units),
        label_smoothing=label_smoothing,
    )
    return losses


def sparse_matmul(values: Any, ids: Any, kernel: Any) -> tf.Tensor:
    # It is what the gradient of active_matmul by its inputs does, and not only there.
    values = as_tensor("values", values, tf.float32, 2)
    ids = as_tensor("ids", ids, tf.int32, 2)
    require_shape("values", values, ids.shape, f"the shape of `ids`, {ids.shape}")
    variable = variable_of(kernel)
    if variable is None:
        op = _ops().lsh_active_matmul_grad_input
        kernel = as_weight("kernel", kernel, 2)
    else:
        op = _ops().lsh_resource_active_matmul_grad_input
        kernel = watched_handle(variable)
    # The op groups the ids by itself, if it needs that.
    groups = [tf.zeros([0], tf.int32)] * 3
    return op(values, ids, *groups, kernel, columns=tf.zeros([0, 0], tf.int32))


def row_adam(
    variable: Any,
    momentum: Any,
    velocity: Any,
    last_step: Any,
    rows: Any,
    gradient: Any,
    alpha: Any,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    step: Any,
) -> None:
    variable, momentum, velocity, last_step = (
        v.value if isinstance(v, keras.Variable) else v
        for v in (variable, momentum, velocity, last_step)
    )
    if variable.dtype != tf.float32:
        reference.row_adam(
            *(variable, momentum, velocity, last_step, rows, gradient),
            *(alpha, beta_1, beta_2, epsilon, step),
        )
        return
    rows = as_tensor("rows", rows, tf.int32, 1)
    gradient = as_tensor("gradient", gradient, tf.float32, variable.shape.rank)
    made_of = kernel_gradient(rows, gradient)
    if made_of is None:
        op, of_rows = _ops().lsh_resource_row_adam, [rows, gradient]
    else:
        op, of_rows = _ops().lsh_resource_active_row_adam, made_of
    op(
        *(v.handle for v in (variable, momentum, velocity, last_step)),
        *of_rows,
        tf.cast(alpha, tf.float32),
        tf.cast(step, tf.int64),
        *(tf.constant(beta, tf.float64) for beta in (beta_1, beta_2)),
        epsilon=epsilon,
    )


def subtract_rows(variable: Any, rows: Any, values: Any) -> None:
    variable = variable.value if isinstance(variable, keras.Variable) else variable
    if variable.dtype != tf.float32:
        reference.subtract_rows(variable, rows, values)
        return
    rows, values = rows_of(variable, rows, values)
    factor, scale = scaled(values)
    made_of = kernel_gradient(rows, factor)
    if made_of is not None:
        _ops().lsh_resource_active_row_subtract(variable.handle, *made_of, scale)
        return
    _ops().lsh_resource_row_subtract(variable.handle, rows, values)


def _require_code_shape(tables: int, bits: int) -> None:
    require_integer("tables", tables, 1, MAX_INT32, "a positive integer")
    most = reference.MAX_BITS
    require_integer("bits", bits, 1, most, f"an integer from 1 to {most}")


@functools.cache
def _ops() -> Any:
    """The op library, with the gradients of its ops registered."""
    ops = library()

    def needs_first_input(op: Any) -> bool:
        """Whether the gradient by the first input is asked for.

        That of a model's own inputs is not, and would be a third of the work.
        """
        return 0 not in (getattr(op, "skip_input_indices", None) or ())

    def gradients_by_rows(
        gradient: tf.Tensor,
        ids: Any,
        groups: Any,
        inputs: Any,
        shape: tf.Tensor,
        dtype: tf.DType = tf.float32,
    ) -> tf.IndexedSlices:
        """By the kernel, of this shape and dtype; its rows are unique and ascend."""
        values = ops.lsh_active_matmul_grad_kernel(gradient, ids, *groups, inputs)
        return tf.IndexedSlices(tf.cast(values, dtype), groups[0], shape)

    def active_matmul_gradients(
        op: Any, gradient: tf.Tensor, kernel: Any, grad_input: Any, shape: tf.Tensor
    ) -> list[Any]:
        """By inputs, then (ids, forced and keys have none) by kernel and bias."""
        inputs, ids, dtype = op.inputs[0], op.outputs[1], op.get_attr("T")
        groups = ops.lsh_group_by_neuron(ids, tf.cast(shape[0], tf.int64))
        by_inputs = None
        if needs_first_input(op):
            columns = scattered_ids(inputs)
            if columns is None:
                columns = tf.zeros([0, 0], tf.int32)
            by_inputs = grad_input(gradient, ids, *groups, kernel, columns)
        by_weights = [gradients_by_rows(gradient, ids, groups, inputs, shape, dtype)]
        if op.get_attr("num_bias"):
            by_bias = ops.lsh_active_matmul_grad_bias(gradient, ids, *groups)
            by_weights.append(tf.IndexedSlices(by_bias, groups[0], shape[:1]))
        return [by_inputs, None, None, None, *by_weights]

    @tf.RegisterGradient("LshActiveMatmul")
    def _(op: Any, gradient: tf.Tensor, _: Any) -> list[Any]:
        kernel, shape = as_float32(op.inputs[4]), tf.shape(op.inputs[4])
        by_inputs = ops.lsh_active_matmul_grad_input
        return active_matmul_gradients(op, gradient, kernel, by_inputs, shape)

    @tf.RegisterGradient("LshResourceActiveMatmul")
    def _(op: Any, gradient: tf.Tensor, _: Any) -> list[Any]:
        kernel, dtype = op.inputs[4], op.get_attr("T")
        shape = tf.raw_ops.VariableShape(input=kernel)
        by_inputs = ops.lsh_resource_active_matmul_grad_input
        if dtype != tf.float32 and needs_first_input(op):
            # What is stored so is not trained: this need not be fast.
            kernel = as_float32(tf.raw_ops.ReadVariableOp(resource=kernel, dtype=dtype))
            by_inputs = ops.lsh_active_matmul_grad_input
        return active_matmul_gradients(op, gradient, kernel, by_inputs, shape)

    def sparse_matmul_gradients(
        op: Any, gradient: tf.Tensor, matmul: Any, shape: tf.Tensor
    ) -> list[Any]:
        """By values and kernel; `matmul` takes the kernel's form."""
        values, ids, kernel = op.inputs[0], op.inputs[1], op.inputs[5]
        # Not while the ops of the forward pass want all threads.
        with tf.control_dependencies([gradient]):
            groups = ops.lsh_group_by_neuron(ids, tf.cast(shape[0], tf.int64))
        by_values = None
        if needs_first_input(op):
            nothing = tf.zeros([0, 0], tf.int32)
            by_values, _ = matmul(
                *(gradient, ids),
                forced=nothing,
                neuron_keys=nothing,
                kernel=kernel,
                bias=[],
            )
        by_kernel = gradients_by_rows(values, ids, groups, gradient, shape)
        return [by_values, None, None, None, None, by_kernel, None]

    @tf.RegisterGradient("LshActiveMatmulGradInput")
    def _(op: Any, gradient: tf.Tensor) -> list[Any]:
        shape = tf.shape(op.inputs[5])
        return sparse_matmul_gradients(op, gradient, ops.lsh_active_matmul, shape)

    @tf.RegisterGradient("LshResourceActiveMatmulGradInput")
    def _(op: Any, gradient: tf.Tensor) -> list[Any]:
        shape = tf.raw_ops.VariableShape(input=op.inputs[5])
        return sparse_matmul_gradients(
            op, gradient, ops.lsh_resource_active_matmul, shape
        )

    @tf.RegisterGradient("LshScatterActive")
    def _(op: Any, gradient: tf.Tensor) -> list[Any]:
        return [ops.lsh_gather_active(gradient, op.inputs[1]), None]

    def softmax_gradient(
        gradient: tf.Tensor, op: Any, first: int, **options: Any
    ) -> tf.Tensor:
        """By values; `first` inputs of the op precede these."""
        by_sample = op.outputs[1:] if first == 0 else op.inputs[1:first]
        return ops.lsh_active_softmax_crossentropy_grad(
            *(gradient, *by_sample, *op.inputs[first:]),
            label_smoothing=op.get_attr("label_smoothing"),
            **options,
        )

    @tf.RegisterGradient("LshActiveSoftmaxCrossentropy")
    def _(op: Any, gradient: tf.Tensor, *_: Any) -> list[Any]:
        return [softmax_gradient(gradient, op, 0), None, None, None, None]

    @tf.RegisterGradient("LshActiveSoftmaxCrossentropyGrad")
    def _(op: Any, gradient: tf.Tensor) -> list[Any]:
        """By upstream and values, both of which gradients may need gradients again."""
        upstream, only = op.inputs[0], op.get_attr("softmax_only")
        ones = tf.ones_like(upstream)
        each = softmax_gradient(ones, op, 3, softmax_only=only)
        by_upstream = tf.reduce_sum(gradient * each, axis=-1)
        softmax = softmax_gradient(ones, op, 3, softmax_only=True)
        mean = tf.reduce_sum(gradient * softmax, axis=-1, keepdims=True)
        by_values = upstream[:, tf.newaxis] * softmax * (gradient - mean)
        # `largest` and `totals` are of the values, and accounted for.
        return [by_upstream, None, None, by_values, None, None, None, None]

    return ops
