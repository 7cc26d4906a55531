"""LSHSequential and LSHModel: training with labels, prediction, export."""

import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

import keras_lsh
from keras_lsh import losses, metrics

CLASSES, WIDTH = 400, 16


def problem(samples=1500, seed=0):
    """Noisy copies of a vector for each class."""
    rng = np.random.default_rng(0)
    prototypes = rng.normal(size=(CLASSES, WIDTH)).astype(np.float32)
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, samples)
    noise = rng.normal(size=(samples, WIDTH)).astype(np.float32)
    return prototypes[y] + 0.1 * noise, y


def output_layer(**arguments):
    arguments = {"active": 30, "output": "sparse", "force_labels": True} | arguments
    return keras_lsh.LSHDense(CLASSES, name="classes", **arguments)


def make_model(**arguments):
    keras.utils.set_random_seed(1)
    model = keras_lsh.LSHSequential(
        [
            keras.Input((WIDTH,)),
            keras.layers.Dense(32, "relu"),
            output_layer(**arguments),
        ]
    )
    model.compile(
        keras_lsh.LazyAdam(1e-2),
        losses.ActiveSoftmaxCrossentropy(),
        metrics=[metrics.PrecisionAtK(1)],
    )
    return model


def accuracy(model, **arguments):
    x, y = problem(500, seed=5)
    ids, _ = model.predict_top_k(x, 1, batch_size=200, **arguments)
    return np.mean(ids[:, 0] == y)


@pytest.fixture(scope="module")
def trained():
    x, y = problem()
    model = make_model()
    history = model.fit(
        x,
        y,
        batch_size=50,
        epochs=6,
        validation_data=problem(300, seed=2),
        callbacks=[keras_lsh.RebuildTables()],
        verbose=0,
    )
    return model, history.history


def test_training_with_labels(trained):
    model, history = trained
    assert history["val_precision_at_1"][-1] > 0.9
    assert accuracy(model) > 0.9 and accuracy(model, exact=True) > 0.9


def test_without_labels_it_does_not_learn_as_well(trained):
    x, y = problem()
    model = make_model(force_labels=False)
    callbacks = [keras_lsh.RebuildTables()]
    model.fit(x, y, batch_size=50, epochs=6, callbacks=callbacks, verbose=0)
    assert accuracy(model) < accuracy(trained[0]) - 0.2


def test_a_step_is_traced_once():
    calls = []

    class Counted(keras_lsh.LSHDense):
        def call(self, inputs, training=None):
            if training and not tf.executing_eagerly():
                calls.append(tf.compat.v1.get_default_graph())
            return super().call(inputs, training)

    model = keras_lsh.LSHSequential(
        [
            keras.Input((WIDTH,)),
            Counted(CLASSES, active=30, output="sparse", force_labels=True),
        ]
    )
    model.compile(keras_lsh.LazyAdam(1e-2), losses.ActiveSoftmaxCrossentropy())
    x, y = problem(100)
    calls.clear()
    callbacks = [keras_lsh.RebuildTables()]
    model.fit(x, y, batch_size=50, verbose=0, callbacks=callbacks)
    assert len(calls) == 1
    assert model.optimizer.iterations == 2


def test_plain_models_have_no_labels():
    x, y = problem(50)
    model = make_model()
    plain = keras.Sequential(model.layers)
    plain.compile("sgd", losses.ActiveSoftmaxCrossentropy())
    with pytest.raises(ValueError, match="Use `keras_lsh.LSHSequential`"):
        plain.fit(x, y, verbose=0)
    with pytest.raises(ValueError, match="give `fit` the labels"):
        model.fit(x, verbose=0)


@pytest.mark.parametrize("steps_per_execution", [1, 3])
@pytest.mark.parametrize("form", ["integers", "ragged", "multi-hot", "padded"])
def test_label_forms_in_fit(form, steps_per_execution):
    x, y = problem(60)
    several = np.stack([y, np.where(np.arange(60) % 3, -1, (y + 1) % CLASSES)], axis=1)
    labels = {
        "integers": y,
        "padded": several,
        "ragged": tf.RaggedTensor.from_tensor(several, padding=-1),
        "multi-hot": tf.sparse.from_dense(
            np.float32([np.isin(np.arange(CLASSES), row) for row in several])
        ),
    }[form]
    dataset = tf.data.Dataset.from_tensor_slices((x, labels)).batch(10)
    model = make_model()
    model.compile(
        "sgd",
        losses.ActiveSoftmaxCrossentropy(),
        metrics=[metrics.PrecisionAtK(1)],
        steps_per_execution=steps_per_execution,
    )
    history = model.fit(
        dataset,
        validation_data=dataset,
        callbacks=[keras_lsh.RebuildTables()],
        verbose=0,
    )
    assert np.isfinite(history.history["loss"]).all()
    assert np.isfinite(history.history["val_loss"]).all()


