"""Gradients of the compiled ops, against dense gradients in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lsh.ops import compiled, tensor_form


def eagerly(function):
    return function


@pytest.fixture(params=[eagerly, tf.function])
def mode(request):
    return request.param


class Case:
    """Random arguments of active_matmul, and weights of the values in a loss."""

    def __init__(self, seed, batch=6, units=30, input_dim=7, active=8, padding=True,
                 keep=None, use_bias=True):  # fmt: skip
        rng = np.random.default_rng(seed)
        self.inputs = rng.standard_normal([batch, input_dim]).astype(np.float32)
        self.kernel = rng.standard_normal([units, input_dim]).astype(np.float32)
        self.bias = rng.standard_normal(units).astype(np.float32) if use_bias else None
        self.ids = np.full([batch, active], -1, np.int32)
        for row in self.ids:
            n = rng.integers(0, active + 1) if padding else active
            row[:n] = np.sort(rng.choice(units, n, replace=False))
        self.weights = rng.standard_normal([batch, units]).astype(np.float32)
        self.keep = keep
        _, kept = compiled.active_matmul(
            self.inputs, self.kernel, self.bias, self.ids, keep
        )
        self.kept = kept.numpy()

    def loss(self, inputs, kernel, bias):
        """Sum of sin(value) * weight, whose gradient depends on the values."""
        values, ids = compiled.active_matmul(inputs, kernel, bias, self.ids, self.keep)
        dense = compiled.scatter_active(values, ids, len(self.kernel))
        return tf.reduce_sum(tf.sin(dense) * self.weights)

    def dense(self, dtype):
        """Gradients by inputs, kernel and bias of the same loss, by masks."""
        mask = np.zeros(self.weights.shape, bool)
        samples, slots = np.nonzero(self.kept >= 0)
        mask[samples, self.kept[samples, slots]] = True
        inputs, kernel = self.inputs.astype(dtype), self.kernel.astype(dtype)
        products = inputs @ kernel.T
        if self.bias is not None:
            products += self.bias
        by_products = np.where(mask, np.cos(products) * self.weights, dtype(0))
        return (
            added_up(by_products[:, :, None] * kernel, axis=1),
            added_up(by_products[:, :, None] * inputs[:, None], axis=0),
            added_up(by_products, axis=0),
        )

    def rows(self):
        return np.unique(self.kept[self.kept >= 0])


def added_up(terms, axis):
    """Their sum, one after the other (NumPy's own sums add in pairs)."""
    if terms.shape[axis] == 0:
        return terms.sum(axis)
    return np.take(np.cumsum(terms, axis), -1, axis)


def assert_as_precise(actual, exact, plain):
    """The error against float64 is at most twice that of plain float32.

    Or a unit in the last place of the largest number: of a single product that is what
    the roundings of the two values around it may cost.
    """
    assert actual.shape == exact.shape
    if exact.size:
        error, allowed = (np.abs(x - exact).max() for x in (actual, plain))
        ulp = np.abs(exact).max() * np.finfo(np.float32).eps
        assert error <= 2 * allowed + ulp


def assert_right(case, gradients):
    exact, plain = case.dense(np.float64), case.dense(np.float32)
    assert len(gradients) == (2 if case.bias is None else 3)
    for gradient, e, p in zip(gradients, exact, plain, strict=False):
        actual = tf.convert_to_tensor(gradient).numpy()
        assert_as_precise(actual, e, p)


def assert_row_sparse(case, gradients):
    for gradient in gradients:
        assert isinstance(gradient, tf.IndexedSlices)
        np.testing.assert_array_equal(gradient.indices, case.rows())
        assert gradient.values.shape[0] == len(case.rows())


CASES = [
    {},
    {"padding": False},
    {"keep": 3},
    {"keep": 3, "padding": False},
    {"keep": 8},
    {"batch": 0},
    {"batch": 0, "keep": 2},
    {"active": 0},
    {"units": 8, "padding": False},  # every unit is active: as Dense
    {"units": 1, "active": 1, "batch": 40},
    {"input_dim": 133, "batch": 70, "units": 20, "active": 15},
]

FORMS = {
    "tensor": tf.constant,
    "tf.Variable": tf.Variable,
    "keras.Variable": keras.Variable,
}


def value_of(weight):
    return weight.value if isinstance(weight, keras.Variable) else weight


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", CASES, ids=str)
def test_active_matmul(mode, options, form, use_bias):
    case = Case(0, use_bias=use_bias, **options)
    inputs = tf.constant(case.inputs)
    weights = [None if w is None else FORMS[form](w) for w in (case.kernel, case.bias)]
    sources = [inputs, *(value_of(w) for w in weights if w is not None)]

    @mode
    def gradients():
        with tf.GradientTape() as tape:
            tape.watch(sources if form == "tensor" else inputs)
            loss = case.loss(inputs, *weights)
        return tape.gradient(loss, sources)

    actual = gradients()
    assert_right(case, actual)
    assert_row_sparse(case, actual[1:])


def test_variables_as_tensors(mode):
    case = Case(1)
    kernel, bias = tf.Variable(case.kernel), tf.Variable(case.bias)
    inputs = tf.Variable(case.inputs)

    @mode
    def gradients():
        with tensor_form(), tf.GradientTape() as tape:
            loss = case.loss(inputs, kernel, bias)
        return tape.gradient(loss, [inputs, kernel, bias])

    assert_right(case, gradients())


def test_scatter_active_alone(mode):
    case = Case(2, padding=True)
    values = tf.random.stateless_normal(case.ids.shape, [0, 1])

    @mode
    def gradient(values):
        with tf.GradientTape() as tape:
            tape.watch(values)
            dense = compiled.scatter_active(values, case.ids, 30)
            loss = tf.reduce_sum(dense * case.weights)
        return tape.gradient(loss, values)

    expected = np.take_along_axis(case.weights, np.maximum(case.ids, 0), axis=1)
    expected[case.ids < 0] = 0
    np.testing.assert_array_equal(gradient(values), expected)


def test_numerically():
    case = Case(3, batch=3, units=5, input_dim=4, active=3)

    def loss(inputs, kernel, bias):
        return case.loss(inputs, kernel, bias)

    case.weights = case.weights[:, :5]
    arguments = [tf.constant(a) for a in (case.inputs, case.kernel, case.bias)]
    analytic, numeric = tf.test.compute_gradient(loss, arguments)
    for a, n in zip(analytic, numeric, strict=True):
        np.testing.assert_allclose(a, n, atol=5e-3)


def test_a_variable_in_copy_on_read_mode(mode):
    case = Case(4)
    kernel, bias = tf.Variable(case.kernel), tf.Variable(case.bias)
    # TensorFlow's sparse updates switch the mode on, for good.
    for variable in (kernel, bias):
        ones = tf.ones([1, *variable.shape[1:]])
        variable.scatter_add(tf.IndexedSlices(ones, [2]))
    case.kernel[2] += 1
    case.bias[2] += 1
    held = kernel.read_value()

    @mode
    def gradients():
        with tf.GradientTape() as tape:
            loss = case.loss(tf.constant(case.inputs), kernel, bias)
        return tape.gradient(loss, [kernel, bias])

    actual = gradients()
    assert_right(case, [case.dense(np.float32)[0], *actual])
    assert_row_sparse(case, actual)
    np.testing.assert_array_equal(held, case.kernel)


def test_a_variable_stays_out_of_copy_on_read_mode(mode, reads_share_a_buffer):
    case = Case(4)
    variables = [tf.Variable(case.kernel), tf.Variable(case.bias)]

    @mode
    def gradients():
        with tf.GradientTape() as tape:
            loss = case.loss(tf.constant(case.inputs), *variables)
        return tape.gradient(loss, variables)

    gradients()
    for variable in variables:
        assert reads_share_a_buffer(variable)
    variables[0].sparse_read([0])
    assert not reads_share_a_buffer(variables[0])


def test_a_variable_used_twice(mode):
    first, second = Case(5), Case(6)
    kernel, bias = tf.Variable(first.kernel), tf.Variable(first.bias)
    second.kernel, second.bias = first.kernel, first.bias

    @mode
    def gradients():
        with tf.GradientTape() as tape:
            loss = sum(
                case.loss(tf.constant(case.inputs), kernel, bias)
                for case in (first, second)
            )
        return tape.gradient(loss, [kernel, bias])

    for actual, a, b, a32, b32 in zip(
        gradients(),
        first.dense(np.float64)[1:],
        second.dense(np.float64)[1:],
        first.dense(np.float32)[1:],
        second.dense(np.float32)[1:],
        strict=True,
    ):
        assert isinstance(actual, tf.IndexedSlices)
        assert_as_precise(tf.convert_to_tensor(actual).numpy(), a + b, a32 + b32)
        both = np.concatenate([first.rows(), second.rows()])
        np.testing.assert_array_equal(np.sort(actual.indices), np.sort(both))


def test_a_second_use_outside_of_the_op(mode):
    case = Case(7)
    kernel, bias = tf.Variable(case.kernel), tf.Variable(case.bias)

    @mode
    def gradient():
        with tf.GradientTape() as tape:
            loss = case.loss(tf.constant(case.inputs), kernel, bias)
            loss += tf.reduce_sum(kernel**2) / 2
        return tape.gradient(loss, kernel)

    exact, plain = (case.dense(t)[1] + case.kernel for t in (np.float64, np.float32))
    assert_as_precise(tf.convert_to_tensor(gradient()).numpy(), exact, plain)


def test_only_what_is_asked_for(mode):
    case = Case(8)
    kernel, bias = tf.Variable(case.kernel), tf.Variable(case.bias, trainable=False)
    inputs = tf.constant(case.inputs)

    @mode
    def gradients():
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(inputs)
            loss = case.loss(inputs, kernel, bias)
        assert [v is kernel for v in tape.watched_variables()] == [True]
        return tape.gradient(loss, inputs), tape.gradient(loss, kernel)

    assert_right(case, [*gradients(), case.dense(np.float32)[2]])


def test_what_is_not_finite_stays_in_its_own_rows(mode):
    case = Case(9, batch=2, padding=False)
    case.ids[0, 3:] = case.ids[1, 5:] = -1
    bad_row = case.ids[1, 0]
    case.ids[0, :3] = np.sort(np.setdiff1d(np.arange(30), case.ids)[:3])
    case.inputs[0, 0] = np.inf
    case.kernel[bad_row, 2] = np.nan
    inputs = tf.constant(case.inputs)
    kernel, bias = tf.Variable(case.kernel), tf.Variable(case.bias)

    @mode
    def gradients():
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            values, _ = compiled.active_matmul(inputs, kernel, bias, case.ids)
            # Padding with what is not finite in its gradient.
            weights = tf.where(case.ids < 0, np.nan, 1.0)
            loss = tf.reduce_sum(values * weights)
        return tape.gradient(loss, [inputs, kernel, bias])

    by_inputs, by_kernel, by_bias = map(tf.convert_to_tensor, gradients())
    chosen = [case.ids[i][case.ids[i] >= 0] for i in range(2)]
    for i in range(2):
        np.testing.assert_allclose(
            by_inputs[i], case.kernel[chosen[i]].sum(axis=0), rtol=1e-5, atol=1e-6
        )
        np.testing.assert_array_equal(
            tf.gather(by_kernel, chosen[i]),
            np.tile(case.inputs[i], [len(chosen[i]), 1]),
        )
        np.testing.assert_array_equal(tf.gather(by_bias, chosen[i]), 1)
    others = np.setdiff1d(np.arange(30), np.concatenate(chosen))
    np.testing.assert_array_equal(tf.gather(by_kernel, others), 0)


def op_types(function):
    """Types of all ops of a traced function and of what it calls."""
    graph = function.graph.as_graph_def()
    nodes = list(graph.node)
    for called in graph.library.function:
        nodes.extend(called.node_def)
    return [node.op for node in nodes]


def test_nothing_dense_in_the_graph_of_a_step():
    units = 4321
    kernel, bias = tf.Variable(tf.ones([units, 7])), tf.Variable(tf.ones([units]))

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 7], tf.float32),
            tf.TensorSpec([None, 8], tf.int32),
        ]
    )
    def step(inputs, ids):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            values, _ = compiled.active_matmul(inputs, kernel, bias, ids, keep=5)
            loss = tf.reduce_sum(values**2)
        gradients = tape.gradient(loss, [inputs, kernel, bias])
        for gradient, shape in zip(gradients[1:], ([None, 7], [None]), strict=True):
            assert isinstance(gradient, tf.IndexedSlices)
            assert gradient.values.shape.as_list() == shape
        return gradients

    concrete = step.get_concrete_function()
    types = op_types(concrete)
    assert "LshResourceActiveMatmul" in types
    assert "LshResourceActiveMatmulGradInput" in types
    assert "LshActiveMatmulGradKernel" in types
    assert not {"ReadVariableOp", "LshActiveMatmul"} & set(types)
    graph = concrete.graph.as_graph_def(add_shapes=True)
    for node in graph.node:
        for shape in node.attr["_output_shapes"].list.shape:
            assert units not in [dim.size for dim in shape.dim], node.name


