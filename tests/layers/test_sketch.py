"""LSHDense layers that rank all neurons by a sketch where not training."""

import copy
import json
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lsh
from keras_lsh import LSHDense, SimHash, ops, with_inference, with_storage
from keras_lsh.selection import SketchSelector

INPUT_DIM = 20
HASHING = SimHash(bits=4, tables=2, probes=2, seed=3)


def inputs_of(samples, dim=INPUT_DIM, seed=0):
    random = np.random.default_rng([seed, samples])
    return random.normal(size=(samples, dim)).astype("float32")


def layer_of(units=300, dim=INPUT_DIM, clusters=12, **arguments):
    """A layer with weights near some centres, with a common part, and biases."""
    arguments = {
        "active": 30,
        "oversample": 2,
        "hashing": HASHING,
        "inference": "sketch",
    } | arguments
    layer = LSHDense(units, **arguments)
    layer.build((None, dim))
    random = np.random.default_rng(units)
    centers = random.normal(size=(clusters, dim))
    weights = centers[random.integers(clusters, size=units)]
    weights = 0.5 + weights + 0.7 * random.normal(size=(units, dim))
    layer.kernel.assign(weights.astype("float32"))
    if layer.use_bias:
        layer.bias.assign(random.normal(size=units).astype("float32"))
    layer.rebuild_tables()
    return layer


def model_of(layer, dim=INPUT_DIM):
    return keras_lsh.LSHSequential([keras.Input((dim,)), layer])


def recall(layer, x):
    true = tf.math.top_k(layer._all_products(tf.constant(x)), layer.num_active)
    pairs = zip(np.asarray(layer.active_ids(x)), true.indices.numpy(), strict=True)
    return np.mean([len(np.intersect1d(*pair)) for pair in pairs]) / layer.num_active


def weights_of(layer):
    return {weight.name: weight.numpy() for weight in layer.weights}


def assert_same_weights(one, other):
    for ours, theirs in zip(one.weights, other.weights, strict=True):
        assert ours.dtype == theirs.dtype, ours.name
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.name)


