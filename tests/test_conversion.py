"""Dense to LSHDense and back: layers, then whole models."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lsh
from keras_lsh import LSHDense, convert_model, from_dense, to_dense
from keras_lsh.conversion import _SHARED_ARGUMENTS

Dense = keras.layers.Dense
EVERYTHING = {
    "activation": "gelu",
    "kernel_initializer": keras.initializers.HeNormal(seed=3),
    "bias_initializer": keras.initializers.RandomNormal(stddev=0.1, seed=4),
    "kernel_regularizer": keras.regularizers.L1L2(1e-3, 1e-4),
    "bias_regularizer": "l2",
    "activity_regularizer": keras.regularizers.L1(1e-5),
    "kernel_constraint": keras.constraints.MaxNorm(100.0, axis=0),
    "bias_constraint": "non_neg",
    "name": "wide",
    "trainable": False,
}


def random_inputs(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def built(dense, input_dim=12):
    """The layer, its bias not all zeros."""
    dense.build((None, input_dim))
    if dense.use_bias:
        dense.bias.assign(keras.random.uniform(dense.bias.shape, seed=5))
    return dense


def assert_same_settings(one, other):
    ours, theirs = one.get_config(), other.get_config()
    for name in (*_SHARED_ARGUMENTS, "name", "trainable", "dtype"):
        assert ours.get(name) == theirs.get(name), name  # Dense leaves out some None


class TestLayers:
    @pytest.mark.parametrize(
        "arguments",
        [
            {},
            {"use_bias": False, "activation": "relu"},
            EVERYTHING,
            {"dtype": "mixed_bfloat16"},
            {"dtype": "mixed_float16"},
        ],
        ids=["plain", "no bias", "everything", "bfloat16", "float16"],
    )
    def test_there_and_back(self, arguments):
        dense = built(Dense(40, **arguments))
        layer = from_dense(dense, active=7)
        assert layer.num_active == 7
        assert_same_settings(layer, dense)
        np.testing.assert_array_equal(layer.kernel, np.transpose(dense.kernel))
        back = to_dense(layer)
        assert type(back) is Dense
        assert_same_settings(back, dense)
        for weight, original in zip(back.weights, dense.weights, strict=True):
            assert weight.dtype == original.dtype
            np.testing.assert_array_equal(weight, original)

    @pytest.mark.parametrize("activation", [None, "relu", "softmax"])
    def test_all_neurons_active_is_dense(self, activation):
        dense = built(Dense(40, activation))
        x = random_inputs(3, 5, 12)
        layer = from_dense(dense, active=1.0)
        np.testing.assert_allclose(layer(x), dense(x), rtol=0, atol=2e-6)
        np.testing.assert_array_equal(to_dense(layer)(x), dense(x))

    def test_tables_are_those_of_the_weights(self):
        layer = from_dense(built(Dense(60)), active=6)
        assert layer.rebuild_tables()["codes_changed"] == 0

    def test_weights_are_copies(self):
        dense = built(Dense(30))
        layer = from_dense(dense)
        back = to_dense(layer)
        kernel = np.array(layer.kernel)
        dense.kernel.assign(dense.kernel * 2)
        back.kernel.assign(back.kernel * 3)
        np.testing.assert_array_equal(layer.kernel, kernel)

    def test_unbuilt_layers_stay_unbuilt(self):
        layer = from_dense(Dense(30, **EVERYTHING), active=0.2)
        assert not layer.built
        back = to_dense(layer)
        assert not back.built
        assert_same_settings(back, Dense(30, **EVERYTHING))
        assert layer(random_inputs(2, 5)).shape == (2, 30)

    def test_own_arguments_win(self):
        hashing = keras_lsh.SimHash(bits=3, tables=2, probes=2)
        layer = from_dense(
            built(Dense(30, "relu")), name="other", activation="tanh", hashing=hashing
        )
        assert layer.name == "other"
        assert layer.activation is keras.activations.tanh
        assert layer.hashing == hashing

    def test_objects_that_have_no_configuration(self):
        class Sum(keras.regularizers.Regularizer):
            row_local = True

            def __call__(self, x):
                return tf.reduce_sum(x)

        regularizer = Sum()
        dense = Dense(30, lambda x: 2 * x, kernel_regularizer=regularizer)
        layer = from_dense(built(dense), active=1.0)
        assert layer.kernel_regularizer is regularizer
        x = random_inputs(2, 12)
        np.testing.assert_allclose(layer(x), dense(x), rtol=0, atol=1e-6)

    def test_activation_layers_are_not_shared(self):
        activation = keras.layers.LeakyReLU(0.25)
        layer = from_dense(built(Dense(30, activation)), active=1.0)
        assert layer.activation is not activation
        assert layer.activation.negative_slope == 0.25

    def test_low_rank_adaptation_is_merged(self):
        dense = built(Dense(30))
        dense.enable_lora(2)
        dense.lora_kernel_b.assign(keras.random.normal((2, 30), seed=1))
        layer = from_dense(dense, active=1.0)
        x = random_inputs(2, 12)
        np.testing.assert_allclose(layer(x), dense(x), rtol=0, atol=1e-5)

    def test_what_cannot_be_converted(self):
        with pytest.raises(ValueError, match=r"`dense`.*keras.layers.Dense.*LSHDense"):
            from_dense(LSHDense(30))
        with pytest.raises(ValueError, match=r"`layer`.*keras_lsh.LSHDense.*Dense"):
            to_dense(Dense(30))
        with pytest.raises(ValueError, match="float64"):
            from_dense(Dense(30, dtype="float64"))
        with pytest.raises(ValueError, match="kernel_regularizer"):
            from_dense(Dense(30, kernel_regularizer="orthogonal_regularizer"))
        quantized = built(Dense(30, name="small"))
        quantized.quantize("int8")
        with pytest.raises(ValueError, match="'small' is quantized.*'int8'"):
            from_dense(quantized)


def types_of(model):
    """Names of layers, those of nested models included, to their types."""
    return {
        layer.name: type(layer)
        for layer in model._flatten_layers(include_self=False, recursive=True)
    }


def assert_same_outputs(model, other, x, tolerance):
    for ours, theirs in zip(
        keras.tree.flatten(model(x)), keras.tree.flatten(other(x)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


def sequential():
    return keras.Sequential(
        [
            keras.Input((12,)),
            Dense(300, "relu", name="wide"),
            keras.layers.BatchNormalization(name="norm"),
            Dense(20, "relu", name="narrow"),
            keras.layers.Dropout(0.5),
            Dense(400, name="logits"),
            keras.layers.Softmax(),
        ]
    )


def functional():
    """Two inputs, three outputs, a layer in two places, nested models, an operation."""
    nested = keras.Sequential(
        [keras.Input((16,)), Dense(300, name="inner"), Dense(310, name="inner_last")],
        name="nested",
    )
    last = keras.Sequential(
        [keras.Input((310,)), Dense(320, name="head"), Dense(330, name="head_last")],
        name="last",
    )
    a, b = keras.Input((12,), name="a"), keras.Input((12,), name="b")
    shared = Dense(16, "relu", name="shared")
    wide = Dense(280, "relu", name="wide_shared")
    x = nested(shared(a) * 2.0 + shared(b))
    y = keras.layers.Concatenate()([x, wide(a), wide(b)])
    y = Dense(260, name="middle")(y)
    classes = Dense(500, "softmax", name="classes")(y)
    return keras.Model([a, b], {"last": last(x), "classes": classes, "y": y})


class TestModels:
    def test_sequential(self):
        model = sequential()
        x = random_inputs(8, 12)
        model(x, training=True)  # moves the statistics of `norm`
        copy = convert_model(model, active=1.0)
        types = types_of(copy)
        assert types["wide"] is LSHDense
        assert types["narrow"] is types["logits"] is Dense
        assert isinstance(copy, keras.Sequential)
        assert copy.name == model.name
        assert_same_outputs(copy, model, x, 1e-6)
        back = convert_model(copy, to="dense")
        assert types_of(back) == types_of(model)
        assert_same_outputs(back, model, x, 0)

    def test_functional(self):
        model = functional()
        x = [random_inputs(5, 12), random_inputs(5, 12)[:, ::-1]]
        copy = convert_model(model, active=1.0)
        lsh = {name for name, kind in types_of(copy).items() if kind is LSHDense}
        # "classes", "middle" and "head_last" give outputs; "shared" is narrow.
        assert lsh == {"inner", "inner_last", "head", "wide_shared"}
        assert_same_outputs(copy, model, x, 1e-5)
        assert copy.output_names == model.output_names
        assert copy.get_layer("nested").get_layer("inner").num_active == 300
        assert len(copy.get_layer("wide_shared")._inbound_nodes) == 2
        back = convert_model(copy, to="dense")
        assert types_of(back) == types_of(model)
        assert_same_outputs(back, model, x, 0)

    def test_copy_shares_nothing(self):
        model = functional()
        copy = convert_model(model, active=0.1)
        assert not {id(v) for v in model.variables} & {id(v) for v in copy.variables}
        before = [np.array(v) for v in model.variables]
        for variable in copy.trainable_variables:
            variable.assign(variable * 2)
        for variable, value in zip(model.variables, before, strict=True):
            np.testing.assert_array_equal(variable, value)

    def test_names(self):
        types = types_of(convert_model(functional(), layers=["shared", "head_last"]))
        lsh = {name for name, kind in types.items() if kind is LSHDense}
        assert lsh == {"shared", "head_last"}
        copy = convert_model(sequential(), layers=[])
        assert LSHDense not in types_of(copy).values()

    def test_min_units(self):
        types = types_of(convert_model(sequential(), min_units=20))
        assert types["wide"] is types["narrow"] is LSHDense
        assert types["logits"] is Dense
        types = types_of(convert_model(sequential(), min_units=301))
        assert LSHDense not in types.values()

    def test_some_layers_back(self):
        copy = convert_model(sequential(), layers=["wide", "logits"])
        hashed = copy.get_layer("wide").get_weights()
        back = convert_model(copy, to="dense", layers=["logits"])
        assert types_of(back)["wide"] is LSHDense
        assert types_of(back)["logits"] is Dense
        for weight, value in zip(back.get_layer("wide").weights, hashed, strict=True):
            np.testing.assert_array_equal(weight, value)

    def test_sequential_without_input(self):
        model = keras.Sequential([Dense(300), Dense(300)])
        with pytest.raises(ValueError, match=r"not built.*keras.Input"):
            convert_model(model)
        model(random_inputs(2, 5))
        copy = convert_model(model, active=1.0)
        assert [type(layer) for layer in copy.layers] == [LSHDense, Dense]
        assert_same_outputs(copy, model, random_inputs(3, 5), 1e-5)

    def test_layers_of_layers_and_subclasses_stay(self):
        class Twice(Dense):
            def call(self, inputs):
                return 2 * super().call(inputs)

        model = keras.Sequential(
            [
                keras.Input((4, 5)),
                keras.layers.TimeDistributed(Dense(300)),
                Twice(300),
                Dense(2),
            ]
        )
        copy = convert_model(model)
        assert LSHDense not in types_of(copy).values()
        assert_same_outputs(copy, model, random_inputs(2, 4, 5), 0)

    def test_compiled_model(self):
        """The copy is not: not every loss could be copied by way of a configuration."""

        def loss(targets, outputs):
            return tf.reduce_mean((targets - outputs) ** 2)

        model = sequential()
        model.compile("adam", loss)
        assert not convert_model(model).compiled
        assert model.compiled
        with pytest.raises(ValueError, match="`layers`"):
            convert_model(model, layers=["?"])
        assert model.compiled

    def test_frozen_layers_stay_frozen(self):
        model = sequential()
        model.get_layer("wide").trainable = False
        assert not convert_model(model).get_layer("wide").trainable

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"layers": ["wide", "norm"]}, r"`layers`.*Dense.*'narrow'.*\['norm'\]"),
            ({"layers": "wide"}, r"`layers`.*list of names.*'wide'"),
            ({"to": "sparse"}, r"`to`.*'lsh' or 'dense'.*sparse"),
            ({"to": "dense", "active": 0.1}, r"to='dense'.*active"),
            ({"to": "dense", "layers": ["wide"]}, r"names of LSHDense.*\['wide'\]"),
            ({"active": 0}, r"`active`"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            convert_model(sequential(), **arguments)

    def test_subclassed_model(self):
        class Subclassed(keras.Model):
            def __init__(self):
                super().__init__()
                self.inner = Dense(300)

            def call(self, x):
                return self.inner(x)

        model = Subclassed()
        model(random_inputs(2, 5))
        with pytest.raises(ValueError, match=r"`model`.*functional.*from_dense"):
            convert_model(model)