def test_no_gradient_by_inputs_that_nobody_asks_for():
    case = Case(10)
    kernel, bias = tf.Variable(case.kernel), tf.Variable(case.bias)

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            loss = case.loss(x, kernel, bias)
        return [g.values for g in tape.gradient(loss, [kernel, bias])]

    types = op_types(step.get_concrete_function(tf.constant(case.inputs)))
    assert "LshActiveMatmulGradKernel" in types
    # It would run: it has state, so TensorFlow does not prune it.
    assert "LshResourceActiveMatmulGradInput" not in types


def gradients_of_two_layers(scatter, units, first, hidden=7):
    """A function of inputs: gradients through two layers of few active neurons."""
    generator = np.random.default_rng(3)
    kernels = [
        tf.Variable(generator.normal(size=shape).astype("float32"))
        for shape in ([units, hidden], [5, units])
    ]
    second = tf.constant(generator.integers(0, 5, [4, 2]), tf.int32)

    def gradients(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            values, _ = compiled.active_matmul(x, kernels[0], None, first)
            between = scatter(values)
            outputs, _ = compiled.active_matmul(between, kernels[1], None, second)
            loss = tf.reduce_sum(outputs**2) + tf.reduce_sum(between**3)
        by_x, *by_kernels = tape.gradient(loss, [x, *kernels])
        return by_x, *(tf.convert_to_tensor(g) for g in by_kernels)

    return gradients


@pytest.mark.parametrize(
    ("active", "detour", "restricted"),
    [
        (2, tf.identity, True),
        (2, lambda x: tf.reshape(tf.reshape(x, [2, 2, -1]), [-1, 40]), True),
        (3, tf.identity, False),  # more than one of 16
        (2, lambda x: 2 * x, False),
        (2, lambda x: tf.reshape(tf.reshape(x, [-1])[::-1], [4, 40]), False),
    ],
)
def test_gradients_behind_a_layer_of_few_active_neurons(active, detour, restricted):
    generator = np.random.default_rng(4)
    first = [np.sort(generator.permutation(40)[:active]) for _ in range(4)]
    first = tf.constant(np.stack(first), tf.int32)

    def scatter(values):
        return detour(compiled.scatter_active(values, first, 40))

    gradients = gradients_of_two_layers(scatter, 40, first)
    x = tf.constant(generator.normal(size=[4, 7]), tf.float32)
    traced = tf.function(gradients)
    for got, expected in zip(traced(x), gradients(x), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    graph = traced.get_concrete_function(x).graph
    columns = [
        op.inputs[6]
        for op in graph.get_operations()
        if op.type == "LshResourceActiveMatmulGradInput"
    ]
    assert [c.shape[1] for c in columns] == ([active, 0] if restricted else [0, 0])


def test_an_update_between_steps_is_seen():
    case = Case(10)
    kernel, bias = tf.Variable(case.kernel), tf.Variable(case.bias)

    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            loss = case.loss(tf.constant(case.inputs), kernel, bias)
        return tape.gradient(loss, [kernel, bias])

    gradients()
    case.kernel, case.bias = -case.kernel, case.bias + 1
    kernel.assign(case.kernel)
    bias.assign(case.bias)
    assert_right(case, [case.dense(np.float32)[0], *gradients()])
