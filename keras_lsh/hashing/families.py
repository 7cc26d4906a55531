"""Hash families by name."""

from typing import Any

import keras

from keras_lsh.hashing.cross_polytope import CrossPolytope
from keras_lsh.hashing.family import HashFamily
from keras_lsh.hashing.kmeans import KMeansCells
from keras_lsh.hashing.random_buckets import RandomBuckets
from keras_lsh.hashing.simhash import SimHash
from keras_lsh.hashing.winner_take_all import DensifiedWTAHash, WTAHash

_BY_NAME: dict[str, type[HashFamily]] = {
    "cross_polytope": CrossPolytope,
    "dwta": DensifiedWTAHash,
    "kmeans": KMeansCells,
    "random": RandomBuckets,
    "simhash": SimHash,
    "wta": WTAHash,
}


def get_family(identifier: Any) -> HashFamily:
    """A hash family from itself, its name, or its serialised form."""
    if isinstance(identifier, str) and identifier in _BY_NAME:
        return _BY_NAME[identifier]()
    family = identifier
    if isinstance(identifier, dict):
        family = keras.saving.deserialize_keras_object(identifier)
    if not isinstance(family, HashFamily):
        raise ValueError(
            "Received an invalid value for `hashing`, expected a `HashFamily`, such as "
            f"`SimHash(bits=6, tables=5, probes=10)`, or one of {sorted(_BY_NAME)}. "
            f"Received: hashing={identifier}"
        )
    return family