class TestSelection:
    def test_finds_most_of_the_largest(self):
        x = inputs_of(50, 100)
        found = {
            oversample: recall(layer_of(5000, 100, active=20, oversample=oversample), x)
            for oversample in (1, 5, 20)
        }
        # By chance .004, .02 and .08.
        assert found[1] > 0.2 and found[5] > 0.55 and found[20] > 0.85, found

    def test_all_neurons_are_exact(self):
        x = inputs_of(7)
        for arguments in ({}, {"use_bias": False}, {"activation": "tanh"}):
            layer = layer_of(70, active=1.0, **arguments)
            exact = with_inference(model_of(layer), "exact").layers[0]
            np.testing.assert_allclose(layer(x), exact(x), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("dim", [1, 3, 16, 17, 100])
    def test_all_candidates_are_the_largest(self, dim):
        layer = layer_of(70, dim, active=9, oversample=100)
        assert layer.num_candidates == 70
        assert recall(layer, inputs_of(30, dim)) == 1

    def test_whatever_the_form_of_the_output(self):
        x = inputs_of(6)
        dense, sparse = layer_of(), layer_of(output="sparse")
        np.testing.assert_allclose(
            dense(x), tf.sparse.to_dense(sparse(x)), rtol=0, atol=1e-6
        )
        axes = dense(x.reshape(2, 3, INPUT_DIM))
        np.testing.assert_array_equal(np.reshape(axes, dense(x).shape), dense(x))

    def test_the_same_in_every_way(self):
        layer = layer_of()
        x = inputs_of(40)
        ids = layer.active_ids(x)
        np.testing.assert_array_equal(
            np.concatenate([layer.active_ids(x[i : i + 1]) for i in range(40)]), ids
        )
        with ops.reference_ops():
            np.testing.assert_array_equal(layer.active_ids(x), ids)
        function = tf.function(layer, [tf.TensorSpec([None, INPUT_DIM])])
        for samples in (0, 1, 40):
            np.testing.assert_array_equal(function(x[:samples]), layer(x[:samples]))

    def test_selector(self):
        layer = layer_of()
        selector, x = layer.inference_selector, tf.constant(inputs_of(8))
        assert isinstance(selector, SketchSelector)
        scores = selector.scores(x, layer.kernel, layer.bias)
        ids = selector.select(x, layer.kernel, layer.bias, 40)
        best = tf.sort(tf.math.top_k(scores, 40).indices, axis=-1)
        np.testing.assert_array_equal(ids, best)
        forced = tf.constant([[3, -1, 299]] * 8)
        ids = selector.select(x, layer.kernel, layer.bias, 40, forced).numpy()
        assert ids.shape == (8, 40)
        assert (np.diff(ids) > 0).all()
        assert (ids == 3).any(axis=1).all() and (ids == 299).any(axis=1).all()

    @pytest.mark.parametrize("selection", ["lsh", "exact"])
    def test_training_is_as_without(self, selection):
        layer = layer_of(selection=selection)
        sparse = with_inference(model_of(layer), "sparse").layers[0]
        x = inputs_of(9)
        layer.rebuild_tables(), sparse.rebuild_tables()
        np.testing.assert_array_equal(layer(x, training=True), sparse(x, training=True))
        assert recall(layer, x) > recall(sparse, x) or selection == "exact"
        assert np.any(layer(x) != sparse(x)) or selection == "exact"

    def test_gradient_by_the_inputs(self):
        layer, x = layer_of(), tf.constant(inputs_of(4))
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = layer(x, training=False)
        gradient = tape.gradient(outputs, x)
        active = np.asarray(outputs) != 0
        np.testing.assert_allclose(gradient, active @ layer.kernel, rtol=0, atol=1e-4)

    def test_what_is_not_finite(self):
        layer = layer_of(90, active=4, oversample=2)
        kernel = layer.kernel.numpy()
        kernel[17], kernel[60, 3] = np.nan, np.inf
        layer.kernel.assign(kernel)
        layer.rebuild_tables()
        x = inputs_of(5)
        x[1, 2], x[2], x[3], x[4] = np.nan, np.inf, 3e38, 1e-35
        ids = np.asarray(layer.active_ids(x))
        assert ((ids >= 0) & (ids < 90)).all() and (np.diff(ids) > 0).all()
        assert (ids == 17).any(axis=1).all()  # NaN is the largest, as everywhere
        with ops.reference_ops():
            np.testing.assert_array_equal(layer.active_ids(x[:1]), ids[:1])
        # An infinite weight does not hide the other neurons.
        assert recall(layer_of(90), inputs_of(9)) > 0.8


class TestLayer:
    def test_weights(self):
        layer, sparse = layer_of(), layer_of(inference="sparse")
        ours, theirs = weights_of(layer), weights_of(sparse)
        assert set(ours) - set(theirs) == {
            "sketch_signs",
            "sketch_codes",
            "sketch_scales",
        }
        assert ours["sketch_codes"].shape == (10, 8, 16)
        assert ours["sketch_codes"].dtype == np.uint8
        assert len(layer.trainable_weights) == 2
        assert layer.inference_selector is not layer.selector
        assert sparse.inference_selector is sparse.selector

    def test_refuses(self):
        with pytest.raises(ValueError, match="`inference`, expected one of 'sparse'"):
            LSHDense(30, inference="signs")
        with pytest.raises(ValueError, match="`input_dim`, expected at most"):
            LSHDense(2, hashing=HASHING, inference="sketch").build((None, 2**20 + 1))

    def test_config(self):
        config = layer_of().get_config()
        assert config["inference"] == "sketch"
        assert LSHDense.from_config(config).get_config() == config

    def test_is_rebuilt_with_the_tables(self):
        layer = layer_of()
        assert layer.rebuild_tables()["codes_changed"] == 0
        before = weights_of(layer)
        layer.kernel.assign(-layer.kernel)
        assert layer.rebuild_tables(moved_only=True)["codes_changed"] > 0
        after = weights_of(layer)
        assert (before["sketch_codes"] != after["sketch_codes"]).mean() > 0.9
        np.testing.assert_array_equal(before["sketch_scales"], after["sketch_scales"])

    def test_codes_changed_of_a_sketch_alone(self):
        layer = layer_of(selection="exact")
        assert layer.rebuild_tables()["codes_changed"] == 0
        kernel = layer.kernel.numpy()
        kernel[[5, 21]] *= -1
        layer.kernel.assign(kernel)
        assert 2 <= 300 * layer.rebuild_tables()["codes_changed"] < 300
        layer.kernel.assign(-layer.kernel)
        assert layer.rebuild_tables()["codes_changed"] == 1

    @pytest.mark.parametrize("selection", ["lsh", "exact", "random"])
    def test_fit_leaves_it_fresh(self, selection):
        layer = layer_of(60, active=12, oversample=4, selection=selection)
        before = weights_of(layer)["sketch_codes"]
        model = model_of(layer)
        model.compile(keras_lsh.LazyAdam(0.1), "mse")
        model.fit(
            *(inputs_of(32), np.ones([32, 60])),
            batch_size=8,
            epochs=2,
            verbose=0,
            callbacks=[keras_lsh.RebuildTables(every=3)],
        )
        after = weights_of(layer)["sketch_codes"]
        assert (before != after).any()
        layer.rebuild_tables()
        np.testing.assert_array_equal(weights_of(layer)["sketch_codes"], after)
        assert np.isfinite(model.evaluate(inputs_of(8), np.ones([8, 60]), verbose=0))

    def test_warns_if_it_is_never_rebuilt(self):
        layer = LSHDense(30, selection="exact", inference="sketch")
        with pytest.warns(UserWarning, match="RebuildTables"):
            layer(inputs_of(2), training=True)

    @pytest.mark.parametrize(
        "make_copy",
        [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
        ids=["deepcopy", "pickle"],
    )
    def test_copies(self, make_copy):
        layer = layer_of()
        other = make_copy(layer)
        assert_same_weights(other, layer)
        np.testing.assert_array_equal(other(inputs_of(3)), layer(inputs_of(3)))

    def test_keras_file(self, tmp_path):
        layer = layer_of()
        model_of(layer).save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras").layers[0]
        assert_same_weights(again, layer)
        np.testing.assert_array_equal(again(inputs_of(3)), layer(inputs_of(3)))

    @pytest.mark.parametrize("output", ["dense", "sparse"])
    def test_bfloat16(self, output):
        """As a float32 kernel of the rounded values."""
        rounded = with_storage(model_of(layer_of(output=output)), "bfloat16")
        full = with_storage(rounded, "float32").layers[0]
        stored, x = rounded.layers[0], inputs_of(11)
        for _ in range(2):
            np.testing.assert_array_equal(stored.active_ids(x), full.active_ids(x))
            if output == "dense":
                np.testing.assert_array_equal(stored(x), full(x))
            for layer in (stored, full):  # of the rounded weights now
                layer.rebuild_tables()
        np.testing.assert_array_equal(
            weights_of(stored)["sketch_codes"], weights_of(full)["sketch_codes"]
        )

    def test_multiplications(self):
        layer = layer_of(300, 20)  # 32 elements after the rotation
        cost = layer.multiplications()
        assert cost["selection"] == 3 * 32 * 5 + 300 * (8 + 2)
        assert cost["products"] == 60 * 20
        assert cost["total"] == cost["selection"] + cost["products"]
        sparse = layer_of(300, 20, inference="sparse").multiplications()
        assert cost["rebuild"] == sparse["rebuild"] + 300 * 3 * 32 * 5
        assert cost["dense"] == sparse["dense"]


class Block(keras.layers.Layer):
    """A layer that has an LSHDense inside."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = LSHDense(30, name="inner")

    def call(self, x):
        return self.inner(x)


class TestWithInference:
    def test_there_and_back(self):
        layer = layer_of(inference="sparse")
        model = model_of(layer)
        x = inputs_of(20)
        sketch = with_inference(model, "sketch")
        assert type(sketch) is type(model) and not sketch.compiled
        ours, theirs = weights_of(sketch.layers[0]), weights_of(layer)
        for name in theirs:
            np.testing.assert_array_equal(ours[name], theirs[name], name)
        assert recall(sketch.layers[0], x) > recall(layer, x) + 0.1
        again = with_inference(sketch, "sketch").layers[0]
        assert_same_weights(again, sketch.layers[0])
        assert sketch.layers[0].rebuild_tables()["codes_changed"] == 0
        back = with_inference(sketch, "sparse").layers[0]
        assert_same_weights(back, layer)
        np.testing.assert_array_equal(back(x), layer(x))
        exact = with_inference(sketch, "exact").layers[0]
        assert_same_weights(exact, layer)
        np.testing.assert_allclose(
            exact(x), layer._all_products(tf.constant(x)), rtol=0, atol=1e-5
        )

    def test_of_rounded_weights(self):
        stored = with_storage(model_of(layer_of(inference="sparse")), "bfloat16")
        sketch = with_inference(stored, "sketch").layers[0]
        assert sketch.kernel.dtype == "bfloat16"
        full = with_storage(stored, "float32")
        full = with_inference(full, "sketch").layers[0]
        x = inputs_of(9)
        np.testing.assert_array_equal(sketch.active_ids(x), full.active_ids(x))

    def test_nested_and_shared_layers(self):
        shared = LSHDense(INPUT_DIM, "tanh", active=9, hashing=HASHING)
        nested = keras.Sequential(
            [
                keras.Input((INPUT_DIM,)),
                LSHDense(50, "tanh", active=9, hashing=HASHING),
                keras.layers.BatchNormalization(),
            ]
        )
        inputs = keras.Input((INPUT_DIM,))
        model = keras.Model(inputs, nested(shared(shared(inputs))))
        sketch = with_inference(model, "sketch")
        assert sketch.count_params() > model.count_params()
        x = inputs_of(5)
        assert np.isfinite(sketch(x)).all()
        np.testing.assert_array_equal(with_inference(sketch, "sparse")(x), model(x))

    def test_can_be_trained(self):
        model = with_inference(model_of(layer_of(60, inference="sparse")), "sketch")
        model.compile(keras_lsh.LazyAdam(1e-2), "mse")
        model.fit(
            *(inputs_of(16), np.ones([16, 60])),
            verbose=0,
            callbacks=[keras_lsh.RebuildTables()],
        )

    def test_refuses_what_it_cannot_copy(self):
        class Subclassed(keras.Model):
            def call(self, x):
                return x

        with pytest.raises(ValueError, match="In a subclassed.*rebuild_tables"):
            with_inference(Subclassed(), "sketch")
        with pytest.raises(ValueError, match="not built"):
            with_inference(keras.Sequential([LSHDense(30)]), "sketch")
        with pytest.raises(ValueError, match="`inference`, expected one of"):
            with_inference(model_of(layer_of()), "signs")
        inside = keras.Sequential([keras.Input((INPUT_DIM,)), Block()])
        with pytest.raises(ValueError, match=r"parts of other layers.*\['inner'\]"):
            with_inference(inside, "sketch")

    def test_dense_layers(self):
        dense = keras.layers.Dense(300, name="wide")
        dense.build((None, INPUT_DIM))
        layer = keras_lsh.from_dense(dense, active=30, inference="sketch")
        assert layer.rebuild_tables()["codes_changed"] == 0
        assert recall(layer, inputs_of(20)) > 0.8
        model = keras.Sequential([keras.Input((INPUT_DIM,)), dense])
        converted = keras_lsh.convert_model(
            model, layers=["wide"], active=30, inference="sketch"
        )
        ours, theirs = weights_of(converted.layers[0]), weights_of(layer)
        for name in ("kernel", "sketch_codes", "sketch_scales"):
            np.testing.assert_array_equal(ours[name], theirs[name])


class TestTopK:
    @pytest.mark.parametrize("output", ["dense", "sparse"])
    def test_predict_top_k(self, output):
        layer = layer_of(output=output, active=30, oversample=3)
        model, x = model_of(layer), inputs_of(12)
        products = layer._all_products(tf.constant(x))
        _, true = tf.math.top_k(products, 5)
        ids, scores = model.predict_top_k(x, 5)
        assert np.mean(ids == true) > 0.95
        np.testing.assert_allclose(
            scores, np.take_along_axis(products.numpy(), ids, 1), rtol=0, atol=1e-5
        )
        ids, _ = model.predict_top_k(x, 5, exact=True)
        np.testing.assert_array_equal(ids, true)

    def test_exported(self, tmp_path):
        model, x = model_of(layer_of(output="sparse")), inputs_of(7)
        model.export(tmp_path / "served", top_k=4, verbose=False)
        loaded = tf.saved_model.load(tmp_path / "served")
        for samples in (1, 7):
            ids, scores = model.predict_top_k(x[:samples], 4)
            actual = loaded.predict_top_k(tf.constant(x[:samples]))
            np.testing.assert_array_equal(actual["ids"], ids)
            np.testing.assert_array_equal(actual["scores"], scores)


PROGRAM = """
import json, pathlib, sys
import numpy as np
import tensorflow as tf

folder, library = pathlib.Path(sys.argv[1]), sys.argv[2]
cases = np.load(folder / "cases.npz")

def check(function, name, tolerance):
    for samples in ("1", "33"):
        x, expected = cases["x" + samples], cases[name + samples]
        actual = function(tf.constant(x))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)

# Stock ops, before the library is loaded.
portable = tf.saved_model.load(folder / "portable")
check(portable.serve, "y", 1e-5)
exact = tf.saved_model.load(folder / "exact")
check(exact.serve, "e", 1e-5)
tf.load_op_library(library)
loaded = tf.saved_model.load(folder / "with_ops")
check(loaded.serve, "y", 0)
graph = tf.compat.v1.GraphDef.FromString((folder / "frozen.pb").read_bytes())
source, target = json.loads((folder / "frozen.json").read_text())
function = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph, name=""), [])
tensor = function.graph.get_tensor_by_name
check(function.prune(tensor(source), tensor(target)), "y", 0)
assert "keras_lsh" not in sys.modules
"""


def test_processes_without_the_package(tmp_path, run_python):
    layer = layer_of(activation="tanh", active=20, oversample=1.5)
    model = model_of(layer)
    model.export(tmp_path / "with_ops", verbose=False)
    keras_lsh.export_portable(model, tmp_path / "portable")
    keras_lsh.export_portable(model, tmp_path / "exact", selection="exact")
    frozen = keras_lsh.freeze(model, tmp_path / "frozen.pb")
    names = [frozen.inputs[0].name, frozen.outputs[0].name]
    (tmp_path / "frozen.json").write_text(json.dumps(names))
    arrays = {}
    for samples in (1, 33):
        arrays[f"x{samples}"] = x = inputs_of(samples)
        arrays[f"y{samples}"] = layer(x)
        arrays[f"e{samples}"] = layer._largest_of_all_outputs(tf.constant(x))
    np.savez(tmp_path / "cases.npz", **arrays)
    run_python(PROGRAM, tmp_path, ops.library_path(), isolated=True)


class TestMeasuring:
    def test_report_is_of_the_sketch(self):
        layer, x = layer_of(activation="relu"), inputs_of(40)
        report = keras_lsh.diagnostics.report(model_of(layer), x, rebuild_every=10)
        (ours,) = report.layers
        assert ours.recall == pytest.approx(recall(layer, x), abs=0.01)
        metric = keras_lsh.metrics.SelectionRecall(layer)
        metric.update_state(x)
        assert float(metric.result()) == pytest.approx(ours.recall, abs=1e-6)
        cost = layer.multiplications()
        assert ours.inference.selection == cost["selection"]
        tables = layer.selector.multiplications(INPUT_DIM)
        assert ours.training.selection == tables
        # Signs of the rotation, then a bit an element and a scale a neuron.
        words = 3 * 32 + 300 * (1 + 1)
        assert ours.inference_bytes.selection == 4 * words
        assert str(report) and report.details()

    def test_tune(self):
        layer = layer_of()
        tuning = keras_lsh.tune(layer, inputs_of(200), hashing=[HASHING], verbose=0)
        assert tuning.layer.inference == "sketch"
        np.testing.assert_array_equal(
            weights_of(tuning.layer)["sketch_codes"],
            weights_of(layer)["sketch_codes"],
        )
