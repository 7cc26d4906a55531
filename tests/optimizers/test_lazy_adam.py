"""LazyAdam against a NumPy simulation of its rule, and against Keras' Adam."""

import subprocess
import sys
import textwrap
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lsh import ops
from keras_lsh.optimizers import LazyAdam, LossScaleOptimizer

SHAPES = [(9,), (1,), (20, 5), (1, 3), (0, 3), (4, 3, 2)]


class Simulation:
    """The documented rule, row by row, in the precision of `dtype`."""

    def __init__(self, value, dtype, beta_1=0.9, beta_2=0.999, epsilon=1e-7):
        self.w = np.array(value, dtype)
        self.m = np.zeros_like(self.w)
        self.v = np.zeros_like(self.w)
        self.last = np.zeros(len(self.w), np.int32)
        self.real = dtype
        self.beta_1, self.beta_2 = dtype(beta_1), dtype(beta_2)
        # Rounded after the subtraction, as in Keras: 1 - float32(0.999) is off by 5e-5.
        self.rest_1, self.rest_2 = dtype(1 - beta_1), dtype(1 - beta_2)
        self.epsilon = dtype(epsilon)

    def _row(self, row, gradient, alpha):
        self.m[row] += (gradient - self.m[row]) * self.rest_1
        self.v[row] += (gradient**2 - self.v[row]) * self.rest_2
        self.w[row] -= self.m[row] * alpha / (np.sqrt(self.v[row]) + self.epsilon)

    def _decay(self, row, skipped):
        self.m[row] *= self.beta_1 ** self.real(skipped)
        self.v[row] *= self.beta_2 ** self.real(skipped)

    def _alpha(self, step, learning_rate):
        one, step = self.real(1), self.real(step)
        return (
            self.real(learning_rate)
            * np.sqrt(one - self.beta_2**step)
            / (one - self.beta_1**step)
        )

    def sparse(self, step, rows, values, learning_rate):
        for row in sorted(set(rows.tolist())):
            gradient = values[rows == row].astype(self.real).sum(axis=0)
            self._decay(row, step - 1 - self.last[row])
            self._row(row, gradient, self._alpha(step, learning_rate))
            self.last[row] = step

    def dense(self, step, gradient, learning_rate):
        latest = self.last.max(initial=0)
        for row in range(len(self.w)):
            self._decay(row, latest - self.last[row])
            self._row(row, gradient[row], self._alpha(step, learning_rate))
        self.last[:] = step


def slots(optimizer, index=0):
    """Momentum, velocity and, if there is one, last_step of a variable."""
    found = []
    for name in ("_momentum", "_velocity", "_last_step"):
        named = [v for v in optimizer.variables if v.name.endswith(name)]
        found.extend(named[index : index + 1])
    return found


def assert_as_precise(actual, exact, plain):
    """The error is at most twice that of the plain computation, or a few ulp."""
    actual = np.asarray(actual, np.float64)
    if actual.size == 0:
        assert actual.shape == exact.shape
        return
    floor = 16 * np.finfo(np.float32).eps * np.abs(exact).max(initial=1e-6)
    error = np.abs(actual - exact).max()
    assert error <= 2 * np.abs(plain.astype(np.float64) - exact).max() + floor


def step_function(optimizer, variable):
    """One traced sparse step for any number of rows."""
    optimizer.build([variable])
    shape = tuple(variable.shape)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([None, *shape[1:]], variable.dtype),
        ]
    )
    def step(rows, values):
        gradient = tf.IndexedSlices(values, rows, tf.constant(shape, tf.int32))
        optimizer.apply([gradient], [variable])

    return step


def random_rows(random, shape, ordered):
    """Rows of a gradient, often none and often few; unordered ones repeat."""
    total = shape[0]
    if total == 0:
        rows = np.zeros([0], np.int32)
    elif ordered:
        count = random.integers(0, total + 1)
        rows = np.sort(random.choice(total, count, replace=False))
    else:
        rows = random.integers(0, total, random.integers(0, 2 * total + 1))
    values = random.normal(size=(len(rows), *shape[1:]))
    values *= 10.0 ** random.integers(-3, 3)
    return rows.astype(np.int32), values.astype(np.float32)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_follows_the_documented_rule(shape, ordered):
    random = np.random.default_rng(len(shape) + shape[0])
    start = random.normal(size=shape).astype(np.float32)
    variable = keras.Variable(start, name="kernel")
    optimizer = LazyAdam(0.01, beta_1=0.8, beta_2=0.99)
    step = step_function(optimizer, variable)
    exact = Simulation(start, np.float64, 0.8, 0.99)
    plain = Simulation(start, np.float32, 0.8, 0.99)
    for t in range(1, 61):
        rows, values = random_rows(random, shape, ordered)
        step(rows, values)
        exact.sparse(t, rows, values, np.float32(0.01))
        plain.sparse(t, rows, values, np.float32(0.01))
    momentum, velocity, last_step = slots(optimizer)
    assert_as_precise(variable, exact.w, plain.w)
    assert_as_precise(momentum, exact.m, plain.m)
    assert_as_precise(velocity, exact.v, plain.v)
    np.testing.assert_array_equal(last_step, exact.last)


