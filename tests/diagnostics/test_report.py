import json

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics
import tensorflow as tf

from keras_lsh import KMeansCells, LSHDense, RebuildTables, SimHash
from keras_lsh.diagnostics import FALSE_POSITIVE_RATES, measuring, report
from keras_lsh.diagnostics.ranking import gini


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
        layer = LSHDense(
            50, active=5, hashing=SimHash(3, 4, 2), bias_initializer="random_normal"
        )
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
        figures = result.auc, result.correlation, result.mass, result.attainable_mass
        assert np.isfinite(figures).all()

    def test_bias_counts(self):
        layer = LSHDense(30, active=3, selection="exact")
        model = network(layer)
        layer.bias.assign(np.where(np.arange(30) % 10 == 0, 100, 0))
        assert report(model, inputs(5, 12)).layers[0].recall == 1


class TestRanking:
    """Figures of the scores, against scikit-learn and SciPy in float64."""

    @pytest.mark.parametrize("hashing", [KMeansCells(), SimHash(4, 3, 4)], ids=repr)
    @pytest.mark.parametrize("activation", ["relu", "softmax"])
    def test_against_independent_libraries(self, hashing, activation):
        layer = LSHDense(
            *(50, activation),
            active=5,
            hashing=hashing,
            bias_initializer="random_normal",
        )
        model, x = network(layer), inputs(30, 12)
        values = x.astype("float64") @ layer.kernel.numpy().T + layer.bias.numpy()
        true = values >= np.sort(values, axis=1)[:, -5:][:, :1]
        scores = layer.selector.scores(x, layer.kernel, layer.bias).numpy()
        result = report(model, x, batch_size=8).layers[0]
        samples = range(len(x))
        auc = [sklearn.metrics.roc_auc_score(true[i], scores[i]) for i in samples]
        assert result.auc == pytest.approx(np.mean(auc))
        correlation = [
            scipy.stats.spearmanr(scores[i], values[i]).statistic for i in samples
        ]
        assert result.correlation == pytest.approx(np.mean(correlation))
        area = np.trapezoid(result.true_positive_rate, FALSE_POSITIVE_RATES)
        assert area == pytest.approx(result.auc, abs=0.01)

        outputs = np.maximum(values, 0)
        if activation == "softmax":
            outputs = scipy.special.softmax(values, axis=1)
        ids = layer.active_ids(x).numpy()
        mass = np.take_along_axis(outputs, ids, axis=1).sum(1) / outputs.sum(1)
        assert result.mass == pytest.approx(mass.mean(), rel=1e-5)
        top = np.where(true, outputs, 0).sum(1) / outputs.sum(1)
        assert result.attainable_mass == pytest.approx(top.mean(), rel=1e-5)

    def test_recall_of_candidates(self):
        layer = LSHDense(80, active=4, hashing=SimHash(5, 4, 6))
        result = report(network(layer), inputs(400, 12)).layers[0]
        curve = result.candidate_recall
        assert curve.shape == (80,)
        assert (np.diff(curve) >= -1e-12).all() and curve[-1] == pytest.approx(1)
        assert result.candidates == layer.num_candidates == 12
        # Ties are broken at random here, in the order of ids there.
        assert curve[11] == pytest.approx(result.recall, abs=0.03)
        # 12 of 12 in the ranking: trusting it to choose all.
        trusting = LSHDense(80, active=4, hashing=SimHash(5, 4, 6), oversample=1)
        model = network(trusting)
        recall = report(model, inputs(400, 12)).layers[0].recall
        assert curve[3] == pytest.approx(recall, abs=0.03)

    def test_candidates_for_a_recall(self):
        layer = LSHDense(40, active=4, selection="exact")
        result = report(network(layer), inputs(20, 12)).layers[0]
        np.testing.assert_allclose(
            result.candidate_recall, np.minimum(np.arange(1, 41) / 4, 1), atol=1e-6
        )
        assert [result.candidates_for(r) for r in (0, 0.5, 0.6, 1)] == [1, 2, 3, 4]
        with pytest.raises(ValueError, match="`recall`.*Received: recall=1.1"):
            result.candidates_for(1.1)

    def test_the_oracle_and_the_control(self):
        model = network(
            LSHDense(60, active=6, selection="exact"),
            LSHDense(60, active=6, selection="random"),
        )
        exact, random = report(model, inputs(50, 12)).layers
        assert (exact.auc, exact.correlation) == (1, pytest.approx(1, abs=1e-4))
        assert exact.mass == pytest.approx(exact.attainable_mass)
        assert random.auc == 0.5 and np.isnan(random.correlation)
        np.testing.assert_allclose(random.candidate_recall, np.arange(1, 61) / 60)

    def test_chunks_make_no_difference(self, monkeypatch):
        model, x = network(LSHDense(50, "relu", active=5)), inputs(40, 12)
        once = report(model, x).as_dict()
        monkeypatch.setattr(measuring, "_CHUNK", 150)
        for name, value in report(model, x).as_dict()["layers"][0].items():
            expected = once["layers"][0][name]
            if isinstance(value, float):
                assert value == pytest.approx(expected, rel=1e-6), name
            else:
                assert value == expected

    def test_all_active(self):
        layer = LSHDense(10, "relu", active=10)
        result = report(network(layer), inputs(20, 12))
        assert result.layers[0].recall == 1
        assert np.isnan(result.layers[0].auc)
        assert np.isnan(result.layers[0].true_positive_rate).all()
        assert result.layers[0].mass == 1
        assert np.isnan(result.mean("auc"))
        assert result.as_dict()["layers"][0]["auc"] is None

    def test_one_bucket_says_nothing(self):
        layer = LSHDense(30, active=3, hashing=KMeansCells(1))
        result = report(network(layer), inputs(20, 12)).layers[0]
        assert result.auc == 0.5
        assert np.isnan(result.correlation)
        assert result.bucket_loads.loads.tolist() == [[30]]


