"""LazyAdam and SGD work out the gradient by a kernel row by row, and use each at once.

They do so where nothing comes between the gradient and the update; a gradient that
passes through `tf.identity` is made as a whole first. Both are the same, bit for bit.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lsh
from keras_lsh import ops

FUSED = {
    "LshResourceActiveRowAdam",
    "LshResourceActiveRowSubtract",
}


def make_optimizer(name):
    if name == "adam":
        return keras_lsh.LazyAdam(0.01)
    return keras.optimizers.SGD(0.1)


def make_step(optimizer_name, hidden, input_dim, zeros, change, batch=16):
    """A function that trains two layers for a step, their weights, and its graph."""
    rng = np.random.default_rng(1)
    weights = [
        keras.Variable(rng.normal(size=shape).astype("float32"))
        for shape in ([hidden, input_dim], [hidden], [5, hidden], [5])
    ]
    for weight in weights:
        ops.subtract_by_rows(weight)
    x = rng.normal(size=[batch, input_dim]).astype("float32")
    x *= rng.random(size=x.shape) >= zeros
    ids = [
        np.sort(np.stack([rng.permutation(n)[:2] for _ in range(batch)]))
        for n in (hidden, 5)
    ]
    ids = [tf.constant(i, tf.int32) for i in ids]
    optimizer = make_optimizer(optimizer_name)
    optimizer.build(weights)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            values, _ = ops.active_matmul(x, weights[0], weights[1], ids[0])
            between = ops.scatter_active(values, ids[0], hidden)
            values, _ = ops.active_matmul(between, weights[2], weights[3], ids[1])
            loss = tf.reduce_sum(values**2) / batch
        gradients = tape.gradient(loss, [w.value for w in weights])
        optimizer.apply([change(g) for g in gradients], weights)

    types = [op.type for op in step.get_concrete_function().graph.get_operations()]
    return step, weights, types


def pass_through(gradient):
    return tf.IndexedSlices(
        tf.identity(gradient.values), gradient.indices, gradient.dense_shape
    )


@pytest.mark.parametrize("zeros", [0.0, 0.97])
@pytest.mark.parametrize("input_dim", [7, 40, 90_000])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_same_as_the_whole_gradient(optimizer, input_dim, zeros):
    hidden = 40
    results = []
    for change in (lambda g: g, pass_through):
        step, weights, types = make_step(optimizer, hidden, input_dim, zeros, change)
        assert len(FUSED & set(types)) == (change is not pass_through)
        for _ in range(3):
            step()
        results.append([w.numpy() for w in weights])
    for fused, plain in zip(*results, strict=True):
        np.testing.assert_array_equal(fused, plain)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_no_gradient_of_the_kernel_is_made(optimizer):
    inputs = keras.Input([30])
    x = keras_lsh.LSHDense(64, "relu", active=4)(inputs)
    outputs = keras_lsh.LSHDense(50, active=10)(x)
    model = keras.Model(inputs, outputs)
    model.compile(make_optimizer(optimizer), "mse")
    rng = np.random.default_rng(2)
    x = rng.normal(size=[8, 30]).astype("float32")
    y = rng.normal(size=[8, 50]).astype("float32")
    concrete = tf.function(lambda x, y: model.train_step((x, y))).get_concrete_function(
        tf.constant(x), tf.constant(y)
    )
    types = [op.type for op in concrete.graph.get_operations()]
    assert len([t for t in types if t in FUSED]) == 2
    # Nothing that changes a variable, or is returned, asks for it.
    wanted = [op for op in concrete.graph.get_operations() if "Assign" in op.type]
    wanted += [op for op in concrete.graph.get_operations() if "Resource" in op.type]
    wanted += [output.op for output in concrete.outputs]
    seen = set()
    while wanted:
        op = wanted.pop()
        if op.name not in seen:
            seen.add(op.name)
            assert op.type != "LshActiveMatmulGradKernel"
            wanted += [t.op for t in op.inputs]
    assert any("LshActiveMatmulGradBias" in name for name in seen)


def test_clipping_sees_the_whole_gradient():
    optimizer = keras_lsh.LazyAdam(0.01, clipnorm=0.1)
    layer = keras_lsh.LSHDense(40, active=4)
    layer.build((None, 20))
    optimizer.build(layer.trainable_variables)

    @tf.function
    def clipped():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(tf.ones([3, 20])) ** 2)
        gradients = tape.gradient(loss, layer.trainable_variables)
        optimizer.apply(gradients, layer.trainable_variables)

    graph = clipped.get_concrete_function().graph
    assert not FUSED & {op.type for op in graph.get_operations()}


def test_a_layer_used_twice_adds_its_gradients():
    kernel = keras.Variable(np.ones([20, 6], "float32"))
    ids = tf.constant([[1, 3], [3, 4]])
    plain = tf.Variable(kernel.value)
    optimizer = keras_lsh.LazyAdam(0.01)
    optimizer.build([kernel])

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            first, _ = ops.active_matmul(tf.ones([2, 6]), kernel, None, ids)
            second, _ = ops.active_matmul(2 * tf.ones([2, 6]), kernel, None, ids + 1)
            loss = tf.reduce_sum(first) + tf.reduce_sum(second)
        optimizer.apply([tape.gradient(loss, kernel.value)], [kernel])

    step()
    moved = np.any(kernel.numpy() != plain.numpy(), axis=1)
    assert list(np.flatnonzero(moved)) == [1, 2, 3, 4, 5]


BAD_UPDATES = [
    ({"inputs": tf.ones([3, 4])}, "a row for each of the 2 samples"),
    ({"inputs": tf.ones([2, 5])}, "rows as long as those of `inputs`, 5"),
    ({"gradient": tf.ones([2, 3])}, "`gradient` must have the shape of `ids`"),
    ({"places": tf.constant([0, 2, 1, 99])}, "LshGroupByNeuron"),
    ({"starts": tf.constant([0, 1, 2, 3])}, "LshGroupByNeuron"),
    ({"neurons": tf.constant([0, 1, 2, 8])}, "LshGroupByNeuron"),
]


@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.parametrize(("bad", "said"), BAD_UPDATES)
def test_bad_input(adam, bad, said):
    library = ops.library()
    ids = tf.constant([[0, 3], [1, 2]])
    neurons, starts, places = library.lsh_group_by_neuron(ids, 8)
    arguments = {
        "gradient": tf.ones([2, 2]),
        "ids": ids,
        "neurons": neurons,
        "starts": starts,
        "places": places,
        "inputs": tf.ones([2, 4]),
    } | bad
    variables = [tf.Variable(tf.ones([8, 4])) for _ in range(3)]
    last_step = tf.Variable(tf.zeros([8], tf.int32))
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)) as caught:
        if adam:
            library.lsh_resource_active_row_adam(
                *(v.handle for v in (*variables, last_step)),
                **arguments,
                alpha=0.1,
                step=1,
                beta_1=0.9,
                beta_2=0.99,
                epsilon=1e-7,
            )
        else:
            library.lsh_resource_active_row_subtract(
                variables[0].handle, **arguments, scale=1.0
            )
    assert said in str(caught.value)
    for variable in variables:
        np.testing.assert_array_equal(variable, np.ones([8, 4]))