@pytest.mark.parametrize("shape", [(90_000, 32), (9, 300_000)], ids=str)
def test_variables_in_huge_pages_follow_the_rule(shape):
    random = np.random.default_rng(0)
    start = random.normal(size=shape).astype(np.float32)  # more than 8 MiB
    variable = keras.Variable(start, name="kernel")
    optimizer = LazyAdam(0.01)
    step = step_function(optimizer, variable)
    rows = np.array([0, 3, shape[0] - 1], np.int32)
    few = keras.Variable(start[rows], name="few")
    few_optimizer = LazyAdam(0.01)
    few_step = step_function(few_optimizer, few)
    for _ in range(3):
        values = random.normal(size=(3, shape[1])).astype(np.float32)
        step(rows, values)
        few_step(np.arange(3, dtype=np.int32), values)
    expected = start.copy()
    expected[rows] = few.numpy()
    np.testing.assert_array_equal(variable, expected)
    for slot, few_slot in zip(slots(optimizer), slots(few_optimizer), strict=True):
        expected = np.zeros(slot.shape, slot.dtype)
        expected[rows] = few_slot.numpy()
        np.testing.assert_array_equal(slot, expected)


def test_eager_steps_follow_the_rule():
    random = np.random.default_rng(0)
    start = random.normal(size=(6, 3)).astype(np.float32)
    variable = keras.Variable(start)
    optimizer = LazyAdam(0.1)
    exact = Simulation(start, np.float64)
    plain = Simulation(start, np.float32)
    for t in range(1, 11):
        rows, values = random_rows(random, (6, 3), False)
        optimizer.apply([tf.IndexedSlices(values, rows)], [variable])
        exact.sparse(t, rows, values, np.float32(0.1))
        plain.sparse(t, rows, values, np.float32(0.1))
    assert_as_precise(variable, exact.w, plain.w)


def test_long_absence():
    # 0.9**5000 underflows to 0 in float32, 0.999**5000 is 0.0067.
    variable = keras.Variable(np.ones((2, 2), np.float32))
    optimizer = LazyAdam(0.1)
    step = step_function(optimizer, variable)
    exact = Simulation(np.ones((2, 2)), np.float64)
    plain = Simulation(np.ones((2, 2)), np.float32)
    for t in (1, 5002):
        optimizer.iterations.assign(t - 1)
        rows, values = np.array([1], np.int32), np.full((1, 2), 3, np.float32)
        step(rows, values)
        exact.sparse(t, rows, values, np.float32(0.1))
        plain.sparse(t, rows, values, np.float32(0.1))
    momentum, velocity, _ = slots(optimizer)
    assert_as_precise(variable, exact.w, plain.w)
    assert_as_precise(momentum, exact.m, plain.m)
    assert_as_precise(velocity, exact.v, plain.v)


@pytest.mark.parametrize("shape", [(9,), (20, 5), (1, 3), (4, 3, 2)], ids=str)
def test_equals_adam_when_every_row_is_present(shape):
    random = np.random.default_rng(1)
    start = random.normal(size=shape).astype(np.float32)
    lazy, dense = keras.Variable(start), keras.Variable(start)
    optimizer, adam = LazyAdam(0.01), keras.optimizers.Adam(0.01)
    step = step_function(optimizer, lazy)
    adam.build([dense])
    adam_step = tf.function(lambda gradient: adam.apply([gradient], [dense]))
    for _ in range(30):
        gradient = random.normal(size=shape).astype(np.float32)
        step(np.arange(shape[0], dtype=np.int32), gradient)
        adam_step(tf.constant(gradient))
    np.testing.assert_allclose(lazy, dense, rtol=1e-6, atol=1e-7)
    for ours, theirs in zip(slots(optimizer)[:2], slots(adam), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"clipnorm": 0.5}, {"clipvalue": 0.1}])
