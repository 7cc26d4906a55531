import dataclasses
import hashlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lsh.datasets import synthetic_xc

SMALL = {"features": 500, "labels": 200, "train_samples": 300, "test_samples": 100}


def digest(data):
    arrays = dataclasses.astuple(data)[2:]
    return hashlib.sha256(b"".join(each.tobytes() for each in arrays)).hexdigest()


def test_a_seed_means_the_same_samples_everywhere():
    train, test = synthetic_xc(**SMALL, seed=3)
    assert (
        digest(train)
        == "971afe2b6a80085d7119d6c4aaabbdc7f715c1682149ccd0e7909aad745bcec3"
    )
    assert (
        digest(test)
        == "d0a74473367571bdb39569fda11fb72aa86bf9a28ecdd3afc0361a58c6f182e5"
    )
    assert digest(synthetic_xc(**SMALL, seed=4)[0]) != digest(train)


def test_samples_do_not_depend_on_their_number():
    # Over the end of a block.
    few, test = synthetic_xc(**SMALL | {"train_samples": 8000})
    many, fewer = synthetic_xc(**SMALL | {"train_samples": 9000, "test_samples": 50})
    assert digest(many.take(np.arange(8000))) == digest(few)
    assert digest(test.take(np.arange(50))) == digest(fewer)
    assert digest(few.take(np.arange(100))) != digest(test)


def test_a_tenth_of_the_shape_of_amazon_670k():
    train, test = synthetic_xc(
        features=13_591, labels=67_009, train_samples=5000, test_samples=10
    )
    assert (len(train), len(test)) == (5000, 10)
    assert (train.features, train.labels) == (13_591, 67_009)
    assert len(train.indices) / 5000 == pytest.approx(73, abs=3)
    assert len(train.label_indices) / 5000 == pytest.approx(5.5, abs=0.2)
    assert np.diff(train.label_indptr).min() >= 1
    norms = np.add.reduceat(train.values.astype(float) ** 2, train.indptr[:-1])
    np.testing.assert_allclose(norms, 1, rtol=1e-6)
    # Ids say nothing about frequency, and all of them can come.
    assert np.median(train.label_indices) == pytest.approx(67_009 / 2, rel=0.05)
    counts = np.sort(np.bincount(train.label_indices))[::-1]
    assert counts[0] > 10 * counts[10_000] > 0


def test_extremes():
    one, _ = synthetic_xc(features=1, labels=1, train_samples=3, test_samples=1)
    np.testing.assert_array_equal(one.values, [1, 1, 1])
    np.testing.assert_array_equal(one.label_indices, [0, 0, 0])
    bare, _ = synthetic_xc(**SMALL, noise_features=0, features_per_label=1, missing=0.9)
    assert np.diff(bare.label_indptr).min() >= 1


def test_it_can_be_learned():
    """Far better than the most popular label, far from perfect after one epoch."""
    train, test = synthetic_xc(
        features=500, labels=250, train_samples=5000, test_samples=1000
    )
    true = tf.RaggedTensor.from_row_splits(
        test.label_indices, test.label_indptr
    ).to_tensor(-1)

    def precision(scores):
        best = np.argmax(scores, axis=1)
        return np.mean(np.any(true == best[:, None], axis=1))

    popular = np.bincount(train.label_indices, minlength=250)
    assert precision(np.tile(popular, (1000, 1))) < 0.2

    def multi_hot(inputs, labels):
        hot = tf.reduce_sum(tf.one_hot(labels.to_tensor(-1), 250), axis=1)
        return inputs, hot / tf.reduce_sum(hot, axis=1, keepdims=True)

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input([500], sparse=True),
            keras.layers.Dense(
                128, "relu", kernel_initializer=keras.initializers.RandomNormal(0, 0.3)
            ),
            keras.layers.Dense(250),
        ]
    )
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    batches = train.dataset(128, seed=0, epochs=None).map(multi_hot)
    inputs, _ = test.dataset(1000).get_single_element()
    reached = []
    for _ in range(2):
        model.fit(batches, steps_per_epoch=train.steps_per_epoch(128), verbose=0)
        reached.append(precision(model(inputs).numpy()))
    assert 0.2 < reached[0] < reached[1] and 0.5 < reached[1] < 0.92


@pytest.mark.parametrize(
    "name, value",
    [
        ("features", 0),
        ("labels", 1.5),
        ("train_samples", -1),
        ("test_samples", 0),
        ("labels_per_topic", 0),
        ("features_per_label", 0),
        ("noise_features", -1),
        ("dropout", 1),
        ("missing", float("nan")),
        ("seed", 2**32),
    ],
)
def test_invalid(name, value):
    with pytest.raises(ValueError, match=f"invalid value for `{name}`"):
        synthetic_xc(**SMALL | {name: value})