def test_no_tensor_of_all_classes_in_a_training_step():
    classes, batch = 4999, 7
    model = keras_lsh.LSHSequential(
        [
            keras.Input((WIDTH,)),
            keras_lsh.LSHDense(classes, active=9, output="sparse", force_labels=True),
        ]
    )
    model.compile(
        keras_lsh.LazyAdam(),
        losses.ActiveSoftmaxCrossentropy(),
        metrics=[metrics.PrecisionAtK(3)],
    )
    x = tf.zeros([batch, WIDTH])
    y = tf.zeros([batch], tf.int32)
    model.train_on_batch(x, y)

    graph = tf.function(lambda: model.train_step((x, y))).get_concrete_function().graph
    functions = [graph, *(graph._get_function(n).graph for n in graph._functions)]
    sizes = [
        tensor.shape.num_elements()
        for function in functions
        for op in function.get_operations()
        for tensor in op.outputs
    ]
    assert any(sizes)
    assert max(size for size in sizes if size is not None) < classes * min(batch, WIDTH)


def test_functional_model_of_several_outputs():
    x, y = problem(40)
    inputs = keras.Input((WIDTH,))
    hidden = keras.layers.Dense(8)(inputs)
    first = output_layer()(hidden)
    second = keras.layers.Dense(3, name="kinds")(hidden)
    model = keras_lsh.LSHModel(inputs, [first, second])
    stock = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    arguments = {"epochs": 1, "verbose": 0, "callbacks": [keras_lsh.RebuildTables()]}
    model.compile("sgd", [losses.ActiveSoftmaxCrossentropy(), stock])
    model.fit(x, [y, y % 3], **arguments)
    model.compile(
        "sgd", {"classes": losses.ActiveSoftmaxCrossentropy(), "kinds": stock}
    )
    model.fit(x, {"classes": y, "kinds": y % 3}, **arguments)
    with pytest.raises(ValueError, match="ActiveSoftmaxCrossentropy"):
        model.compile("sgd", [stock, stock])


@pytest.mark.parametrize(
    ("loss", "metric", "instead"),
    [
        ("sparse_categorical_crossentropy", None, "ActiveSoftmaxCrossentropy"),
        ("binary_crossentropy", None, "ActiveSigmoidCrossentropy"),
        (losses.ActiveSoftmaxCrossentropy(), ["accuracy"], "metrics.Accuracy"),
    ],
    ids=["softmax", "sigmoid", "accuracy"],
)
def test_what_keras_offers_is_refused(loss, metric, instead):
    with pytest.raises(ValueError, match=instead):
        make_model().compile("sgd", loss, metrics=metric)


def test_predict_top_k(trained):
    model, _ = trained
    x, _ = problem(33, seed=7)
    scores = tf.sparse.to_dense(model(x), -np.inf).numpy()
    ids, best = model.predict_top_k(x, 4, batch_size=10)
    np.testing.assert_array_equal(ids, np.argsort(-scores, axis=1)[:, :4])
    np.testing.assert_array_equal(best, -np.sort(-scores, axis=1)[:, :4])
    assert ids.dtype == np.int32
    dataset = tf.data.Dataset.from_tensor_slices((x, np.zeros(33))).batch(8)
    for other in (tf.constant(x), x.astype(np.float64), dataset):
        np.testing.assert_array_equal(model.predict_top_k(other, 4)[0], ids)
    many, _ = model.predict_top_k(x, 40)
    assert (many[:, :30] >= 0).all() and (many[:, 30:] == -1).all()
    nobody, nothing = model.predict_top_k(x[:0], 4)
    assert nobody.shape == nothing.shape == (0, 4)


def test_predict_top_k_shows_progress(trained, capsys):
    trained[0].predict_top_k(problem(20)[0], 1, batch_size=10, verbose=1)
    assert "2/2" in capsys.readouterr().out


def test_predict_top_k_of_dense_output_and_several_inputs():
    a, b = keras.Input((3,)), keras.Input((4,), sparse=True)
    outputs = keras.layers.Dense(9)(
        keras.layers.Concatenate()([a, keras.layers.Dense(2)(b)])
    )
    model = keras_lsh.LSHModel([a, b], outputs)
    rng = np.random.default_rng(0)
    x, z = (
        rng.normal(size=(7, 3)).astype(np.float32),
        scipy.sparse.random(7, 4, 0.5, "csr", np.float32, 1),
    )
    expected = model([tf.constant(x), tf.sparse.from_dense(z.toarray())]).numpy()
    ids, scores = model.predict_top_k([x, z], 2, batch_size=3)
    np.testing.assert_array_equal(ids, np.argsort(-expected, axis=1)[:, :2])
    np.testing.assert_allclose(scores, -np.sort(-expected, axis=1)[:, :2], rtol=1e-5)
    with pytest.raises(ValueError, match="equally many samples"):
        model.predict_top_k([x[:5], z], 2)