def test_dense_gradients_are_adam_to_the_bit(options):
    shapes = [(8, 3), (8,), ()]

    def train(optimizer):
        random = np.random.default_rng(2)
        variables = [keras.Variable(random.normal(size=s)) for s in shapes]
        optimizer.build(variables)
        step = tf.function(lambda grads: optimizer.apply(grads, variables))
        for t in range(20):
            grads = [tf.constant(random.normal(size=s), tf.float32) for s in shapes]
            if t % 4 == 1:
                grads[0] = None  # Keras leaves the variable alone, moments and all.
            step(grads)
        return [v.numpy() for v in variables + slots(optimizer)[:2]]

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Gradients do not exist")
        results = [train(LazyAdam(0.01, **options))]
        results.append(train(keras.optimizers.Adam(0.01, **options)))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_sparse_and_dense_steps_mix():
    random = np.random.default_rng(4)
    shape = (7, 3)
    start = random.normal(size=shape).astype(np.float32)
    variable = keras.Variable(start)
    optimizer = LazyAdam(0.01, beta_1=0.8, beta_2=0.99)
    sparse_step = step_function(optimizer, variable)
    dense_step = tf.function(lambda gradient: optimizer.apply([gradient], [variable]))
    exact = Simulation(start, np.float64, 0.8, 0.99)
    plain = Simulation(start, np.float32, 0.8, 0.99)
    for t in range(1, 41):
        if random.random() < 0.3:
            gradient = random.normal(size=shape).astype(np.float32)
            dense_step(tf.constant(gradient))
            exact.dense(t, gradient, np.float32(0.01))
            plain.dense(t, gradient, np.float32(0.01))
        else:
            rows, values = random_rows(random, shape, False)
            sparse_step(rows, values)
            exact.sparse(t, rows, values, np.float32(0.01))
            plain.sparse(t, rows, values, np.float32(0.01))
    momentum, velocity, last_step = slots(optimizer)
    assert_as_precise(variable, exact.w, plain.w)
    assert_as_precise(momentum, exact.m, plain.m)
    assert_as_precise(velocity, exact.v, plain.v)
    np.testing.assert_array_equal(last_step, exact.last)


def test_moments_after_a_catch_up_are_those_of_adam_with_zero_gradients():
    # The claim of the docstring: moments as Adam's, though not the moves in between.
    random = np.random.default_rng(5)
    shape = (6, 4)
    lazy, dense = keras.Variable(np.zeros(shape)), keras.Variable(np.zeros(shape))
    optimizer, adam = LazyAdam(0.01), keras.optimizers.Adam(0.01)
    step = step_function(optimizer, lazy)
    for _ in range(25):
        rows, values = random_rows(random, shape, True)
        gradient = np.zeros(shape, np.float32)
        gradient[rows] = values
        step(rows, values)
        adam.apply([tf.constant(gradient)], [dense])
    everything = np.arange(6, dtype=np.int32)
    step(everything, np.ones(shape, np.float32))
    adam.apply([tf.ones(shape)], [dense])
    for ours, theirs in zip(slots(optimizer)[:2], slots(adam), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-7)
    assert not np.allclose(lazy, dense, rtol=1e-4)


def test_repeated_rows_are_summed_first():
    start = np.random.default_rng(6).normal(size=(5, 2)).astype(np.float32)
    results = []
    for rows, values in (
        ([3, 0, 3], [[1, 2], [3, 4], [5, 6]]),
        ([0, 3], [[3, 4], [6, 8]]),
    ):
        variable = keras.Variable(start)
        optimizer = LazyAdam(0.1)
        step = step_function(optimizer, variable)
        for _ in range(3):
            step(np.array(rows, np.int32), np.array(values, np.float32))
        results.append([variable.numpy()] + [s.numpy() for s in slots(optimizer)])
    for repeated, merged in zip(*results, strict=True):
        np.testing.assert_array_equal(repeated, merged)


@pytest.mark.parametrize("option", [{"clipnorm": 0.7}, {"clipvalue": 0.2}])
def test_clipping_equals_adam(option):
    random = np.random.default_rng(7)
    shape = (5, 3)
    lazy, dense = keras.Variable(np.ones(shape)), keras.Variable(np.ones(shape))
    optimizer, adam = LazyAdam(0.01, **option), keras.optimizers.Adam(0.01, **option)
    step = step_function(optimizer, lazy)
    for _ in range(10):
        # Every row, one of them in two parts: clipping the parts would be wrong.
        rows = np.array([4, 2, 0, 1, 3, 2], np.int32)
        values = random.normal(size=(6, 3)).astype(np.float32)
        step(rows, values)
        gradient = np.zeros(shape, np.float32)
        np.add.at(gradient, rows, values)
        adam.apply([tf.constant(gradient)], [dense])
    np.testing.assert_allclose(lazy, dense, rtol=1e-5)
    momentum, _, _ = slots(optimizer)
    np.testing.assert_allclose(momentum, slots(adam)[0], rtol=1e-4, atol=1e-7)


