"""SparseInputDense against Keras' Dense, what it touches, and what it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lsh
from keras_lsh import ops
from keras_lsh.layers import SparseInputDense

FEATURES, UNITS = 50, 7


def random_matrix(batch=12, features=FEATURES, share=0.2, seed=0):
    """Mostly zeros; row 1 and column 3 have nothing else."""
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal([batch, features]).astype(np.float32)
    matrix *= rng.random([batch, features]) < share
    matrix[1:2] = 0
    matrix[:, 3] = 0
    return matrix


def sparse(matrix):
    return tf.sparse.from_dense(matrix)


def pair(**arguments):
    """A Dense and a SparseInputDense of equal weights."""
    dense, ours = (
        cls(
            UNITS, bias_initializer=keras.initializers.RandomNormal(seed=2), **arguments
        )
        for cls in (keras.layers.Dense, SparseInputDense)
    )
    dense.build((None, FEATURES))
    ours.build((None, FEATURES))
    ours.set_weights(dense.get_weights())
    return dense, ours


def gradients(layer, x):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.sin(layer(x, training=True))) + sum(layer.losses)
    return tape.gradient(loss, layer.trainable_variables)


@pytest.fixture(params=["compiled", "reference"])
def form(request):
    """Which ops compute."""
    if request.param == "compiled":
        yield
    else:
        with ops.reference_ops():
            yield


@pytest.mark.usefixtures("form")
class TestEqualsDense:
    @pytest.mark.parametrize(
        ("activation", "use_bias", "graph"),
        [(None, False, False), ("relu", True, True), ("softmax", True, False)],
    )
    def test_outputs_and_gradients(self, activation, use_bias, graph):
        dense, ours = pair(activation=activation, use_bias=use_bias)
        matrix = random_matrix()
        call, gradient = ours.__call__, gradients
        if graph:
            specification = tf.SparseTensorSpec([None, None])
            call = tf.function(ours.__call__, input_signature=[specification])
            gradient = tf.function(gradients)
        expected = dense(matrix)
        np.testing.assert_allclose(call(sparse(matrix)), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(ours(matrix), expected, rtol=1e-5, atol=1e-6)
        by_weights = gradient(ours, sparse(matrix))
        np.testing.assert_array_equal(
            by_weights[0].indices, np.flatnonzero(matrix.any(axis=0))
        )
        for our, their in zip(by_weights, gradients(dense, matrix), strict=True):
            np.testing.assert_allclose(
                tf.convert_to_tensor(our), their, rtol=1e-5, atol=1e-5
            )

    def test_against_float64(self):
        """The error is at most twice that of TensorFlow's own product."""
        dense, ours = pair()
        matrix = random_matrix(batch=64, share=0.9, seed=1)
        kernel, bias = dense.get_weights()
        exact = matrix.astype(np.float64) @ kernel + bias
        error, plain = (
            np.abs(layer(x) - exact).max()
            for layer, x in ((ours, sparse(matrix)), (dense, matrix))
        )
        assert error <= 2 * plain + np.spacing(np.float32(np.abs(exact).max()))

    @pytest.mark.parametrize("batch", [0, 1, 5])
    def test_nothing_but_bias(self, batch):
        _, ours = pair(activation="tanh")
        outputs = ours(sparse(np.zeros([batch, FEATURES], np.float32)))
        expected = np.tile(np.tanh(ours.bias), [batch, 1])
        np.testing.assert_allclose(outputs, expected, rtol=1e-6)

    def test_rows_of_very_different_lengths(self):
        dense, ours = pair()
        matrix = random_matrix(share=0.02)
        matrix[5] = 1.5
        np.testing.assert_allclose(
            ours(sparse(matrix)), dense(matrix), rtol=1e-5, atol=1e-5
        )

    def test_not_a_number_and_infinity_stay_in_their_row(self):
        _, ours = pair()
        matrix = random_matrix()
        matrix[2, 4], matrix[5, 6] = np.nan, np.inf
        matrix[7, 8] = -0.0
        finite = np.isfinite(ours(sparse(matrix))).all(axis=1)
        np.testing.assert_array_equal(np.flatnonzero(~finite), [2, 5])
        assert np.isnan(ours(sparse(matrix))[2]).all()

    @pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "uint8"])
    def test_inputs_of_other_dtypes(self, dtype):
        dense, ours = pair()
        matrix = np.abs(np.round(random_matrix() * 3)).astype(dtype)
        expected = dense(matrix.astype("float32"))
        np.testing.assert_allclose(ours(sparse(matrix)), expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(
        ("lazy", "stock"),
        [
            (lambda: keras.optimizers.SGD(0.01), lambda: keras.optimizers.SGD(0.01)),
            (lambda: keras_lsh.LazyAdam(0.01), lambda: keras.optimizers.Adam(0.01)),
        ],
        ids=["sgd", "adam"],
    )
    def test_trained_weights(self, lazy, stock):
        """Twenty steps; every feature occurs at each of them."""
        matrix = random_matrix(batch=16, share=0.5)
        matrix[0] = 1
        layers = pair(activation="tanh")
        by_outputs = np.random.default_rng(3).standard_normal([16, UNITS])
        for layer, make, x in zip(
            layers, (stock, lazy), (matrix, sparse(matrix)), strict=True
        ):
            optimizer = make()
            optimizer.build(layer.trainable_variables)
            for _ in range(20):
                with tf.GradientTape() as tape:
                    loss = tf.reduce_sum(layer(x) ** 2 * by_outputs)
                by_weights = tape.gradient(loss, layer.trainable_variables)
                optimizer.apply(by_weights, layer.trainable_variables)
        for their, our in zip(*(layer.get_weights() for layer in layers), strict=True):
            np.testing.assert_allclose(our, their, rtol=1e-3, atol=1e-5)


class TestTouchesWhatOccurs:
    @pytest.mark.parametrize("regularizer", [None, "l2"])
    @pytest.mark.parametrize("optimizer", [keras.optimizers.SGD, keras_lsh.LazyAdam])
    def test_no_whole_read_of_the_kernel(self, optimizer, regularizer):
        """In the graphs of a training step and of inference, nor a dense update."""
        layer = SparseInputDense(UNITS, kernel_regularizer=regularizer)
        layer.build((None, FEATURES))
        optimizer = optimizer(0.1)
        optimizer.build(layer.trainable_variables)
        weights = [layer.kernel, *optimizer.variables]
        handles = [w.value.handle for w in weights if w.shape == layer.kernel.shape]

        def step(x):
            optimizer.apply(gradients(layer, x), layer.trainable_variables)

        for function in (step, layer.__call__):
            x = sparse(random_matrix())
            graph = tf.function(function).get_concrete_function(x).graph
            uses = {
                operation.type
                for outer, inner in graph.captures
                if any(outer is handle for handle in handles)
                for operation in inner.consumers()
            }
            assert uses
            assert uses <= {
                "LshResourceActiveMatmulGradInput",
                "LshResourceActiveRowAdam",
                "LshResourceActiveRowSubtract",
                "LshResourceRowAdam",
                "LshResourceRowSubtract",
                "ResourceGather",
                "VariableShape",
            }

    @pytest.mark.parametrize("optimizer", [keras.optimizers.SGD, keras_lsh.LazyAdam])
    def test_other_rows_stay_as_they_are(self, optimizer):
        """Also if the model has no sparse Input, and Keras makes its batches dense."""
        model = keras.Sequential([SparseInputDense(UNITS, kernel_regularizer="l2")])
        model.compile(optimizer(0.1), "mse")
        matrix = random_matrix(share=0.05)
        model.build((None, FEATURES))
        before = model.layers[0].kernel.numpy().copy()
        model.fit(sparse(matrix.astype("float64")), np.ones([12, UNITS]), verbose=0)
        changed = np.any(model.layers[0].kernel.numpy() != before, axis=1)
        np.testing.assert_array_equal(changed, matrix.any(axis=0))

    def test_regularizer_of_the_rows_in_use(self):
        matrix = random_matrix(share=0.05)
        used = matrix.any(axis=0)
        dense, ours = pair(kernel_regularizer=keras.regularizers.L2(0.3))
        dense.kernel.assign(dense.kernel * used[:, None])  # no penalty for the others
        ours.set_weights(dense.get_weights())
        our, their = gradients(ours, sparse(matrix)), gradients(dense, matrix)
        np.testing.assert_array_equal(our[0].indices, np.flatnonzero(used))
        np.testing.assert_allclose(tf.convert_to_tensor(our[0]), their[0], atol=1e-5)
        ours(matrix, training=True)
        np.testing.assert_allclose(ours.losses, dense.losses, rtol=1e-5)
        ours(sparse(matrix), training=True)
        np.testing.assert_allclose(ours.losses, dense.losses, rtol=1e-5)
        ours(sparse(matrix))
        assert not ours.losses


class TestInModels:
    def model(self, **arguments):
        keras.utils.set_random_seed(5)
        model = keras.Sequential(
            [
                keras.Input((FEATURES,), sparse=True),
                SparseInputDense(UNITS, "relu", **arguments),
                keras.layers.Dense(2),
            ]
        )
        model.compile(keras.optimizers.SGD(0.01), "mse", steps_per_execution=2)
        return model

    def test_every_source_of_batches(self):
        """SparseTensor, SciPy and tf.data train alike."""
        scipy_sparse = pytest.importorskip("scipy.sparse")
        matrix, y = random_matrix(), np.ones([12, 2], np.float32)
        batches = tf.data.Dataset.from_tensor_slices((sparse(matrix), y)).batch(5)
        model, results = self.model(), []
        start = model.get_weights()
        for x in (sparse(matrix), scipy_sparse.csr_matrix(matrix), batches):
            model.set_weights(start)
            targets = {} if x is batches else {"y": y, "batch_size": 5}
            model.fit(x, **targets, epochs=2, shuffle=False, verbose=0)
            results.append(model.predict(x, verbose=0))
        for predicted in results[1:]:
            np.testing.assert_allclose(predicted, results[0], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
    def test_mixed_precision(self, policy):
        dense, ours = pair(dtype=policy, activation="relu")
        matrix = random_matrix()
        outputs = ours(sparse(matrix))
        assert outputs.dtype == ours.compute_dtype == policy.removeprefix("mixed_")
        assert {w.dtype for w in ours.weights} == {"float32"}
        np.testing.assert_allclose(outputs, dense(matrix), rtol=0.02, atol=0.05)
        by_kernel = gradients(ours, sparse(matrix))[0]
        assert isinstance(by_kernel, tf.IndexedSlices)
        assert by_kernel.dtype == tf.float32

    def test_save_load_and_clone(self, tmp_path):
        model = self.model(
            kernel_initializer=keras.initializers.HeNormal(seed=1),
            kernel_regularizer=keras.regularizers.L1(0.1),
            bias_regularizer="l2",
            bias_constraint="non_neg",
        )
        x = sparse(random_matrix())
        model.fit(x, np.ones([12, 2]), verbose=0)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(loaded(x), model(x))
        clone = keras.models.clone_model(model)
        for other in (loaded, clone):
            assert other.layers[0].get_config() == model.layers[0].get_config()
        assert clone.layers[0].kernel.shape == (FEATURES, UNITS)

    @pytest.mark.parametrize("portable", [False, True])
    def test_saved_model_with_a_sparse_signature(self, portable, tmp_path):
        """`model.export` knows dense signatures only; an ExportArchive knows these."""
        model, x = self.model(), sparse(random_matrix())
        archive = keras.export.ExportArchive()
        archive.track(model)
        specification = tf.SparseTensorSpec([None, FEATURES], tf.float32)

        @tf.function(input_signature=[specification])
        def serve(x):
            with ops.data_checks(not portable):
                if portable:
                    with ops.reference_ops():
                        return model(x, training=False)
                return model(x, training=False)

        archive.add_endpoint("serve", serve)
        archive.write_out(tmp_path, verbose=False)
        used = {
            node.op for node in serve.get_concrete_function().graph.as_graph_def().node
        }
        assert any(op.startswith("Lsh") for op in used) != portable
        loaded = tf.saved_model.load(tmp_path)
        np.testing.assert_allclose(loaded.serve(x), model(x), rtol=1e-5, atol=1e-6)

    def test_export_of_dense_signatures(self, tmp_path):
        model, matrix = self.model(), random_matrix()
        model.export(tmp_path / "export", verbose=False)
        keras_lsh.export_portable(model, tmp_path / "portable")
        for folder in ("export", "portable"):
            loaded = tf.saved_model.load(tmp_path / folder)
            outputs = loaded.serve(matrix)
            np.testing.assert_allclose(outputs, model(matrix), rtol=1e-5, atol=1e-6)


def with_indices(indices, shape=(4, FEATURES)):
    return tf.SparseTensor(indices, tf.ones([len(indices)]), shape)


class TestDenseAgain:
    """What Keras made dense in a graph is taken as it was, other tensors as are."""

    def rows_with_gradient(self, make_dense, dtype=np.float32):
        _, ours = pair()

        @tf.function
        def by_kernel(x):
            return gradients(ours, make_dense(x))[0]

        gradient = by_kernel(sparse(random_matrix(share=0.05).astype(dtype)))
        return gradient.indices if isinstance(gradient, tf.IndexedSlices) else None

    def test_sparse(self):
        used = np.flatnonzero(random_matrix(share=0.05).any(axis=0))
        for dtype in (np.float32, np.float64):
            rows = self.rows_with_gradient(
                lambda x: tf.cast(tf.sparse.to_dense(x), tf.float32), dtype
            )
            np.testing.assert_array_equal(rows, used)

    @pytest.mark.parametrize(
        "make_dense",
        [
            lambda x: tf.sparse.to_dense(x, default_value=1.0),
            lambda x: tf.sparse.to_dense(x) + 0.0,
            lambda x: tf.cast(tf.cast(tf.sparse.to_dense(x), tf.int32), tf.float32),
        ],
    )
    def test_dense(self, make_dense):
        assert self.rows_with_gradient(make_dense) is None


@pytest.fixture(scope="module")
def layer_and_graph():
    _, ours = pair()
    specification = tf.SparseTensorSpec([None, None])
    return ours, tf.function(ours.__call__, input_signature=[specification])


class TestBadInput:
    @pytest.mark.parametrize(
        ("indices", "message"),
        [
            ([[0, 2], [0, 1]], r"Index \[0 1\] comes after a larger one.*reorder"),
            ([[1, 0], [0, 5]], r"Index \[0 5\] comes after a larger one"),
            ([[1, 4], [1, 4]], r"Index \[1 4\] is repeated.*sum_duplicates"),
            ([[0, 1], [0, FEATURES]], rf"Index \[0 {FEATURES}\] is out of range"),
            ([[0, -1]], r"Index \[0 -1\] is out of range"),
            ([[4, 0]], r"Index \[4 0\] is out of range"),
            ([[-1, 0]], r"Index \[-1 0\] is out of range"),
            ([[0, 2**32 + 1]], r"Index \[0 4294967297\] is out of range"),
        ],
    )
    def test_indices(self, layer_and_graph, indices, message):
        for call in layer_and_graph:
            with pytest.raises(tf.errors.InvalidArgumentError, match=message) as error:
                call(with_indices(indices))
            assert str(error.value).count("Index") == 1

    def test_width_known_at_run_time(self, layer_and_graph):
        _, call = layer_and_graph
        message = rf"expected {FEATURES} columns.*dense_shape=\[4 {FEATURES + 1}\]"
        for indices in ([[0, 0]], [[0, FEATURES]], np.zeros([0, 2], np.int64)):
            with pytest.raises(tf.errors.InvalidArgumentError, match=message):
                call(with_indices(indices, (4, FEATURES + 1)))

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: with_indices([[0, 0]], (4, 9)), "expected axis -1"),
            (lambda: tf.ones([4, 9]), "expected axis -1"),
            (lambda: tf.ones([4, 2, FEATURES]), "expected ndim=2"),
            (lambda: with_indices([[0, 0, 0]], (4, 2, FEATURES)), "expected ndim=2"),
            (lambda: tf.fill([4, FEATURES], "a"), "numeric inputs.*string"),
            (lambda: sparse(np.full([4, FEATURES], "a")), "numeric inputs.*string"),
            (lambda: sparse(np.full([4, FEATURES], True)), "numeric inputs.*bool"),
            (lambda: tf.RaggedTensor.from_tensor(tf.ones([4, FEATURES])), "Ragged"),
        ],
    )
    def test_kinds_of_inputs(self, make, message):
        _, ours = pair()
        with pytest.raises(ValueError, match=message):
            ours(make())

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"units": 0}, "`units`, expected a positive integer. Received: units=0"),
            ({"units": 2.5}, "`units`"),
            ({"units": 2, "dtype": "float64"}, "computes in float32"),
            ({"units": 2, "kernel_constraint": "non_neg"}, "`kernel_constraint`"),
            (
                {"units": 2, "kernel_regularizer": "orthogonal_regularizer"},
                "`kernel_regularizer`",
            ),
        ],
    )
    def test_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            SparseInputDense(**arguments)

    def test_shape_to_build(self):
        with pytest.raises(ValueError, match="last axis .* must be defined"):
            SparseInputDense(2).build((None, None))
        with pytest.raises(ValueError, match="`input_dim`"):
            SparseInputDense(2).build((None, 2**31))


def test_freeze_takes_sparse_inputs():
    model = keras.Sequential(
        [keras.Input((30,), sparse=True), SparseInputDense(4, bias_initializer="ones")]
    )
    x = tf.sparse.from_dense(np.eye(3, 30, dtype=np.float32))
    (outputs,) = tf.nest.flatten(keras_lsh.freeze(model)(x))
    np.testing.assert_array_equal(outputs, model(x))
