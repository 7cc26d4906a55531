"""Exported models give the model's answers in processes that know less and less."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import keras_lsh
from keras_lsh import ops

BATCHES = (7, 1, 33)  # the first is none that a graph could have been traced with


def make_model(selection="lsh"):
    """Two inputs, two outputs, a rank-3 input, each kind of layer."""
    steps = keras.Input((3, 12), name="steps")
    extra = keras.Input((6,), name="extra")
    hashing = keras_lsh.SimHash(bits=4, tables=3, probes=3)
    x = keras_lsh.LSHDense(
        40, "tanh", active=10, hashing=hashing, selection=selection, name="steps_layer"
    )(steps)
    # A stock product: neither bias nor activation, because in a frozen graph TensorFlow
    # fuses them with it, and then it rounds differently (as for a Dense layer).
    x = keras_lsh.LSHDense(
        32,
        use_bias=False,
        active=8,
        inference="exact",
        selection=selection,
        name="complete",
    )(x)
    x = keras.layers.Concatenate()([keras.layers.Flatten()(x), extra])
    x = keras_lsh.LSHDense(
        64,
        "tanh",
        active=0.25,
        hashing=keras_lsh.SimHash(5, 4, 4, transform="simple_lsh", seed=1),
        oversample=1,
        selection=selection,
        name="hidden",
    )(x)
    classes = keras_lsh.LSHDense(
        30, "softmax", use_bias=False, active=6, selection=selection, name="classes"
    )(x)
    return keras.Model(
        {"steps": steps, "extra": extra}, {"hidden": x, "classes": classes}
    )


def inputs_of(batch, seed=0):
    random = np.random.default_rng([seed, batch])
    return {
        "steps": random.normal(size=(batch, 3, 12)).astype("float32"),
        "extra": random.normal(size=(batch, 6)).astype("float32"),
    }


@pytest.fixture(scope="module")
def model():
    """Trained a little: weights, biases and running means are not the initial ones."""
    keras.utils.set_random_seed(0)
    model = make_model()
    model.compile(
        keras_lsh.LazyAdam(1e-2),
        {"hidden": "mse", "classes": "sparse_categorical_crossentropy"},
    )
    x = inputs_of(64, seed=1)
    y = {"hidden": x["steps"][:, 0, :1] * np.ones(64), "classes": np.arange(64) % 30}
    model.fit(x, y, verbose=0, callbacks=[keras_lsh.RebuildTables(every=1)])
    return model


def twin_that_selects_exactly(model):
    twin = make_model("exact")
    for layer in model.layers:
        if isinstance(layer, keras_lsh.LSHDense):
            other = twin.get_layer(layer.name)
            other.kernel.assign(layer.kernel)
            if layer.use_bias:
                other.bias.assign(layer.bias)
    return twin


def save_cases(model, path):
    """Inputs and the model's answers, in a file that a subprocess reads."""
    arrays = {}
    for batch in BATCHES:
        x = inputs_of(batch)
        for name, array in {**x, **model.predict_on_batch(x)}.items():
            arrays[f"{batch}/{name}"] = array
    np.savez(path, **arrays)


@pytest.fixture(scope="module")
def served(model, tmp_path_factory):
    """A folder with the model in every form."""
    folder = tmp_path_factory.mktemp("served")
    model.export(folder / "with_ops", verbose=False)
    keras_lsh.export_portable(model, folder / "portable_lsh")
    keras_lsh.export_portable(model, folder / "portable_exact", selection="exact")
    frozen = keras_lsh.freeze(model, folder / "frozen.pb")
    names = {
        "inputs": {tensor.name.split(":")[0]: tensor.name for tensor in frozen.inputs},
        "outputs": {
            name: tensor.name
            for name, tensor in zip(
                sorted(frozen.structured_outputs), frozen.outputs, strict=True
            )
        },
    }
    (folder / "frozen.json").write_text(json.dumps(names))
    save_cases(model, folder / "lsh.npz")
    save_cases(twin_that_selects_exactly(model), folder / "exact.npz")
    return folder


def ops_in(path):
    saved_model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    graphs = [meta_graph.graph_def for meta_graph in saved_model.meta_graphs]
    nodes = [node for graph in graphs for node in graph.node]
    for graph in graphs:
        for function in graph.library.function:
            nodes.extend(function.node_def)
    return {node.op for node in nodes}


# What the subprocesses have in common. Nothing of it imports keras_lsh.
COMMON = """
import json, pathlib, sys
import numpy as np
import tensorflow as tf

folder, library = pathlib.Path(sys.argv[1]), sys.argv[2]

def cases(name):
    arrays = np.load(folder / name)
    for batch in sorted({key.split("/")[0] for key in arrays}):
        yield [{k: arrays[f"{batch}/{k}"] for k in keys}
               for keys in (("steps", "extra"), ("hidden", "classes"))]

def check_equal(function, name):
    for inputs, expected in cases(name):
        for key, value in function(inputs).items():
            np.testing.assert_array_equal(value, expected[key], err_msg=key)

def check_close(function, name, tolerance):
    for inputs, expected in cases(name):
        for key, value in function(inputs).items():
            np.testing.assert_array_equal(value != 0, expected[key] != 0, err_msg=key)
            np.testing.assert_allclose(
                value, expected[key], rtol=0, atol=tolerance, err_msg=key)
"""