def test_learning_rate_schedule_and_assignment():
    random = np.random.default_rng(8)
    shape = (4, 2)
    start = random.normal(size=shape).astype(np.float32)
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.5)
    scheduled, assigned = keras.Variable(start), keras.Variable(start)
    with_schedule, with_assignment = LazyAdam(schedule), LazyAdam(1.0)
    step, other_step = (
        step_function(with_schedule, scheduled),
        step_function(with_assignment, assigned),
    )
    exact, plain = Simulation(start, np.float64), Simulation(start, np.float32)
    for t in range(1, 13):
        rows, values = random_rows(random, shape, False)
        rate = float(schedule(t - 1))
        step(rows, values)
        with_assignment.learning_rate = rate
        other_step(rows, values)
        exact.sparse(t, rows, values, rate)
        plain.sparse(t, rows, values, rate)
    assert_as_precise(scheduled, exact.w, plain.w)
    assert_as_precise(assigned, exact.w, plain.w)


def test_loss_scale_factor():
    random = np.random.default_rng(9)
    shape = (6, 3)
    start = random.normal(size=shape).astype(np.float32)
    plain, scaled = keras.Variable(start), keras.Variable(start)
    optimizer, scaling = LazyAdam(0.1), LazyAdam(0.1, loss_scale_factor=256.0)
    step, scaled_step = step_function(optimizer, plain), step_function(scaling, scaled)
    assert float(scaling.scale_loss(tf.constant(2.0))) == 512.0
    for _ in range(5):
        rows, values = random_rows(random, shape, False)
        step(rows, values)
        scaled_step(rows, values * 256)
    # Division by a power of two is exact.
    np.testing.assert_array_equal(plain, scaled)


@pytest.mark.parametrize(
    "wrapper", [keras.optimizers.LossScaleOptimizer, LossScaleOptimizer]
)
def test_dynamic_loss_scaling(wrapper):
    random = np.random.default_rng(10)
    shape = (6, 3)
    start = random.normal(size=shape).astype(np.float32)
    plain, scaled = keras.Variable(start), keras.Variable(start)
    optimizer, inner = LazyAdam(0.1), LazyAdam(0.1)
    scaling = wrapper(inner, initial_scale=256.0, dynamic_growth_steps=4)
    step, scaled_step = step_function(optimizer, plain), step_function(scaling, scaled)
    scales = []
    for t in range(8):
        rows, values = random_rows(random, shape, False)
        scale = scaling.dynamic_scale.numpy()
        scales.append(float(scale))
        if t == 2:
            # Neither moves a row, decays a moment nor counts as a step.
            for bad in (np.inf, np.nan):
                scaled_step(np.array([1], np.int32), np.full((1, 3), bad, "float32"))
            scale = scaling.dynamic_scale.numpy()
        step(rows, values)
        scaled_step(rows, values * scale)
    assert scales == [256.0] * 3 + [64.0] * 3 + [128.0] * 2
    np.testing.assert_array_equal(plain, scaled)
    for ours, theirs in zip(slots(optimizer), slots(inner), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_loss_scaling_without_dense_shape():
    variable = keras.Variable(np.zeros((4, 2)))
    optimizer = LossScaleOptimizer(LazyAdam(0.1))
    optimizer.build([variable])
    scale = float(optimizer.dynamic_scale)
    optimizer.apply([tf.IndexedSlices(tf.ones([1, 2]) * scale, [2])], [variable])
    np.testing.assert_allclose(variable[2], [-0.1, -0.1], rtol=1e-5)


def embedding_model(rows=50, **options):
    keras.utils.set_random_seed(11)
    return keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            keras.layers.Embedding(rows, 4, **options),
            keras.layers.Flatten(),
            keras.layers.Dense(1, dtype="float32"),
        ]
    )