class TestNeurons:
    def test_how_often_each_is_selected(self):
        ids = [[0, 1, 2], [0, 1, -1], [0, -1, -1], [0, 1, 4]]
        kernel = inputs(6, 12)
        result = report(chosen_network(kernel, ids), inputs(4, 12)).layers[0]
        assert result.selected.tolist() == [4, 3, 1, 0, 1, 0]
        assert result.dead == pytest.approx(2 / 6)
        assert result.gini == pytest.approx(gini(np.array([4, 3, 1, 0, 1, 0])))
        assert result.active_ids.tolist() == ids

    def test_bucket_loads(self):
        layer = LSHDense(50, active=5, hashing=SimHash(3, 4, 2))
        loads = report(network(layer), inputs(4, 12)).layers[0].bucket_loads
        codes = layer.selector.codes.numpy()
        for table in range(4):
            expected = np.bincount(codes[:, table], minlength=8)
            assert loads.loads[table].tolist() == expected.tolist()
            assert loads.least[table] == expected.min()
            assert loads.median[table] == np.median(expected)
            assert loads.most[table] == expected.max()
            assert loads.empty[table] == np.mean(expected == 0)
            assert loads.fullest_share[table] == expected.max() / 50

    def test_no_tables(self):
        layer = LSHDense(20, selection="exact")
        result = report(network(layer), inputs(4, 12))
        assert result.layers[0].bucket_loads is None
        assert "Buckets" not in result.details()


class TestJaccard:
    def test_of_nothing_changed(self):
        model, x = network(LSHDense(40, active=4, name="one")), inputs(20, 12)
        assert report(model, x).jaccard(report(model, x)) == {"one": 1}

    def test_of_other_sets(self):
        kernel, x = inputs(6, 12), inputs(2, 12)
        model = chosen_network(kernel, [[0, 1, 2], [3, 4, 5]])
        before = report(model, x)
        model.layers[0].chosen = tf.constant([[0, 1, 3], [0, 1, 2]])
        stability = report(model, x).jaccard(before)
        assert list(stability.values()) == [0.25]  # 2 / 4 and 0 / 6

    def test_of_a_rebuild(self):
        layer = LSHDense(40, active=4)
        model, x = network(layer), inputs(20, 12)
        layer.kernel.assign_add(0.1 * inputs(40, 12))
        before = report(model, x)
        layer.rebuild_tables()
        (stability,) = report(model, x).jaccard(before).values()
        assert 0 < stability < 1

    def test_of_other_reports(self):
        model, x = network(LSHDense(40, active=4)), inputs(20, 12)
        with pytest.raises(ValueError, match="`before`.*same inputs.*19 samples"):
            report(model, x).jaccard(report(model, x[1:]))


