import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lsh.hashing import HashFamily, SimHash, get_family


@keras.saving.register_keras_serializable("test_family")
class LastDigit(HashFamily):
    """The least that a family may be: a neuron's first weight, modulo 10."""

    def __init__(self, tables=1):
        self.tables = tables
        self.probes = 1

    @property
    def buckets(self):
        return 10

    def initial_state(self, input_dim, units):
        return {}

    def neuron_codes(self, kernel, bias, state):
        return tf.tile(tf.cast(kernel[:, :1], tf.int32) % 10, [1, self.tables])

    def input_probes(self, inputs, state):
        buckets = tf.cast(inputs[:, :1], tf.int32) % 10 + tf.range(self.tables) * 10
        return buckets, tf.fill(tf.shape(buckets), 65536)

    def multiplications(self, input_dim):
        return 0

    def get_config(self):
        return {"tables": self.tables}


def test_a_family_needs_no_state():
    family = LastDigit(2)
    inputs = tf.constant([[13.0, 2.0]])
    assert family.initial_state(2, 20) == family.observe(inputs, {}) == {}
    assert family.refresh(inputs, None, {}) == {}
    np.testing.assert_array_equal(family.neuron_codes(inputs, None, {}), [[3, 3]])
    np.testing.assert_array_equal(family.input_probes(inputs, {})[0], [[3, 13]])


def test_families_are_values():
    assert LastDigit(2) == LastDigit(2) != LastDigit(3)
    assert LastDigit(2) != SimHash(tables=2)
    assert len({LastDigit(2), LastDigit(2), LastDigit(3)}) == 2
    assert repr(LastDigit(2)) == "LastDigit(tables=2)"


@pytest.mark.parametrize("family", [LastDigit(2), SimHash(4, 3, 2)])
def test_get_family(family):
    assert get_family(family) is family
    assert get_family(keras.saving.serialize_keras_object(family)) == family


@pytest.mark.parametrize("identifier", [None, "sim_hash", SimHash, 6, ["kmeans"]])
def test_get_family_refuses(identifier):
    expected = r"`hashing`.*'cross_polytope', 'dwta', 'kmeans', .*Received: hashing="
    with pytest.raises(ValueError, match=expected):
        get_family(identifier)


def test_a_family_must_be_complete():
    with pytest.raises(TypeError, match="abstract"):
        HashFamily()