@pytest.mark.parametrize("own_wrapper", [True, False])
def test_mixed_float16_in_fit(own_wrapper):
    model = embedding_model(dtype="mixed_float16")
    before = model.layers[0].get_weights()[0]
    inner = LazyAdam(0.1)
    model.compile(LossScaleOptimizer(inner) if own_wrapper else inner, "mse")
    if not own_wrapper:  # as compile does for a model of policy mixed_float16
        model.optimizer = keras.optimizers.LossScaleOptimizer(inner)
    x = np.random.default_rng(12).integers(0, 20, (64, 3))
    history = model.fit(x, x.sum(axis=1) / 30, batch_size=8, epochs=3, verbose=0)
    after = model.layers[0].get_weights()[0]
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert after.dtype == np.float32
    np.testing.assert_array_equal(after[20:], before[20:])
    assert (after[:20] != before[:20]).any(axis=1).all()
    assert int(inner.iterations) == 24


def test_fit_learns_like_adam():
    # Every row is in every batch once: Keras' Adam is wrong for rows that repeat.
    random = np.random.default_rng(12)
    x = np.concatenate([random.permutation(51).reshape(17, 3) for _ in range(20)])
    y = np.sin(x).sum(axis=1)
    weights = []
    for optimizer in (LazyAdam(0.01), keras.optimizers.Adam(0.01)):
        model = embedding_model(51)
        model.compile(optimizer, "mse")
        model.fit(x, y, batch_size=17, verbose=0, shuffle=False)
        weights.append(model.get_weights())
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_layer_used_twice():
    keras.utils.set_random_seed(13)
    shared = keras.layers.Embedding(12, 3)
    left, right = keras.Input((2,), dtype="int32"), keras.Input((2,), dtype="int32")
    output = keras.layers.Dense(1)(
        keras.layers.Flatten()(
            keras.layers.Concatenate()([shared(left), shared(right)])
        )
    )
    model = keras.Model([left, right], output)
    start = shared.get_weights()[0]
    x = [np.array([[0, 1], [5, 1]]), np.array([[1, 7], [5, 5]])]
    y = np.ones((2, 1), np.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(x) - y) ** 2)
    gradient = tape.gradient(loss, shared.trainable_variables[0].value)
    dense = tf.convert_to_tensor(gradient).numpy()
    model.compile(LazyAdam(0.1), "mse")
    model.fit(x, y, batch_size=2, verbose=0)
    touched = [0, 1, 5, 7]
    expected = Simulation(start, np.float64)
    expected.sparse(1, np.array(touched), dense[touched], np.float32(0.1))
    np.testing.assert_allclose(shared.get_weights()[0], expected.w, rtol=1e-4)