class TestCosts:
    @pytest.mark.parametrize("selection", ["lsh", "exact", "random"])
    def test_multiplications_are_those_of_the_layers(self, selection):
        layers = [LSHDense(50, selection=selection), LSHDense(30, selection=selection)]
        result = report(network(*layers), inputs(10, 12))
        for layer, row in zip(layers, result.layers, strict=True):
            cost = layer.multiplications()
            assert row.inference.selection == cost["selection"]
            assert row.inference.products == cost["products"]
            assert row.training.rebuilds == 0
            assert row.multiplications == cost["selection"] + cost["products"]
            assert row.inference.share == cost["total"] / cost["dense"]
        assert [row.dense_multiplications for row in result.layers] == [600, 1500]
        assert result.dense_multiplications == 2100
        assert result.multiplications == sum(
            row.multiplications for row in result.layers
        )

    def test_training(self):
        layer = LSHDense(50, active=5)
        result = report(network(layer), inputs(10, 12), batch_size=4, rebuild_every=5)
        cost = result.layers[0].training
        assert cost.gradients == 2 * 5 * 12
        assert cost.dense == 3 * 50 * 12
        assert cost.observe == layer.selector.observe_multiplications(12, 4) / 4 > 0
        assert cost.rebuilds == layer.multiplications()["rebuild"] / 20
        parts = cost.selection, cost.products, cost.gradients
        assert cost.total == pytest.approx(sum(parts) + cost.observe + cost.rebuilds)
        forward = layer.multiplications()["total"] + cost.observe + cost.rebuilds
        assert result.layers[0].multiplications == pytest.approx(forward)

    def test_a_sample_of_many_vectors(self):
        layer = LSHDense(50, active=5)
        model = keras.Sequential([keras.Input((3, 12)), layer])
        x = inputs(10 * 3, 12).reshape(10, 3, 12)
        result = report(model, x, batch_size=4, rebuild_every=5).layers[0]
        assert result.samples == 30
        rebuild = layer.multiplications()["rebuild"]
        assert result.training.rebuilds == rebuild / (3 * 20)
        observe = layer.selector.observe_multiplications(12, 12)
        assert result.training.observe == observe / 12

    def test_bytes(self):
        layer = LSHDense(50, active=5, hashing=SimHash(3, 2, 4))
        model, x = network(layer), inputs(10, 12)
        result = report(model, x, batch_size=5, rebuild_every=2).layers[0]
        functions = 4 * 12 * 6
        selector = layer.selector
        entries = 4 * selector.entries_read(x).numpy().mean()
        row = 4 * 13
        alone = result.inference_bytes
        assert alone.selection == pytest.approx(functions + entries)
        assert alone.products == 15 * row
        assert alone.dense == 50 * row

        candidates = selector.select(x, layer.kernel, layer.bias, 15).numpy()
        active = layer.active_ids(x).numpy()
        rows = [
            sum(len(np.unique(ids[half])) for half in (slice(5), slice(5, 10))) / 10
            for ids in (candidates, active)
        ]
        batch, training = result.batch_bytes, result.training_bytes
        assert batch.selection == pytest.approx(functions / 5 + entries)
        assert batch.products == pytest.approx(rows[0] * row)
        assert batch.dense == 10 * row
        assert training.gradients == pytest.approx(rows[1] * 4 * 12)
        assert training.dense == 10 * row + 10 * 4 * 12
        assert training.rebuilds == (functions + 50 * row) / 10


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

    def test_layers_of_one_name(self):
        blocks = [
            keras.Sequential([LSHDense(20, active=2, name="same")], name=name)
            for name in ("left", "right")
        ]
        model = network(*blocks, LSHDense(20, active=2, name="same"))
        names = [layer.name for layer in report(model, inputs(9, 12)).layers]
        assert len(set(names)) == 3
        assert all("same" in name for name in names)

    def test_exact_inference_is_judged_by_its_sparse_selection(self):
        sparse, exact = (
            network(LSHDense(50, active=5, inference=inference, name="one"))
            for inference in ("sparse", "exact")
        )
        x = inputs(20, 12)
        assert report(exact, x).as_dict() == report(sparse, x).as_dict()

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
        third = LSHDense(20, selection="random")
        model = network(first, second, third, keras.layers.Dropout(0.5))
        x = inputs(9, 12)
        before = model.get_weights()
        report(model, x)
        assert "call" not in vars(first) and "call" not in vars(second)
        for weight, old in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(weight, old)

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

    def test_details_and_dict(self):
        model = network(
            LSHDense(200, "relu", active=10, name="wide"),
            LSHDense(30, active=3, selection="random", name="narrow"),
        )
        result = report(model, inputs(9, 12), rebuild_every=10)
        tables = [part.splitlines() for part in result.details().split("\n\n")]
        titles = "Candidates", "Neurons", "Buckets", "Multiplications", "Bytes"
        for title, (heading, *lines) in zip(titles, tables, strict=True):
            assert heading.startswith(title)
            assert lines[2].startswith("wide")
            assert len(set(map(len, lines))) == 1
        rows = json.loads(json.dumps(result.as_dict(), allow_nan=False))["layers"]
        assert rows[0]["recall"] == result.layers[0].recall
        assert rows[0]["training"]["total"] == result.layers[0].training.total
        assert rows[0]["buckets"]["tables"] == 1
        assert rows[1]["correlation"] is None


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
