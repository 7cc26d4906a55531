"""LSHDense under tf.distribute, and however else a training step may be compiled."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lsh

INPUT_DIM = 16


def data():
    x = np.random.default_rng(0).normal(size=(64, INPUT_DIM)).astype("float32")
    return x, 2 * x[:, :4]


def make_model(layer=keras_lsh.LSHDense, **arguments):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((INPUT_DIM,)),
            layer(64, "relu", name="wide", **arguments),
            keras.layers.Dense(4),
        ]
    )


def fit(model, optimizer, rebuild=True, **compile_arguments):
    model.compile(optimizer, "mse", **compile_arguments)
    history = model.fit(
        *data(),
        batch_size=16,
        epochs=3,
        shuffle=False,
        verbose=0,
        callbacks=[keras_lsh.RebuildTables(every=2)] if rebuild else [],
    )
    return history.history["loss"]


# Several strategies in one process fail, so all that needs this one is in one process.
MIRRORED = """
import importlib.util, sys
import keras
import numpy as np
import tensorflow as tf

folder, this_file = sys.argv[1:]
spec = importlib.util.spec_from_file_location("distribution", this_file)
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
import keras_lsh

cpu = tf.config.list_physical_devices("CPU")[0]
halves = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, halves)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
x, y = tests.data()

def replicas(variable):
    return [np.array(part) for part in strategy.experimental_local_results(
        variable.value)]

def trained(make_optimizer, *arguments, **keywords):
    with strategy.scope():
        model, optimizer = tests.make_model(*arguments, **keywords), make_optimizer()
    return model, tests.fit(model, optimizer)

# All neurons active: what Dense learns, by gradients that are sums over replicas.
twin, expected = trained(lambda: keras.optimizers.Adam(1e-2), keras.layers.Dense)
model, losses = trained(lambda: keras_lsh.LazyAdam(1e-2), active=1.0)
np.testing.assert_allclose(losses, expected, rtol=1e-5)
np.testing.assert_allclose(
    model.get_layer("wide").kernel, tf.transpose(twin.get_layer("wide").kernel),
    rtol=0, atol=1e-5)

for make_optimizer in (
    lambda: keras.optimizers.SGD(0.1), lambda: keras_lsh.LazyAdam(1e-2)
):
    model, losses = trained(make_optimizer, active=0.25)
    assert losses[-1] < 0.7 * losses[0], losses
    layer = model.get_layer("wide")
    assert len(replicas(layer.kernel)) == 2
    for variable in (*layer.weights, *model.optimizer.variables):
        # Each replica sees inputs of its own. The first one's statistics are used when
        # tables are rebuilt, and saved.
        if variable.name not in ("running_mean", "count"):
            first, second = replicas(variable)
            np.testing.assert_array_equal(first, second, err_msg=variable.path)
    rows = np.count_nonzero(layer(x), axis=1)
    assert (rows <= 16).all() and rows.any()

model.save(f"{folder}/model.keras")
model.export(f"{folder}/exported", verbose=False)
np.save(f"{folder}/expected.npy", model.predict(x, verbose=0))

# A loop of one's own.
with strategy.scope():
    model = tests.make_model(active=0.25)
    optimizer = keras_lsh.LazyAdam(1e-2)
    optimizer.build(model.trainable_variables)
dataset = strategy.experimental_distribute_dataset(
    tf.data.Dataset.from_tensor_slices((x, y)).batch(16))

@tf.function
def step(batch):
    def replica_step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss
    return strategy.reduce("MEAN", strategy.run(replica_step, batch), axis=None)

losses = []
for _ in range(2):
    with strategy.scope():
        model.get_layer("wide").rebuild_tables()
    losses.append(np.mean([step(batch) for batch in dataset]))
assert losses[-1] < 0.8 * losses[0], losses
first, second = replicas(model.get_layer("wide").kernel)
np.testing.assert_array_equal(first, second)
"""


def test_mirrored_strategy(run_python, tmp_path):
    run_python(MIRRORED, tmp_path, __file__)
    x, _ = data()
    expected = np.load(tmp_path / "expected.npy")
    model = keras.models.load_model(tmp_path / "model.keras")
    answers = model.predict(x, verbose=0)
    np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-6)
    keras_lsh.ops.library()
    exported = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(exported.serve(x), expected, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def losses():
    return fit(make_model(active=0.25), keras_lsh.LazyAdam(1e-2))


class TestHowStepsRun:
    @pytest.mark.parametrize(
        "arguments", [{"run_eagerly": True}, {"jit_compile": "auto"}], ids=str
    )
    def test_same_result(self, arguments, losses):
        model = make_model(active=0.25)
        again = fit(model, keras_lsh.LazyAdam(1e-2), **arguments)
        np.testing.assert_allclose(again, losses, rtol=1e-6)
        assert not model.jit_compile

    @pytest.mark.filterwarnings("ignore:Training LSHDense layers whose hash tables")
    def test_several_steps_per_execution(self):
        """The same, but for rebuilds: these have to wait for the end of a call."""
        single = fit(make_model(active=0.25), keras_lsh.LazyAdam(1e-2), rebuild=False)
        model = make_model(active=0.25)
        losses = fit(
            model, keras_lsh.LazyAdam(1e-2), rebuild=False, steps_per_execution=3
        )
        np.testing.assert_allclose(losses, single, rtol=1e-6)
        assert model.optimizer.iterations == 12
        losses = fit(
            make_model(active=0.25), keras_lsh.LazyAdam(1e-2), steps_per_execution=3
        )
        assert losses[-1] < 0.7 * losses[0]

    def test_jit_compile_in_compile(self, losses):
        """Keras asks the layer, says so, and goes on without."""
        model = make_model(active=0.25)
        with pytest.warns(UserWarning, match=r"doesn't support `jit_compile=True`"):
            again = fit(model, keras_lsh.LazyAdam(1e-2), jit_compile=True)
        np.testing.assert_allclose(again, losses, rtol=1e-6)

    def test_jit_compile_in_a_function(self):
        """There is nobody to ask, and TensorFlow names the op."""
        model = make_model(active=0.25)
        function = tf.function(model, jit_compile=True)
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"(?s)Lsh.*XLA"):
            function(data()[0])