KNOWS_ONLY_THE_LIBRARY = """
def import_frozen():
    graph = tf.compat.v1.GraphDef.FromString((folder / "frozen.pb").read_bytes())
    names = json.loads((folder / "frozen.json").read_text())
    function = tf.compat.v1.wrap_function(
        lambda: tf.import_graph_def(graph, name=""), [])
    tensor = function.graph.get_tensor_by_name
    return function.prune(
        {k: tensor(v) for k, v in names["inputs"].items()},
        {k: tensor(v) for k, v in names["outputs"].items()})

def message_of(function):
    try:
        function()
    except Exception as error:
        return str(error)

for attempt in lambda: tf.saved_model.load(folder / "with_ops"), import_frozen:
    message = message_of(attempt)
    assert message and "Op type not registered 'Lsh" in message, message

tf.load_op_library(library)
loaded = tf.saved_model.load(folder / "with_ops")
check_equal(lambda x: loaded.serve(x), "lsh.npz")
frozen = import_frozen()
check_equal(lambda x: frozen(**{k: tf.constant(v) for k, v in x.items()}), "lsh.npz")
assert "keras_lsh" not in sys.modules
"""

KNOWS_THE_PACKAGE = """
import keras_lsh
loaded = tf.saved_model.load(folder / "with_ops")
check_equal(lambda x: loaded.serve(x), "lsh.npz")
"""

KNOWS_TENSORFLOW = """
portable = tf.saved_model.load(folder / "portable_lsh")
check_close(lambda x: portable.serve(x), "lsh.npz", 1e-6)
exact = tf.saved_model.load(folder / "portable_exact")
check_close(lambda x: exact.serve(x), "exact.npz", 1e-6)
assert "keras_lsh" not in sys.modules
"""

KNOWS_TFLITE = """
converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "portable_exact"))
lite = converter.convert()
runner = tf.lite.Interpreter(model_content=lite).get_signature_runner()
check_close(lambda x: runner(**x), "exact.npz", 1e-5)
assert "keras_lsh" not in sys.modules
"""


class TestOtherProcesses:
    """One test, one process."""

    def test_op_library_alone(self, served, run_python):
        """Without it TensorFlow says which op it misses; with it all runs."""
        program = COMMON + KNOWS_ONLY_THE_LIBRARY
        run_python(program, served, ops.library_path(), isolated=True)

    def test_package(self, served, run_python):
        run_python(COMMON + KNOWS_THE_PACKAGE, served, "")

    def test_neither(self, served, run_python):
        program = COMMON + KNOWS_TENSORFLOW
        run_python(program, served, "", isolated=True)

    def test_tflite(self, served, run_python):
        run_python(COMMON + KNOWS_TFLITE, served, "", isolated=True)