@pytest.mark.parametrize("arguments", [{"k": 0}, {"k": 1.5}, {"batch_size": 0}])
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match="a positive integer"):
        make_model().predict_top_k(problem(5)[0], **arguments)


def test_saving(trained, tmp_path):
    model, _ = trained
    x, y = problem(20, seed=8)
    model.predict_top_k(x)  # leaves nothing that would be saved
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again) is keras_lsh.LSHSequential
    assert again.optimizer.iterations == model.optimizer.iterations > 0
    assert again.evaluate(x, y, verbose=0) == model.evaluate(x, y, verbose=0)
    for left, right in zip(model.predict_top_k(x), again.predict_top_k(x), strict=True):
        np.testing.assert_array_equal(left, right)


def test_export(trained, tmp_path):
    model, _ = trained
    x, _ = problem(20, seed=9)
    model.export(tmp_path / "served", top_k=3, verbose=False)
    np.save(tmp_path / "x.npy", x)
    script = """
        import sys
        import numpy as np
        import tensorflow as tf
        tf.load_op_library(sys.argv[1])
        served = tf.saved_model.load("served")
        x = tf.constant(np.load("x.npy"))
        best = served.predict_top_k(x)
        every = served.serve(x)
        np.savez("answers.npz", ids=best["ids"], scores=best["scores"],
                 active=every["ids"], logits=every["logits"])
        assert "keras_lsh" not in sys.modules
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), keras_lsh.ops.library_path()],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    answers = np.load(tmp_path / "answers.npz")
    ids, scores = model.predict_top_k(x, 3)
    np.testing.assert_array_equal(answers["ids"], ids)
    np.testing.assert_allclose(answers["scores"], scores, rtol=1e-5)
    np.testing.assert_array_equal(answers["active"][:, 0], model(x).indices[::30, 1])
    assert answers["logits"].shape == (20, 30)


def test_export_of_sparse_inputs(tmp_path, run_python):
    keras.utils.set_random_seed(0)
    model = keras_lsh.LSHSequential(
        [
            keras.Input((50,), sparse=True),
            keras_lsh.SparseInputDense(8, activation="relu"),
            keras_lsh.LSHDense(40, active=10, output="sparse", force_labels=True),
        ]
    )
    model.compile(keras_lsh.LazyAdam(), keras_lsh.losses.ActiveSoftmaxCrossentropy())
    rows = np.random.default_rng(0).random((4, 50)) * (np.arange(50) % 7 == 0)
    x = tf.sparse.from_dense(rows.astype("float32"))
    model.export(tmp_path / "served", top_k=3, verbose=False)
    np.save(tmp_path / "x.npy", rows)
    program = """
import sys
import numpy as np
import tensorflow as tf
tf.load_op_library(sys.argv[2])
loaded = tf.saved_model.load(sys.argv[1] + "/served")
x = tf.sparse.from_dense(np.load(sys.argv[1] + "/x.npy").astype("float32"))
found = loaded.predict_top_k(x)
assert loaded.serve(x)["ids"].shape == (4, 10)
np.savez(sys.argv[1] + "/found.npz", **found)
"""
    run_python(program, tmp_path, keras_lsh.ops.library_path(), isolated=True)
    found = np.load(tmp_path / "found.npz")
    ids, scores = model.predict_top_k(x, 3)
    np.testing.assert_array_equal(found["ids"], ids)
    np.testing.assert_allclose(found["scores"], scores, rtol=1e-6)


def test_subclassed_model():
    class Model(keras_lsh.LSHModel):
        def __init__(self):
            super().__init__()
            self.hidden = keras.layers.Dense(32, "relu")
            self.classes = output_layer()

        def call(self, x):
            return self.classes(self.hidden(x))

    x, y = problem()
    model = Model()
    model.compile(keras_lsh.LazyAdam(1e-2), losses.ActiveSoftmaxCrossentropy())
    model(x[:1])
    model.fit(
        x,
        y,
        batch_size=50,
        epochs=5,
        callbacks=[keras_lsh.RebuildTables()],
        verbose=0,
    )
    assert accuracy(model) > 0.8
