"""What Keras offers for dense outputs is refused for sparse logits, by name."""

import functools

import keras
import pytest

from keras_lsh import losses, metrics
from keras_lsh.losses import check_compile

SOFTMAX, SIGMOID = "ActiveSoftmaxCrossentropy", "ActiveSigmoidCrossentropy"


class OwnLoss(keras.losses.SparseCategoricalCrossentropy):
    pass


class OwnMetric(keras.metrics.SparseCategoricalAccuracy):
    pass


def own_function(y_true, y_pred):
    return 0.0


@pytest.mark.parametrize(
    ("loss", "instead"),
    [
        ("sparse_categorical_crossentropy", rf"`keras_lsh.losses.{SOFTMAX}\(\)`"),
        ("crossentropy", SOFTMAX),
        ("CategoricalCrossentropy", SOFTMAX),
        ("bce", SIGMOID),
        ("mse", rf"{SOFTMAX}.*{SIGMOID}"),
        (keras.losses.BinaryCrossentropy(from_logits=True), SIGMOID),
        (keras.losses.CategoricalCrossentropy, SOFTMAX),
        (keras.losses.sparse_categorical_crossentropy, SOFTMAX),
        (
            functools.partial(keras.losses.binary_crossentropy, from_logits=True),
            SIGMOID,
        ),
        (["binary_crossentropy"], SIGMOID),
        ({"output": keras.losses.MeanSquaredError()}, rf"{SOFTMAX}.*{SIGMOID}"),
        (keras.saving.serialize_keras_object(keras.losses.Hinge()), SOFTMAX),
        ({"class_name": "SparseCategoricalCrossentropy", "config": {}}, SOFTMAX),
    ],
)
def test_stock_losses(loss, instead):
    with pytest.raises(ValueError, match=f"invalid value for `loss`.*Use .*{instead}"):
        check_compile(loss)


@pytest.mark.parametrize(
    ("metric", "instead"),
    [
        ("accuracy", r"`keras_lsh.metrics.Accuracy\(\)`"),
        ("acc", r"metrics.Accuracy\(\)"),
        ("sparse_categorical_accuracy", r"metrics.Accuracy\(\)"),
        (keras.metrics.CategoricalAccuracy(), r"metrics.Accuracy\(\)"),
        (keras.metrics.SparseTopKCategoricalAccuracy(3), r"TopKAccuracy\(k\)"),
        (keras.metrics.Precision(top_k=5), r"PrecisionAtK\(k\)"),
        (keras.metrics.AUC, "PrecisionAtK"),
        (keras.metrics.categorical_accuracy, r"metrics.Accuracy\(\)"),
        ("sparse_categorical_crossentropy", rf"{SOFTMAX}\(reduction=None\)"),
        (keras.losses.BinaryCrossentropy(), rf"{SIGMOID}\(reduction=None\)"),
    ],
)
def test_stock_metrics(metric, instead):
    for given in (metric, [metrics.Accuracy(), metric], {"out": [metric]}, [[metric]]):
        for name in ("metrics", "weighted_metrics"):
            message = rf"invalid value for `{name}`.*Use .*{instead}"
            with pytest.raises(ValueError, match=message):
                check_compile(losses.ActiveSoftmaxCrossentropy(), **{name: given})


def test_own_objects_pass():
    own_loss, own_metric = OwnLoss(), OwnMetric()
    for loss in (
        None,
        own_function,
        own_loss,
        OwnLoss,
        functools.partial(own_function),
        {"class_name": "OwnLoss", "module": "project", "config": {}},
        keras.saving.serialize_keras_object(losses.ActiveSigmoidCrossentropy()),
        [losses.ActiveSoftmaxCrossentropy(), None],
    ):
        check_compile(loss, loss, loss)
    wrapped = keras.metrics.MeanMetricWrapper(own_function)
    check_compile(metrics=[own_metric, wrapped, metrics.PrecisionAtK(5)])


def test_only_sparse_outputs_are_looked_at():
    outputs = {"wide": True, "other": False}
    ours = losses.ActiveSoftmaxCrossentropy()
    for loss in ({"wide": ours, "other": "mse"}, [ours, "mse"], {"other": "mse"}):
        check_compile(loss, {"other": "accuracy"}, [None, ["mae"]], outputs)
    for loss in ({"wide": "mse"}, ["mse", "mse"], "mse"):
        with pytest.raises(ValueError, match="invalid value for `loss`"):
            check_compile(loss, outputs=outputs)
        check_compile(loss, outputs={"wide": False, "other": False})
