import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lsh import LSHDense, RebuildTables
from keras_lsh.diagnostics import report


def inputs(samples, width, seed=0):
    return np.random.default_rng(seed).normal(size=(samples, width)).astype("float32")


def network(*layers, width=12):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((width,)), *layers])


class Chosen(LSHDense):
    """A layer whose active sets are given."""

    chosen: tf.Tensor

    def active_ids(self, inputs):
        return self.chosen[: tf.shape(inputs)[0]]


def chosen_network(kernel, ids):
    units, width = kernel.shape
    layer = Chosen(units, active=len(ids[0]), use_bias=False)
    model = network(layer, width=width)
    layer.kernel.assign(kernel)
    layer.chosen = tf.constant(ids, tf.int32)
    return model


class TestFigures:
    def test_exact_selection_finds_all(self):
        model = network(
            LSHDense(60, "relu", active=6, selection="exact"),
            LSHDense(40, active=0.25, selection="exact"),
        )
        result = report(model, inputs(70, 12), batch_size=32)
        assert result.samples == 70
        assert [layer.name for layer in result.layers] == [
            layer.name for layer in model.layers
        ]
        assert [layer.units for layer in result.layers] == [60, 40]
        assert [layer.active for layer in result.layers] == [6, 10]
        assert [layer.active_fraction for layer in result.layers] == [0.1, 0.25]
        assert [layer.recall for layer in result.layers] == [1, 1]
        assert [layer.precision for layer in result.layers] == [1, 1]
        assert result.recall == 1
        assert result.active_fraction == pytest.approx(16 / 100)

    def test_random_selection_finds_its_share(self):
        layer = LSHDense(200, active=20, selection="random")
        result = report(network(layer), inputs(500, 12))
        assert result.layers[0].recall == pytest.approx(0.1, abs=0.01)
        assert result.layers[0].precision == pytest.approx(0.1, abs=0.01)

    def test_hash_tables_against_sorting(self):
        layer = LSHDense(50, active=5, bias_initializer="random_normal")
        model = network(layer)
        x = inputs(40, 12)
        products = x.astype("float64") @ layer.kernel.numpy().T + layer.bias.numpy()
        true = np.argsort(-products, axis=1)[:, :5]
        found = [
            len(set(row) & set(ids))
            for row, ids in zip(true, layer.active_ids(x).numpy(), strict=True)
        ]
        result = report(model, x, batch_size=7).layers[0]
        assert result.recall == pytest.approx(sum(found) / (40 * 5))
        assert 0.2 < result.recall < 1

    def test_sets_that_are_not_full(self):
        # For the input (1, 0) the products are 3, 2, 1, 0; for (0, 1) the reverse.
        kernel = np.array([[3, 0], [2, 1], [1, 2], [0, 3]], "float32")
        model = chosen_network(kernel, [[0, 1, -1], [0, -1, -1]])
        x = np.eye(2, dtype="float32")
        result = report(model, x).layers[0]
        assert result.active == 3
        assert result.active_fraction == 3 / 8
        assert result.recall == 2 / 6
        assert result.precision == 2 / 3

    def test_nothing_selected(self):
        model = chosen_network(np.eye(2, dtype="float32"), [[-1]])
        result = report(model, np.ones((1, 2), "float32")).layers[0]
        assert (result.active_fraction, result.recall) == (0, 0)
        assert np.isnan(result.precision)
        assert "nan" in str(report(model, np.ones((1, 2), "float32")))

    def test_ties_are_all_true(self):
        layer = LSHDense(30, active=4, selection="random")
        result = report(network(layer), np.zeros((20, 12), "float32"))
        assert result.layers[0].recall == 1

    def test_rounding_is_not_a_miss(self):
        # Rows that are equal but for the last bit of an addend.
        kernel = np.ones((40, 12), "float32") + 1e-8 * inputs(40, 12)
        model = chosen_network(kernel, [list(range(36, 40))] * 5)
        assert report(model, inputs(5, 12, seed=1)).layers[0].recall == 1

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_values_that_are_not_finite(self, value):
        layer = LSHDense(30, active=4, selection="exact")
        x = inputs(20, 12)
        x[3, 5] = value
        result = report(network(layer), x).layers[0]
        assert 0.9 < result.recall <= 1

    def test_bias_counts(self):
        layer = LSHDense(30, active=3, selection="exact")
        model = network(layer)
        layer.bias.assign(np.where(np.arange(30) % 10 == 0, 100, 0))
        assert report(model, inputs(5, 12)).layers[0].recall == 1


class TestMultiplications:
    @pytest.mark.parametrize("selection", ["lsh", "exact", "random"])
    def test_are_those_of_the_layers(self, selection):
        layers = [LSHDense(50, selection=selection), LSHDense(30, selection=selection)]
        result = report(network(*layers), inputs(10, 12))
        for layer, row in zip(layers, result.layers, strict=True):
            cost = layer.multiplications()
            assert row.selection == cost["selection"]
            assert row.products == cost["products"]
            assert row.rebuilds == 0
            assert row.multiplications == cost["selection"] + cost["products"]
        assert [row.dense_multiplications for row in result.layers] == [600, 1500]
        assert result.dense_multiplications == 2100
        assert result.multiplications == sum(
            row.multiplications for row in result.layers
        )

    def test_rebuilds_are_spread_over_the_samples_between_them(self):
        layer = LSHDense(50)
        model = network(layer)
        x = inputs(10, 12)
        result = report(model, x, batch_size=4, rebuild_every=5).layers[0]
        assert result.rebuilds == layer.multiplications()["rebuild"] / 20
        assert result.multiplications == pytest.approx(
            layer.multiplications()["total"] + result.rebuilds
        )


