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

# Candidates per active neuron where nothing else is said, and cells that the
# candidates of a sample should come from: fewer would tell little apart.
_OVERSAMPLE = 2.5
_CELLS_OF_CANDIDATES = 8


def choose(units: int, active: int) -> tuple[HashFamily, float]:
    """What `hashing="auto"` means: a hash family, and how many candidates to retrieve.

    The family is `KMeansCells()`, which sets the number of cells and of directions by
    `units`, and looks into all cells (so that nothing is drawn at random). Candidates
    are 2.5 per active neuron, and at least the neurons of 8 cells: for a few active
    neurons of very many, 2.5 each would leave the choice to the cells.

    Args:
        units: neurons of the layer.
        active: neurons that a sample uses.

    Returns:
        The family, and the candidates per active neuron.
    """
    family = KMeansCells()
    cells = family.for_layer(1, units).buckets
    candidates = max(_OVERSAMPLE * active, _CELLS_OF_CANDIDATES * units / cells)
    return family, max(1.0, min(candidates, units) / active)


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
