"""LSHDense layers whose kernel is stored in bfloat16."""

import copy
import json
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lsh
from keras_lsh import LSHDense, SimHash, ops, with_storage

INPUT_DIM = 20
HASHING = SimHash(bits=4, tables=4, probes=4, transform="simple_lsh", seed=3)


def rounded(values):
    """To the nearest bfloat16, ties to even: by bits, as float32."""
    bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32)


def as_float(kernel):
    return np.asarray(kernel).astype(np.float32)


def inputs_of(samples, dim=INPUT_DIM, seed=0):
    random = np.random.default_rng([seed, samples])
    return random.normal(size=(samples, dim)).astype("float32")


def twins(units=90, **arguments):
    """A layer stored in bfloat16, and one in float32 of the same, rounded weights."""
    arguments = {"active": 12, "hashing": HASHING, "activation": "tanh"} | arguments
    full = LSHDense(units, **arguments)
    full.build((None, INPUT_DIM))
    full.kernel.assign(rounded(full.kernel))
    if full.use_bias:
        full.bias.assign(inputs_of(1, units)[0])
    full.selector.observe(tf.constant(inputs_of(50, seed=1)))
    full.rebuild_tables()
    stored = LSHDense(units, **arguments, storage="bfloat16")
    stored.build((None, INPUT_DIM))
    stored.set_weights(full.get_weights())
    assert stored.kernel.dtype == "bfloat16"
    return stored, full


def as_arrays(outputs):
    if isinstance(outputs, tf.SparseTensor):
        return [outputs.indices, outputs.values]
    return [outputs]