class TestModels:
    def layers(self):
        return [
            LSHDense(20, "relu", active=2, selection="exact", name=name)
            for name in ("first", "second")
        ]

    def check(self, model, x, names=("first", "second")):
        result = report(model, x)
        assert [layer.name for layer in result.layers] == list(names)
        assert result.recall == 1

    def test_functional_with_two_inputs(self):
        first, second = self.layers()
        a, b = keras.Input((4,), name="a"), keras.Input((6,), name="b")
        outputs = keras.layers.concatenate([first(a), second(b)])
        model = keras.Model({"a": a, "b": b}, outputs)
        self.check(model, {"a": inputs(9, 4), "b": inputs(9, 6)})

    def test_nested(self):
        first, second = self.layers()
        model = network(keras.Sequential([keras.layers.Dense(8), first]), second)
        self.check(model, inputs(9, 12))

    @pytest.mark.parametrize("training_argument", [True, False])
    def test_subclassed(self, training_argument):
        class Block(keras.layers.Layer):
            def __init__(self, layer):
                super().__init__()
                self.layer = layer

            def call(self, x):
                return self.layer(x)

        class Plain(keras.Model):
            def __init__(self, first, second):
                super().__init__()
                self.blocks = [Block(first)]
                self.last = second

            def call(self, x):
                return self.last(self.blocks[0](x))

        class WithTraining(Plain):
            def call(self, x, training=None):
                return super().call(x)

        model = (WithTraining if training_argument else Plain)(*self.layers())
        self.check(model, inputs(9, 12))

    def test_layer_used_twice_is_one_row(self):
        shared = LSHDense(12, active=2, selection="exact", name="shared")
        model = network(shared, shared)
        self.check(model, inputs(9, 12), names=["shared"])

    def test_inputs_of_rank_3(self):
        model = keras.Sequential([keras.Input((5, 12)), *self.layers()])
        self.check(model, inputs(9 * 5, 12).reshape(9, 5, 12))

    def test_unbuilt(self):
        self.check(keras.Sequential(self.layers()), inputs(9, 12))

    def test_half_precision(self):
        model = network(LSHDense(20, selection="exact", dtype="mixed_bfloat16"))
        assert report(model, inputs(9, 12)).recall > 0.9

    def test_a_model_is_left_as_it_was(self):
        first, second = self.layers()
        model = network(first, second, keras.layers.Dense(2))
        x = inputs(9, 12)
        before = model.predict(x, verbose=0)
        report(model, x)
        assert "call" not in vars(first) and "call" not in vars(second)
        np.testing.assert_array_equal(model.predict(x, verbose=0), before)

    def test_a_trained_model_trains_on(self):
        model = network(LSHDense(20, "relu", active=4), keras.layers.Dense(2))
        model.compile("sgd", "mse")
        x, y = inputs(9, 12), inputs(9, 2)
        for _ in range(2):
            model.fit(x, y, verbose=0, callbacks=[RebuildTables()])
            assert report(model, x).layers[0].recall > 0


class TestTable:
    def test_has_a_row_per_layer(self):
        model = network(
            LSHDense(2000, active=100, selection="exact", name="wide"),
            LSHDense(30, active=3, selection="exact", name="narrow"),
        )
        lines = str(report(model, inputs(3, 12))).splitlines()
        assert lines[0].split()[:3] == ["layer", "units", "active"]
        wide, narrow = lines[2].split(), lines[3].split()
        assert wide[:6] == ["wide", "2,000", "100", "5.0", "1.000", "1.000"]
        assert narrow[0] == "narrow"
        assert len(set(map(len, lines))) == 1


class TestErrors:
    def test_no_lsh_layer(self):
        with pytest.raises(ValueError, match=r"`model`.*LSHDense"):
            report(network(keras.layers.Dense(3)), inputs(4, 12))

    @pytest.mark.parametrize(
        "x", [np.zeros((0, 12)), np.float32(3), None, {}, [np.ones(3), np.ones(4)]]
    )
    def test_unusable_inputs(self, x):
        with pytest.raises(ValueError, match="invalid value for `x`"):
            report(network(LSHDense(20)), x)

    @pytest.mark.parametrize("name", ["batch_size", "rebuild_every"])
    @pytest.mark.parametrize("value", [0, -1, 2.5, "3"])
    def test_unusable_numbers(self, name, value):
        with pytest.raises(ValueError, match=f"invalid value for `{name}`.*={value}"):
            report(network(LSHDense(20)), inputs(4, 12), **{name: value})

    def test_a_layer_inside_a_tf_function(self):
        layer = LSHDense(20, active=2, name="hidden_away")

        class Compiled(keras.Model):
            def __init__(self):
                super().__init__()
                self.layer = layer

            @tf.function
            def call(self, x):
                return self.layer(x)

        model = Compiled()
        with pytest.raises(ValueError, match=r"'hidden_away'.*run_functions_eagerly"):
            report(model, inputs(4, 12))
        assert "call" not in vars(layer)
