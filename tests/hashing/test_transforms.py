import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lsh.hashing import L2ALSH, SignALSH, SimpleLSH, Transform
from keras_lsh.hashing.transforms import get_transform

TRANSFORMS = [SimpleLSH(), SignALSH(), L2ALSH(), SignALSH(4, 0.5), L2ALSH(1, 0.9)]


def transformed(transform):
    """Random neurons, P of them, one unit input, Q of it, and the inner products."""
    rng = np.random.default_rng(0)
    neurons = rng.standard_normal([20, 6]) * rng.uniform(0, 1, [20, 1])
    neurons *= transform.scale / np.linalg.norm(neurons, axis=1).max()
    neurons[3] = 0
    x = rng.standard_normal(6)
    x /= np.linalg.norm(x)
    squares = tf.constant(np.sum(neurons**2, axis=1), tf.float32)
    extra = transform.neuron_coordinates(squares)
    assert extra.shape == (20, transform.extra_dims)
    p = np.concatenate([neurons, extra], axis=1)
    q = np.concatenate([x, transform.input_coordinates()])
    assert q.shape == (6 + transform.extra_dims,)
    return neurons, p, q, neurons @ x


def test_simple_lsh_makes_the_inner_product_the_cosine():
    _, p, q, products = transformed(SimpleLSH())
    np.testing.assert_allclose(np.linalg.norm(p, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(q), 1, rtol=1e-6)
    np.testing.assert_allclose(p @ q, products, atol=1e-6)


@pytest.mark.parametrize(("m", "scale"), [(1, 0.9), (2, 0.75), (3, 0.8)])
def test_sign_alsh_makes_the_cosine_nearly_proportional(m, scale):
    neurons, p, q, products = transformed(SignALSH(m, scale))
    norms = np.linalg.norm(neurons, axis=1)
    np.testing.assert_allclose(p @ q, products, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(q), 1, rtol=1e-6)
    np.testing.assert_allclose(
        np.sum(p**2, axis=1), m / 4 + norms ** (2 ** (m + 1)), rtol=1e-5
    )


@pytest.mark.parametrize(("m", "scale"), [(1, 0.9), (3, 0.83), (4, 0.7)])
def test_l2_alsh_makes_the_distance_nearly_linear(m, scale):
    neurons, p, q, products = transformed(L2ALSH(m, scale))
    norms = np.linalg.norm(neurons, axis=1)
    np.testing.assert_allclose(
        np.sum((p - q) ** 2, axis=1),
        1 + m / 4 - 2 * products + norms ** (2 ** (m + 1)),
        rtol=1e-5,
    )


def test_default_values_are_the_papers():
    assert SignALSH() == SignALSH(m=2, scale=0.75)
    assert L2ALSH() == L2ALSH(m=3, scale=0.83)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
def test_round_trip(transform):
    config = keras.saving.serialize_keras_object(transform)
    assert config["registered_name"] == f"keras_lsh>{type(transform).__name__}"
    copy = get_transform(config)
    assert copy == transform and hash(copy) == hash(transform)
    assert copy is not transform and eval(repr(transform)) == transform


def test_unequal_transforms():
    assert len({SimpleLSH(), SignALSH(), SignALSH(3), L2ALSH(), L2ALSH(3, 0.5)}) == 5
    assert SimpleLSH() != SignALSH() and SignALSH(2) != SignALSH(3)


def test_get_transform():
    assert get_transform(None) is None
    assert get_transform("simple_lsh") == SimpleLSH()
    assert get_transform("sign_alsh") == SignALSH()
    assert get_transform("l2_alsh") == L2ALSH()
    transform: Transform = SignALSH(3)
    assert get_transform(transform) is transform


@pytest.mark.parametrize("identifier", ["simple", 3, SimpleLSH, ["sign_alsh"]])
def test_get_transform_refuses(identifier):
    with pytest.raises(ValueError, match=r"`transform`.*Received: transform="):
        get_transform(identifier)


@pytest.mark.parametrize("cls", [SignALSH, L2ALSH])
@pytest.mark.parametrize(
    ("arguments", "name"),
    [({"m": 0}, "m"), ({"m": 11}, "m"), ({"m": 1.5}, "m"), ({"m": True}, "m"),
     ({"scale": 0}, "scale"), ({"scale": 1}, "scale"), ({"scale": -1}, "scale"),
     ({"scale": float("nan")}, "scale")],
)  # fmt: skip
def test_bad_arguments_are_named(cls, arguments, name):
    with pytest.raises(ValueError, match=f"value for `{name}`.*Received: {name}="):
        cls(**arguments)