def assert_same_outputs(one, other):
    for a, b in zip(as_arrays(one), as_arrays(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def assert_same_weights(one, other):
    for ours, theirs in zip(one.weights, other.weights, strict=True):
        assert ours.dtype == theirs.dtype, ours.name
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.name)


CONFIGS = [
    {},
    {"use_bias": False, "activation": None, "hashing": "auto"},
    {"oversample": 1},
    {"selection": "exact"},
    {"selection": "random"},
    {"inference": "exact"},
    {"output": "sparse"},
    {"output": "sparse", "inference": "exact"},
    {"dtype": "bfloat16"},
]


class TestOutputs:
    @pytest.mark.parametrize("arguments", CONFIGS, ids=str)
    def test_are_those_of_the_rounded_kernel(self, arguments):
        stored, full = twins(**arguments)
        for samples in (1, 30):
            x = tf.constant(inputs_of(samples))
            if stored.selection != "random":
                np.testing.assert_array_equal(stored.active_ids(x), full.active_ids(x))
            assert_same_outputs(stored(x), full(x))
        with ops.reference_ops():
            assert_same_outputs(stored(x), full(x))

    def test_blocks_of_very_many_neurons(self):
        """Of which not all products are kept, nor all neurons hashed again."""
        stored, full = twins(20_000, output="sparse", inference="exact")
        x = inputs_of(3)
        assert_same_outputs(stored(x), full(x))
        moved = [5, 17_000]
        for layer in (stored, full):
            rows = tf.cast(rounded(9 * inputs_of(2)), layer.kernel.dtype)
            layer.kernel.value.scatter_update(tf.IndexedSlices(rows, moved))
            assert layer.codes_drift(moved) > 0
            changed = layer.rebuild_tables(moved_only=True)["codes_changed"]
            assert 0 < changed <= 1e-4
        assert_same_weights_but_kernels(stored, full)

    def test_in_a_graph(self):
        stored, full = twins()
        specification = [tf.TensorSpec([None, INPUT_DIM])]
        function = tf.function(lambda x: stored(x, training=False), specification)
        for samples in (1, 30):
            x = inputs_of(samples)
            assert_same_outputs(function(x), full(x))

    def test_gradient_by_the_inputs(self):
        for arguments in ({}, {"inference": "exact"}):
            gradients = []
            for layer in twins(**arguments):
                x = tf.constant(inputs_of(4))
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    outputs = layer(x, training=False)
                gradients.append(tape.gradient(outputs, x))
            np.testing.assert_array_equal(*gradients)
            assert np.abs(gradients[0]).min() > 0


def assert_same_weights_but_kernels(stored, full):
    for ours, theirs in zip(stored.weights, full.weights, strict=True):
        np.testing.assert_array_equal(as_float(ours), as_float(theirs), ours.name)


class TestLayer:
    def test_the_kernel_takes_half_the_memory(self):
        stored, full = twins()
        assert 2 * stored.kernel.numpy().nbytes == full.kernel.numpy().nbytes
        assert stored.bias.dtype == "float32"
        assert stored.trainable_weights == []
        assert [w.name for w in stored.weights] == [w.name for w in full.weights]

    def test_initial_weights_are_those_of_float32_rounded(self):
        layers = []
        for storage in ("bfloat16", "float32"):
            initializer = keras.initializers.GlorotUniform(seed=1)
            layer = LSHDense(30, kernel_initializer=initializer, storage=storage)
            layer.build((None, 7))
            layers.append(layer)
        np.testing.assert_array_equal(
            as_float(layers[0].kernel), rounded(layers[1].kernel)
        )

    def test_tables(self):
        stored, full = twins()
        assert stored.rebuild_tables()["codes_changed"] == 0
        assert_same_weights_but_kernels(stored, full)
        assert stored.codes_drift([0, 3]) == 0
        for layer in (stored, full):
            layer.kernel.assign(-layer.kernel)
        assert stored.codes_drift([0, 3]) == full.codes_drift([0, 3]) > 0
        assert (
            stored.rebuild_tables()["codes_changed"]
            == full.rebuild_tables()["codes_changed"]
            > 0
        )
        assert_same_weights_but_kernels(stored, full)

    def test_refuses_to_train(self):
        message = r"inference alone.*keras_lsh\.with_storage\(model, 'bfloat16'\)"
        layer = LSHDense(30, storage="bfloat16", name="wide")
        with pytest.raises(ValueError, match=message):
            layer(inputs_of(2), training=True)
        model = keras.Sequential([keras.Input((INPUT_DIM,)), layer])
        model.compile("sgd", "mse")
        with pytest.raises(ValueError, match=f"(?s)'wide'.*{message}"):
            model.fit(inputs_of(4), np.zeros([4, 30]), verbose=0)
        assert np.isfinite(model.evaluate(inputs_of(4), np.zeros([4, 30]), verbose=0))

    def test_refuses_to_train_on_labels(self):
        layer = LSHDense(30, output="sparse", force_labels=True, storage="bfloat16")
        model = keras_lsh.LSHSequential([keras.Input((INPUT_DIM,)), layer])
        model.compile(loss=keras_lsh.losses.ActiveSoftmaxCrossentropy())
        with pytest.raises(ValueError, match="inference alone"):
            model.fit(inputs_of(4), np.arange(4), verbose=0)

    @pytest.mark.parametrize("storage", ["float16", None, 16, "int8"])
    def test_refuses_other_storage(self, storage):
        with pytest.raises(ValueError, match="`storage`, expected one of 'float32'"):
            LSHDense(30, storage=storage)

    def test_config(self):
        config = LSHDense(30, storage="bfloat16").get_config()
        assert config["storage"] == "bfloat16"
        assert LSHDense.from_config(config).get_config() == config
        del config["storage"]  # as an earlier version wrote it
        assert LSHDense.from_config(config).storage == "float32"

    def test_regularizers_and_constraints_do_nothing(self):
        layer = LSHDense(
            30,
            kernel_regularizer="l2",
            bias_regularizer="l1",
            kernel_constraint=keras.constraints.MaxNorm(1e-3, axis=0),
            bias_constraint="non_neg",
            storage="bfloat16",
        )
        layer.build((None, INPUT_DIM))
        layer.bias.assign(-np.ones(30))
        kernel = np.array(layer.kernel)
        assert np.linalg.norm(as_float(kernel)) > 1
        layer.rebuild_tables()
        layer(inputs_of(3))
        assert layer.losses == []
        np.testing.assert_array_equal(layer.kernel, kernel)
        np.testing.assert_array_equal(layer.bias, -np.ones(30))

    @pytest.mark.parametrize(
        "make_copy",
        [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
        ids=["deepcopy", "pickle"],
    )
    def test_copies(self, make_copy):
        stored, _ = twins()
        other = make_copy(stored)
        assert_same_weights(other, stored)
        np.testing.assert_array_equal(other(inputs_of(3)), stored(inputs_of(3)))


class TestDense:
    @pytest.mark.parametrize("use_bias", [True, False])
    def test_there_and_back(self, use_bias):
        dense = keras.layers.Dense(40, "relu", use_bias=use_bias)
        dense.build((None, INPUT_DIM))
        layer = keras_lsh.from_dense(dense, active=1.0, storage="bfloat16")
        np.testing.assert_array_equal(
            as_float(layer.kernel), rounded(np.transpose(dense.kernel))
        )
        assert layer.rebuild_tables()["codes_changed"] == 0
        back = keras_lsh.to_dense(layer)
        assert back.kernel.dtype == "float32"
        np.testing.assert_array_equal(back.kernel, rounded(dense.kernel))
        x = inputs_of(3)
        np.testing.assert_allclose(layer(x), back(x), rtol=0, atol=2e-6)

    def test_models(self):
        dense = keras.layers.Dense(300, name="wide")
        model = keras.Sequential(
            [keras.Input((INPUT_DIM,)), dense, keras.layers.Dense(2)]
        )
        converted = keras_lsh.convert_model(model, storage="bfloat16", active=1.0)
        assert converted.get_layer("wide").storage == "bfloat16"
        back = keras_lsh.convert_model(converted, to="dense").get_layer("wide")
        np.testing.assert_array_equal(back.kernel, rounded(dense.kernel))


class Block(keras.layers.Layer):
    """A layer that has an LSHDense inside."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = LSHDense(30, name="inner")

    def call(self, x):
        return self.inner(x)


def make_model():
    """A nested model, a layer that is used twice, a product of all neurons."""
    shared = LSHDense(INPUT_DIM, "tanh", active=9, hashing=HASHING, name="shared")
    nested = keras.Sequential(
        [
            keras.Input((INPUT_DIM,)),
            LSHDense(50, "tanh", active=9, hashing=HASHING, name="nested"),
            LSHDense(40, use_bias=False, inference="exact", name="complete"),
        ],
        name="inside",
    )
    inputs = keras.Input((INPUT_DIM,), name="x")
    x = nested(shared(shared(inputs)))
    return keras.Model(inputs, keras.layers.Dense(3, name="last")(x))


@pytest.fixture(scope="module")
def model():
    """As after some training: nothing is as it was initially."""
    keras.utils.set_random_seed(0)
    model = make_model()
    for number, layer in enumerate(lsh_layers(model)):
        layer.kernel.assign(layer.kernel * 1.1)
        if layer.use_bias:
            layer.bias.assign(inputs_of(1, layer.units)[0])
        width = layer.kernel.shape[1]
        layer.selector.observe(tf.constant(inputs_of(64, width, seed=number)))
        layer.rebuild_tables()
    return model


@pytest.fixture(scope="module")
def stored(model):
    return with_storage(model, "bfloat16")


def lsh_layers(model):
    return [model.get_layer("shared"), *model.get_layer("inside").layers]


class TestWithStorage:
    def test_everything_is_copied(self, model, stored):
        assert not stored.compiled
        before = np.array(model(inputs_of(5)))
        rounds = set()
        for ours, theirs in zip(stored.weights, model.weights, strict=True):
            assert ours is not theirs
            if ours.dtype == "bfloat16":
                rounds.add(ours.path.split("/")[-2])
                np.testing.assert_array_equal(as_float(ours), rounded(theirs))
            else:
                np.testing.assert_array_equal(ours, theirs)
        assert rounds == {"shared", "nested", "complete"}
        for layer in lsh_layers(stored):
            assert layer.storage == "bfloat16"
            layer.kernel.assign(layer.kernel)
        np.testing.assert_array_equal(model(inputs_of(5)), before)

    def test_the_same_candidates(self, model, stored):
        x = tf.constant(inputs_of(40))
        candidates = [
            m.get_layer("shared").selector.select(x, None, None, 15)
            for m in (stored, model)
        ]
        np.testing.assert_array_equal(*candidates)

    def test_outputs_are_those_of_rounded_weights(self, model, stored):
        again = with_storage(stored, "float32")
        assert all(layer.kernel.dtype == "float32" for layer in lsh_layers(again))
        for layer, original in zip(lsh_layers(again), lsh_layers(model), strict=True):
            np.testing.assert_array_equal(layer.kernel, rounded(original.kernel))
        for samples in (1, 40):
            x = inputs_of(samples)
            outputs = stored(x)
            np.testing.assert_array_equal(outputs, again(x))
            # Rounding shows, and does not matter much.
            difference = np.abs(outputs - model(x)).max()
            assert 0 < difference < 0.5

    def test_float32_can_be_trained_again(self):
        layer = LSHDense(30, active=5, hashing=HASHING, storage="bfloat16")
        stored = keras.Sequential([keras.Input((INPUT_DIM,)), layer])
        again = with_storage(stored, "float32")
        layer = again.layers[0]
        assert len(layer.trainable_weights) == 2
        before = np.array(layer.kernel)
        again.compile(keras_lsh.LazyAdam(1e-2), "mse", run_eagerly=True)
        again.fit(
            *(inputs_of(4), np.ones([4, 30])),
            verbose=0,
            callbacks=[keras_lsh.RebuildTables()],
        )
        assert np.abs(layer.kernel - before).max() > 1e-3

    def test_rounds_ties_to_even(self):
        layer = LSHDense(4, active=2, hashing=HASHING)
        model = keras.Sequential([keras.Input((3,)), layer])
        below, above = np.float32(1), np.float32(1 + 2**-7)
        ties = (below + above) / 2, (above + above + 2**-7) / 2
        kernel = np.float32(
            [
                [*ties, -ties[0]],
                [np.nextafter(ties[0], 2), np.nextafter(ties[0], 0), 0.1],
                [np.inf, -np.inf, -0.0],
                [3e38, np.nan, 1e-30],
            ]
        )
        layer.set_weights([kernel, *layer.get_weights()[1:]])
        actual = as_float(with_storage(model, "bfloat16").layers[0].kernel)
        np.testing.assert_array_equal(
            actual[0], np.float32([below, above + 2**-7, -below])
        )
        finite = ~np.isnan(kernel)
        np.testing.assert_array_equal(actual[finite], rounded(kernel)[finite])
        assert np.isnan(actual[~finite]).all()

    @pytest.mark.parametrize("functional", [False, True])
    def test_models_of_very_wide_outputs(self, functional):
        """Their classes, sparse inputs and `predict_top_k` stay."""
        inputs = keras.Input((70,), sparse=True)
        layers = [
            keras_lsh.SparseInputDense(16, "relu"),
            LSHDense(300, active=30, output="sparse", force_labels=True),
        ]
        if functional:
            model = keras_lsh.LSHModel(inputs, layers[1](layers[0](inputs)))
        else:
            model = keras_lsh.LSHSequential([inputs, *layers])
        stored = with_storage(model, "bfloat16")
        again = with_storage(stored, "float32")
        assert type(stored) is type(again) is type(model)
        assert stored.inputs[0].sparse
        x = tf.sparse.from_dense(np.float32(inputs_of(9, 70) > 1.5))
        exact = functional  # one of each: every model has to be traced
        for a, b in zip(
            stored.predict_top_k(x, exact=exact),
            again.predict_top_k(x, exact=exact),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)

    def test_refuses_what_it_cannot_copy(self):
        class Subclassed(keras.Model):
            def call(self, x):
                return x

        with pytest.raises(ValueError, match="functional model. In a subclassed.*load"):
            with_storage(Subclassed(), "bfloat16")
        with pytest.raises(ValueError, match="not built"):
            with_storage(keras.Sequential([LSHDense(30)]), "bfloat16")
        with pytest.raises(ValueError, match="`storage`, expected one of"):
            with_storage(make_model(), "float16")
        inside = keras.Sequential([keras.Input((INPUT_DIM,)), Block()])
        with pytest.raises(ValueError, match=r"parts of other layers.*\['inner'\]"):
            with_storage(inside, "bfloat16")


class TestFiles:
    def test_keras_file(self, stored, tmp_path):
        stored.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
        assert_same_weights(again, stored)
        x = inputs_of(5)
        np.testing.assert_array_equal(again(x), stored(x))

    def test_weights_files_fit_either_storage(self, model, stored, tmp_path):
        for source in (model, stored):
            source.save_weights(tmp_path / "model.weights.h5")
            for target in (make_model(), with_storage(make_model(), "bfloat16")):
                target.load_weights(tmp_path / "model.weights.h5")
                for ours, theirs in zip(target.weights, source.weights, strict=True):
                    expected = as_float(theirs)
                    if ours.dtype == "bfloat16":
                        expected = rounded(expected)
                    np.testing.assert_array_equal(as_float(ours), expected, ours.path)


PROGRAM = """
import json, pathlib, sys
import numpy as np
import tensorflow as tf

folder, library = pathlib.Path(sys.argv[1]), sys.argv[2]
cases = np.load(folder / "cases.npz")

def check(function, tolerance):
    for samples in ("1", "33"):
        x, expected = cases["x" + samples], cases["y" + samples]
        actual = function(tf.constant(x))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)

# Stock ops, before the library is loaded.
portable = tf.saved_model.load(folder / "portable")
check(portable.serve, 1e-6)
tf.load_op_library(library)
loaded = tf.saved_model.load(folder / "with_ops")
check(loaded.serve, 0)
dtypes = sorted(v.dtype.name for v in loaded.variables if v.shape.rank == 2)
assert dtypes.count("bfloat16") == 2, dtypes
graph = tf.compat.v1.GraphDef.FromString((folder / "frozen.pb").read_bytes())
source, target = json.loads((folder / "frozen.json").read_text())
function = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph, name=""), [])
tensor = function.graph.get_tensor_by_name
check(function.prune(tensor(source), tensor(target)), 0)
assert "keras_lsh" not in sys.modules
"""


def test_processes_without_the_package(tmp_path, run_python):
    layers = [
        LSHDense(50, "tanh", active=9, hashing=SimHash(3, 2, 2), storage="bfloat16"),
        # No activation: in a frozen graph TensorFlow rounds it differently, as Dense's.
        LSHDense(40, use_bias=False, inference="exact", storage="bfloat16"),
    ]
    stored = keras.Sequential([keras.Input((INPUT_DIM,)), *layers])
    stored.export(tmp_path / "with_ops", verbose=False)
    keras_lsh.export_portable(stored, tmp_path / "portable")
    frozen = keras_lsh.freeze(stored, tmp_path / "frozen.pb")
    names = [frozen.inputs[0].name, frozen.outputs[0].name]
    (tmp_path / "frozen.json").write_text(json.dumps(names))
    arrays = {}
    for samples in (1, 33):
        arrays[f"x{samples}"] = x = inputs_of(samples)
        arrays[f"y{samples}"] = stored(x)
    np.savez(tmp_path / "cases.npz", **arrays)
    run_python(PROGRAM, tmp_path, ops.library_path(), isolated=True)


class TestMeasuring:
    def test_metrics_and_report_are_those_of_the_rounded_kernel(self):
        stored, full = twins(activation="relu")
        x = inputs_of(40)
        for metric in (
            keras_lsh.metrics.SelectionRecall,
            keras_lsh.metrics.SelectedMass,
        ):
            values = []
            for layer in (stored, full):
                measured = metric(layer)
                measured.update_state(x)
                values.append(float(measured.result()))
            assert values[0] == values[1] > 0
        reports = [
            keras_lsh.diagnostics.report(
                keras.Sequential([keras.Input((INPUT_DIM,)), layer]), x
            ).layers[0]
            for layer in (stored, full)
        ]
        assert reports[0].recall == reports[1].recall > 0
        ours, theirs = (report.inference_bytes for report in reports)
        # Half for the weights; as much for the biases.
        bias = 4 * reports[0].candidates
        assert 2 * (ours.products - bias) == theirs.products - bias
        assert ours.dense == theirs.dense

    def test_tune(self):
        stored, _ = twins()
        tuning = keras_lsh.tune(stored, inputs_of(200), hashing=[HASHING], verbose=0)
        assert tuning.layer.storage == "bfloat16"
        np.testing.assert_array_equal(tuning.layer.kernel, stored.kernel)