@pytest.mark.parametrize("wrapper", [None, LossScaleOptimizer])
def test_saved_model_continues_as_if_unbroken(tmp_path, wrapper):
    random = np.random.default_rng(14)
    batches = [random.integers(0, 50, (8, 3)) for _ in range(12)]

    def train(model, some):
        for x in some:
            model.train_on_batch(x, np.sin(x).sum(axis=1))

    def start():
        model = embedding_model()
        optimizer = LazyAdam(0.05, clipnorm=1.0)
        model.compile(wrapper(optimizer) if wrapper else optimizer, "mse")
        return model

    unbroken = start()
    train(unbroken, batches)
    broken = start()
    train(broken, batches[:6])
    path = str(tmp_path / "model.keras")
    broken.save(path)
    restored = keras.models.load_model(path)
    assert type(restored.optimizer) is (wrapper or LazyAdam)
    train(restored, batches[6:])
    for ours, theirs in zip(
        restored.get_weights(), unbroken.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    last_steps = [v for v in restored.optimizer.variables if "last_step" in v.name]
    assert [v.dtype for v in last_steps] == ["int32"] * 3
    assert [tuple(v.shape) for v in last_steps] == [(50,), (12,), (1,)]
    assert last_steps[0].numpy().max() == 12
    for ours, theirs in zip(
        restored.optimizer.variables, unbroken.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_checkpoint_restores_every_slot(tmp_path):
    def start():
        variables = [keras.Variable(np.ones((5, 2))), keras.Variable(1.0)]
        optimizer = LazyAdam(0.1)
        optimizer.build(variables)
        return variables, optimizer

    variables, optimizer = start()
    gradients = [tf.IndexedSlices(tf.ones([1, 2]), [3]), tf.constant(1.0)]
    optimizer.apply(gradients, variables)
    path = tf.train.Checkpoint(optimizer=optimizer).save(str(tmp_path / "checkpoint"))
    _, fresh = start()
    tf.train.Checkpoint(optimizer=fresh).restore(path).assert_consumed()
    for ours, theirs in zip(fresh.variables, optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_config_round_trip():
    optimizer = LazyAdam(
        keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9),
        beta_1=0.8,
        beta_2=0.98,
        epsilon=1e-5,
        clipvalue=0.3,
        loss_scale_factor=8.0,
        name="adam_of_rows",
    )
    config = keras.saving.serialize_keras_object(optimizer)
    assert config["registered_name"] == "keras_lsh>LazyAdam"
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is LazyAdam
    assert copy.get_config() == optimizer.get_config()
    assert isinstance(LazyAdam.from_config(LazyAdam().get_config()), LazyAdam)
    scaling = LossScaleOptimizer(LazyAdam(0.5), initial_scale=4.0)
    config = keras.saving.serialize_keras_object(scaling)
    assert config["registered_name"] == "keras_lsh>LossScaleOptimizer"
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is LossScaleOptimizer
    assert type(copy.inner_optimizer) is LazyAdam
    assert copy.get_config() == scaling.get_config()


@pytest.mark.parametrize(
    "option, value",
    [
        ("amsgrad", True),
        ("weight_decay", 0.01),
        ("weight_decay", 0.0),
        ("use_ema", True),
        ("gradient_accumulation_steps", 2),
        ("global_clipnorm", 1.0),
    ],
)
def test_dense_options_are_refused(option, value):
    with pytest.raises(ValueError) as error:
        LazyAdam(**{option: value})
    message = str(error.value)
    assert f"`{option}`" in message
    assert "use `" in message or "use larger batches" in message
    assert f"Received: {option}={value}" in message


@pytest.mark.parametrize(
    "arguments",
    [
        {"beta_1": 1.0},
        {"beta_1": -0.1},
        {"beta_2": 1.5},
        {"beta_2": float("nan")},
        {"beta_2": None},
        {"epsilon": -1e-7},
        {"epsilon": float("inf")},
        {"epsilon": "small"},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"invalid value for `{name}`.*Received: "):
        LazyAdam(**arguments)


def test_unknown_arguments_are_refused():
    with pytest.raises(ValueError, match="not recognized"):
        LazyAdam(momentum=0.9)


@pytest.mark.parametrize("row", [-1, 5, 2**31 - 1])
def test_rows_out_of_range(row):
    variable = keras.Variable(np.ones((5, 2), np.float32))
    step = step_function(LazyAdam(), variable)
    rows = np.array([row], np.int32)
    with pytest.raises(tf.errors.InvalidArgumentError):
        step(rows, np.ones((1, 2), np.float32))
    np.testing.assert_array_equal(variable, np.ones((5, 2)))


def test_gradient_without_rows_moves_nothing():
    variable = keras.Variable(np.ones((5, 2), np.float32))
    optimizer = LazyAdam()
    step = step_function(optimizer, variable)
    step(np.zeros([0], np.int32), np.zeros([0, 2], np.float32))
    np.testing.assert_array_equal(variable, np.ones((5, 2)))
    np.testing.assert_array_equal(slots(optimizer)[2], np.zeros(5))
    assert int(optimizer.iterations) == 1


def test_nan_stays_in_its_row():
    variable = keras.Variable(np.ones((4, 2), np.float32))
    step = step_function(LazyAdam(), variable)
    step(np.array([0, 2], np.int32), np.array([[1, 1], [np.nan, np.inf]], np.float32))
    assert np.isfinite(variable.numpy()[[0, 1, 3]]).all()
    assert np.isnan(variable.numpy()[2]).all()


def test_plain_tensorflow_variables():
    random = np.random.default_rng(15)
    start = random.normal(size=(5, 2)).astype(np.float32)
    raw, wrapped = tf.Variable(start), keras.Variable(start)
    optimizers = LazyAdam(0.1), LazyAdam(0.1)
    for _ in range(4):
        rows, values = random_rows(random, (5, 2), False)
        gradient = tf.IndexedSlices(values, tf.cast(rows, tf.int64))
        optimizers[0].apply_gradients([(gradient, raw)])
        optimizers[1].apply_gradients([(gradient, wrapped)])
    np.testing.assert_array_equal(raw, wrapped)
    optimizers[1].update_step(gradient, wrapped, 0.1)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_other_dtypes(dtype):
    random = np.random.default_rng(16)
    shape = (6, 4)
    start = random.normal(size=shape).astype(np.float32)
    variable = keras.Variable(start, dtype=dtype)
    optimizer = LazyAdam(0.05, beta_2=0.9, epsilon=1e-3)
    step = step_function(optimizer, variable)
    exact = Simulation(np.asarray(variable, np.float64), np.float64, 0.9, 0.9, 1e-3)
    for t in range(1, 13):
        rows, values = random_rows(random, shape, True)
        values = tf.cast(np.clip(values, -30, 30), dtype)
        step(rows, values)
        exact.sparse(t, rows, np.asarray(values, np.float64), np.float32(0.05))
    tolerance = {"float64": 1e-6, "bfloat16": 0.05, "float16": 0.01}[dtype]
    assert variable.dtype == dtype
    np.testing.assert_allclose(
        np.asarray(variable, np.float64), exact.w, rtol=tolerance, atol=tolerance
    )
    np.testing.assert_array_equal(slots(optimizer)[2], exact.last)


def test_float64_equals_adam():
    random = np.random.default_rng(17)
    start = random.normal(size=(5, 2))
    lazy, dense = (keras.Variable(start, dtype="float64") for _ in range(2))
    optimizer, adam = LazyAdam(0.01), keras.optimizers.Adam(0.01)
    step = step_function(optimizer, lazy)
    for _ in range(10):
        gradient = random.normal(size=(5, 2))
        step(np.arange(5, dtype=np.int32), gradient)
        adam.apply([tf.constant(gradient)], [dense])
    np.testing.assert_allclose(lazy, dense, rtol=1e-12)


def test_bfloat16_learns_with_the_default_decays():
    # 0.999 is 1 in bfloat16: in that precision the step size would be 0.
    variable = keras.Variable(np.ones((3, 2)), dtype="bfloat16")
    step = step_function(LazyAdam(0.1), variable)
    step(np.array([1], np.int32), tf.ones([1, 2], tf.bfloat16))
    np.testing.assert_allclose(np.asarray(variable, np.float32)[1], 0.9, rtol=0.01)


def test_constraint_is_applied():
    variable = keras.Variable(np.full((4, 2), 0.05, np.float32))
    variable.constraint = keras.constraints.NonNeg()
    step = step_function(LazyAdam(0.1), variable)
    step(np.array([1], np.int32), np.ones((1, 2), np.float32))
    np.testing.assert_array_equal(variable.numpy()[1], [0, 0])


def test_exclude_from_weight_decay_is_harmless():
    variable = keras.Variable(np.ones((4, 2), np.float32), name="bias")
    optimizer = LazyAdam(0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    step_function(optimizer, variable)(
        np.array([1], np.int32), np.ones((1, 2), np.float32)
    )
    np.testing.assert_allclose(variable.numpy()[1], [0.9, 0.9], rtol=1e-5)


def test_dense_models_compile_with_xla():
    weights = []
    x = np.random.default_rng(18).normal(size=(16, 4)).astype(np.float32)
    for jit_compile in (True, False):
        keras.utils.set_random_seed(18)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        model.compile(LazyAdam(0.1), "mse", jit_compile=jit_compile)
        model.fit(x, x[:, :3], epochs=2, batch_size=8, verbose=0, shuffle=False)
        weights.append(model.get_weights())
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def tensors_of(function):
    """(name, shape) of every tensor in a traced function and what it calls."""
    graph = function.graph.as_graph_def(add_shapes=True)
    nodes = list(graph.node)
    for called in graph.library.function:
        nodes.extend(called.node_def)
    for node in nodes:
        for shape in node.attr["_output_shapes"].list.shape:
            yield node.name, [d.size for d in shape.dim]


ROWS = 200_000


@pytest.mark.parametrize(
    "make",
    [
        LazyAdam,
        lambda: LazyAdam(clipnorm=1.0),
        lambda: LazyAdam(clipvalue=1.0),
        lambda: LazyAdam(loss_scale_factor=2.0),
        lambda: LazyAdam(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)),
        lambda: LossScaleOptimizer(LazyAdam(clipnorm=1.0)),
    ],
    ids=["plain", "clipnorm", "clipvalue", "loss_scale_factor", "schedule", "wrapped"],
)
def test_step_is_row_sparse(make):
    random = np.random.default_rng(19)
    shape = (ROWS, 8)
    variable = keras.Variable(random.normal(size=shape).astype(np.float32))
    optimizer = make()
    step = step_function(optimizer, variable)
    dense = [
        name
        for name, tensor_shape in tensors_of(step.get_concrete_function())
        if ROWS in tensor_shape or ROWS * 8 in tensor_shape
    ]
    assert dense == []
    # Rows that were touched before must stay, too, when they are skipped.
    early = np.sort(random.choice(ROWS, 50, replace=False)).astype(np.int32)
    step(early, random.normal(size=(50, 8)).astype(np.float32))
    before = [variable.numpy()] + [s.numpy() for s in slots(optimizer)]
    late = np.setdiff1d(random.choice(ROWS, 50, replace=False), early)
    late = late.astype(np.int32)
    step(late, random.normal(size=(len(late), 8)).astype(np.float32))
    after = [variable.numpy()] + [s.numpy() for s in slots(optimizer)]
    untouched = np.setdiff1d(np.arange(ROWS), late)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old[untouched], new[untouched])
        assert (old[late] != new[late]).any(axis=tuple(range(1, old.ndim))).all()


@pytest.mark.skipif(ops.using_reference(), reason="the reference reads densely")
@pytest.mark.parametrize("make", [LazyAdam, keras.optimizers.SGD])
def test_whole_training_step_is_row_sparse(make):
    random = np.random.default_rng(20)
    kernel = keras.Variable(random.normal(size=(ROWS, 8)).astype(np.float32))
    bias = keras.Variable(np.zeros(ROWS, np.float32))
    optimizer = make(0.01)
    optimizer.build([kernel, bias])

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 8], tf.float32),
            tf.TensorSpec([None, None], tf.int32),
        ]
    )
    def step(inputs, ids):
        with tf.GradientTape() as tape:
            values, _ = ops.active_matmul(inputs, kernel.value, bias.value, ids)
            loss = tf.reduce_sum((values - 1) ** 2)
        variables = [kernel.value, bias.value]
        optimizer.apply(tape.gradient(loss, variables), [kernel, bias])
        return loss

    concrete = step.get_concrete_function()
    assert [name for name, shape in tensors_of(concrete) if ROWS in shape] == []
    before = kernel.numpy(), bias.numpy()
    inputs = random.normal(size=(4, 8)).astype(np.float32)
    ids = np.sort(random.choice(ROWS, (4, 30), replace=False), axis=1)
    losses = [float(step(inputs, ids.astype(np.int32))) for _ in range(5)]
    assert losses[-1] < losses[0]
    untouched = np.setdiff1d(np.arange(ROWS), ids)
    for old, new in zip(before, (kernel.numpy(), bias.numpy()), strict=True):
        np.testing.assert_array_equal(old[untouched], new[untouched])
        assert (old[ids] != new[ids]).any()