class TestExportPortable:
    @pytest.mark.parametrize("selection", ["lsh", "exact"])
    def test_stock_ops_only(self, served, selection):
        found = ops_in(served / f"portable_{selection}" / "saved_model.pb")
        assert "MatMul" in found
        assert not [op for op in found if op.startswith("Lsh")]
        # The same search does find them where they are.
        assert any(
            op.startswith("Lsh") for op in ops_in(served / "with_ops/saved_model.pb")
        )

    def test_exact_has_no_tables(self, served):
        """It is made for converters, which know few ops."""
        found = ops_in(served / "portable_exact" / "saved_model.pb")
        assert "TopKV2" in found
        assert not found & {"Unique", "StatelessIf", "BitwiseXor", "ResourceGather"}

    @pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
    def test_dtype_policies(self, policy, tmp_path):
        keras.utils.set_random_seed(2)
        layer = keras_lsh.LSHDense(40, "relu", active=8, dtype=policy)
        model = keras.Sequential([keras.Input((12,)), layer])
        x = np.random.default_rng(3).normal(size=(9, 12)).astype("float32")
        keras_lsh.export_portable(model, tmp_path)
        loaded = tf.saved_model.load(tmp_path)
        answers, expected = loaded.serve(x), layer(x)
        assert answers.dtype == expected.dtype == layer.compute_dtype
        tolerance = 2.0**-7 if policy == "mixed_bfloat16" else 2.0**-10
        np.testing.assert_allclose(
            tf.cast(answers, tf.float32), tf.cast(expected, tf.float32), rtol=tolerance
        )

    def test_random_selection_goes_on_drawing(self, tmp_path):
        layer = keras_lsh.LSHDense(50, active=5, selection="random", use_bias=False)
        model = keras.Sequential([keras.Input((4,)), layer])
        keras_lsh.export_portable(model, tmp_path)
        loaded = tf.saved_model.load(tmp_path)
        x = np.ones((6, 4), "float32")
        first, second = loaded.serve(x).numpy(), loaded.serve(x).numpy()
        assert (np.count_nonzero(first, axis=1) == 5).all()
        assert ((first != 0) != (second != 0)).any()

    def test_input_signature(self, tmp_path):
        model = keras.Sequential([keras.Input((None, 5)), keras_lsh.LSHDense(20)])
        signature = [keras.InputSpec(shape=(2, 3, 5), dtype="float32")]
        keras_lsh.export_portable(model, str(tmp_path), input_signature=signature)
        loaded = tf.saved_model.load(tmp_path)
        serve = loaded.signatures["serving_default"]
        (_, specs) = serve.structured_input_signature
        assert [tuple(spec.shape) for spec in specs.values()] == [(2, 3, 5)]

    def test_names_an_op_that_is_not_tensorflows(self, tmp_path):
        class Custom(keras.layers.Layer):
            def call(self, x):
                ids = tf.zeros([tf.shape(x)[0], 1], tf.int32)
                return ops.library().lsh_scatter_active(x[:, :1], ids, units=3)

            def compute_output_shape(self, input_shape):
                return input_shape[0], 3

        model = keras.Sequential(
            [keras.Input((4,)), keras_lsh.LSHDense(20), Custom(name="of_mine")]
        )
        with pytest.raises(ValueError, match="LshScatterActive.*of_mine.*Replace the"):
            keras_lsh.export_portable(model, tmp_path)
        assert not (tmp_path / "saved_model.pb").exists()

    def test_leaves_the_model_as_it_was(self, model, tmp_path):
        x = inputs_of(5)
        before = model.predict_on_batch(x)
        keras_lsh.export_portable(model, tmp_path, selection="exact")
        assert not ops.using_reference()
        fresh = keras.models.clone_model(model)
        fresh.set_weights(model.get_weights())
        for again in model.predict_on_batch(x), fresh.predict_on_batch(x):
            for name, value in again.items():
                np.testing.assert_array_equal(value, before[name])

    def test_bad_arguments(self, tmp_path):
        unbuilt = keras.Sequential([keras_lsh.LSHDense(20)])
        with pytest.raises(ValueError, match="not built.*keras.Input"):
            keras_lsh.export_portable(unbuilt, tmp_path)
        built = keras.Sequential([keras.Input((3,)), keras_lsh.LSHDense(20)])
        with pytest.raises(ValueError, match="'lsh' or 'exact'.*selection=random"):
            keras_lsh.export_portable(built, tmp_path, selection="random")
        assert not list(tmp_path.iterdir())


class TestFreeze:
    def test_holds_no_resources(self, model):
        frozen = keras_lsh.freeze(model)
        assert not frozen.captured_inputs
        assert not frozen.variables
        graph = frozen.graph.as_graph_def()
        nodes = list(graph.node)
        for function in graph.library.function:
            nodes.extend(function.node_def)
        found = {node.op for node in nodes}
        assert "LshActiveMatmul" in found
        assert not [op for op in found if "Resource" in op or "Variable" in op]

    def test_later_training_does_not_change_it(self):
        model = keras.Sequential([keras.Input((5,)), keras_lsh.LSHDense(20)])
        x = tf.constant(np.random.default_rng(4).normal(size=(6, 5)), tf.float32)
        frozen = keras_lsh.freeze(model)
        before = model.predict_on_batch(x)
        np.testing.assert_array_equal(frozen(x), before)
        model.layers[0].kernel.assign(-model.layers[0].kernel)
        np.testing.assert_array_equal(frozen(x), before)

    def test_reference_ops(self):
        model = keras.Sequential([keras.Input((5,)), keras_lsh.LSHDense(20)])
        x = tf.constant(np.random.default_rng(4).normal(size=(6, 5)), tf.float32)
        with ops.reference_ops():
            frozen = keras_lsh.freeze(model)
        graph = frozen.graph.as_graph_def()
        assert not [node for node in graph.node if node.op.startswith("Lsh")]
        np.testing.assert_allclose(frozen(x), model(x), rtol=0, atol=1e-6)

    def test_subclassed_model(self):
        class Subclassed(keras.Model):
            def __init__(self):
                super().__init__()
                self.inner = keras_lsh.LSHDense(20, active=5)

            def call(self, x):
                return self.inner(x)

        model = Subclassed()
        with pytest.raises(ValueError, match="not built"):
            keras_lsh.freeze(model)
        x = tf.ones([2, 4])
        expected = model(x)
        with pytest.raises(ValueError, match="input_signature"):
            keras_lsh.freeze(model)
        signature = [keras.InputSpec(shape=(None, 4), dtype="float32")]
        frozen = keras_lsh.freeze(model, input_signature=signature)
        np.testing.assert_array_equal(frozen(x), expected)

    def test_refuses_what_no_constant_can_hold(self):
        inputs = keras.Input((), dtype="string")
        x = keras.layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")(
            inputs
        )
        model = keras.Model(inputs, keras_lsh.LSHDense(20)(x))
        with pytest.raises(ValueError, match="cannot be frozen.*`model.export`"):
            keras_lsh.freeze(model)