def test_the_search_for_dense_tensors_finds_them():
    variable = keras.Variable(np.zeros((ROWS, 8), np.float32))
    step = step_function(keras.optimizers.Adam(), variable)
    assert any(ROWS in s for _, s in tensors_of(step.get_concrete_function()))


def test_mirrored_strategy():
    # Strategies do not mix within a process.
    script = """
        import keras
        import numpy as np
        import tensorflow as tf
        from keras_lsh.optimizers import LazyAdam

        cpus = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(
            cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2
        )
        strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
        with strategy.scope():
            variable = keras.Variable(np.ones((6, 2), np.float32))
            bias = keras.Variable(np.ones((2,), np.float32))
            optimizer = LazyAdam(0.1, loss_scale_factor=4.0)
            optimizer.build([variable, bias])

        shape = tf.constant([6, 2])

        @tf.function
        def step(rows, values):
            def replica():
                # Replica 1 has its rows one further on.
                index = tf.distribute.get_replica_context().replica_id_in_sync_group
                gradient = tf.IndexedSlices(4 * values, rows + index, shape)
                optimizer.apply([gradient, tf.fill([2], 4.0)], [variable, bias])
            strategy.run(replica)

        single = keras.Variable(np.ones((6, 2), np.float32))
        single_bias = keras.Variable(np.ones((2,), np.float32))
        reference = LazyAdam(0.1)
        random = np.random.default_rng(0)
        for t in range(5):
            rows = random.integers(0, 5, 3).astype(np.int32)
            values = random.normal(size=(3, 2)).astype(np.float32)
            step(tf.constant(rows), tf.constant(values))
            both = tf.IndexedSlices(
                np.concatenate([values, values]), np.concatenate([rows, rows + 1])
            )
            reference.apply([both, tf.fill([2], 2.0)], [single, single_bias])
        for mirrored, alone in ((variable, single), (bias, single_bias)):
            parts = strategy.experimental_local_results(mirrored.value)
            assert len(parts) == 2, parts
            for part in parts:
                np.testing.assert_allclose(part.numpy(), alone.numpy(), rtol=1e-5)
        print("mirrored ok")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "mirrored ok" in done.stdout, done.stderr[-3000:]
